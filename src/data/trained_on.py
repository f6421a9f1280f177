"""Questions that a model was fine-tuned on: asked again, they show its memory and not what it knows.

A fine-tuning leaves `trained_on.json` with the adapter: {"dataset": "gsm8k", "ids": ["3f2a...", ...]}, with the ids of
the `Example`s.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.data.example import Example
from src.errors import DataError

FILE_NAME = "trained_on.json"
TRAINED, NEW = "fine-tuned on", "new"


def read_trained_on(adapter_folder: str | Path) -> tuple[Path, frozenset[str]] | None:
    """The file in the adapter's folder or beside it, and the ids it holds; None where there is none.

    Raises:
        DataError: a file that is not what a fine-tuning writes.
    """
    folder = Path(adapter_folder).expanduser()
    path = next((p for p in (folder / FILE_NAME, folder.parent / FILE_NAME) if p.is_file()), None)
    if path is None:
        return None
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))["ids"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path} cannot be read as {{"ids": [...]}} ({type(error).__name__}).') from error
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise DataError(f"{path}: ids must be a list of texts.")
    return path, frozenset(ids)


def apart(examples: Sequence[Example], ids: frozenset[str], path: Path, *, refuse: bool) -> tuple[Example, ...]:
    """The examples, tagged "fine-tuned on" or "new" where some of them were trained on.

    Args:
        examples: the questions of a run.
        ids: of the questions that were trained on.
        path: where they stand.
        refuse: whether such questions are an error.

    Raises:
        DataError: they are, and there are some: how many, and the first.
    """
    known = [example for example in examples if example.id in ids]
    if not known:
        return tuple(examples)
    if refuse:
        raise DataError(
            f"{len(known):,} of {len(examples):,} questions were in the adapter's fine-tuning, says {path} (the first: "
            f"{known[0].question[:60]!r}, {known[0].id}): the numbers would show memory. Ask others, or set "
            "data.trained_on: mark to keep them, tagged."
        )
    return tuple(replace(example, tag=TRAINED if example.id in ids else NEW) for example in examples)
