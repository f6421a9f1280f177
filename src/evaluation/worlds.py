"""Invented models that are right, and confident, as often as one assumes: to see what a number of questions can show.

A question is easy for a model to a degree g, normal over questions. The model is right with probability
Phi(m + s g), and says Phi(m' + s g): the centre m gives the accuracy, the spread s the AUROC of its confidence, and
m' - m how much too confident it is throughout, which is its calibration error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import ndtr, ndtri

from src.errors import ScoringError
from src.evaluation.binning import DEFAULT_BINS, bin_index

HIGHEST_AUROC = 0.99
_LEAST_SPREAD, _MOST_SPREAD = 1e-3, 100.0
# Ease at the middles of so many equal shares of the questions, for integrals over them.
_GRID = ndtri((np.arange(20_000) + 0.5) / 20_000)
_ANGLES, _ANGLE_WEIGHTS = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True)
class Answers:
    """One model's answers, of any shape: confidences, and 1.0 where it is right."""

    confidence: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class Assumed:
    """One model.

    Attributes:
        accuracy: the share of all questions it gets right, in (0, 1).
        spread: of its chance to be right over questions; see `with_auroc`.
        ece: its mean confidence minus its accuracy, which is its calibration error whatever the bins.
    """

    accuracy: float
    spread: float
    ece: float = 0.0

    @classmethod
    def with_auroc(cls, accuracy: float, auroc: float, ece: float = 0.0) -> "Assumed":
        """The model whose confidence tells right from wrong this well.

        Raises:
            ScoringError: a value outside its range.
        """
        for name, value, low, high in (
            ("accuracy", accuracy, 0.005, 0.995), ("auroc", auroc, 0.505, HIGHEST_AUROC), ("ece", ece, 0.0, 0.995),
        ):  # fmt: skip
            if not low <= value <= high:
                raise ScoringError(f"{name}={value:g}: a number from {low:g} to {high:g} can be planned with.")
        if accuracy + ece > 0.999:
            raise ScoringError(
                f"accuracy={accuracy:g} and ece={ece:g}: the mean confidence would be {accuracy + ece:g}. Assume a "
                "smaller ece."
            )
        spread = root(lambda spread: cls(accuracy, spread).auroc - auroc, _LEAST_SPREAD, _MOST_SPREAD)
        return cls(accuracy, spread, ece)

    def probability(self, ease: np.ndarray) -> np.ndarray:
        """P(right) of questions that are so easy."""
        return ndtr(self._centre(self.accuracy) + self.spread * ease)

    def confidence(self, ease: np.ndarray) -> np.ndarray:
        """What it says of them."""
        return ndtr(self._centre(self.accuracy + self.ece) + self.spread * ease)

    def answers(self, ease: np.ndarray, luck: np.ndarray) -> Answers:
        """Its answers where ease and luck, both normal, are given: right where ease outweighs bad luck."""
        right = luck < self._centre(self.accuracy) + self.spread * ease
        return Answers(self.confidence(ease), right.astype(np.float64))

    @cached_property
    def auroc(self) -> float:
        """P(a right answer has the higher confidence)."""
        right = self.probability(_GRID)
        wrong = 1 - right
        below = np.cumsum(wrong) - wrong / 2
        return float(right @ below / (right.sum() * wrong.sum()))

    @cached_property
    def brier(self) -> float:
        """The mean squared difference between confidence and correctness."""
        p, c = self.probability(_GRID), self.confidence(_GRID)
        return float(np.mean((c - p) ** 2 + p * (1 - p)))

    def gaps(self, bins: int = DEFAULT_BINS) -> np.ndarray:
        """(bins,) confidence minus correctness in each equal-width bin, as a mean over all questions."""
        p, c = self.probability(_GRID), self.confidence(_GRID)
        return np.bincount(bin_index(c, bins), weights=c - p, minlength=bins) / _GRID.size

    def floor(self, n: int, bins: int = DEFAULT_BINS) -> float:
        """What its ECE would be over n questions if it were perfectly calibrated, on average: of chance alone."""
        p = self.probability(_GRID)
        variances = np.bincount(bin_index(p, bins), weights=p * (1 - p), minlength=bins) / _GRID.size
        return float(np.sqrt(2 * variances / (np.pi * n)).sum())  # the mean size of a normal deviation

    def _centre(self, mean: float) -> float:
        # Phi(centre + spread g) has this mean.
        return float(ndtri(mean)) * float(np.hypot(1, self.spread))


@dataclass(frozen=True)
class World:
    """Two models asked the same questions.

    Attributes:
        before, after: the models.
        changed: the share of questions that only one of them gets right. Two models that differ much cannot agree
            more than their difference lets them: `differing` is what comes of it.
    """

    before: Assumed
    after: Assumed
    changed: float

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Answers, Answers]:
        """Both models' answers to new questions."""
        own = np.sqrt(1 - self.likeness**2)
        ease, luck, other_ease, other_luck = rng.standard_normal((4, *shape))
        after = self.after.answers(
            self.likeness * ease + own * other_ease,
            self.likeness * luck + own * other_luck,
        )
        return self.before.answers(ease, luck), after

    @cached_property
    def likeness(self) -> float:
        """How strongly both the ease of questions and the luck with them go together, from 0 to 1.

        Raises:
            ScoringError: models that have nothing in common would differ on fewer questions.
        """
        most = self._differing(0.0)
        if self.changed > most:
            raise ScoringError(
                f"changed={self.changed:g}: two such models that have nothing in common would differ on {most:.3g} of "
                "the questions. Assume a smaller share."
            )
        if self.changed <= self._differing(1.0):
            return 1.0
        return root(lambda likeness: self._differing(likeness) - self.changed, 0.0, 1.0)

    @property
    def differing(self) -> float:
        """The share of questions that only one gets right: `changed`, or the least that these two can differ."""
        return self._differing(self.likeness)

    def _differing(self, likeness: float) -> float:
        one, other = self.before, self.after
        together = likeness * (1 + one.spread * other.spread) / (np.hypot(1, one.spread) * np.hypot(1, other.spread))
        return one.accuracy + other.accuracy - 2 * both_below(ndtri(one.accuracy), ndtri(other.accuracy), together)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that changes its sign between low and high is zero."""
    return float(root_scalar(function, bracket=(low, high), xtol=1e-9).root)


def both_below(h: float, k: float, correlation: float) -> float:
    """P(X < h and Y < k) of two standard normals: its derivative in the correlation is their density at (h, k)."""
    half = np.arcsin(min(correlation, 1.0)) / 2
    sines, cosines = np.sin(half * (_ANGLES + 1)), np.cos(half * (_ANGLES + 1))
    density = np.exp(-(h * h - 2 * h * k * sines + k * k) / (2 * cosines**2)) / (2 * np.pi)
    return float(ndtr(h) * ndtr(k) + half * _ANGLE_WEIGHTS @ density)
