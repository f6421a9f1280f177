"""answers.parquet: every question of every model as one row, whole, for people and programs to open."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from src.data.example import Example
from src.data.splits import SPLITS
from src.pipeline.asked import Asked
from src.pipeline.probing import PROBE, TEXT, Probed
from src.pipeline.questions import Task

_FITTED = (PROBE, TEXT)


def answers_parquet(tasks: Sequence[Task], asked: Sequence[Mapping[str, Asked]], probed: Mapping[str, Probed]) -> bytes:
    """The file's bytes: one row per data set, model and question.

    Columns: data (the data set's name), model ("base", and its adapters by name: one is "tuned"), id, subject, tag,
    split, group (questions of a data set with the same text share it), question, choices, target, prompt, answer,
    extracted (null: nothing was found), extractor, correct, status, judged (whether it is a test question that the
    headline counts), own_probability, probe and text_only (null where they were fitted or could not be, and on other
    data sets), and one for each signal, such as entropy.

    Args:
        tasks: what was asked, the run's own data set first.
        asked: of each, what each model said.
        probed: each model's scorers, which are of the first.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(pa, [one for models in asked for one in models.values()])
    rows = [
        row
        for task, models, own in zip(tasks, asked, [probed, *[{}] * len(tasks[1:])], strict=True)
        for name, one in models.items()
        for row in _rows(task, name, one, own.get(name))
    ]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
    return file.getvalue()


def _rows(task: Task, model: str, asked: Asked, probed: Probed | None) -> Iterator[dict[str, Any]]:
    """Of one data set and model; what a row does not name is null."""
    splits = task.splits
    split_of_row = {int(row): name for name in SPLITS for row in getattr(splits, name)}
    judged = set(probed.splits.test.tolist()) if probed else set()
    fitted = {scorer: probed.everywhere(scorer) for scorer in _FITTED} if probed else {}
    for row, example in enumerate(task.questions.examples):
        yield (
            {"data": task.name, "model": model, "split": split_of_row[row], "group": int(splits.groups[row])}
            | _question(example)
            | _answer(asked, row)
            | {scorer: _or_null(values[row]) for scorer, values in fitted.items()}
            | {"judged": row in judged}
        )


def _schema(pa: Any, asked: Sequence[Asked]) -> Any:
    texts = ("data", "model", "id", "subject", "tag", "split", "question", "target", "prompt", "answer", "extracted",
             "extractor", "status")  # fmt: skip
    signals = sorted({signal for one in asked for signal in one.signals})
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
