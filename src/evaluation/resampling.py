"""The same rows under many weightings at once: bootstrap resamples, sorted and binned a single time."""

from dataclasses import dataclass

import numpy as np

from src.evaluation.binning import DEFAULT_BINS, Closed, bin_index
from src.evaluation.ranking import NLL_CLIP, Ranked

METRICS = ("accuracy", "auroc", "brier", "nll", "ece", "ece_mass")
_BLOCK = 4_000_000  # weights held at once (float64): 32 MB


@dataclass(frozen=True)
class Ranking:
    """Confidences sorted once, for any number of weightings of the same rows."""

    order: np.ndarray
    starts: np.ndarray  # first place of each distinct value

    @classmethod
    def of(cls, p: np.ndarray) -> "Ranking":
        """Sort the confidences; equal values form one step."""
        order = np.argsort(p, kind="stable")
        ranked = p[order]
        return cls(order, np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]))

    def auroc(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(B,) areas under the ROC curve for row weights (B, n); NaN where a class has no weight."""
        right = np.add.reduceat(weights[:, self.order] * y[self.order], self.starts, axis=1)
        wrong = np.add.reduceat(weights[:, self.order] * (1 - y[self.order]), self.starts, axis=1)
        below = np.cumsum(wrong, axis=1) - wrong / 2
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, (right * below).sum(axis=1) / pairs, np.nan)


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
    once (equal-mass bins are those of the sample itself); a resample then costs two matrix products.
    """
    ranking = Ranking.of(p)
    gaps = np.zeros((p.size, 2 * bins))
    gaps[np.arange(p.size), bin_index(p, bins, closed)] = p - y
    gaps[np.arange(p.size), bins + equal_mass_index(p, bins)] = p - y
    columns = np.column_stack([np.ones_like(p), y, (p - y) ** 2, row_nll(p, y), gaps])
    step = max(1, _BLOCK // p.size)
    parts = [
        _draw_block(block.astype(np.float64), columns, ranking, y)
        for block in (weights[start : start + step] for start in range(0, len(weights), step))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _draw_block(weights: np.ndarray, columns: np.ndarray, ranking: Ranking, y: np.ndarray) -> dict[str, np.ndarray]:
    sums, bins = weights @ columns, (columns.shape[1] - 4) // 2
    # A small subject can be absent from a resample: its draw has no value then.
    total = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    return {
        "accuracy": sums[:, 1] / total,
        "auroc": ranking.auroc(y, weights),
        "brier": sums[:, 2] / total,
        "nll": sums[:, 3] / total,
        "ece": np.abs(sums[:, 4 : 4 + bins]).sum(axis=1) / total,
        "ece_mass": np.abs(sums[:, 4 + bins :]).sum(axis=1) / total,
    }


def equal_mass_index(p: np.ndarray, bins: int) -> np.ndarray:
    """The equal-mass bin of each confidence, equal confidences together; see `Ranked.bins`."""
    found = Ranked.of(p, np.zeros_like(p)).bins(bins, scheme="mass")
    return np.searchsorted(found.high[:-1], p, side="left")


def row_nll(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row in nats, with the clip of `Ranked.nll`."""
    clipped = p.clip(NLL_CLIP, 1 - NLL_CLIP)
    return -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
