"""Runs of an assumed world, each judged as a real one would be: the lower ends of its paired bootstrap intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.evaluation.binning import DEFAULT_BINS, bin_index
from src.evaluation.intervals import LEVEL
from src.evaluation.resampling import question_weights
from src.evaluation.worlds import Answers, World

_RESAMPLES = 500
_SHARING = 30  # runs that are judged by the same resamples
_MOST_ROWS = 1000  # more rows than these are not drawn: sums over them are normal
_POPULATION = 200_000  # rows that show the spread of these sums
_AT_ONCE = 1_000_000  # numbers held of a batch of runs (float64): 8 MB


@dataclass(frozen=True)
class Judged:
    """A difference between the two models of a world, positive in the direction it is planned in.

    It follows from the means over questions of k columns, so that all resamples of all runs are one product.
    """

    metric: str  # auroc, brier or ece
    world: World

    @property
    def width(self) -> int:
        """How many columns."""
        return 2 * DEFAULT_BINS if self.metric == "ece" else 1

    def columns(self, before: Answers, after: Answers) -> np.ndarray:
        """(..., n, k) of two models' answers (..., n)."""
        if self.metric == "auroc":
            return (_auroc_terms(after) - _auroc_terms(before))[..., None]
        if self.metric == "brier":
            return ((before.confidence - before.correct) ** 2 - (after.confidence - after.correct) ** 2)[..., None]
        return np.concatenate([_gaps(after), _gaps(before)], axis=-1)

    def difference(self, means: np.ndarray) -> np.ndarray:
        """(...,) of means (..., k)."""
        if self.metric == "ece":
            after, before = (np.abs(half).sum(axis=-1) for half in np.split(means, 2, axis=-1))
            return after - before
        return means[..., 0]

    def means(self) -> np.ndarray:
        """(k,) over all questions there could be."""
        before, after = self.world.before, self.world.after
        if self.metric == "ece":
            return np.concatenate([after.gaps(), before.gaps()])
        return np.array([after.auroc - before.auroc if self.metric == "auroc" else before.brier - after.brier])


def lower_ends(judged: Judged, n: int, runs: int, seed: int) -> np.ndarray:
    """(runs,) the lower ends of the 95 % intervals of as many runs with n test questions.

    Minus infinity where the difference is undefined, because a model was always right or always wrong.
    """
    rng = np.random.default_rng(seed)
    resampled = _by_rows(judged, n, runs, rng, seed) if n <= _MOST_ROWS else _by_sums(judged, n, runs, rng)
    ends = [np.quantile(judged.difference(means), (1 - LEVEL) / 2, axis=0) for means in resampled]
    return np.nan_to_num(np.concatenate(ends), nan=-np.inf)


def _by_rows(judged: Judged, n: int, runs: int, rng: np.random.Generator, seed: int) -> Iterator[np.ndarray]:
    """The means (resamples, batch, k) of batches of runs, whose questions are drawn one by one.

    Few runs share resamples: all would be off together by what the quantile of so many is off, some 3 points of power.
    """
    for number, batch in enumerate(_batches(runs, n * judged.width, most=_SHARING)):
        weights = question_weights(np.arange(n), _RESAMPLES, seed + number) / n
        columns = judged.columns(*judged.world.draw((batch, n), rng))
        yield (weights @ columns.transpose(1, 0, 2).reshape(n, -1)).reshape(_RESAMPLES, batch, -1)


def _by_sums(judged: Judged, n: int, runs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The same where the means over so many questions are normal, both a run's own and those of its resamples."""
    covariance = np.atleast_2d(np.cov(judged.columns(*judged.world.draw((_POPULATION,), rng)), rowvar=False))
    sizes, directions = np.linalg.eigh(covariance)
    spread = (directions * np.sqrt(sizes.clip(min=0) / n)).T
    for batch in _batches(runs, _RESAMPLES * judged.width):
        means = judged.means() + rng.standard_normal((batch, judged.width)) @ spread
        yield means + rng.standard_normal((_RESAMPLES, batch, judged.width)) @ spread


def _batches(runs: int, size: int, most: int = 3000) -> Iterator[int]:
    most = max(1, min(most, _AT_ONCE // size))
    for start in range(0, runs, most):
        yield min(most, runs - start)


def _auroc_terms(answers: Answers) -> np.ndarray:
    """(..., n) whose mean is the AUROC, each row by its influence on it; NaN of one class. Confidences differ."""
    order = np.argsort(answers.confidence, axis=-1)
    right = np.take_along_axis(answers.correct, order, axis=-1)
    n, n_right = right.shape[-1], right.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        beaten = np.cumsum(1 - right, axis=-1) / (n - n_right)  # of a right row: the share of wrong ones below it
        losing = 1 - np.cumsum(right, axis=-1) / n_right  # of a wrong row: the share of right ones above it
        auroc = (beaten * right).sum(axis=-1, keepdims=True) / n_right
        terms = auroc + np.where(right == 1, (beaten - auroc) * n / n_right, (losing - auroc) * n / (n - n_right))
    found = np.empty_like(terms)
    np.put_along_axis(found, order, terms, axis=-1)
    return found


def _gaps(answers: Answers) -> np.ndarray:
    """(..., n, bins): confidence minus correctness in the column of the row's bin."""
    bins = bin_index(answers.confidence.ravel(), DEFAULT_BINS).reshape(answers.confidence.shape)
    gaps = np.zeros((*bins.shape, DEFAULT_BINS))
    np.put_along_axis(gaps, bins[..., None], (answers.confidence - answers.correct)[..., None], axis=-1)
    return gaps
