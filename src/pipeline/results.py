"""Stage 6: what results.json and questions.csv hold besides the metrics."""

import csv
import importlib.metadata
import io
import math
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from src import __version__, files
from src.data.example import Example
from src.data.splits import SPLITS, Splits
from src.data.trained_on import TRAINED
from src.pipeline.asked import Asked
from src.pipeline.naming import steps_of
from src.pipeline.probing import PROBE, Probed
from src.pipeline.questions import Questions

SCHEMA = 4
_ABOUT = ("id", "subject", "tag", "split", "question", "target")
_NUMBER = re.compile(r"[+-]?[\d.,]+%?")
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "scikit-learn", "bitsandbytes")


def versions() -> dict[str, str]:
    """Of this library, of Python and of the packages that numbers depend on."""
    found = {"llm-confidence-probing": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the working folder, marked where files differ from it; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def peak_memory_mb() -> int | None:
    """The most resident memory this process has used; None on Windows, which does not say."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    # macOS counts bytes, Linux kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def strict(value: Any) -> Any:
    """The same structure with NaN as None and numpy scalars as Python ones, ready for strict JSON."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_facts(questions: Questions, splits: Splits) -> dict[str, Any]:
    """Counts of the questions: per subject and per split, and how many repeat another's text; and their hash."""
    examples = questions.examples
    subjects: dict[str, int] = {}
    for example in examples:
        subjects[example.subject] = subjects.get(example.subject, 0) + 1
    return {
        "n": len(examples),
        "sha256": files.sha256_of_json(
            [*([one.id, one.prompt, list(one.continuations)] for one in examples), *map(astuple, questions.given)]
        ),
        "chance": questions.chance,
        "subjects": subjects,
        "splits": {name: len(getattr(splits, name)) for name in SPLITS},
        "repeated": splits.repeated,
        "trained_on": sum(example.tag.endswith(TRAINED) for example in examples),
    }


def adapter_facts(names: Sequence[str], folders: Sequence[str]) -> dict[str, Any]:
    """Each adapter's folder and step, and where the steps come from (None without adapters)."""
    steps = steps_of(folders)
    each = zip(names, folders, steps.numbers, strict=True)
    return {
        "adapters": {name: {"folder": folder, "step": step} for name, folder, step in each},
        "steps_from": steps.source if names else None,
    }


def asking_facts(asked: Asked) -> dict[str, Any]:
    """What happened while a model was asked."""
    return {
        "accuracy_all_questions": float(asked.correct.mean()),
        "status": dict(Counter(asked.status)),
        "unreadable": int((~asked.answered).sum()),
        "truncated": asked.truncated,
        "shortened": dict(asked.shortened),
        "elsewhere": asked.elsewhere,
        "unsaid": {name: count for name, values in asked.signals.items() if (count := int(np.isnan(values).sum()))},
        "choice_mass": float(asked.signals["choice_mass"].mean()) if "choice_mass" in asked.signals else None,
    }


def _no_formula(text: str) -> str:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


def questions_csv(
    examples: tuple[Example, ...], splits: Splits, asked: dict[str, Asked], probed: dict[str, Probed]
) -> str:
    """One row per question: who answered what, with which confidence; the probe's on test rows only.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    split_of_row = {int(row): name for name in SPLITS for row in getattr(splits, name)}
    on_test = {
        name: dict(zip(one.splits.test.tolist(), one.test[PROBE].tolist(), strict=True))
        for name, one in probed.items()
        if PROBE in one.test
    }
    per_variant = ("answer", "correct", "own_probability", "probe")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_ABOUT, *(f"{v}_{c}" for v in asked for c in per_variant)])
    for row, example in enumerate(examples):
        about = (example.id, example.subject, example.tag, split_of_row[row], example.question, example.target)
        cells: list[Any] = list(map(_no_formula, about))
        for name, one in asked.items():
            probe = on_test.get(name, {}).get(row)
            shown = "" if probe is None else f"{probe:.6g}"
            cells += [_no_formula(one.answers[row]), int(one.correct[row]), f"{one.confidence[row]:.6g}", shown]
        writer.writerow(cells)
    return text.getvalue()
