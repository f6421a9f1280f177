"""From answers to the page: numbers with intervals, and report.html, for a run of MMLU's size.

    python benchmarks/report.py [--questions 14042] [--layers 32] [--repetitions 3]

A synthetic run, named as such: 57 subjects, base and tuned, confidences drawn (no model is asked, no probe trained),
2,000 resamples; 30 % are test questions, as in any run. Seconds on the clock, medians: "numbers" is what
`pipeline.judging` and `pipeline.contrasting` compute, "page" is results.json to report.html.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from src.config import Config
from src.data.example import Example
from src.data.splits import SHARES, Splits
from src.pipeline.asked import Asked
from src.pipeline.contrasting import advantages, compare, gains
from src.pipeline.judging import Judge
from src.pipeline.probing import OWN, PROBE, TEXT, Probed
from src.pipeline.results import SCHEMA, adapter_facts, asking_facts, data_facts, strict, versions
from src.probes.linear import LinearProbe
from src.probes.sweep import Place, PlaceResult, Sweep
from src.report import render_html, verdict

SUBJECTS, MODELS = 57, ("base", "tuned")


def questions(n: int) -> tuple[Example, ...]:
    text = "What is the sum of the parts, where each part is as large as the one before it and half of the next? " * 2
    return tuple(
        Example(f"{text}({row})", "A", ("a fifth", "a third", "a half", "all"), f"subject {row % SUBJECTS}", text)
        for row in range(n)
    )


def model(n: int, layers: int, seed: int) -> tuple[Asked, Probed]:
    rng = np.random.default_rng(seed)
    knows = np.random.default_rng(0).standard_normal(n) + rng.standard_normal(n)
    correct = (rng.random(n) < 1 / (1 + np.exp(-knows - 0.5))).astype(float)
    own, probe, text = (1 / (1 + np.exp(-knows * slope - rng.standard_normal(n))) for slope in (1.0, 1.2, 0.3))
    asked = Asked(
        answers=tuple("AB"[int(1 - y)] for y in correct), correct=correct, confidence=own, signals={"margin": own},
        places=tuple(Place("last_prompt", f"block.{layer}") for layer in range(layers)), hidden=np.empty((n, 0, 0)),
        status=("answered",) * n, marks=(), elsewhere={}, truncated=0,
    )  # fmt: skip
    results = tuple(
        PlaceResult(
            "last_prompt", f"block.{layer}", "logistic", 0.6, *(z + layer / 400 for z in (0.7, 0.68, 0.72)), 0.1
        )
        for layer in range(layers)
    )
    rows = np.arange(n)
    splits = Splits(*np.split(rows, (np.cumsum(SHARES)[:-1] * n).astype(int)), groups=rows)
    said = {PROBE: probe, OWN: own, TEXT: text}
    test, val, calibration = (
        {name: p[getattr(splits, split)] for name, p in said.items()} for split in ("test", "val", "calibration")
    )
    shuffled, noise = (rng.random((count, splits.test.size)) for count in (20, 10))
    halves = (test[PROBE] + noise / 100).clip(0, 1)
    sweep = Sweep(results, layers // 2, layers // 2, LinearProbe(1))
    train = splits.train
    return asked, Probed(
        splits, test | {"margin": test[OWN]}, val, calibration, own[train], probe[train], shuffled, halves, sweep, ""
    )


def numbers(examples: tuple[Example, ...], models: dict[str, tuple[Asked, Probed]], config: Config) -> dict[str, Any]:
    asked = {name: one for name, (one, _) in models.items()}
    splits = models["base"][1].splits
    judge = Judge.of(examples, splits.test, splits.groups, asked.values(), config.evaluation, config.experiment.seed)
    judged = {name: judge.variant(one, probed) for name, (one, probed) in models.items()}
    results = {
        "schema": SCHEMA, "name": "synthetic", "created": "-", "versions": versions(), "git_commit": None,
        "config": config.model_dump(mode="json"),
        "model": {"name": "none", "parameters": 0} | adapter_facts(("tuned",), ("none",)),
        "data": data_facts(examples, splits, 0.25),
        "variants": {
            name: asking_facts(asked[name])
            | one.numbers
            | {"advantages": advantages(judge, one), "gain": gains(judge, one)}
            for name, one in judged.items()
        },
        "comparisons": compare(judge, judged["base"], {"tuned": judged["tuned"]}),
        "seconds": {"total": 0.0}, "peak_memory_mb": 0,
    }  # fmt: skip
    results = strict(results)
    return results | {"verdict": verdict(results)}


def timed(step: Callable[[], Any], repetitions: int) -> tuple[Any, str]:
    seconds, result = [], None
    for _ in range(repetitions):
        start = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - start)
    return result, f"{statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=14_042)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    examples = questions(options.questions)
    models = {name: model(options.questions, options.layers, seed) for seed, name in enumerate(MODELS, 1)}
    config = Config.model_validate({"model": {"name": "none"}})
    results, computing = timed(lambda: numbers(examples, models, config), options.repetitions)
    page, rendering = timed(lambda: render_html(results), options.repetitions)
    print(f"{options.questions:,} questions, {SUBJECTS} subjects, {options.layers} layers, base and tuned")
    print(f"numbers: {computing}")
    print(f"page: {rendering}; {len(page.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
