"""Has a model drifted away from its probe? Its new states brought back to the old ones, without any label.

The states of the same questions are read in the model that the probe was fitted on, and in the other one. What brings
the latter to the former is a map of states, so it folds into the four arrays of a probe. That it is found says nothing
of right and wrong: a model that has learned what it did not know may be brought back perfectly, to what it was.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from src.errors import ScoringError
from src.probes.folds import fold_of_each
from src.probes.linear import ProbeWeights
from src.probes.maps import Map, Pair
from src.probes.solver import one_thread
from src.probes.states import MIN_ROWS, Sample, States

ENOUGH = 0.5  # of the logit's variance: a probe of which less is found again cannot be brought back
_ALIKE = 0.01  # a simpler map that explains so much less is preferred


@dataclass(frozen=True)
class Realignment:
    """A probe of the old states made one of the new ones, without labels.

    Attributes:
        weights: the probe of the new states: the map folded into the old one's arrays.
        chosen: the simplest map that explains as much as the best, but for .01.
        tried: all maps, the simplest first; the first one leaves the states as they are.
        moved: root mean square of the features' change, each in the deviations that the probe was fitted with.
        n: rows that it was fitted on.
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
    pair = Pair.of(States(before, "before", width), States(after, "after", width), weights)
    if len(pair.said) < MIN_ROWS:
        raise ScoringError(f"There are {len(pair.said)} questions: to realign a probe, {MIN_ROWS} or more are needed.")
    if np.ptp(pair.said) == 0:
        raise ScoringError("The probe says the same of all questions: there is nothing that could be realigned.")
    fold = fold_of_each(Sample.of(before, np.zeros(len(pair.said)), None, "before", width), groups)
    # No more directions than the smallest part that is fitted to has.
    most = max(min(fold.size - int(np.bincount(fold).max()) - 1, width), 1)
    explained = _explained(pair, fold, most)
    fitted = list(pair.fitted(most))
    tried = tuple(replace(one, explained=float(share)) for (one, _), share in zip(fitted, explained, strict=True))
    best = int(np.argmax(explained >= explained.max() - _ALIKE))
    return Realignment(fitted[best][1], tried[best], tried, pair.moved, len(pair.said))


def _explained(pair: Pair, fold: np.ndarray, most: int) -> np.ndarray:
    """Of each map: the share of what the probe said, of questions that the map was not fitted on."""
    off = []
    for number in np.unique(fold):
        here = fold == number
        fitted = pair.only(~here).fitted(most)
        off.append([((probe.logit(pair.after[here]) - pair.said[here]) ** 2).sum() for _, probe in fitted])
    return 1 - np.sum(off, axis=0) / ((pair.said - pair.said.mean()) ** 2).sum()
