"""How many labels are needed, asked before anybody pays for a GPU: assumptions in, what the report will show out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src.data.splits import SHARES, SPLITS
from src.errors import ConfigError
from src.evaluation import planning
from src.evaluation.planning import FEWEST, METRICS, MOST, Assumptions, Metric, Planned
from src.pipeline.folder import read_results

TEST_SHARE = SHARES[SPLITS.index("test")]
POWER = 0.8


@dataclass(frozen=True)
class LabelPlan:
    """What was asked, what was assumed, and what comes of it for each metric.

    Attributes:
        labels: marked questions, where their number was given.
        difference: between base and tuned, where that was given.
        power: the probability with which a difference is to be shown.
        assumed: of the two models.
        run: the finished run they were taken from, or None.
        metrics: one for each metric; their `n` counts test questions.
    """

    labels: int | None
    difference: float | None
    power: float
    assumed: Assumptions
    run: str | None
    metrics: tuple[Planned, ...]

    def as_plain(self) -> dict[str, Any]:
        """For JSON: each metric with its `labels` and, of these, its `test_questions`."""
        found = {one.metric: {"labels": self._labels(one), "test_questions": one.n} | asdict(one)
                 for one in self.metrics}  # fmt: skip
        for one in found.values():
            del one["metric"], one["n"]
        return {
            "labels": self.labels, "difference": self.difference, "power": self.power, "level": 0.05,
            "test_share": TEST_SHARE, "assumed": asdict(self.assumed), "run": self.run, "metrics": found,
        }  # fmt: skip

    def _labels(self, one: Planned) -> int | None:
        if self.labels is not None or one.n is None:
            return self.labels
        return math.ceil(one.n / TEST_SHARE)


def plan_labels(
    *, labels: int | None = None, difference: float | None = None, metrics: Sequence[Metric] = METRICS,
    run: str | Path | None = None, assume: Mapping[str, float] | None = None, power: float = POWER, seed: int = 0,
) -> LabelPlan:  # fmt: skip
    """The smallest difference between base and tuned that so many labels show, or the labels that one needs.

    Labels are all marked questions; only the test share of them is judged.

    Args:
        labels: marked questions; or
        difference: in accuracy, AUROC, Brier score or ECE, as a positive number.
        metrics: which of these.
        run: a finished run to take the assumptions from.
        assume: fields of `Assumptions`, which go before those of the run.
        power: the probability with which the report is to show it.
        seed: of the simulation.

    Raises:
        ConfigError: not exactly one of labels and difference, labels outside their range, no finished run, or one
            whose base model is always right or always wrong.
        ScoringError: a value outside its range, or assumptions that contradict each other.
    """
    if (labels is None) == (difference is None):
        raise ConfigError("Give the number of labels (--labels 2000) or a difference (--difference .03), not both.")
    least, most = math.ceil(FEWEST / TEST_SHARE), int(MOST / TEST_SHARE)
    if labels is not None and not least <= labels <= most:
        raise ConfigError(f"{labels:,} labels: from {least} to {most:,} can be planned with.")
    assumed = replace(assumptions_of(run) if run else Assumptions(), **(assume or {}))
    if labels is not None:
        n = round(labels * TEST_SHARE)
        found = [planning.smallest_difference(metric, n, assumed, power=power, seed=seed) for metric in metrics]
    else:
        wanted = difference or 0.0
        found = [planning.questions_needed(metric, wanted, assumed, power=power, seed=seed) for metric in metrics]
    return LabelPlan(labels, difference, power, assumed, str(run) if run else None, tuple(found))


def assumptions_of(run: str | Path) -> Assumptions:
    """What a finished run says of its base model's own probability, and of how many questions its tuning changed.

    Of a run without an adapter, how many questions change stays assumed. The measured ECE holds what a perfectly
    calibrated model would score on so few questions; that is taken out.

    Raises:
        ConfigError: no finished run, or an AUROC that is undefined.
    """
    results = read_results(run)
    base = results["variants"]["base"]
    own = base["scores"]["own_probability"]["all"]
    if own["auroc"]["value"] is None:
        raise ConfigError(f"{run}: the AUROC of the base model is undefined ({own['auroc']['reason']}). Assume one.")
    ece = math.sqrt(max(own["ece"]["value"] ** 2 - own["ece"]["calibrated_mean"] ** 2, 0.0))
    accuracy = base["accuracy"]["all"]["value"]
    # The planner's confidence is too high, a run's may be too low: then as much as there is room for.
    found = Assumptions(accuracy=accuracy, auroc=own["auroc"]["value"], ece=min(ece, (1 - accuracy) / 2))
    if not results["comparisons"]:
        return found
    *_, last = results["comparisons"].values()
    flips = last["flips"]
    return replace(found, changed=max(flips["gained"] + flips["lost"], 1) / own["n"])
