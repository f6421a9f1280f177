"""Questions that a model was fine-tuned on: asked again, they show its memory and not what it knows.

A fine-tuning leaves `trained_on.json` with the adapter: {"dataset": "gsm8k", "ids": ["3f2a...", ...]}, with the ids of
the `Example`s.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src import storage
from src.adapters.settings import parse_object
from src.data.example import Example
from src.errors import AdapterError, DataError

log = logging.getLogger(__name__)

FILE_NAME = "trained_on.json"
_MOST_CHARACTERS = 256 << 20
TRAINED, NEW = "fine-tuned on", "new"


def read_trained_on(adapter_folder: str | Path) -> tuple[Path, frozenset[str]] | None:
    """The file in the adapter's folder or beside it, and the ids it holds; None where there is none.

    Raises:
        DataError: a file that is not what a fine-tuning writes.
    """
    folder = storage.local(adapter_folder)
    path = next((p for p in (folder / FILE_NAME, folder.parent / FILE_NAME) if os.path.lexists(p)), None)
    if path is None:
        return None
    try:
        ids = parse_object(path.read_text(encoding="utf-8"), name=str(path), limit=_MOST_CHARACTERS).get("ids")
    except (OSError, UnicodeDecodeError, AdapterError) as error:
        raise DataError(f"{path}, which says what the adapter was fine-tuned on, cannot be read: {error}") from error
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise DataError(f'{path} must hold {{"ids": [...]}}, with the ids of questions as texts.')
    return path, frozenset(ids)


def apart(examples: Sequence[Example], ids: frozenset[str], path: Path, *, refuse: bool) -> tuple[Example, ...]:
    """The examples, tagged "fine-tuned on" or "new" (after a tag of their own) where some of them were trained on.

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
        log.info("%s names %d questions; none of them is asked.", path, len(ids))
        return tuple(examples)
    if refuse:
        raise DataError(
            f"{len(known):,} of {len(examples):,} questions were in the adapter's fine-tuning, says {path} (the first: "
            f"{known[0].question[:60]!r}, {known[0].id}): the numbers would show memory. Ask others, or set "
            "data.trained_on: mark to keep them, tagged."
        )
    return tuple(_tagged(example, TRAINED if example.id in ids else NEW) for example in examples)


def _tagged(example: Example, tag: str) -> Example:
    return replace(example, tag=f"{example.tag}, {tag}" if example.tag else tag)
