"""Numbers of probes on groups of questions that they were not trained on, and from group to group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.evaluation.comparison import difference
from src.evaluation.intervals import Estimate, Scored, calibrated_null, interval, score
from src.evaluation.resampling import Ranking, row_nll, weighted_sums
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
        rows = self._known
        if not rows.any():
            return {"n": 0, "scores": {}, "differences": {}}
        scored = self._scored(rows)
        changes = {
            other: with_p_values({metric: _over(scored, other, metric) for metric in _COMPARED}) for other in _AGAINST
        }
        return {"n": int(rows.sum()), "scores": self._numbers(scored, rows), "differences": changes}

    def by_group(self, groups: int) -> list[dict[str, Any]]:
        """The same of each group; p-values are corrected for the number of groups."""
        parts = {group: self._known & (self.groups == group) for group in range(groups)}
        scored = {group: self._scored(rows) for group, rows in parts.items() if rows.any()}
        changes = {
            (other, metric): with_p_values({group: _over(one, other, metric) for group, one in scored.items()})
            for other in _AGAINST
            for metric in _COMPARED
        }
        return [
            {
                "n": int(rows.sum()),
                "scores": self._numbers(scored[group], rows) if group in scored else {},
                "differences": {
                    other: {metric: changes[other, metric][group] for metric in _COMPARED} for other in _AGAINST
                } if group in scored else {},
            }
            for group, rows in parts.items()
        ]  # fmt: skip

    def matrix(self, missing: Sequence[str]) -> dict[str, list[list[dict[str, Any]]]] | None:
        """Of "auroc" and "nll": trained on the group of the row, tested on that of the column.

        Args:
            missing: why there is no probe of each group, or "".
        """
        if not len(self.alone):
            return None
        cells = [
            [self._cell(p, group, why) for group in range(len(self.alone))]
            for p, why in zip(self.alone, missing, strict=True)
        ]
        return {metric: [[cell[metric] for cell in row] for row in cells] for metric in ("auroc", "nll")}

    def _cell(self, p: np.ndarray, group: int, why: str) -> dict[str, dict[str, Any]]:
        rows = self.groups == group
        if why or not rows.any():
            nothing = number(Estimate(float("nan"), reason=why or "no test question"))
            return {"auroc": nothing, "nll": nothing}
        found = _auroc_and_nll(p[rows], self.y[rows], self.weights[:, rows])
        return {metric: number(honest(estimate)) for metric, estimate in found.items()}

    @property
    def _known(self) -> np.ndarray:
        return np.logical_and.reduce([np.isfinite(p) for p in self.said.values()])

    def _scored(self, rows: np.ndarray) -> dict[str, Scored]:
        y, weights, groups = self.y[rows], self.weights[:, rows], self.groups[rows]
        return {name: _score_within(p[rows], y, weights, groups, self.bins) for name, p in self.said.items()}

    def _numbers(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, Any]:
        found = {}
        for name, one in scored.items():
            estimates = one.estimates()
            null = calibrated_null(self.said[name][rows], metrics=["ece"], bins=self.bins, seed=self.seed)["ece"]
            found[name] = {metric: number(honest(estimates[metric])) for metric in _METRICS}
            found[name]["ece"] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
        return found


def _over(scored: Mapping[str, Scored], other: str, metric: str) -> Any:
    """The probe that was not trained there minus another scorer."""
    return difference(scored[other], scored[HELD_OUT], metric)


def _score_within(p: np.ndarray, y: np.ndarray, weights: np.ndarray, groups: np.ndarray, bins: int) -> Scored:
    found = score(p, y, weights, bins=bins)
    if (groups == groups[0]).all():
        return found
    ranking = Ranking.of(p, groups)
    values = found.values | {"auroc": float(ranking.auroc(y, np.ones((1, y.size)))[0])}
    return Scored(values, found.draws | {"auroc": ranking.auroc(y, weights)}, found.reason)


def _auroc_and_nll(p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, Estimate]:
    """Without the bins that `score` counts: a matrix has many cells."""
    losses, ranking = row_nll(p, y), Ranking.of(p)
    sums = weighted_sums(weights, np.column_stack([np.ones_like(losses), losses]))
    with np.errstate(invalid="ignore"):
        nll = Estimate(float(losses.mean()), *interval(sums[:, 1] / sums[:, 0]))
    if y.min() == y.max():
        return {
            "auroc": Estimate(float("nan"), reason=f"one class: every answer is {'right' if y[0] else 'wrong'}"),
            "nll": nll,
        }
    auroc = ranking.auroc(y, np.ones((1, y.size)))[0]
    return {"auroc": Estimate(float(auroc), *interval(ranking.auroc(y, weights))), "nll": nll}
