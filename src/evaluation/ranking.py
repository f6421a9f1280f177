"""Rows in the order of their confidence: one sort, from which every metric of ranks and of bins follows.

Rows of equal confidence form one step, so no metric depends on the order in which rows are given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from src.errors import ScoringError
from src.evaluation.binning import CHUNK, DEFAULT_BINS, Bins, Closed, Scheme
from src.evaluation.isotonic import left_by_isotonic, pool_starts

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
        keys = (p + 0.0).view(np.uint64)  # + 0.0: no negative zero
        np.left_shift(keys, np.uint64(1), out=keys)
        np.bitwise_or(keys, y.astype(bool, copy=False), out=keys)
        keys.sort()
        labels = (keys & np.uint64(1)).astype(np.float64)
        np.right_shift(keys, np.uint64(1), out=keys)
        ranked = keys.view(np.float64)
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        if starts.size == p.size:
            return cls(ranked, np.broadcast_to(1.0, p.size), labels)
        counts = np.diff(np.append(starts, p.size)).astype(np.float64)
        return cls(ranked[starts], counts, np.add.reduceat(labels, starts))

    @cached_property
    def ends(self) -> np.ndarray:
        """(m,) how many rows have this confidence or less."""
        return np.cumsum(self.n)

    @cached_property
    def right_ends(self) -> np.ndarray:
        """(m,) how many right rows do."""
        return np.cumsum(self.right)

    @cached_property
    def total(self) -> float:
        """How many rows there are."""
        return float(self.ends[-1])

    @cached_property
    def base_rate(self) -> float:
        """The share of all rows that is right."""
        return float(self.right_ends[-1]) / self.total

    @property
    def one_class(self) -> bool:
        """Whether all rows are right, or all are wrong."""
        return self.base_rate in (0.0, 1.0)

    def _parts(self) -> Iterator["_Part"]:
        """Some steps at a time, so that what is computed of them stays in the processor's cache.

        (Products are summed without `@`: on some thousand numbers BLAS waits longer for its threads than it computes.)
        """
        for start in range(0, self.values.size, CHUNK):
            rows = slice(start, start + CHUNK)
            n, right = self.n[rows], self.right[rows]
            yield _Part(self.values[rows], n, right, n - right, self.ends[rows], self.right_ends[rows])

    def auroc(self) -> float:
        """P(a right row has the higher confidence than a wrong one), ties counting half; NaN of one class."""
        if self.one_class:
            return float("nan")
        concordant = sum((part.right * (part.ends - part.right_ends - part.wrong / 2)).sum() for part in self._parts())
        right = self.right_ends[-1]
        return float(concordant / (right * (self.total - right)))

    def auprc(self) -> float:
        """Average precision: precision at every threshold, weighted by the recall it adds; NaN of one class."""
        if self.one_class:
            return float("nan")
        right, precise = self.right_ends[-1], 0.0
        for part in self._parts():
            above, right_above = self.total - part.ends + part.n, right - part.right_ends + part.right
            precise += (part.right * right_above / above).sum()
        return float(precise / right)

    def brier(self) -> float:
        """Mean squared difference between confidence and label (Brier 1950)."""
        return float(sum(part.squares().sum() for part in self._parts()) / self.total)

    def nll(self) -> float:
        """Mean negative log-likelihood in nats; confidences are clipped to [1e-15, 1 - 1e-15]."""
        likelihood = 0.0
        for part in self._parts():
            p = part.values.clip(NLL_CLIP, 1 - NLL_CLIP)
            likelihood += (part.right * np.log(p) + part.wrong * np.log1p(-p)).sum()
        return float(-likelihood / self.total)

    def ks(self) -> float:
        """The largest |sum of (confidence - label)| over the rows up to some confidence, divided by n.

        The Kolmogorov-Smirnov calibration error (Gupta et al. 2021, arXiv 2006.12800), at distinct confidences.
        """
        below = largest = 0.0
        for part in self._parts():
            sums = below + np.cumsum(part.n * part.values - part.right)
            below, largest = sums[-1], max(largest, np.abs(sums).max())
        return float(largest / self.total)

    def corp(self) -> tuple[float, float, float]:
        """Miscalibration, discrimination and uncertainty: Brier = mcb - dsc + unc, exactly (arXiv 2008.03033).

        By isotonic regression of the labels on the confidences.
        """
        ends = np.append(pool_starts(self.n, self.right)[1:], self.values.size) - 1
        n, right = (np.diff(sums[ends], prepend=0) for sums in (self.ends, self.right_ends))
        best, uncertainty = left_by_isotonic(n, right) / self.total, self.base_rate * (1 - self.base_rate)
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
        if not held.size:
            raise ScoringError("Every confidence is exactly 1, which the rule 'quantile' puts in no bin. Use another.")
        last = cuts[1:][held] - 1
        n, right = (np.diff(sums[last], prepend=0) for sums in (self.ends, self.right_ends))
        confidence = np.add.reduceat((self.n * self.values)[:end], cuts[:-1][held])
        outside = int(self.total - self.ends[end - 1])
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
        total, ends = int(self.total), self.ends
        chunks = min(bins, total)
        last = np.cumsum(np.full(chunks, total // chunks) + (np.arange(chunks) < total % chunks))[:-1] - 1
        before, after = (self.values[np.searchsorted(ends, row, side="right")] for row in (last, last + 1))
        return np.concatenate([[0], np.unique((before + after) / 2), [1]])

    def sweep(self) -> tuple[float, int]:
        """ECE with the most equal-mass bins whose accuracy still rises from bin to bin, and how many these are.

        Roelofs et al. 2022 (arXiv 2012.08668), equal confidences together. At most 4,096 bins, where the labels do not
        rise with the confidence throughout: then every row is a bin of its own.
        """
        if not _falls(self.right / self.n):
            return float(np.abs(self.n * self.values - self.right).sum() / self.total), self.values.size
        best = 1
        for count in range(2, min(int(self.total), _MOST_SWEPT) + 1):
            last = np.unique(np.searchsorted(self.values, self._equal_mass(count)[1:], side="right")) - 1
            n, right = (np.diff(sums[last], prepend=0) for sums in (self.ends, self.right_ends))
            if _falls(right / n):
                break
            best = count
        found = self.bins(best, scheme="mass")
        return found.ece(), found.n.size

    # Answering the most confident ones only

    def aurc(self) -> float:
        """Mean over k of the share of wrong rows among the k most confident; ties by expectation (arXiv 1805.08206)."""
        risk, all_wrong = 0.0, self.total - self.right_ends[-1]
        for part in self._parts():
            n, wrong = part.n, part.wrong
            answered = self.total - part.ends
            errors = all_wrong - (part.ends - part.right_ends)
            # The j-th of a tie adds (errors + j rate) / (answered + j); over the tie, the harmonic numbers sum it up.
            spread = 1 / (answered + 1)
            tied = n > 1
            if tied.any():
                spread[tied] = digamma((answered + n)[tied] + 1) - digamma(answered[tied] + 1)
            risk += (wrong + (errors - answered * wrong / n) * spread).sum()
        return float(risk / self.total)

    def aurc_of_ideal(self) -> float:
        """The same if all right rows had more confidence than any wrong one."""
        right = float(self.right_ends[-1])
        wrong = self.total - right
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
        return self.values[::-1], answered / self.total, 1 - np.cumsum(self.right[::-1]) / answered

    def accuracy_at(self, coverage: float) -> float:
        """Share right among the most confident part of the rows; of a tie that is cut, by expectation."""
        count = max(1.0, np.ceil(coverage * self.total - 1e-9))
        step = int(np.searchsorted(self.ends, self.total - count, side="right"))
        whole, right = self.total - self.ends[step], self.right_ends[-1] - self.right_ends[step]
        return float((right + self.right[step] * (count - whole) / self.n[step]) / count)

    def coverage_at(self, risk: float) -> float:
        """The largest share of rows above some threshold of which at most `risk` are wrong; 0 where there is none."""
        _, coverage, found = self.risk_coverage()
        allowed = coverage[found <= risk]
        return float(allowed.max()) if allowed.size else 0.0


class _Part(NamedTuple):
    """Consecutive steps: each an array as in `Ranked`."""

    values: np.ndarray
    n: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    ends: np.ndarray
    right_ends: np.ndarray

    def squares(self) -> np.ndarray:
        """Sums over each step of (confidence - label)^2."""
        return self.right * (self.values - 1) ** 2 + self.wrong * self.values**2


def _falls(values: np.ndarray) -> bool:
    """Whether any value is below the one before."""
    return bool((values[1:] < values[:-1]).any())
