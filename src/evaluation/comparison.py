"""Two models on the same questions: the difference of every metric, with a paired interval and a p-value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from src.evaluation.intervals import Estimate, Scored, interval


@dataclass(frozen=True)
class Difference:
    """A difference with its 95 % interval, and the two-sided p-value of there being none (NaN: no spread)."""

    estimate: Estimate
    p: float


def differences(before: Scored, after: Scored) -> dict[str, Difference]:
    """`after` minus `before` for every metric of both, scored on the same resamples of the same questions.

    Each model is judged by its own labels. Where a metric is undefined for either, so is the difference. The p-value
    is normal, from the spread of the resamples: their own quantiles reach no further than 1 over their number, which
    a correction for several comparisons would use up.
    """
    return {name: difference(before, after, name) for name in before.values if name in after.values}


def difference(before: Scored, after: Scored, metric: str) -> Difference:
    """One metric's; see `differences`."""
    value = after.values[metric] - before.values[metric]
    if np.isnan(value):
        undefined = Estimate(value, reason="one class: undefined for at least one of the two")
        return Difference(undefined, float("nan"))
    draws = after.draws[metric] - before.draws[metric]
    return Difference(Estimate(value, *interval(draws)), _p_value(value, draws))


def _p_value(value: float, draws: np.ndarray) -> float:
    defined = draws[np.isfinite(draws)]
    spread = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    if spread <= 1e-12:
        return 1.0 if abs(value) <= 1e-12 else float("nan")
    return float(2 * norm.sf(abs(value) / spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6); NaN do not count."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    corrected = np.full(p.size, np.nan)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)).clip(max=1.0)
    return corrected.tolist()


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
