"""How sure a number is: bootstrap over questions, and what a perfectly calibrated model would score."""

from dataclasses import dataclass

import numpy as np

from src.evaluation.binning import DEFAULT_BINS, Closed, Scheme, bin_index
from src.evaluation.resampling import METRICS, equal_mass_index, metric_draws

LEVEL = 0.95


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
    """Every metric of one sample, on the sample itself and on each resample.

    Attributes:
        values: metric -> its value; AUROC is NaN where there is one class only.
        draws: metric -> (B,) values on the resamples.
        reason: why AUROC is undefined, or "".
    """

    values: dict[str, float]
    draws: dict[str, np.ndarray]
    reason: str

    def estimates(self) -> dict[str, Estimate]:
        """Every metric with its 95 % interval."""
        return {name: self._estimate(name) for name in METRICS}

    def _estimate(self, name: str) -> Estimate:
        if np.isnan(self.values[name]):
            return Estimate(float("nan"), reason=self.reason)
        return Estimate(self.values[name], *interval(self.draws[name]))


def score(p: np.ndarray, y: np.ndarray, weights: np.ndarray, *, bins: int = DEFAULT_BINS) -> Scored:
    """Confidences p and labels y (n,), scored as they are and under every row weighting (B, n)."""
    values = {name: float(draw[0]) for name, draw in metric_draws(p, y, np.ones((1, p.size)), bins=bins).items()}
    one_class = f"one class: every answer is {'right' if y[0] else 'wrong'}" if y.min() == y.max() else ""
    return Scored(values, metric_draws(p, y, weights, bins=bins), one_class)


@dataclass(frozen=True)
class Null:
    """The ECE that a perfectly calibrated model with these confidences would score: mean and 95 % quantile."""

    mean: float
    q95: float


def calibrated_null(p: np.ndarray, *, bins: int = DEFAULT_BINS, scheme: Scheme = "width", closed: Closed = "right",
                    draws: int = 500, seed: int = 0) -> Null:  # fmt: skip
    """Keep the confidences, draw labels y ~ Bernoulli(p), and compute the ECE of each draw.

    An ECE means nothing beside this floor: at 200 rows a perfect model scores .08 on average.
    """
    rng = np.random.default_rng(seed)
    index = bin_index(p, bins, closed) if scheme == "width" else equal_mass_index(p, bins)
    scores = [
        np.abs(np.bincount(index, weights=p - (rng.random(p.size) < p), minlength=bins)).sum() / p.size
        for _ in range(draws)
    ]
    return Null(float(np.mean(scores)), float(np.quantile(scores, 0.95)))
