"""How many questions show which difference between two models, before anybody has asked them.

"Show" is what the report means by it: McNemar's exact test, or a paired bootstrap interval that excludes zero (95 %,
two-sided). Accuracy is computed exactly; for the others, runs of an assumed world are simulated and judged.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
from scipy.stats import binom
from tqdm.auto import tqdm

from src.errors import ScoringError
from src.evaluation.judged_worlds import Judged, lower_ends
from src.evaluation.worlds import HIGHEST_AUROC, Assumed, World, root

Metric = Literal["accuracy", "auroc", "brier", "ece"]
METRICS: tuple[Metric, ...] = get_args(Metric)
FEWEST, MOST = 10, 3_000_000  # test questions that can be planned with
_LEVEL = 0.05
_PASSES = (200, 300, 500, 3000)  # runs simulated: the first ones only find the place


@dataclass(frozen=True)
class Assumptions:
    """What is known or guessed of two models before they are asked.

    Attributes:
        accuracy, auroc, ece: of the first model and its confidence; see `worlds.Assumed`.
        changed: the share of questions that only one of the two gets right.
    """

    accuracy: float = 0.6
    auroc: float = 0.75
    ece: float = 0.05
    changed: float = 0.15

    @property
    def before(self) -> Assumed:
        """The first model. Raises ScoringError where there can be none."""
        return Assumed.with_auroc(self.accuracy, self.auroc, self.ece)


@dataclass(frozen=True)
class Planned:
    """What so many test questions show of one metric.

    Attributes:
        metric: its name.
        n: test questions; None where 3 million are too few.
        difference: that is shown with this power, as a positive number; None where none is.
        before, after: the metric of both models at that difference; `after` is None where it is not shown. Accuracy
            and AUROC rise, the Brier score falls (the AUROC rises, all else equal), ECE rises (the confidence does).
        largest: the largest difference there can be from `before`.
        floor: what a perfectly calibrated model would score on n test questions; None but for ECE.
    """

    metric: Metric
    n: int | None
    difference: float | None
    before: float
    after: float | None
    largest: float
    floor: float | None


def smallest_difference(
    metric: Metric, n: int, assumed: Assumptions | None = None, *, power: float = 0.8, seed: int = 0
) -> Planned:
    """The smallest difference that n test questions show with this probability.

    Args:
        metric: one of `METRICS`.
        n: test questions, from 10 to 3 million.
        assumed: of the two models.
        power: the probability that the report will call a difference of that size clear, in [0.5, 0.99].
        seed: of the simulation.

    Raises:
        ScoringError: a value outside its range, or assumptions that contradict each other.
    """
    side = _Side.of(metric, assumed or Assumptions(), power)
    if not FEWEST <= n <= MOST:
        raise ScoringError(f"n={n}: from {FEWEST} to {MOST:,} test questions can be planned with.")
    found = side.exact_difference(n) if metric == "accuracy" else side.simulated_difference(n, seed)
    return side.planned(n, found)


def questions_needed(
    metric: Metric, difference: float, assumed: Assumptions | None = None, *, power: float = 0.8, seed: int = 0
) -> Planned:
    """The fewest test questions that show such a difference with this probability; else as `smallest_difference`.

    `n` is None, and no error is raised, where 3 million are too few or there can be no such difference.
    """
    side = _Side.of(metric, assumed or Assumptions(), power)
    if not difference > 0:
        raise ScoringError(f"difference={difference:g}: a positive number is needed.")
    if difference > side.largest:
        return side.planned(None, difference)
    found = side.exact_questions(difference) if metric == "accuracy" else side.simulated_questions(difference, seed)
    return side.planned(found, difference)


@dataclass(frozen=True)
class _Side:
    """One metric of an assumed world, and the search for a difference or a number of questions."""

    metric: Metric
    assumed: Assumptions
    before: Assumed
    power: float

    @classmethod
    def of(cls, metric: Metric, assumed: Assumptions, power: float) -> "_Side":
        if metric not in METRICS:
            raise ScoringError(f"metric={metric!r}: one of {', '.join(METRICS)} can be planned for.")
        if not 0.5 <= power <= 0.99:
            raise ScoringError(f"power={power:g}: a number from 0.5 to 0.99 can be planned with.")
        if not 0 < assumed.changed < 1:
            raise ScoringError(f"changed={assumed.changed:g}: a share between 0 and 1 is needed.")
        side = cls(metric, assumed, assumed.before, power)
        World(side.before, side.before, assumed.changed).likeness  # noqa: B018 (raises where there is none)
        return side

    def planned(self, n: int | None, difference: float | None) -> Planned:
        before = float(getattr(self.before, self.metric))
        after = None
        if n is not None and difference is not None:
            after = before - difference if self.metric == "brier" else before + difference
        floor = self.before.floor(n) if n is not None and self.metric == "ece" else None
        return Planned(self.metric, n, difference, before, after, self.largest, floor)

    @cached_property
    def largest(self) -> float:
        """The largest difference there can be."""
        if self.metric == "accuracy":
            return 1 - self.before.accuracy
        if self.metric == "auroc":
            return HIGHEST_AUROC - self.before.auroc
        if self.metric == "brier":
            return self.before.brier - self._best.brier
        return 0.99 - self.before.accuracy - self.before.ece

    @cached_property
    def _best(self) -> Assumed:
        return Assumed.with_auroc(self.before.accuracy, HIGHEST_AUROC, self.before.ece)

    def world(self, difference: float) -> World:
        """The two models where they differ by so much in this metric, and in as little else as can be."""
        one = self.before
        if self.metric == "auroc":
            after = Assumed.with_auroc(one.accuracy, one.auroc + difference, one.ece)
        elif self.metric == "ece":
            after = replace(one, ece=one.ece + difference)
        else:
            wanted, most = one.brier - difference, self._best.spread
            spread = root(lambda spread: replace(one, spread=spread).brier - wanted, one.spread, most)
            after = replace(one, spread=spread)
        return World(one, after, self.assumed.changed)

    # By simulation: shifted by how much would as many of the runs as `power` says show the difference?

    def simulated_difference(self, n: int, seed: int) -> float | None:
        guess = needed = min(self.largest, 3 / math.sqrt(n))
        for runs in self._passes():
            needed = self._needed(guess, n, runs, seed)
            guess = min(max(needed, 1e-6), self.largest)
        return needed if needed <= self.largest else None

    def simulated_questions(self, difference: float, seed: int) -> int | None:
        n = needed = 2000.0
        for runs in self._passes():
            # The noise falls with the root of the number of questions.
            needed = n * min(abs(self._needed(difference, round(n), runs, seed) / difference), 10.0) ** 2
            n = min(max(needed, FEWEST), MOST)
        return math.ceil(n) if needed <= MOST else None

    def _needed(self, difference: float, n: int, runs: int, seed: int) -> float:
        """The difference shown with this power, if all else is as it is where there is `difference`."""
        judged = Judged(self.metric, self.world(difference))
        return difference - float(np.quantile(lower_ends(judged, n, runs, seed), 1 - self.power, method="lower"))

    def _passes(self) -> "tqdm[int]":
        return tqdm(_PASSES, desc=f"planning {self.metric}", unit="pass", disable=None, leave=False, delay=1)

    # Exactly

    def exact_difference(self, n: int) -> float | None:
        lacking = partial(self._lacking, n)
        if lacking(self.largest) < 0:
            return None
        return root(lacking, 1e-9, self.largest)

    def exact_questions(self, difference: float) -> int | None:
        few, many = FEWEST, MOST
        if self._lacking(many, difference) < 0:
            return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if self._lacking(middle, difference) >= 0 else (middle, many)
        return many

    def _lacking(self, n: int, difference: float) -> float:
        return mcnemar_power(n, max(self.assumed.changed, difference), difference) - self.power


def mcnemar_power(n: int, changed: float, difference: float) -> float:
    """The probability that McNemar's exact test calls the second of two models better (p < .05).

    Args:
        n: questions.
        changed: the share of questions that only one of the two gets right.
        difference: by how much the second one's accuracy is higher, at most `changed`.
    """
    low, high = binom.ppf([1e-12, 1 - 1e-12], n, changed)
    counts = np.arange(low, high + 1)
    gained_needed = binom.isf(_LEVEL / 2, counts, 0.5) + 1
    shown = binom.sf(gained_needed - 1, counts, (changed + difference) / (2 * changed))
    return float(binom.pmf(counts, n, changed) @ shown)
