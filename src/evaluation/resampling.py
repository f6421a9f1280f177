"""The same rows under many weightings at once: bootstrap resamples, sorted and binned a single time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.evaluation.binning import DEFAULT_BINS, Closed, bin_index
from src.evaluation.ranking import NLL_CLIP, Ranked

METRICS = ("accuracy", "auroc", "brier", "nll", "ece", "ece_mass")
_HELD = 4_000_000  # weights held at once as float64: 32 MB
_NEAR = 500_000  # weights at once where they are gone through several times: what the processor's cache holds


@dataclass(frozen=True)
class Ranking:
    """Confidences sorted once, for any number of weightings of the same rows.

    Attributes:
        strata: of each stratum, its rows in ascending order of confidence. Pairs are formed within a stratum only.
        p: (n,) the confidences.
    """

    strata: tuple[np.ndarray, ...]
    p: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, strata: np.ndarray | None = None) -> "Ranking":
        """Sort the confidences (n,): all together, or of each stratum (n,), such as a subject, apart."""
        order = np.argsort(p, kind="stable")
        if strata is None:
            return cls((order,), p)
        _, stratum = np.unique(strata, return_inverse=True)
        by_stratum = order[np.argsort(stratum[order], kind="stable")]
        return cls(tuple(np.split(by_stratum, np.cumsum(np.bincount(stratum))[:-1])), p)

    def auroc(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(B,) areas under the ROC curve for labels (n,) and row weights (B, n); NaN where there are no pairs.

        The share of the pairs of a right and a wrong row in which the right one has more confidence, ties half; with
        strata, of all pairs within one.
        """
        concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for rows in self.strata:
            found, of = _concordant(self.p[rows], rows, y[rows] == 1, weights)
            concordant += found
            pairs += of
        with np.errstate(invalid="ignore", divide="ignore"):
            return concordant / pairs


def _concordant(
    p: np.ndarray, rows: np.ndarray, right: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) pairs in which the right row has the higher confidence, ties half, and (B,) all pairs; p ascending."""
    lower, upper = (np.searchsorted(p[~right], p[right], side=side) for side in ("left", "right"))
    tied = (lower != upper).any()
    concordant, pairs = np.empty(len(weights)), np.empty(len(weights))
    for part in blocks(weights, _NEAR):
        ordered = weights[part].T[rows].astype(np.float64)  # a resample is a column: cumulative sums go over whole rows
        wrong = np.zeros((len(rows) - len(lower) + 1, ordered.shape[1]))
        np.cumsum(ordered[~right], axis=0, out=wrong[1:])
        of_right = ordered[right]
        below = (wrong[lower] + wrong[upper]) / 2 if tied else wrong[lower]
        concordant[part] = np.einsum("rb,rb->b", of_right, below)
        pairs[part] = of_right.sum(axis=0) * wrong[-1]
    return concordant, pairs


def blocks(weights: np.ndarray, held: int = _HELD) -> Iterator[slice]:
    """Consecutive weightings of (B, n), so many that they hold about this many numbers."""
    step = max(1, held // weights.shape[1])
    return (slice(start, min(start + step, len(weights))) for start in range(0, len(weights), step))


def weighted_sums(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The product of (B, n) weights of any type with (n, k) columns, as float64 (B, k)."""
    sums = np.empty((len(weights), columns.shape[1]))
    for part in blocks(weights):
        sums[part] = weights[part].astype(np.float64) @ columns
    return sums


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
    gaps = (p - y)[:, None] * np.hstack([in_bins(p, scheme, bins, closed) for scheme in ("width", "mass")])
    columns = np.column_stack([np.ones_like(p), y, (p - y) ** 2, row_nll(p, y), gaps])
    sums = weighted_sums(weights, columns)
    # A small subject can be absent from a resample: its draw has no value then.
    total = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    return {
        "accuracy": sums[:, 1] / total,
        "auroc": Ranking.of(p).auroc(y, weights),
        "brier": sums[:, 2] / total,
        "nll": sums[:, 3] / total,
        "ece": np.abs(sums[:, 4 : 4 + bins]).sum(axis=1) / total,
        "ece_mass": np.abs(sums[:, 4 + bins :]).sum(axis=1) / total,
    }


def in_bins(p: np.ndarray, scheme: str, bins: int, closed: Closed = "right") -> np.ndarray:
    """(n, bins) of 0 and 1: in which bin of equal width or equal mass each confidence lies."""
    index = bin_index(p, bins, closed) if scheme == "width" else equal_mass_index(p, bins)
    return (index[:, None] == np.arange(bins)).astype(np.float64)


def equal_mass_index(p: np.ndarray, bins: int) -> np.ndarray:
    """The equal-mass bin of each confidence, equal confidences together; see `Ranked.bins`."""
    found = Ranked.of(p, np.zeros_like(p)).bins(bins, scheme="mass")
    return np.searchsorted(found.high[:-1], p, side="left")


def row_nll(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row in nats, with the clip of `Ranked.nll`."""
    clipped = p.clip(NLL_CLIP, 1 - NLL_CLIP)
    return -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
