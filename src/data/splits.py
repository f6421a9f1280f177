"""Which question serves which purpose: by the question's own text, so the same for every model.

`train` fits the probe, `val` picks layer and C, `calibration` is kept for thresholds that carry a
guarantee, `test` is touched once. A question's split depends on nothing but its normalised text and the
seed: adding, dropping or reordering other questions moves nothing, and repeats of a text stay together.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.example import Example
from src.errors import DataError

SPLITS = ("train", "val", "calibration", "test")
SHARES = (0.5, 0.1, 0.1, 0.3)


def normalised(question: str) -> str:
    """Lower case, everything but letters and digits one space; the raw text where nothing would be left."""
    return re.sub(r"[\W_]+", " ", question.lower()).strip() or question


def split_of(question: str, *, seed: int = 42) -> str:
    """The split of one question: a hash of its normalised text, uniform on [0, 1), cut by `SHARES`."""
    digest = hashlib.sha256(f"{seed}:{normalised(question)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, edge in zip(SPLITS, np.cumsum(SHARES), strict=True):
        if place < edge:
            return name
    return SPLITS[-1]


@dataclass(frozen=True)
class Splits:
    """Row numbers of each split, and for every row the number of its group of equal questions."""

    train: np.ndarray
    val: np.ndarray
    calibration: np.ndarray
    test: np.ndarray
    groups: np.ndarray

    @property
    def repeated(self) -> int:
        """How many rows ask a question that another row asks too."""
        _, counts = np.unique(self.groups, return_counts=True)
        return int(counts[counts > 1].sum())


def split_examples(examples: Sequence[Example], *, seed: int = 42) -> Splits:
    """Split by question. Raises DataError where there is nothing to split."""
    if not examples:
        raise DataError("There are no questions to split. Check data.category and data.limit.")
    names = np.array([split_of(e.question, seed=seed) for e in examples])
    _, groups = np.unique([normalised(e.question) for e in examples], return_inverse=True)
    rows = {name: np.flatnonzero(names == name) for name in SPLITS}
    return Splits(**rows, groups=groups)
