"""Maps of one model's states to another's, fitted on the same questions and folded into a probe."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.linalg import solve

from src.errors import ScoringError
from src.probes.linear import ProbeWeights
from src.probes.scaling import Scaling
from src.probes.states import Sample, States

Method = Literal["unchanged", "mean and scale", "rotation", "regression"]
Measured = Literal["as they are", "in deviations"]
SIZES = (8, 32, 128)  # leading directions that are turned
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)  # times the mean square of a row's length
_EXACTLY = 512  # matrices whose smaller side is no larger are decomposed exactly


@dataclass(frozen=True)
class Map:
    """A way to bring new states back.

    Attributes:
        method: "unchanged": as they are; "mean and scale": each feature gets its old mean and deviation; "rotation":
            orthogonal Procrustes between the leading directions of both (Schoenemann 1966, Psychometrika 31), all that
            lies outside of them carried over; "regression": what the probe said, regressed on the new states, with a
            ridge that pulls towards "mean and scale".
        directions: of a rotation, how many are turned.
        measured: of a rotation, whether each feature is measured in its deviations.
        penalty: of a regression.
        explained: share of the variance of what the probe said of the old states that it says again of the new ones, on
            questions that the map was not fitted on; 1 is all of it, 0 no more than the mean, below 0 even less.
    """

    method: Method
    directions: int | None = None
    measured: Measured | None = None
    penalty: float | None = None
    explained: float = float("nan")

    def __str__(self) -> str:
        if self.method == "rotation":
            return f"rotation of {self.directions} directions, features {self.measured}"
        return f"{self.method}, ridge {self.penalty:g}" if self.method == "regression" else self.method


@dataclass(frozen=True)
class Pair:
    """States of the same questions in two models (n, d), and what the probe said of the first (n,)."""

    before: np.ndarray
    after: np.ndarray
    said: np.ndarray
    weights: ProbeWeights

    @classmethod
    def of(cls, before: States, after: States, weights: ProbeWeights) -> "Pair":
        """Checked states. Raises ScoringError where their numbers differ."""
        if len(before) != len(after):
            raise ScoringError(f"before has {len(before)} rows and after {len(after)}: one of each for every question.")
        return cls(_matrix(before), _matrix(after), weights.logit_of(before), weights)

    def only(self, rows: np.ndarray) -> "Pair":
        """These rows."""
        return Pair(self.before[rows], self.after[rows], self.said[rows], self.weights)

    @property
    def moved(self) -> float:
        """Root mean square of the features' change, in the probe's deviations."""
        change = (self.after - self.before) / self.weights.scale.astype(self.before.dtype)
        return float(np.sqrt((change**2).mean(dtype=np.float64)))

    def fitted(self, most: int) -> Iterator[tuple[Map, ProbeWeights]]:
        """Every map, the simplest first, folded into the probe; `most`: the directions that a rotation may turn."""
        yield Map("unchanged"), self.weights
        old, new = (_moments(states) for states in (self.before, self.after))
        rescaled = self._rescaled(old, new)
        yield Map("mean and scale"), rescaled
        sizes = sorted({min(size, most) for size in SIZES})
        for measured in get_args(Measured):
            for size, probe in self._turned(sizes, _Frame.of(old, measured), _Frame.of(new, measured)):
                yield Map("rotation", size, measured), probe
        for penalty, probe in self._regressed(rescaled, _Frame.of(new, "in deviations")):
            yield Map("regression", penalty=penalty), probe

    def _rescaled(self, old: Scaling, new: Scaling) -> ProbeWeights:
        """B' = mean_B + (A - mean_A) scale_B / scale_A; a feature that does not vary in both says nothing."""
        probe = self.weights
        weight = np.where(old.constant | new.constant, 0.0, probe.weight / probe.scale * old.scale)
        return ProbeWeights(weight, float(self.said.mean()), new.mean, new.scale)

    def _turned(self, sizes: list[int], old: "_Frame", new: "_Frame") -> Iterator[tuple[int, ProbeWeights]]:
        """B' = mean_B + (A - mean_A) T Q O': the orthogonal Q that brings A's coordinates closest to B's."""
        before, after = old.coordinates(self.before), new.coordinates(self.after)
        ours, theirs = _directions(before, sizes[-1]), _directions(after, sizes[-1])
        cross = (after @ theirs).T @ (before @ ours)
        read = self.weights.weight / self.weights.scale * old.unit
        for size in sizes:
            some = min(size, *cross.shape)
            T, O = theirs[:, :some], ours[:, :some]  # noqa: E741 (as in the formula)
            left, _, right = np.linalg.svd(cross[:some, :some])
            direction = T @ (left @ (right @ (O.T @ read))) + read - T @ (T.T @ read)
            yield size, ProbeWeights(direction, float(self.said.mean()), new.mean, new.unit)

    def _regressed(self, towards: ProbeWeights, new: "_Frame") -> Iterator[tuple[float, ProbeWeights]]:
        """The least of |said - mean - A w|^2 + ridge |w - w of `towards`|^2, in the smaller of the two forms."""
        after = new.coordinates(self.after)
        left = self.said - self.said.mean() - after @ towards.weight
        wide = len(after) < after.shape[1]
        gram = (after @ after.T if wide else after.T @ after).astype(np.float64)
        ridge = np.trace(gram) / len(after)
        for penalty in PENALTIES:
            held = gram + penalty * max(ridge, 1e-300) * np.eye(len(gram))
            if wide:
                change = after.T @ solve(held, left, assume_a="pos")
            else:
                change = solve(held, after.T @ left, assume_a="pos")
            yield penalty, ProbeWeights(towards.weight + change, towards.bias, new.mean, new.unit)


@dataclass(frozen=True)
class _Frame:
    """Coordinates of states: from their mean, in units of each feature."""

    mean: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, scaling: Scaling, measured: Measured) -> "_Frame":
        return cls(scaling.mean, scaling.scale if measured == "in deviations" else np.ones_like(scaling.scale))

    def coordinates(self, states: np.ndarray) -> np.ndarray:
        return (states - self.mean.astype(states.dtype)) / self.unit.astype(states.dtype)


def _matrix(states: States) -> np.ndarray:
    return np.concatenate([np.empty((0, states.shape[1]), states.dtype), *(block for _, block in states.blocks())])


def _moments(states: np.ndarray) -> Scaling:
    return Scaling.of(Sample.of(states, np.zeros(len(states)), None, "states", states.shape[1]))


def _directions(centred: np.ndarray, size: int) -> np.ndarray:
    """(d, k) float64 orthonormal: the k directions of largest variance; fewer where the rows have no more."""
    if min(centred.shape) <= _EXACTLY:
        _, values, vectors = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    else:
        from sklearn.utils.extmath import randomized_svd

        _, values, vectors = randomized_svd(centred, size, random_state=0)
    there = max(int((values > 1e-9 * values[0]).sum()), 1)
    return vectors[: min(size, there)].T.astype(np.float64)
