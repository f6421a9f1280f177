"""Parts of the training rows to choose with, where no validation rows are given."""

from typing import Any

import numpy as np
import xxhash

from src.errors import ScoringError
from src.probes.states import Sample

FOLDS = 5


def fold_of_each(sample: Sample, groups: Any = None) -> np.ndarray:
    """(m,) the fold of each row, 0 to 4. Rows of one group, or where no groups are given equal rows, stay together.

    Which folds these are follows from the groups' names or the rows' contents and not from their order, so that a row
    given twice equals one that weighs twice as much.

    Args:
        sample: the rows.
        groups: one name or number for each row of the states, such as its question; None: the rows themselves.

    Raises:
        ScoringError: lengths that differ, or fewer than two groups.
    """
    if groups is None:
        digests = [xxhash.xxh3_64_intdigest(row) for _, block in sample.states.blocks(sample.rows) for row in block]
    else:
        names = np.asarray(groups)
        if names.shape != (len(sample.states),):
            raise ScoringError(f"groups has shape {names.shape}, but there are {len(sample.states)} rows of states.")
        return fold_of_names(names[sample.rows])
    return _dealt(digests)


def fold_of_names(names: np.ndarray) -> np.ndarray:
    """(n,) the fold of each row whose group is called so; as `fold_of_each`, which raises the same."""
    return _dealt([xxhash.xxh3_64_intdigest(str(name).encode()) for name in names])


def _dealt(digests: list[int]) -> np.ndarray:
    distinct, which = np.unique(np.array(digests, dtype=np.uint64), return_inverse=True)
    if distinct.size < 2:
        raise ScoringError(f"All {len(digests)} training rows are one group: pass validation rows to choose with.")
    return which % FOLDS


def folds(sample: Sample, groups: Any = None) -> list[tuple[Sample, Sample]]:
    """(rows to fit to, rows to choose on) for each fold; a fold that would leave one class to fit to is passed over."""
    fold = fold_of_each(sample, groups)
    pairs = [(sample.only(np.flatnonzero(fold != k)), sample.only(np.flatnonzero(fold == k))) for k in np.unique(fold)]
    usable = [(fitted, chosen) for fitted, chosen in pairs if not fitted.one_class]
    if not usable:
        raise ScoringError("No part of the training rows can be set aside to choose with: pass X_val and y_val.")
    return usable


def gathered(train: Sample, pairs: list[tuple[Sample, Sample]], logits: list[np.ndarray]) -> np.ndarray:
    """(len(train.states),) what was said of the second rows of each pair; NaN for all others."""
    every = np.full(len(train.states), np.nan)
    for (_, held_out), said in zip(pairs, logits, strict=True):
        every[held_out.rows] = said
    return every
