"""Confidences in bins: which bin each falls into, and how far confidence and accuracy lie apart there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.errors import ScoringError

Closed = Literal["left", "right"]
# Equal width; as many rows in each, equal confidences together; the quantiles of Plaut et al. (arXiv 2402.13213).
Scheme = Literal["width", "mass", "quantile"]

DEFAULT_BINS = 15
CHUNK = 16_384  # rows at a time: what is computed of them stays in the processor's cache
_ROWS = 65_536  # the same where little is computed of each
_NEAR = 1e-6  # of a bin's width: closer to an edge than rounding can carry a row over it


@dataclass(frozen=True)
class Bins:
    """The bins that hold rows, in order.

    Attributes:
        low, high: (b,) edges.
        n: (b,) rows.
        confidence, accuracy: (b,) their mean confidence and the share that is right.
        outside: rows that the rule puts in no bin; 0 but for "quantile".
    """

    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    outside: int = 0

    @property
    def gaps(self) -> np.ndarray:
        """(b,) mean confidence minus accuracy."""
        return self.confidence - self.accuracy

    @property
    def shares(self) -> np.ndarray:
        """(b,) of all rows in bins."""
        return self.n / self.n.sum()

    def rows(self) -> list[dict[str, float]]:
        """Each bin as plain values."""
        columns = {name: getattr(self, name).tolist() for name in ("low", "high", "n", "confidence", "accuracy")}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def ece(self) -> float:
        """Mean over rows of |mean confidence - accuracy| of the row's bin."""
        return float(self.shares @ np.abs(self.gaps))

    def ace(self) -> float:
        """The same as a mean over bins, each counting once."""
        return float(np.abs(self.gaps).mean())

    def mce(self) -> tuple[float, int]:
        """The largest gap, and how many rows its bin holds: of few rows it says little."""
        worst = int(np.argmax(np.abs(self.gaps)))
        return float(abs(self.gaps[worst])), int(self.n[worst])

    def rmsce(self) -> float:
        """Square root of the mean over rows of the squared gap."""
        return float(np.sqrt(self.shares @ self.gaps**2))

    def l2_debiased(self) -> float:
        """`rmsce` less what a perfectly calibrated model would score (Kumar et al. 2019, arXiv 1909.10155)."""
        several = self.n > 1
        n, a, gaps = self.n[several], self.accuracy[several], self.gaps[several]
        return float(np.sqrt(max(0.0, self.shares[several] @ (gaps**2 - a * (1 - a) / (n - 1)))))

    def murphy(self) -> tuple[float, float, float]:
        """Reliability, resolution and uncertainty (Murphy 1973); Brier = rel - res + unc but for the spread in bins."""
        base = float(self.shares @ self.accuracy)
        return (
            float(self.shares @ self.gaps**2),
            float(self.shares @ (self.accuracy - base) ** 2),
            base * (1 - base),
        )


def bin_index(p: np.ndarray, bins: int, closed: Closed = "right") -> np.ndarray:
    """The equal-width bin of each confidence, compared with the edges `numpy.linspace(0, 1, bins + 1)`.

    Flooring p * bins would misplace values on edges, where confidences in words sit.
    """
    _check_bins(bins)
    return np.concatenate([index for _, index in _indexed(p, bins, closed)]) if p.size else np.empty(0, dtype=np.intp)


def equal_width_ece(p: np.ndarray, y: np.ndarray, bins: int = DEFAULT_BINS, closed: Closed = "right") -> float:
    """The expected calibration error with equal-width bins, in one pass over the rows as they stand.

    The count-weighted mean of |mean confidence - accuracy| is the sum over bins of |sum (p - y)|, divided by n.
    """
    _check_bins(bins)
    sums = np.zeros(bins)
    for rows, index in _indexed(p, bins, closed):
        sums += np.bincount(index, weights=p[rows] - y[rows], minlength=bins)
    return float(np.abs(sums).sum() / p.size)


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ScoringError(f"bins={bins}: at least one is needed.")


def _indexed(p: np.ndarray, bins: int, closed: Closed) -> Iterator[tuple[slice, np.ndarray]]:
    """Chunks of the rows, and their bins: a multiplication for most, a comparison for those next to an edge."""
    edges = np.linspace(0, 1, bins + 1)
    for start in range(0, p.size, _ROWS):
        rows = slice(start, start + _ROWS)
        scaled = p[rows] * bins
        index = scaled.astype(np.intp)
        distance = np.rint(scaled)
        distance -= scaled
        np.abs(distance, out=distance)
        if distance.min() < _NEAR:
            near = np.flatnonzero(distance < _NEAR)
            edge, values = np.rint(scaled[near]).astype(np.intp), p[rows][near]
            below = values <= edges[edge] if closed == "right" else values < edges[edge]
            index[near] = np.clip(edge - below, 0, bins - 1)
        yield rows, index
