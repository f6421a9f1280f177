"""How sure a number is: bootstrap over questions, and what a perfectly calibrated model would score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.errors import ScoringError
from src.evaluation.binning import DEFAULT_BINS, Closed
from src.evaluation.full import full_draws, full_values
from src.evaluation.null import CALIBRATION, null_draws
from src.evaluation.resampling import metric_draws

LEVEL = 0.95
_NO_PAIRS = "no subject has both a right and a wrong answer"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `value` is NaN where it has none, and `reason` says why."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    reason: str = ""

    def contains(self, number: float) -> bool:
        """Whether the interval holds `number`."""
        return bool(self.low <= number <= self.high)


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the draws that have a value; NaN where fewer than two have."""
    defined = draws[np.isfinite(draws)]
    if defined.size < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Scored:
    """Metrics of one sample, on the sample itself and on each resample.

    Attributes:
        values: metric -> its value; NaN where it has none.
        draws: metric -> (B,) values on the resamples.
        reason: "" or that there is one class only, so that metrics of ranking have no value.
    """

    values: dict[str, float]
    draws: dict[str, np.ndarray]
    reason: str

    def estimates(self) -> dict[str, Estimate]:
        """Every metric with its 95 % interval."""
        return {name: self._estimate(name) for name in self.values}

    def _estimate(self, name: str) -> Estimate:
        if np.isnan(self.values[name]):
            return Estimate(float("nan"), reason=self.reason or _NO_PAIRS)
        return Estimate(self.values[name], *interval(self.draws[name]))


def score(p: np.ndarray, y: np.ndarray, weights: np.ndarray, *, bins: int = DEFAULT_BINS) -> Scored:
    """Confidences p and labels y (n,), scored by `METRICS` as they are and under every row weighting (B, n).

    Where all rows are of one question, nothing is known of the spread: the intervals are NaN.
    """
    values = {name: float(draw[0]) for name, draw in metric_draws(p, y, np.ones((1, p.size)), bins=bins).items()}
    one_class = f"one class: every answer is {'right' if y[0] else 'wrong'}" if y.min() == y.max() else ""
    return Scored(values, _known(metric_draws(p, y, weights, bins=bins), weights), one_class)


def score_in_full(p: np.ndarray, y: np.ndarray, weights: np.ndarray, *, bins: int = DEFAULT_BINS,
                  strata: np.ndarray | None = None) -> Scored:  # fmt: skip
    """As `score`, with the metrics of `FULL` too.

    Args:
        p, y: (n,) confidences and labels.
        weights: (B, n) from `question_weights`.
        bins: of both ECEs.
        strata: (n,) the subject of each row: then also `auroc_within`, over the pairs of one subject only.
    """
    scored = score(p, y, weights, bins=bins)
    draws = _known(full_draws(p, y, weights, strata), weights)
    return Scored(scored.values | full_values(p, y, strata), scored.draws | draws, scored.reason)


def _known(draws: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """NaN where all rows come and go together, so that resamples show no spread."""
    together = (weights[0] == weights[0, 0]).all() and (weights == weights[:, :1]).all()
    return {name: np.full_like(draw, np.nan) for name, draw in draws.items()} if together else draws


@dataclass(frozen=True)
class Null:
    """What a perfectly calibrated model with these confidences would score: mean and 95 % quantile."""

    mean: float
    q95: float


def calibrated_null(p: np.ndarray, *, metrics: Sequence[str] = CALIBRATION, bins: int = DEFAULT_BINS,
                    closed: Closed = "right", draws: int = 500, seed: int = 0) -> dict[str, Null]:  # fmt: skip
    """Keep the confidences, draw labels y ~ Bernoulli(p), and compute the metrics of each draw.

    An ECE means nothing beside this floor: at 200 rows a perfect model scores .08 on average.

    Args:
        p: (n,) confidences.
        metrics: of `CALIBRATION`, all from the same labels.
        bins, closed: of both ECEs.
        draws: how many times labels are drawn.
        seed: of the draws.

    Raises:
        ScoringError: a metric that is not one of `CALIBRATION`.
    """
    unknown = sorted(set(metrics) - set(CALIBRATION))
    if unknown:
        raise ScoringError(f"A calibrated model's {', '.join(unknown)} is not computed; {', '.join(CALIBRATION)} are.")
    found = null_draws(p, metrics, bins=bins, closed=closed, draws=draws, seed=seed)
    return {name: Null(float(np.mean(scores)), float(np.quantile(scores, 0.95))) for name, scores in found.items()}
