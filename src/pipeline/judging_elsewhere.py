"""Numbers of probes on groups of questions that they were not trained on, and from group to group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from src.evaluation.comparison import Difference, difference
from src.evaluation.intervals import Estimate, Scored, calibrated_null
from src.evaluation.resampling import Ranking, in_bins, row_nll, weighted_sums
from src.pipeline.numbers import honest, number, with_p_values
from src.pipeline.probing import OWN, PROBE

HELD_OUT = "held_out"
_AGAINST = (PROBE, OWN)
_METRICS = ("auroc", "brier", "nll", "ece")
_COMPARED = ("auroc", "brier", "nll")


@dataclass(frozen=True)
class Tried:
    """Test rows of several groups.

    Attributes:
        groups: (n,) the number of each row's group.
        y: (n,) labels.
        said: "held_out", "probe" and "own_probability" -> (n,); NaN where there was no probe.
        alone: (groups, n) what the probe of each group alone says; (0, n) where none was trained.
        weights: (resamples, n).
        bins: of ECE.
        seed: of what a calibrated model would score.
    """

    groups: np.ndarray
    y: np.ndarray
    said: Mapping[str, np.ndarray]
    alone: np.ndarray
    weights: np.ndarray
    bins: int
    seed: int

    def whole(self) -> dict[str, Any]:
        """Of all rows on which every scorer says something: "n", "scores", "differences".

        AUROC is over pairs of one group only: what probes of different training say is not compared with each other.
        """
        if not self._sums:
            return {"n": 0, "scores": {}, "differences": {}}
        scored = {
            name: reduce(_Sums.plus, (group[name] for group in self._sums.values())).scored() for name in self.said
        }
        changes = {
            other: with_p_values({metric: _over(scored, other, metric) for metric in _COMPARED}) for other in _AGAINST
        }
        return self._numbers(scored, self._known) | {"differences": changes}

    def by_group(self, groups: int) -> list[dict[str, Any]]:
        """The same of each group; p-values are corrected for the number of groups."""
        scored = {group: {name: sums.scored() for name, sums in by.items()} for group, by in self._sums.items()}
        changes = {
            (other, metric): with_p_values({group: _over(one, other, metric) for group, one in scored.items()})
            for other in _AGAINST
            for metric in _COMPARED
        }

        def numbers(group: int) -> dict[str, Any]:
            if group not in scored:
                return {"n": 0, "scores": {}, "differences": {}}
            differences = {other: {metric: changes[other, metric][group] for metric in _COMPARED} for other in _AGAINST}
            return self._numbers(scored[group], self._rows(group)) | {"differences": differences}

        return [numbers(group) for group in range(groups)]

    def matrix(self, missing: Sequence[str]) -> dict[str, list[list[dict[str, Any]]]] | None:
        """Of "auroc" and "nll": trained on the group of the row, tested on that of the column.

        Args:
            missing: why there is no probe of each group, or "".
        """
        if not len(self.alone):
            return None
        cells = [self._cells(group, missing) for group in range(len(self.alone))]
        return {
            metric: [[tested[trained][metric] for tested in cells] for trained in range(len(cells))]
            for metric in ("auroc", "nll")
        }

    def _cells(self, group: int, missing: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
        """Of one tested group, by every trained one."""
        rows = self.groups == group
        weights = _with_sample(self.weights[:, rows])

        def cell(p: np.ndarray, why: str) -> dict[str, dict[str, Any]]:
            if why or not rows.any():
                return dict.fromkeys(("auroc", "nll"), number(Estimate(float("nan"), reason=why or "no test question")))
            estimates = _Sums.of(p[rows], self.y[rows], weights, bins=0).scored().estimates()
            return {metric: number(honest(estimates[metric])) for metric in ("auroc", "nll")}

        return [cell(p, why) for p, why in zip(self.alone, missing, strict=True)]

    @cached_property
    def _known(self) -> np.ndarray:
        return np.logical_and.reduce([np.isfinite(p) for p in self.said.values()])

    def _rows(self, group: int) -> np.ndarray:
        return self._known & (self.groups == group)

    @cached_property
    def _sums(self) -> dict[int, dict[str, "_Sums"]]:
        """Group -> scorer; groups without such rows are left out."""
        found = {}
        for group in np.unique(self.groups[self._known]).tolist():
            rows = self._rows(group)
            weights = _with_sample(self.weights[:, rows])
            found[group] = {
                name: _Sums.of(p[rows], self.y[rows], weights, bins=self.bins) for name, p in self.said.items()
            }
        return found

    def _numbers(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, Any]:
        found = {}
        for name, one in scored.items():
            estimates = one.estimates()
            null = calibrated_null(self.said[name][rows], metrics=["ece"], bins=self.bins, seed=self.seed)["ece"]
            found[name] = {metric: number(honest(estimates[metric])) for metric in _METRICS}
            found[name]["ece"] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
        return {"n": int(rows.sum()), "scores": found}


@dataclass(frozen=True)
class _Sums:
    """What the metrics of one scorer are made of, on the sample itself (the first) and on every resample.

    Those of two groups add up to those of both, with pairs of one group only.

    Attributes:
        concordant, pairs: (1 + B,) pairs of a right and a wrong row in which the right one has more confidence, ties
            half; and all of them.
        columns: (1 + B, 4 + bins) weight, its part that is right, squares, log losses, and in each bin confidence minus
            label.
    """

    concordant: np.ndarray
    pairs: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray, weights: np.ndarray, *, bins: int) -> "_Sums":
        gaps = (p - y)[:, None] * in_bins(p, "width", bins) if bins else np.empty((p.size, 0))
        columns = weighted_sums(weights, np.column_stack([np.ones_like(p), y, (p - y) ** 2, row_nll(p, y), gaps]))
        pairs = columns[:, 1] * (columns[:, 0] - columns[:, 1])
        return cls(np.nan_to_num(Ranking.of(p).auroc(y, weights)) * pairs, pairs, columns)

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(self.concordant + other.concordant, self.pairs + other.pairs, self.columns + other.columns)

    def scored(self) -> Scored:
        weight, right, squares, losses, gaps = np.split(self.columns, [1, 2, 3, 4], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = {
                "auroc": self.concordant / self.pairs,
                "brier": (squares / weight)[:, 0],
                "nll": (losses / weight)[:, 0],
                "ece": np.abs(gaps).sum(axis=1) / weight[:, 0],
            }
        n, of_right = weight[0, 0], right[0, 0]
        one_class = f"one class: every answer is {'right' if of_right else 'wrong'}" if of_right in (0, n) else ""
        values = {metric: float(draw[0]) for metric, draw in draws.items()}
        return Scored(values, {metric: draw[1:] for metric, draw in draws.items()}, one_class)


def _with_sample(weights: np.ndarray) -> np.ndarray:
    """(1 + B, n): first every row once, as in the sample itself."""
    return np.vstack([np.ones((1, weights.shape[1]), weights.dtype), weights])


def _over(scored: Mapping[str, Scored], other: str, metric: str) -> Difference:
    """The probe that was not trained there minus another scorer."""
    return difference(scored[other], scored[HELD_OUT], metric)
