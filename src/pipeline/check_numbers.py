"""The frozen, the realigned and the refitted probe on the new model's test questions, with intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.config import EvaluationConfig
from src.data.splits import Splits
from src.evaluation.intervals import Estimate, Scored, calibrated_null, interval, score
from src.evaluation.resampling import question_weights
from src.pipeline.asked import Asked
from src.pipeline.holding import FROZEN, REALIGNED, REFIT, Judgement, Margins, judge
from src.pipeline.numbers import number
from src.pipeline.probing import OWN
from src.pipeline.refitting import Marked, Step, learning_curve, refit, why_no_refit
from src.probes.artifact import SavedProbe
from src.probes.linear import LinearProbe

HOME = "at home"
_SHOWN = ("auroc", "nll", "brier", "ece")


@dataclass(frozen=True)
class Labelled:
    """What was measured with labels.

    Attributes:
        judgement: what to do; None where there is no refit to compare with.
        scores: "frozen", "realigned", "refit" and "own_probability" on the new model's test questions, and "at home",
            the frozen probe on the old one's: metric -> number.
        groups: tag or subject -> how far each confidence is off there, on average.
        curve: refits to fewer labels.
        accuracy: of the new model.
        n: test questions.
        missing: why there is no refit, or "".
        refit: the refitted probe.
        margins: of the rule.
    """

    judgement: Judgement | None
    scores: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Any]]
    curve: tuple[Step, ...]
    accuracy: dict[str, Any]
    n: int
    missing: str
    refit: LinearProbe | None
    margins: Margins

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        judgement = self.judgement
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "scores": self.scores,
            "losses": {} if judgement is None else {
                name: {metric: number(one) for metric, one in lost.items()} for name, lost in judgement.losses.items()
            },
            "standings": {} if judgement is None else dict(judgement.standings),
            "settled": judgement and judgement.settled,
            "curve": [asdict(step) for step in self.curve],
            "groups": self.groups,
            "missing": self.missing,
            "margins": asdict(self.margins),
        }  # fmt: skip


def with_labels(
    saved: SavedProbe, realigned: SavedProbe | None, before: Asked, after: Asked, splits: Splits,
    groups: Mapping[str, np.ndarray], *, settings: EvaluationConfig, margins: Margins, seed: int,
) -> Labelled:  # fmt: skip
    """Judge them; the rows of train and val fit the refit, those of test are only predicted.

    Args:
        saved, realigned: the probe as it is, and brought to the new states, where that changes it.
        before, after: what both models said, with the states of the probe's layer and position alone.
        splits: of the questions.
        groups: tag or subject -> (n,) which questions belong to it.
        settings: resamples and bins.
        margins: see `judge`.
        seed: of the resamples and of the learning curve.
    """
    rows = Marked(after.hidden[:, 0], after.correct, splits.groups)
    train, val, test = (rows.only(part) for part in (splits.train, splits.val, splits.test))
    weights = question_weights(test.questions, settings.bootstrap, seed)
    said = {FROZEN: saved.predict(test.states)}
    if realigned is not None:
        said[REALIGNED] = realigned.predict(test.states)
    missing = why_no_refit(train, val)
    fitted = None if missing else refit(train, val)
    curve: tuple[Step, ...] = ()
    if fitted is not None:
        said[REFIT] = fitted.predict(test.states)
        curve = learning_curve(train, val, test, seed=seed, whole=fitted)
    scored = {name: score(p, test.labels, weights, bins=settings.bins) for name, p in said.items()}
    judgement = judge(scored, curve, questions=test.labels.size, margins=margins) if fitted is not None else None
    own = after.confidence[splits.test]
    others = {
        OWN: (own, test.labels),
        HOME: (saved.predict(before.hidden[splits.test, 0]), before.correct[splits.test]),
    }
    scores = {name: _numbers(found, said[name], settings, seed) for name, found in scored.items()}
    for name, (p, y) in others.items():
        scores[name] = _numbers(score(p, y, weights, bins=settings.bins), p, settings, seed)
    parts = {name: part[splits.test] for name, part in groups.items()}
    return Labelled(
        judgement=judgement,
        scores=scores,
        groups={name: _off(said, test.labels, part, weights) for name, part in parts.items() if part.any()},
        curve=curve,
        accuracy=number(scored[FROZEN].estimates()["accuracy"]),
        n=test.labels.size,
        missing=missing,
        refit=fitted,
        margins=margins,
    )


def _numbers(scored: Scored, p: np.ndarray, settings: EvaluationConfig, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {metric: number(one) for metric, one in scored.estimates().items() if metric in _SHOWN}
    null = calibrated_null(p, metrics=["ece"], bins=settings.bins, seed=seed)["ece"]
    found["ece"] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
    return found | {"n": p.size}


def _off(said: Mapping[str, np.ndarray], y: np.ndarray, part: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Of one group: the mean confidence minus the share that is right."""
    found: dict[str, Any] = {"n": int(part.sum()), "accuracy": float(y[part].mean())}
    drawn = weights[:, part].astype(np.float64)
    total = np.maximum(drawn.sum(axis=1), 1)
    for name, p in said.items():
        gaps = (p - y)[part]
        found[name] = number(Estimate(float(gaps.mean()), *interval(drawn @ gaps / total)))
    return found
