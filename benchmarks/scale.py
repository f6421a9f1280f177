"""Past one machine: workers of Ray against processes of their own, the driver's memory, and runs of a million rows.

    python benchmarks/scale.py workers [--questions 512] [--repetitions 3]
    python benchmarks/scale.py driver  [--rows 1000,10000,100000,1000000]
    python benchmarks/scale.py rows    [--rows 1000000]

`workers`: real MMLU questions of `--mmlu` asked of the 71 M random model (12 blocks, 512 wide), all layers kept in a
cold cache. Two Ray workers with a thread each against two processes with a thread each that start together; models are
loaded before the clock starts, on both sides. `driver`: a **synthetic worker** that answers nothing takes portions of
512 synthetic questions; how much the driver grows while they are spread, each size in a process of its own. `rows`:
what one process needs for so many synthetic questions, step by step.

Ray 2.60 listens on all interfaces: run it where the network is yours, or in a namespace that has only loopback:
unshare --net --pid --fork --kill-child --mount-proc sh -c 'ip link set lo up && python benchmarks/scale.py workers'
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch, also in every worker

import numpy as np
import psutil

from src.config import load_config
from src.data import MMLUDataset
from src.data.example import Example
from src.pipeline import make_plan, spreading
from src.pipeline.questions import Questions

SHAPE = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8,
         "intermediate_size": 1376, "vocab_size": 32000, "max_position_embeddings": 2048}  # fmt: skip


def make_model(folder: Path, texts: list[str]) -> None:
    """The 71 M random model of the other benchmarks, with a tokenizer of its size that was fitted to these texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.04)).save_pretrained(folder)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=["<s>", "</s>"], initial_alphabet=letters, show_progress=False,
    ))  # fmt: skip
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(folder)  # noqa: S106


def settings(model: Path, mmlu: Path, cache: Path, questions: int) -> dict[str, Any]:
    return {
        "model": {"name": str(model)},
        "data": {"name": "mmlu", "path": str(mmlu), "limit": questions, "truncation": "left"},
        "extraction": {"layers": "all", "cache_dir": str(cache)},
        "run": {"engine": "ray", "workers": 2, "dir": str(cache / "run")},
    }


@dataclass(frozen=True)
class TimedSpec:
    """What a timed worker needs: the true spec, and a folder for its notes."""

    spec: spreading.Spec
    notes: str


class TimedWorker(spreading.Worker):
    """The true worker, with its model loaded at the start, noting when each portion began and ended."""

    def __init__(self, timed: TimedSpec):
        super().__init__(timed.spec)
        self._notes = Path(timed.notes)
        _ = self._model
        (self._notes / f"ready-{os.getpid()}").touch()

    def __call__(self, portion: spreading.Portion) -> None:
        """As the true one."""
        while len(list(self._notes.glob("ready-*"))) < 2:  # both have loaded
            time.sleep(0.01)
        start = time.time()
        super().__call__(portion)
        (self._notes / f"{start}-{time.time()}").touch()


def seconds_of(notes: Path) -> float:
    """From the first portion's beginning to the last one's end."""
    times = [tuple(map(float, path.name.split("-"))) for path in notes.iterdir() if path.name[0].isdigit()]
    return max(end for _, end in times) - min(start for start, _ in times)


def planned(config: dict[str, Any]) -> tuple[list[spreading.Portion], spreading.Spec, Path]:
    """Portions and spec as `ask_spread` makes them, and a new folder for notes in the cache."""
    loaded = load_config(config)
    plan = make_plan(loaded)
    notes = Path(tempfile.mkdtemp(dir=loaded.extraction.cache_dir))
    (Path(loaded.extraction.cache_dir or "") / "marker").touch()
    spec = spreading.Spec(loaded.model_dump(mode="json"), {}, plan.layers, "marker")
    return list(spreading._portions(plan.tasks, 2)), spec, notes


def by_ray(config: dict[str, Any]) -> float:
    portions, spec, notes = planned(config)
    spreading.spread(portions, TimedWorker, TimedSpec(spec, str(notes)), workers=2)
    return seconds_of(notes)


def by_processes(config: dict[str, Any]) -> float:
    """Two processes that know nothing of each other ask every second portion."""
    notes = planned(config)[2]
    me = [sys.executable, __file__, "half", json.dumps(config), str(notes)]
    halves = [subprocess.Popen([*me, part]) for part in ("0", "1")]  # noqa: S603
    if any(half.wait() for half in halves):
        raise SystemExit("a process failed")
    return seconds_of(notes)


def half(config: dict[str, Any], notes: str, part: int) -> None:
    portions, spec, _ = planned(config)
    worker = TimedWorker(TimedSpec(spec, notes))
    for portion in portions[part::2]:
        worker(portion)


def workers(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, found = Path(folder, "model"), []
        make_model(model, [example.prompt for example in MMLUDataset("test", path=args.mmlu)])
        with spreading._cluster(2):
            for number in range(args.repetitions):
                ways = {"ray": by_ray, "processes": by_processes}
                took = {}
                for name in list(ways)[:: 1 if number % 2 else -1]:
                    cache = Path(folder, f"{name}-{number}")
                    cache.mkdir()
                    took[name] = ways[name](settings(model, args.mmlu, cache, args.questions))
                found.append(took)
    ratios = [one["processes"] / one["ray"] for one in found]
    over = [1000 * (one["ray"] - one["processes"]) / args.questions for one in found]
    print(
        f"{args.questions} MMLU questions, 71 M: two Ray workers reach {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}-{max(ratios):.3f}) of two processes "
        f"({statistics.median(one['ray'] for one in found):.1f} s against "
        f"{statistics.median(one['processes'] for one in found):.1f} s); asked .85. Per 1,000 questions "
        f"{statistics.median(over):+.2f} s ({min(over):+.2f} to {max(over):+.2f}); asked under 1 s."
    )


def synthetic(n: int) -> Questions:
    """Questions of MMLU's shape, all different."""
    choices = ("the first", "the second", "the third", "the fourth")
    examples = tuple(
        Example(
            prompt=f"Question {i}: which of these is number {i * 7919 % 10007}?", question=f"number {i}",
            choices=choices, continuations=(" A", " B", " C", " D"), target="A", subject=f"subject {i % 57}",
        )
        for i in range(n)
    )  # fmt: skip
    return Questions(examples, "letter", (), 1, with_choices=True)


class NoWorker:
    """The synthetic worker: it answers nothing."""

    def __init__(self, spec: None): ...

    def __call__(self, portion: spreading.Portion) -> None:
        """Nothing."""


def one_driver(rows: int) -> None:
    """Prints the driver's growth in MB while so many questions are spread, and the seconds."""
    questions, me = synthetic(rows), psutil.Process()
    with spreading._cluster(1):
        spreading.spread([None], NoWorker, None, workers=1)  # Ray's own start
        before, peak = me.memory_info().rss, 0
        size = spreading._MOST_QUESTIONS
        portions = [
            spreading.Portion("synthetic", {}, questions.only(range(low, min(low + size, rows))))
            for low in range(0, rows, size)
        ]
        start = time.perf_counter()
        with Watch(me) as watch:
            spreading.spread(portions, NoWorker, None, workers=1)
        peak = watch.peak
        print(json.dumps({"rows": rows, "grown": (peak - before) / 1e6, "seconds": time.perf_counter() - start}))


class Watch:
    """The highest resident memory of a process while a block runs."""

    def __init__(self, process: psutil.Process):
        self.process, self.peak = process, 0

    def __enter__(self) -> "Watch":
        import threading

        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def driver(args: argparse.Namespace) -> None:
    print("| questions | driver grows by, MB | s |\n|---|---|---|")
    for rows in map(int, args.rows.split(",")):
        me = [sys.executable, __file__, "one-driver", str(rows)]
        done = subprocess.run(me, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"| {found['rows']:,} | {found['grown']:.0f} | {found['seconds']:.1f} |", flush=True)


def steps(n: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What one process does with n questions, in turn."""
    from src.data.splits import split_examples
    from src.models.extraction.cache import ActivationCache
    from src.models.extraction.keeping import Keeper
    from src.models.extraction.maintenance import compact
    from src.models.extraction.table import Table

    size, width, held = spreading._MOST_QUESTIONS, 64, {}
    yield "questions in memory", lambda: held.setdefault("q", synthetic(n))
    yield "splits", lambda: split_examples(held["q"].examples, seed=0)
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(n)]

    def write() -> None:
        states = np.zeros((size, width), dtype=np.float32)
        for low in range(0, n, size):
            table = Table(keys[low : low + size], ("block.0",))
            with Keeper(table, ActivationCache(folder, {"scale": True})) as keeper:
                import torch

                rows = len(table.known())
                keeper.keep(np.arange(rows), {"block.0": torch.from_numpy(states[:rows])})

    def read() -> None:
        table = Table(keys, ("block.0",))
        ActivationCache(folder, {"scale": True}).fill(table)
        if not table.known().all():
            raise SystemExit("rows are missing")

    yield f"{-(-n // size):,} shards written by portions of {size}", write
    yield "all rows found in them", read
    yield "shards merged", lambda: compact(folder)
    yield "all rows found in the merged ones", read
    yield "of that, listing the folder", lambda: sum(1 for _ in folder.rglob("*.safetensors"))


def rows(args: argparse.Namespace) -> None:
    me = psutil.Process()
    print(f"{args.rows} synthetic questions, states of 64 dimensions, one layer")
    print("| step | s | memory after, MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name, call in steps(int(args.rows), Path(folder)):
            start = time.perf_counter()
            call()
            print(f"| {name} | {time.perf_counter() - start:.1f} | {me.memory_info().rss / 1e6:.0f} |", flush=True)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        print(f"files: {len(files)}, bytes: {sum(path.stat().st_size for path in files) / 1e6:.0f} MB")


def main() -> None:
    if sys.argv[1:2] == ["half"]:
        return half(json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    if sys.argv[1:2] == ["one-driver"]:
        return one_driver(int(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("workers", "driver", "rows"))
    parser.add_argument("--questions", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rows", default=None)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--mmlu", type=Path, default=Path("../shared/data/mmlu"))
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    args.rows = args.rows or {"driver": "1000,10000,100000,1000000"}.get(args.what, "1000000")
    {"workers": workers, "driver": driver, "rows": rows}[args.what](args)


if __name__ == "__main__":
    main()
