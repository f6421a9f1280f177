"""Hidden states and targets as they are given: checked, and converted a block of rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.errors import ScoringError

_BLOCK = 2**18  # numbers that are converted at a time: few enough to stay in a core's cache
MIN_ROWS = 10


class States:
    """(n, d) states of one layer, left where they are: numpy, memory-mapped or torch.

    Args:
        X: (n, d) or (n, 1, d).
        name: what messages call it.
        width: d.

    Raises:
        ScoringError: another shape, several layers at once, or NaN or infinity (with the row).
    """

    def __init__(self, X: Any, name: str, width: int):
        X = X.detach() if hasattr(X, "detach") else np.asarray(X)
        shape = tuple(X.shape)
        if len(shape) == 3 and shape[1] > 1:
            raise ScoringError(
                f"{name} has shape {shape}: {shape[1]} layers. A probe reads one: pass {name}[:, i] with "
                "the i of the layer wanted, or extract with layers=[one]."
            )
        if len(shape) not in (2, 3) or shape[-1] != width:
            raise ScoringError(f"{name} has shape {shape}; (n, {width}) or (n, 1, {width}) is needed.")
        self._X = X[:, 0] if len(shape) == 3 else X
        self.shape = (shape[0], width)
        # Whole numbers and float64 stay exact; all else is exact in float32.
        self.dtype = np.dtype(np.float64 if "64" in str(X.dtype) or "int" in str(X.dtype) else np.float32)
        self._check_finite(name)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, rows: np.ndarray | None = None, *, dtype: Any = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Some of the rows asked for, by number (None: all), and where they stand among these."""
        n = len(self) if rows is None else len(rows)
        step = max(_BLOCK // max(self.shape[1], 1), 1)
        for start in range(0, n, step):
            place = slice(start, min(start + step, n))
            block = self._X[place if rows is None else rows[place]]
            if hasattr(block, "numpy"):
                block = (block.double() if self.dtype == np.float64 else block.float()).cpu().numpy()
            yield place, np.asarray(block, dtype=dtype or self.dtype)

    def _check_finite(self, name: str) -> None:
        bad = [place.start + np.flatnonzero(~np.isfinite(block).all(axis=1)) for place, block in self.blocks()]
        rows = np.concatenate([*bad, np.empty(0, dtype=int)])
        if rows.size:
            raise ScoringError(f"{name} holds NaN or infinity in {rows.size} rows, the first is row {rows[0]:.0f}.")


@dataclass(frozen=True)
class Sample:
    """Rows to fit or to choose with: states, targets (n,) within [0, 1] and weights (n,), float64, of given rows.

    `rows` (m,) are the places of the sample's rows among the states; y and weight are of these alone, (m,).
    """

    states: States
    rows: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, X: Any, y: Any, sample_weight: Any, name: str, width: int) -> "Sample":
        """Check and keep the rows of positive weight: one that weighs nothing is as if it were not there.

        X may be checked `States` already.

        Raises:
            ScoringError: as for `States`; lengths that differ, targets outside [0, 1], negative or infinite weights.
        """
        suffix = name.removeprefix("X")
        states = X if isinstance(X, States) else States(X, name, width)
        targets = _numbers(y, len(states), f"y{suffix}", "between 0 and 1", lambda v: (v >= 0) & (v <= 1))
        if sample_weight is None:
            return cls(states, np.arange(len(states)), targets, np.ones(len(states)))
        weight = _numbers(sample_weight, len(states), "sample_weight", "0 or more", lambda v: (v >= 0) & np.isfinite(v))
        rows = np.flatnonzero(weight)
        if weight.size and not rows.size:
            raise ScoringError(f"sample_weight is zero in all {weight.size} rows: no row would count.")
        return cls(states, rows, targets[rows], weight[rows])

    def only(self, places: np.ndarray) -> "Sample":
        """These of its rows, given by their places among them."""
        return Sample(self.states, self.rows[places], self.y[places], self.weight[places])

    def check_can_train(self) -> None:
        """Raises ScoringError on fewer than 10 rows, or one class."""
        if len(self.states) < MIN_ROWS:
            raise ScoringError(f"There are {len(self.states)} training rows: a probe needs {MIN_ROWS} or more.")
        if self.one_class:
            raise ScoringError(
                f"All {self.y.size} training labels are {self.y[0]:g}, one class: a probe needs right and wrong "
                "answers."
            )

    @property
    def one_class(self) -> bool:
        """Whether all targets are the same."""
        return bool(self.y.min() == self.y.max())


def _numbers(values: Any, n: int, name: str, range_: str, allowed: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,):
        raise ScoringError(f"{name} has shape {values.shape}, but there are {n} rows of states.")
    bad = np.flatnonzero(~allowed(values))
    if bad.size:
        raise ScoringError(
            f"{name} must be {range_}; {bad.size} are not, the first is {values[bad[0]]:g} at index {bad[0]}."
        )
    return values
