"""The metrics of ranks and of smooth calibration for many resamples at once, beyond those of `resampling`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.evaluation.isotonic import left_by_isotonic, pool_starts
from src.evaluation.ranking import Ranked
from src.evaluation.resampling import Ranking, blocks, weighted_sums
from src.evaluation.smooth import smooth_ece, smooth_eces

COVERAGES = {"accuracy_at_50": 0.5, "accuracy_at_80": 0.8, "accuracy_at_90": 0.9}
FULL = ("smooth_ece", "ks", "mcb", "dsc", "aurc", "e_aurc", "prr", *COVERAGES)
WITHIN = "auroc_within"
NEAR = 250_000  # row weights at once: what the processor's cache holds


def full_values(p: np.ndarray, y: np.ndarray, strata: np.ndarray | None = None) -> dict[str, float]:
    """Every metric of `FULL` of the sample itself, and `WITHIN` where there are strata."""
    ranked = Ranked.of(p, y)
    mcb, dsc, _ = ranked.corp()
    return {
        "smooth_ece": smooth_ece(ranked.values, ranked.n * ranked.values - ranked.right, ranked.total),
        "ks": ranked.ks(),
        "mcb": mcb,
        "dsc": dsc,
        "aurc": ranked.aurc(),
        "e_aurc": ranked.aurc() - ranked.aurc_of_ideal(),
        "prr": ranked.prr(),
        **{name: ranked.accuracy_at(coverage) for name, coverage in COVERAGES.items()},
        **{name: float(draw[0]) for name, draw in _within(p, y, np.ones((1, p.size)), strata).items()},
    }


def full_draws(
    p: np.ndarray, y: np.ndarray, weights: np.ndarray, strata: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric of `FULL` for every row weighting (B, n), and `WITHIN` where there are strata: name -> (B,).

    NaN where a resample holds none of the rows. Every resample takes part in every metric.

    Args:
        p, y: (n,) confidences and labels.
        weights: (B, n) whole numbers: how often each row occurs.
        strata: (n,) such as subjects; None for none.
    """
    ranks = [resampled.draws() for resampled in Steps.of(p, y).resampled(weights)]
    draws = {name: np.concatenate([one[name] for one in ranks]) for name in ranks[0]}
    total = weights.sum(axis=1, dtype=np.float64)
    residuals, divisor = (p - y)[:, None], np.maximum(total, 1)[:, None]
    smooth = smooth_eces(p, lambda columns: weighted_sums(weights, residuals * columns) / divisor)
    draws["smooth_ece"] = np.where(total > 0, smooth, np.nan)
    return draws | _within(p, y, weights, strata)


def _within(p: np.ndarray, y: np.ndarray, weights: np.ndarray, strata: np.ndarray | None) -> dict[str, np.ndarray]:
    return {} if strata is None else {WITHIN: Ranking.of(p, strata).auroc(y, weights)}


@dataclass(frozen=True)
class Steps:
    """Rows by confidence, ascending; those of equal confidence are one step.

    Attributes:
        order: (n,) rows.
        p, y: (n,) in this order.
        starts: (m,) the first row of each step.
        pools: (g,) first steps: see `pool_starts`.
    """

    order: np.ndarray
    p: np.ndarray
    y: np.ndarray
    starts: np.ndarray
    pools: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> "Steps":
        """Sort confidences and labels (n,)."""
        order = np.argsort(p, kind="stable")
        p, y = p[order], y[order]
        starts = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
        n = np.diff(np.r_[starts, p.size])
        return cls(order, p, y, starts, pool_starts(n, np.add.reduceat(y, starts)))

    def resampled(self, weights: np.ndarray) -> Iterator["Resampled"]:
        """The weightings (B, n) of the rows given to `of`, in blocks."""
        residuals = self.p - self.y
        for part in blocks(weights, NEAR):
            rows = weights[part].T[self.order].astype(np.float64)
            yield Resampled(
                n=self.cumulated(rows),
                wrong=self.cumulated(rows * (1 - self.y)[:, None]),
                residual=self.cumulated(rows * residuals[:, None]),
                squares=residuals**2 @ rows,
                pools=self.pools,
            )

    def cumulated(self, rows: np.ndarray) -> np.ndarray:
        """(m + 1, b): sums of (n, b) over all rows below each step, and over all."""
        sums = np.zeros((self.starts.size + 1, rows.shape[1]))
        stepped = rows if self.starts.size == len(rows) else np.add.reduceat(rows, self.starts, axis=0)
        np.cumsum(stepped, axis=0, out=sums[1:])
        return sums


@dataclass(frozen=True)
class Resampled:
    """b resamples as columns: what lies below each of m steps, and in the last line all.

    Attributes:
        n, wrong: (m + 1, b) rows and wrong rows: whole numbers as float64.
        residual: (m + 1, b) sums of confidence - label.
        squares: (b,) sums of its square.
        pools: see `Steps`.
    """

    n: np.ndarray
    wrong: np.ndarray
    residual: np.ndarray
    squares: np.ndarray
    pools: np.ndarray

    def draws(self) -> dict[str, np.ndarray]:
        """The metrics of ranks: name -> (b,)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(self.n[-1] > 0, self.n[-1], np.nan)
            wrong = self.wrong[-1] / total
            uncertainty = wrong * (1 - wrong)
            aurc, ideal, best = self._aurc() / total, self._ideal_aurc() / total, self._recalibrated() / total
            return {
                "ks": np.abs(self.residual).max(axis=0) / total,
                "mcb": self.squares / total - best,
                "dsc": uncertainty - best,
                "aurc": aurc,
                "e_aurc": aurc - ideal,
                "prr": np.where(uncertainty > 0, (wrong - aurc) / (wrong - ideal), np.nan),
                **{name: self._accuracy_at(coverage) for name, coverage in COVERAGES.items()},
            }

    def _aurc(self) -> np.ndarray:
        """As `Ranked.aurc`, as a sum over rows; the rows above a step are those that are answered before it."""
        answered, errors = self.n[-1] - self.n[1:], self.wrong[-1] - self.wrong[1:]
        n, wrong = np.diff(self.n, axis=0), np.diff(self.wrong, axis=0)
        spread = -np.diff(self._harmonic[(self.n[-1] - self.n).astype(np.intp)], axis=0)
        rate = wrong / np.maximum(n, 1)
        return (wrong + (errors - answered * rate) * spread).sum(axis=0)

    def _ideal_aurc(self) -> np.ndarray:
        """As `Ranked.aurc_of_ideal`, as a sum over rows."""
        total, wrong = self.n[-1].astype(np.intp), self.wrong[-1]
        right = total - wrong
        return wrong - right * (self._harmonic[total] - self._harmonic[right.astype(np.intp)])

    @cached_property
    def _harmonic(self) -> np.ndarray:
        """1 + 1/2 + ... + 1/k for every k up to the size of the largest resample."""
        return np.r_[0.0, np.cumsum(1 / np.arange(1, self.n[-1].max() + 1))]

    def _recalibrated(self) -> np.ndarray:
        """(b,) squared errors that isotonic regression of the labels on the confidences leaves."""
        ends = np.r_[self.pools, len(self.n) - 1]
        n, wrong = (np.ascontiguousarray(np.diff(sums[ends], axis=0).T) for sums in (self.n, self.wrong))
        return np.array(
            [left_by_isotonic(size[size > 0], right[size > 0]) for size, right in zip(n, n - wrong, strict=True)]
        )

    def _accuracy_at(self, coverage: float) -> np.ndarray:
        """As `Ranked.accuracy_at`."""
        count = np.maximum(1.0, np.ceil(coverage * self.n[-1] - 1e-9))
        # The step in which the count is reached from above: the last with so many rows above or in it.
        step = np.maximum((self.n[-1] - self.n[:-1] >= count).sum(axis=0) - 1, 0)
        at, above = (step, np.arange(step.size)), (step + 1, np.arange(step.size))
        whole, wrong = self.n[-1] - self.n[above], self.wrong[-1] - self.wrong[above]
        rate = (self.wrong[above] - self.wrong[at]) / (self.n[above] - self.n[at])
        return 1 - (wrong + rate * (count - whole)) / count
