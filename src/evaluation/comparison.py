"""Two models on the same questions: the difference of every metric, with a paired interval."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from src.evaluation.intervals import Estimate, Scored, interval
from src.evaluation.resampling import METRICS


def differences(before: Scored, after: Scored) -> dict[str, Estimate]:
    """`after` minus `before` for every metric; both must be scored on the same resamples of the same questions.

    Each model is judged by its own labels. Where a metric is undefined for either, so is the difference.
    """
    result = {}
    for name in METRICS:
        value = after.values[name] - before.values[name]
        if np.isnan(value):
            result[name] = Estimate(value, reason="one class: undefined for at least one of the two")
        else:
            result[name] = Estimate(value, *interval(after.draws[name] - before.draws[name]))
    return result


@dataclass(frozen=True)
class Flips:
    """Questions that only one of two models got right, and McNemar's exact p-value for equal accuracy."""

    gained: int
    lost: int
    p_value: float


def flips(before: np.ndarray, after: np.ndarray) -> Flips:
    """McNemar's test (1947), exact binomial form, on two label vectors of the same questions."""
    gained = int(((before == 0) & (after == 1)).sum())
    lost = int(((before == 1) & (after == 0)).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Flips(gained, lost, float(p_value))
