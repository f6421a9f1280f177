"""Rows in the order of their confidence: one sort, from which every metric of ranks and of bins follows.

Rows of equal confidence form one step, so no metric depends on the order in which rows are given.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import digamma

from src.errors import ScoringError
from src.evaluation.binning import DEFAULT_BINS, Bins, Closed, Scheme

NLL_CLIP = 1e-15
_MOST_SWEPT = 4096


@dataclass(frozen=True)
class Ranked:
    """The distinct confidences, ascending.

    Attributes:
        values: (m,) each once.
        n: (m,) float64, how many rows have it.
        right: (m,) float64, how many of these are right.
    """

    values: np.ndarray
    n: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> "Ranked":
        """Sort float64 confidences within [0, 1] and labels 0 or 1.

        The bits of a float that is not negative, read as a whole number, order it; one more bit holds the label, so
        that one sort of numbers does for both (an argsort takes several times as long).
        """
        keys = np.sort(((p + 0.0).view(np.uint64) << np.uint64(1)) | y.astype(np.uint64))  # + 0.0: no negative zero
        ranked, labels = (keys >> np.uint64(1)).view(np.float64), keys & np.uint64(1)
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        if starts.size == p.size:
            return cls(ranked, np.ones(p.size), labels.astype(np.float64))
        counts = np.diff(np.append(starts, p.size)).astype(np.float64)
        return cls(ranked[starts], counts, np.add.reduceat(labels, starts).astype(np.float64))

    @cached_property
    def total(self) -> float:
        """How many rows there are."""
        return float(self.n.sum())

    @cached_property
    def wrong(self) -> np.ndarray:
        """(m,) how many rows of each value are wrong."""
        return self.n - self.right

    @cached_property
    def base_rate(self) -> float:
        """The share of all rows that is right."""
        return float(self.right.sum()) / self.total

    @property
    def one_class(self) -> bool:
        """Whether all rows are right, or all are wrong."""
        return self.base_rate in (0.0, 1.0)

    def auroc(self) -> float:
        """P(a right row has the higher confidence than a wrong one), ties counting half; NaN of one class."""
        if self.one_class:
            return float("nan")
        below = np.cumsum(self.wrong) - self.wrong / 2
        return float(self.right @ below / (self.right.sum() * self.wrong.sum()))

    def auprc(self) -> float:
        """Average precision: precision at every threshold, weighted by the recall it adds; NaN of one class."""
        if self.one_class:
            return float("nan")
        right, n = self.right[::-1], self.n[::-1]
        return float(right @ (np.cumsum(right) / np.cumsum(n)) / right.sum())

    def brier(self) -> float:
        """Mean squared difference between confidence and label (Brier 1950)."""
        return _brier(self.values, self.right, self.wrong)

    def nll(self) -> float:
        """Mean negative log-likelihood in nats; confidences are clipped to [1e-15, 1 - 1e-15]."""
        p = self.values.clip(NLL_CLIP, 1 - NLL_CLIP)
        return float(-(self.right @ np.log(p) + self.wrong @ np.log1p(-p)) / self.total)

    def ks(self) -> float:
        """The largest |sum of (confidence - label)| over the rows up to some confidence, divided by n.

        The Kolmogorov-Smirnov calibration error (Gupta et al. 2021, arXiv 2006.12800), at distinct confidences.
        """
        return float(np.abs(np.cumsum(self.n * self.values - self.right)).max() / self.total)

    def corp(self) -> tuple[float, float, float]:
        """Miscalibration, discrimination and uncertainty: Brier = mcb - dsc + unc, exactly (arXiv 2008.03033).

        By isotonic regression of the labels on the confidences.
        """
        recalibrated = isotonic_regression(self.right / self.n, weights=self.n).x
        best, uncertainty = _brier(recalibrated, self.right, self.wrong), self.base_rate * (1 - self.base_rate)
        return self.brier() - best, uncertainty - best, uncertainty

    # Bins

    def bins(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "width", closed: Closed = "right") -> Bins:
        """The rows in bins.

        Args:
            bins: how many at most.
            scheme: "width": edges `numpy.linspace(0, 1, bins + 1)`; "mass": as many rows in each as can be, equal
                confidences together, edges half-way between neighbours; "quantile": edges `numpy.quantile`, [a, b), so
                that a confidence of exactly 1 is in no bin, as in the published figures.
            closed: of equal-width bins: (a, b] or [a, b); the first holds 0 and the last 1.
        """
        edges, side = self._edges(bins, scheme, closed)
        end = self.values.size if scheme != "quantile" else int(np.searchsorted(self.values, 1.0))
        cuts = np.concatenate([[0], np.searchsorted(self.values, edges[1:-1], side=side).clip(max=end), [end]])
        held = np.flatnonzero(np.diff(cuts))
        starts = cuts[:-1][held]
        if not held.size:
            raise ScoringError("Every confidence is exactly 1, which the rule 'quantile' puts in no bin. Use another.")
        columns = (self.n[:end], (self.n * self.values)[:end], self.right[:end])
        n, confidence, right = (np.add.reduceat(column, starts) for column in columns)
        outside = int(self.n[end:].sum())
        return Bins(edges[:-1][held], edges[1:][held], n.astype(np.int64), confidence / n, right / n, outside)

    def _edges(self, bins: int, scheme: Scheme, closed: Closed) -> tuple[np.ndarray, "np._SortSide"]:
        if scheme == "width":
            return np.linspace(0, 1, bins + 1), "right" if closed == "right" else "left"
        if scheme == "mass":
            return self._equal_mass(bins), "right"
        rows = np.repeat(self.values, self.n.astype(np.int64))
        return np.concatenate([[0], np.quantile(rows, np.linspace(0, 1, bins + 1))[1:-1], [1]]), "left"

    def _equal_mass(self, bins: int) -> np.ndarray:
        """0, the edges between chunks of rows (the first ones one longer), 1; equal edges are one."""
        total, ends = int(self.total), self._ends
        chunks = min(bins, total)
        last = np.cumsum(np.full(chunks, total // chunks) + (np.arange(chunks) < total % chunks))[:-1] - 1
        before, after = (self.values[np.searchsorted(ends, row, side="right")] for row in (last, last + 1))
        return np.concatenate([[0], np.unique((before + after) / 2), [1]])

    @cached_property
    def _ends(self) -> np.ndarray:
        """(m,) how many rows have this confidence or less."""
        return np.cumsum(self.n)

    def sweep(self) -> tuple[float, int]:
        """ECE with the most equal-mass bins whose accuracy still rises from bin to bin, and how many these are.

        Roelofs et al. 2022 (arXiv 2012.08668), equal confidences together. At most 4,096 bins, where the labels do not
        rise with the confidence throughout: then every row is a bin of its own.
        """
        if (np.diff(self.right / self.n) >= 0).all():
            return float(np.abs(self.n * self.values - self.right).sum() / self.total), self.values.size
        best = self.bins(1, scheme="mass")
        for count in range(2, min(int(self.total), _MOST_SWEPT) + 1):
            tried = self.bins(count, scheme="mass")
            if (np.diff(tried.accuracy) < 0).any():
                break
            best = tried
        return best.ece(), best.n.size

    # Answering the most confident ones only

    def aurc(self) -> float:
        """Mean over k of the share of wrong rows among the k most confident; ties by expectation (arXiv 1805.08206)."""
        n, wrong = self.n[::-1], self.wrong[::-1]
        answered = np.cumsum(n) - n
        errors = np.cumsum(wrong) - wrong
        rate = wrong / n
        # The j-th of a tie adds (errors + j rate) / (answered + j); over the tie, the harmonic numbers sum it up.
        spread = np.where(n == 1, 1 / (answered + 1), digamma(answered + n + 1) - digamma(answered + 1))
        return float((wrong + (errors - answered * rate) * spread).sum() / self.total)

    def aurc_of_ideal(self) -> float:
        """The same if all right rows had more confidence than any wrong one."""
        right, wrong = float(self.right.sum()), float(self.wrong.sum())
        harmonic = digamma(self.total + 1) - digamma(right + 1)
        return float((wrong - right * harmonic) / self.total)

    def prr(self) -> float:
        """How much of the way from a random to the ideal ranking `aurc` comes (arXiv 2104.04236); NaN of one class."""
        if self.one_class:
            return float("nan")
        random = 1 - self.base_rate
        return (random - self.aurc()) / (random - self.aurc_of_ideal())

    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each distinct confidence, descending: (threshold, share answered, share of these that is wrong)."""
        answered = np.cumsum(self.n[::-1])
        return self.values[::-1], answered / self.total, np.cumsum(self.wrong[::-1]) / answered

    def accuracy_at(self, coverage: float) -> float:
        """Share right among the most confident part of the rows; of a tie that is cut, by expectation."""
        count = max(1.0, np.ceil(coverage * self.total - 1e-9))
        n, right = self.n[::-1], self.right[::-1]
        last = int(np.searchsorted(np.cumsum(n), count))
        whole, within = float(n[:last].sum()), float(right[:last].sum())
        return float((within + right[last] * (count - whole) / n[last]) / count)

    def coverage_at(self, risk: float) -> float:
        """The largest share of rows above some threshold of which at most `risk` are wrong; 0 where there is none."""
        _, coverage, found = self.risk_coverage()
        allowed = coverage[found <= risk]
        return float(allowed.max()) if allowed.size else 0.0


def _brier(p: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> float:
    return float((right @ (p - 1) ** 2 + wrong @ p**2) / (right.sum() + wrong.sum()))
