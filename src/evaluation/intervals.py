"""How sure a number is: bootstrap over questions, and what a perfectly calibrated model would score."""

from dataclasses import dataclass

import numpy as np

from src.evaluation.calibration import DEFAULT_BINS, Closed, Ranking, bin_index, row_nll

METRICS = ("accuracy", "auroc", "brier", "nll", "ece")
LEVEL = 0.95
_BLOCK = 4_000_000  # weights held at once (float64): 32 MB


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


def question_weights(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each row occurs in each bootstrap resample, drawn by question.

    Rows of one group (the same question) come and go together. Used for two models on the same questions,
    the same weights make their comparison a paired one.

    Args:
        groups: (n,) the question of each row, as any integers.
        resamples: how many.
        seed: of the draws.

    Returns:
        uint16 (resamples, n).
    """
    _, row_group = np.unique(groups, return_inverse=True)
    n_groups = int(row_group.max()) + 1
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, n_groups), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
    return counts[:, row_group]


def metric_draws(p: np.ndarray, y: np.ndarray, weights: np.ndarray, *, bins: int = DEFAULT_BINS,
                 closed: Closed = "right") -> dict[str, np.ndarray]:  # fmt: skip
    """Every metric of `METRICS` for every row weighting (B, n): name -> (B,).

    Accuracy is that of the model's answers (the weighted mean of y). The confidences are sorted and binned
    once; a resample then costs two matrix products.
    """
    ranking, index = Ranking.of(p), bin_index(p, bins, closed)
    gaps = np.zeros((p.size, bins))
    gaps[np.arange(p.size), index] = p - y
    columns = np.column_stack([np.ones_like(p), y, (p - y) ** 2, row_nll(p, y), gaps])
    step = max(1, _BLOCK // p.size)
    parts = [
        _draw_block(block.astype(np.float64), columns, ranking, y)
        for block in (weights[start : start + step] for start in range(0, len(weights), step))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _draw_block(weights: np.ndarray, columns: np.ndarray, ranking: Ranking, y: np.ndarray) -> dict[str, np.ndarray]:
    sums = weights @ columns
    # A small subject can be absent from a resample: its draw has no value then.
    total = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    return {
        "accuracy": sums[:, 1] / total,
        "auroc": ranking.auroc(y, weights),
        "brier": sums[:, 2] / total,
        "nll": sums[:, 3] / total,
        "ece": np.abs(sums[:, 4:]).sum(axis=1) / total,
    }


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


def calibrated_null(p: np.ndarray, *, bins: int = DEFAULT_BINS, closed: Closed = "right", draws: int = 500,
                    seed: int = 0) -> Null:  # fmt: skip
    """Keep the confidences, draw labels y ~ Bernoulli(p), and compute the ECE of each draw.

    An ECE means nothing beside this floor: at 200 rows a perfect model scores .08 on average.
    """
    rng = np.random.default_rng(seed)
    index = bin_index(p, bins, closed)
    scores = [
        np.abs(np.bincount(index, weights=p - (rng.random(p.size) < p), minlength=bins)).sum() / p.size
        for _ in range(draws)
    ]
    return Null(float(np.mean(scores)), float(np.quantile(scores, 0.95)))
