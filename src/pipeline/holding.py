"""Does the probe still hold? The rule, on confidences of the test questions: keep it, realign it, or label more.

The yardstick is a refit: a probe of the new model's states and labels. A probe holds where the 95 % interval of what it
loses to the refit ends within the margin, in AUROC and in nats; it fails where one of the two begins beyond it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.errors import ConfigError
from src.evaluation.comparison import difference
from src.evaluation.intervals import Estimate, Scored
from src.pipeline.refitting import Step

Verdict = Literal["keep", "realign", "label", "cannot tell", "not judged"]
Standing = Literal["holds", "fails", "open"]
FROZEN, REALIGNED, REFIT = "frozen", "realigned", "refit"
MOST = 1_000_000  # questions that anybody is asked for


@dataclass(frozen=True)
class Margins:
    """What a probe may lose to a refit and still hold: in AUROC, and in nats a question."""

    auroc: float = 0.02
    nll: float = 0.02

    def __post_init__(self) -> None:
        if not (self.auroc > 0 and self.nll > 0):
            raise ConfigError(f"The margins are {self.auroc} in AUROC and {self.nll} nats. Both must be above 0.")


@dataclass(frozen=True)
class Judgement:
    """What to do, and why.

    Attributes:
        verdict: "keep", "realign", "label" (neither holds) or "cannot tell".
        losses: of the frozen and the realigned probe: metric -> what it loses to the refit.
        standings: of both.
        labels: questions whose answers have to be marked: of "label" in all; of "cannot tell" test questions on top.
            None where nothing is to be labelled, or no number up to a million is enough.
        settled: whether the refit itself has labels enough: doubling them last brought no more than the margin.
    """

    verdict: Verdict
    losses: Mapping[str, Mapping[str, Estimate]]
    standings: Mapping[str, Standing]
    labels: int | None
    settled: bool


def judge(
    scored: Mapping[str, Scored], curve: tuple[Step, ...], *, questions: int, margins: Margins | None = None
) -> Judgement:
    """Apply the rule.

    Args:
        scored: of "frozen", "realigned" (where it differs) and "refit", on the same resamples of the same questions.
        curve: how refits to fewer labels did, the refit itself last.
        questions: that were tested.
        margins: see `Margins`.
    """
    margins = margins or Margins()
    losses = {name: _losses(scored[name], scored[REFIT]) for name in (FROZEN, REALIGNED) if name in scored}
    standings: dict[str, Standing] = {name: _standing(lost, margins) for name, lost in losses.items()}
    gain = _last_gain(curve, margins)
    settled = gain <= 1
    if standings[FROZEN] == "holds":
        return Judgement("keep", losses, standings, None, settled)
    if standings.get(REALIGNED) == "holds":
        return Judgement("realign", losses, standings, None, settled)
    unclear = [losses[name] for name, standing in standings.items() if standing == "open"]
    if unclear:
        more = min(_tests_needed(lost, questions, margins) for lost in unclear) - questions
        return Judgement("cannot tell", losses, standings, _askable(more), settled)
    enough = _labels_needed(curve, gain, margins)
    return Judgement("label", losses, standings, _askable(enough), settled)


def _losses(probe: Scored, refit: Scored) -> dict[str, Estimate]:
    """Positive where the refit is better."""
    return {"auroc": difference(probe, refit, "auroc").estimate, "nll": difference(refit, probe, "nll").estimate}


def _standing(lost: Mapping[str, Estimate], margins: Margins) -> Standing:
    # Bit-equal confidences lose nothing in any resample; an interval that is undefined settles nothing.
    if any(one.low > getattr(margins, metric) for metric, one in lost.items()):
        return "fails"
    return "holds" if all(one.high <= getattr(margins, metric) for metric, one in lost.items()) else "open"


def _tests_needed(lost: Mapping[str, Estimate], questions: int, margins: Margins) -> float:
    """Test questions with which the intervals, as narrow as they make them, would reach no further than the margin."""
    needed = float(questions)
    for metric, one in lost.items():
        margin = getattr(margins, metric)
        if one.low <= margin < one.high:
            half, away = (one.high - one.low) / 2, abs(margin - one.value)
            needed = max(needed, questions * (half / away) ** 2 if away else math.inf)
        elif np.isnan(one.low):
            needed = math.inf
    return _whole(needed)


def _last_gain(curve: tuple[Step, ...], margins: Margins) -> float:
    """What doubling the labels brought last, in margins; infinite where nobody could see it."""
    if len(curve) < 2:
        return math.inf
    half, whole = curve[-2:]
    return max((half.nll - whole.nll) / margins.nll, (whole.auroc - half.auroc) / margins.auroc)


def _labels_needed(curve: tuple[Step, ...], gain: float, margins: Margins) -> float:
    """The fewest labels of the curve whose refits lose no more than the margin to the refit to all.

    Where doubling them still brought more than that, so many that it no longer would: what a refit loses to chance
    falls with one over the number of its labels, so what the last doubling brought is what is left to be had.
    """
    whole = curve[-1]
    if gain > 1:
        return _whole(whole.labels * gain)
    # Of one class AUROC is undefined, and says nothing against a step.
    far = [step.nll - whole.nll > margins.nll or whole.auroc - step.auroc > margins.auroc for step in curve]
    return min(step.labels for step, too_far in zip(curve, far, strict=True) if not too_far)


def _whole(number: float) -> float:
    """Rounded up, but not for the sake of a rounding error."""
    return math.ceil(number * (1 - 1e-9)) if math.isfinite(number) else math.inf


def _askable(number: float) -> int | None:
    return int(number) if number <= MOST else None
