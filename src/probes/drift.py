"""Has a model drifted away from its probe? Its new states brought back to the old ones, without any label.

The states of the same questions are read in the model that the probe was fitted on, and in the other one. What brings
the latter to the former is a map of states, so it folds into the four arrays of a probe. That it is found says nothing
of right and wrong: a model that has learned what it did not know may be brought back perfectly, to what it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from src.errors import ScoringError
from src.probes.folds import fold_of_each
from src.probes.linear import ProbeWeights
from src.probes.scaling import Scaling
from src.probes.solver import one_thread
from src.probes.states import MIN_ROWS, Sample, States

Method = Literal["unchanged", "mean and scale", "rotation"]
SIZES = (8, 32, 128, 512)  # leading directions that are turned
ENOUGH = 0.5  # of the logit's variance: a probe of which less is found again cannot be brought back
_ALIKE = 0.01  # a simpler map that explains so much less is preferred
_EXACTLY = 1024  # matrices whose smaller side is no larger are decomposed exactly


@dataclass(frozen=True)
class Map:
    """A way to bring new states back.

    Attributes:
        method: "unchanged": as they are; "mean and scale": each feature gets its old mean and deviation; "rotation":
            orthogonal Procrustes between the leading directions of both (Schoenemann 1966, Psychometrika 31).
        directions: how many are turned.
        rest: whether what lies outside of them is carried over as it is; otherwise it is left out.
        explained: share of the variance of what the probe said of the old states that it says again of the new ones, on
            questions that the map was not fitted on; 1 is all of it, 0 no more than the mean, below 0 even less.
    """

    method: Method
    directions: int | None = None
    rest: bool | None = None
    explained: float = float("nan")

    def __str__(self) -> str:
        if self.method != "rotation":
            return self.method
        return f"rotation of {self.directions} directions{'' if self.rest else ' alone'}"


@dataclass(frozen=True)
class Realignment:
    """A probe of the old states made one of the new ones, without labels.

    Attributes:
        weights: the probe of the new states: the map folded into the old one's arrays.
        chosen: the simplest map that explains as much as the best, but for .01.
        tried: all maps, the simplest first; the first one leaves the states as they are.
        moved: root mean square of the features' change, each in the deviations that the probe was fitted with.
        n: questions that it was fitted on.
    """

    weights: ProbeWeights
    chosen: Map
    tried: tuple[Map, ...]
    moved: float
    n: int

    @property
    def frozen(self) -> Map:
        """What the old probe, as it is, says again of the new states."""
        return self.tried[0]

    @property
    def repairable(self) -> bool:
        """Whether the new states still hold most of what the probe reads."""
        return self.chosen.explained >= ENOUGH


@one_thread
def realign(weights: ProbeWeights, before: Any, after: Any, *, groups: Any = None) -> Realignment:
    """Find the map of the new states that lets the probe say again what it said of the old ones.

    It is chosen by 5-fold cross-validation over whole questions, and then fitted on all of them.

    Args:
        weights: of the probe.
        before: (n, d) states of the model that it was fitted on, at its layer and position.
        after: (n, d) states of the other model for the same questions.
        groups: (n,) name of the question that each row asks; None: equal rows of `before` are one question.

    Raises:
        ScoringError: shapes that differ or do not fit the probe, NaN, fewer than 10 rows, or a probe that says the same
            of all of them.
    """
    width = weights.weight.size
    pair = _Pair.of(States(before, "before", width), States(after, "after", width), weights)
    if len(pair.said) < MIN_ROWS:
        raise ScoringError(f"There are {len(pair.said)} questions: to realign a probe, {MIN_ROWS} or more are needed.")
    if np.ptp(pair.said) == 0:
        raise ScoringError("The probe says the same of all questions: there is nothing that could be realigned.")
    fold = fold_of_each(Sample.of(before, np.zeros(len(pair.said)), None, "before", width), groups)
    sizes = _sizes(pair.before.shape, fold)
    explained = _explained(pair, fold, sizes)
    fitted = list(pair.fitted(sizes))
    tried = tuple(replace(one, explained=float(share)) for (one, _), share in zip(fitted, explained, strict=True))
    best = int(np.argmax(explained >= explained.max() - _ALIKE))
    return Realignment(fitted[best][1], tried[best], tried, pair.moved, len(pair.said))


def _explained(pair: "_Pair", fold: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Of each map: the share of what the probe said, of questions that the map was not fitted on."""
    off = []
    for number in np.unique(fold):
        here = fold == number
        fitted = pair.only(~here).fitted(sizes)
        off.append([((probe.logit(pair.after[here]) - pair.said[here]) ** 2).sum() for _, probe in fitted])
    return 1 - np.sum(off, axis=0) / ((pair.said - pair.said.mean()) ** 2).sum()


def _sizes(shape: tuple[int, ...], fold: np.ndarray) -> list[int]:
    """How many directions are tried: no more than the smallest part that is fitted to has."""
    rows, width = shape[0] - int(np.bincount(fold).max()), shape[1]
    most = max(min(rows - 1, width), 1)
    return sorted({min(size, most) for size in SIZES})


@dataclass(frozen=True)
class _Pair:
    """States of the same questions in two models (n, d), and what the probe said of the first (n,)."""

    before: np.ndarray
    after: np.ndarray
    said: np.ndarray
    weights: ProbeWeights

    @classmethod
    def of(cls, before: States, after: States, weights: ProbeWeights) -> "_Pair":
        if len(before) != len(after):
            raise ScoringError(f"before has {len(before)} rows and after {len(after)}: one of each for every question.")
        return cls(_matrix(before), _matrix(after), weights.logit_of(before), weights)

    def only(self, rows: np.ndarray) -> "_Pair":
        return _Pair(self.before[rows], self.after[rows], self.said[rows], self.weights)

    @property
    def moved(self) -> float:
        change = (self.after - self.before) / self.weights.scale.astype(self.before.dtype)
        return float(np.sqrt((change**2).mean(dtype=np.float64)))

    def fitted(self, sizes: list[int]) -> Iterator[tuple[Map, ProbeWeights]]:
        """Every map, the simplest first, folded into the probe."""
        yield Map("unchanged"), self.weights
        old, new = (_moments(states) for states in (self.before, self.after))
        yield Map("mean and scale"), self._rescaled(old, new)
        turned = partial(self._turned, *self._leading(max(sizes), old.mean, new.mean), new)
        for size in sizes:
            for rest in (True, False) if size < self.before.shape[1] else (True,):
                yield Map("rotation", size, rest), turned(size, rest)

    def _rescaled(self, old: Scaling, new: Scaling) -> ProbeWeights:
        """B' = mean_B + (A - mean_A) scale_B / scale_A, in the probe's own coordinates."""
        probe = self.weights
        varies = ~(old.constant | new.constant)
        bias = probe.bias + float(((old.mean - probe.mean) / probe.scale) @ probe.weight)
        scale = np.where(varies, probe.scale * new.scale / old.scale, 1.0)
        return ProbeWeights(np.where(varies, probe.weight, 0.0), bias, new.mean, scale)

    def _leading(self, size: int, old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Leading directions of both (d, k), and the products of the rows' coordinates in them (k, k)."""
        before, after = (self.before - old.astype(self.before.dtype)), (self.after - new.astype(self.after.dtype))
        ours, theirs = _directions(before, size), _directions(after, size)
        return ours, theirs, (after @ theirs).T @ (before @ ours)

    def _turned(
        self, ours: np.ndarray, theirs: np.ndarray, cross: np.ndarray, new: Scaling, size: int, rest: bool
    ) -> ProbeWeights:
        """B' = mean_B + (A - mean_A) T Q O': the orthogonal Q that brings A's coordinates closest to B's."""
        size = min(size, *cross.shape)
        ours, theirs = ours[:, :size], theirs[:, :size]
        left, _, right = np.linalg.svd(cross[:size, :size])
        raw = self.weights.weight / self.weights.scale
        direction = theirs @ (left @ (right @ (ours.T @ raw)))
        if rest:
            direction = direction + raw - theirs @ (theirs.T @ raw)
        return ProbeWeights(direction * new.scale, float(self.said.mean()), new.mean, new.scale)


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
    there = int((values > 1e-9 * values[0]).sum())
    return vectors[: min(size, there)].T.astype(np.float64)
