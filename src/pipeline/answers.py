"""answers.parquet: every question of every model as one row, whole, for people and programs to open."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from src.data.example import Example
from src.data.splits import SPLITS, Splits
from src.pipeline.asked import Asked
from src.pipeline.probing import PROBE, TEXT, Probed

_FITTED = (PROBE, TEXT)


def answers_parquet(
    examples: tuple[Example, ...], splits: Splits, asked: Mapping[str, Asked], probed: Mapping[str, Probed]
) -> bytes:
    """The file's bytes: one row per model and question.

    Columns: model ("base", and its adapters by name: one is "tuned"), id, subject, tag, split, group (questions with
    the same text share it), question, choices, target, prompt, answer, extracted (null: nothing was found), extractor,
    correct, status, judged (whether it is a test question that counts), own_probability, probe and text_only (null
    where they were fitted or could not be),
    and one for each signal, such as entropy.
    """
    import pyarrow as pa
    from pyarrow import parquet

    split_of_row = {int(row): name for name in SPLITS for row in getattr(splits, name)}
    judged = {name: set(one.splits.test.tolist()) for name, one in probed.items()}
    fitted = {name: {scorer: one.everywhere(scorer) for scorer in _FITTED} for name, one in probed.items()}
    rows = [
        {"model": name, "split": split_of_row[row], "group": int(splits.groups[row])}
        | _question(example)
        | _answer(one, row)
        | {scorer: _or_null(values[row]) for scorer, values in fitted[name].items()}
        | {"judged": row in judged[name]}
        for name, one in asked.items()
        for row, example in enumerate(examples)
    ]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=_schema(pa, asked)), file, compression="zstd")
    return file.getvalue()


def _schema(pa: Any, asked: Mapping[str, Asked]) -> Any:
    texts = ("model", "id", "subject", "tag", "split", "question", "target", "prompt", "answer", "extracted",
             "extractor", "status")  # fmt: skip
    signals = sorted({signal for one in asked.values() for signal in one.signals})
    fields = [(name, pa.string()) for name in texts]
    fields += [
        ("group", pa.int64()),
        ("choices", pa.list_(pa.string())),
        ("correct", pa.bool_()),
        ("judged", pa.bool_()),
    ]
    return pa.schema(fields + [(name, pa.float64()) for name in ("own_probability", *_FITTED, *signals)])


def _question(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "subject": example.subject,
        "tag": example.tag,
        "question": example.question,
        "choices": list(example.choices),
        "target": example.target,
        "prompt": example.prompt,
    }


def _answer(asked: Asked, row: int) -> dict[str, Any]:
    mark = asked.marks[row] if asked.marks else None
    return {
        "answer": asked.answers[row],
        "extracted": mark.extracted if mark else asked.answers[row],
        "extractor": mark.extractor if mark else "likelihood" if "margin" in asked.signals else "given",
        "correct": bool(asked.correct[row]),
        "status": asked.status[row],
        "own_probability": float(asked.confidence[row]),
    } | {name: _or_null(values[row]) for name, values in asked.signals.items()}


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
