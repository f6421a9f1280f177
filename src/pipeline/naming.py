"""What the models of a run are called, and how far in its training each adapter is."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BASE, TUNED = "base", "tuned"
# Folders that are called after what they hold: what tells adapters apart stands before.
_SAYING_NOTHING = ("peft_adapter", "adapter", "adapters", "lora", "peft")
_NUMBER_AT_END = re.compile(r"(.*?)(\d{1,18})")
_INFO = "checkpoint_info.json"
_MOST_BYTES = 1 << 20
_LONGEST = 100  # bytes: a name becomes a folder's


@dataclass(frozen=True)
class Steps:
    """How far each adapter is.

    Attributes:
        numbers: one for each adapter, all different.
        source: where they come from: "name" (the number at the end of each folder's name), "checkpoint_info.json" (at
            the end of the checkpoint's address that is recorded there) or "place" (in the list, from 1).
    """

    numbers: tuple[int, ...]
    source: str


def variant_names(folders: Sequence[str]) -> tuple[str, ...]:
    """What the adapters are called in results, tables and folders of probes.

    One is "tuned". Several have the shortest end of their paths that tells all of them apart, joined by "-":
    checkpoint-100, or run1-checkpoint-100 beside run2-checkpoint-100. Where that is no name for a folder (control
    characters, more than 100 bytes), adapter-1, adapter-2, ...
    """
    if len(folders) < 2:
        return (TUNED,) * len(folders)
    every = [_telling(folder) for folder in folders]
    for length in range(1, max(map(len, every)) + 1):
        names = ["-".join(parts[-length:]) for parts in every]
        if len({BASE, *names}) == len(names) + 1:
            if all(name.isprintable() and len(name.encode()) <= _LONGEST for name in names):
                return tuple(names)
            break
    return tuple(f"adapter-{place}" for place in range(1, len(folders) + 1))


def steps_of(folders: Sequence[str]) -> Steps:
    """From the folders' names, else from what the conversion wrote beside them, else from their order."""
    for source, names in (
        ("name", [_telling(folder)[-1] for folder in folders]),
        (_INFO, [_recorded(Path(folder)) for folder in folders]),
    ):
        found = [_NUMBER_AT_END.fullmatch(name) for name in names]
        numbers = [int(one[2]) for one in found if one]
        # Numbers count the same thing only where the names before them agree.
        if len(set(numbers)) == len(folders) and len({one[1] for one in found if one}) == 1:
            return Steps(tuple(numbers), source)
    return Steps(tuple(range(1, len(folders) + 1)), "place")


def _telling(folder: str) -> list[str]:
    parts = list(Path(os.path.abspath(folder)).parts[1:])  # noqa: PTH100 (Path.absolute keeps "..", which names nothing)
    while len(parts) > 1 and parts[-1] in _SAYING_NOTHING:
        parts.pop()
    return parts or [folder]


def _recorded(folder: Path) -> str:
    """The last part of the address of the checkpoint that was converted; "" where nothing is recorded."""
    path = folder.parent / _INFO
    try:
        if path.stat().st_size > _MOST_BYTES:
            return ""
        return json.loads(path.read_text(encoding="utf-8"))["tinker_path"].rstrip("/").rpartition("/")[2]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a user's file, of any shape
        return ""
