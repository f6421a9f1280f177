"""Answers that somebody already has: lm-evaluation-harness samples, Inspect AI logs, or a table of one's own.

They become examples and given answers, so that hidden states can be read and probed without asking again.
"""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.data.example import LETTERS, Example, ExampleDataset
from src.data.jsonl import row_error
from src.data.rows import read_rows, read_subject
from src.errors import DataError, MissingExtraError

_RIGHT = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_LABELS = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "1.0": 1.0, "0.0": 0.0}


@dataclass(frozen=True)
class Given:
    """An answer as it was given.

    Attributes:
        response: the text that followed the prompt, as it was (with the space it begins with).
        correct: 1.0 or 0.0.
        confidence: of whoever answered, in [0, 1]; None where nobody said.
    """

    response: str
    correct: float
    confidence: float | None = None


class AnsweredDataset(ExampleDataset):
    """A sequence of `Example`s whose answers are in `given`, in the same order.

    Args:
        path: an Inspect AI log (.eval, extra `inspect`); a samples_*.jsonl of lm-evaluation-harness 0.4
            (`--log_samples`); or rows with prompt, response, correct and, if wanted, confidence and subject.
        filter: of a harness task with several filters (strict-match, flexible-extract), which one's marks count.

    Raises:
        DataError: a malformed row (with its number), an answer without a mark, or no rows at all.
        MissingExtraError: an Inspect log, and inspect-ai is not installed.
    """

    def __init__(self, path: str | Path, *, filter: str | None = None):
        self.path, self.filter = Path(path), filter

    def _read(self) -> list[Example]:
        return [example for example, _ in self._pairs]

    @property
    def given(self) -> tuple[Given, ...]:
        """The answers, in the order of the examples."""
        return tuple(given for _, given in self._pairs)

    @cached_property
    def _pairs(self) -> list[tuple[Example, Given]]:
        pairs = list(self._load())
        if not pairs:
            raise DataError(f"{self.path} holds no answers.")
        for number, (example, given) in enumerate(pairs, 1):
            if given.confidence is not None and not 0 <= given.confidence <= 1:
                raise DataError(
                    f"{self.path.name}, answer {number}: confidence is {given.confidence:g}, but lies between 0 and 1."
                )
            if not given.response.strip():
                raise DataError(f"{self.path.name}, answer {number} ({example.prompt[-40:]!r}) is empty: leave it out.")
        said = sum(given.confidence is not None for _, given in pairs)
        if 0 < said < len(pairs):
            raise DataError(f"{self.path.name}: {said} of {len(pairs)} rows have a confidence. Give all of them one.")
        return pairs

    def _load(self) -> Iterator[tuple[Example, Given]]:
        if self.path.suffix == ".eval":
            if not self.path.is_file():
                raise DataError(f"There is no file {self.path}. Give the log as data.path.")
            return _from_inspect(self.path)
        rows = list(read_rows(self.path))
        if rows and {"doc_id", "arguments"} <= rows[0][1].keys():
            return _from_harness(self.path, rows, self.filter)
        if self.filter:
            raise DataError(f"{self.path.name} holds no samples of lm-evaluation-harness: leave data.filter out.")
        return (_own(self.path, number, row) for number, row in rows)


def _own(path: Path, number: int, row: dict[str, Any]) -> tuple[Example, Given]:
    prompt, response = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not prompt or not isinstance(response, str):
        raise row_error(path, number, f"prompt and response must be texts; the row has {sorted(row)}")
    label = _LABELS.get(str(row.get("correct")).lower())
    if label is None:
        raise row_error(path, number, f"correct must be 1 or 0, true or false, not {row.get('correct')!r}")
    confidence = row.get("confidence")
    confidence = None if confidence in (None, "") else _number(path, number, "confidence", confidence)
    example = Example(prompt, "", subject=read_subject(path, number, row.get("subject")), prompt=prompt)
    return example, Given(response, label, confidence)


def _number(path: Path, number: int, name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise row_error(path, number, f"{name} is no number: {value!r:.80}") from error


def _from_harness(
    path: Path, rows: list[tuple[int, dict[str, Any]]], wanted: str | None
) -> Iterator[tuple[Example, Given]]:
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for _, row in rows))
    chosen = wanted or filters[0]
    if chosen not in filters:
        raise DataError(f"{path.name} has no filter {chosen!r}. It has {', '.join(filters)}.")
    for number, row in rows:
        if str(row.get("filter", "none")) == chosen:
            try:
                yield _harness_row(row)
            except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
                raise row_error(path, number, f"it is no sample of lm-evaluation-harness ({error!r:.80})") from error


def _harness_row(row: dict[str, Any]) -> tuple[Example, Given]:
    arguments = row["arguments"]
    pairs = list(arguments.values()) if isinstance(arguments, dict) else arguments
    pairs = [list(pair.values()) if isinstance(pair, dict) else pair for pair in pairs]
    prompt, responses = pairs[0][0], row["filtered_resps"]
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"its prompt is no text: {prompt!r:.40}")
    metric = next((name for name in ("acc", "exact_match", *row.get("metrics", ())) if name in row), None)
    if metric is None:
        raise ValueError("it has no mark")
    correct = float(row[metric])
    if correct not in (0.0, 1.0):
        raise ValueError(f"{metric} is {correct:g}")
    subject = str(row["doc"].get("subject") or "") if isinstance(row["doc"], dict) else ""
    if not isinstance(pairs[0][1], str):  # generated; the second argument are the settings
        response, *others = row["resps"][0]
        if others:
            raise ValueError(f"it has {1 + len(others)} answers, and which of them was marked is not known")
        if not isinstance(response, str):
            raise ValueError(f"its answer is no text: {response!r:.40}")
        return Example(prompt, str(row["target"]), subject=subject, prompt=prompt), Given(response, correct)
    if any(pair[0] != prompt for pair in pairs) or len(pairs) != len(responses):
        raise ValueError("its choices do not follow one prompt")
    scores = [float(response[0]) for response in responses]
    highest = max(scores)
    best = scores.index(highest)
    confidence = 1 / sum(math.exp(score - highest) for score in scores)
    continuations = tuple(pair[1] for pair in pairs)
    offered = row["doc"].get("choices") if isinstance(row["doc"], dict) else None
    choices = tuple(map(str, offered)) if isinstance(offered, list) and len(offered) == len(pairs) else ()
    target = str(row["target"])
    target = LETTERS[int(target)] if target.isdecimal() and int(target) < len(pairs) else target
    example = Example(prompt, target, choices, subject, prompt, continuations)
    return example, Given(continuations[best], correct, confidence)


def _from_inspect(path: Path) -> Iterator[tuple[Example, Given]]:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise MissingExtraError("Inspect logs need inspect-ai: pip install -e '.[inspect]'.") from error
    try:
        log = read_eval_log(str(path))
    except (ValueError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path.name} is no log of Inspect AI ({str(error).splitlines()[0]:.80}).") from error
    for sample in log.samples or []:
        if not sample.scores:
            raise DataError(f"{path.name}: sample {sample.id!r} has no score, so whether it is right is not known.")
        value = next(iter(sample.scores.values())).value
        correct = _RIGHT.get(value) if isinstance(value, str) else value
        if correct not in (0.0, 1.0):
            raise DataError(f"{path.name}: sample {sample.id!r} is scored {value!r}, which is neither right nor wrong.")
        asked = sample.input if isinstance(sample.input, str) else "\n\n".join(m.text for m in sample.input)
        target = sample.target if isinstance(sample.target, str) else ", ".join(sample.target)
        yield Example(asked, target, prompt=asked), Given(sample.output.completion, float(correct))
