"""Stage 5: numbers with intervals, per model, per subject, and base against tuned. Test questions only."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.config import EvaluationConfig
from src.data.example import Example
from src.evaluation.comparison import differences, flips
from src.evaluation.intervals import Estimate, Scored, calibrated_null, interval, score
from src.evaluation.ranking import Ranked
from src.evaluation.resampling import Ranking, question_weights
from src.pipeline.asked import Asked
from src.pipeline.probing import OWN, PROBE, TEXT, Probed
from src.probes.sweep import PlaceResult

ALL, ANSWERED = "all", "answered"
# The other baselines are judged on all questions only.
BY_SUBJECT = (PROBE, OWN, TEXT)


@dataclass(frozen=True)
class Judge:
    """The test questions, and the bootstrap resamples that all comparisons share.

    Attributes:
        rows: (n_test,) their places among all questions.
        subjects: (n_test,) the subject of each.
        tags: (n_test,) the tag of each.
        answered: (n_test,) True where every model gave an answer that was found.
        weights: (resamples, n_test).
        bins: of ECE and reliability.
        seed: of the calibrated null.
    """

    rows: np.ndarray
    subjects: np.ndarray
    tags: np.ndarray
    answered: np.ndarray
    weights: np.ndarray
    bins: int
    seed: int

    @classmethod
    def of(
        cls,
        examples: tuple[Example, ...],
        test: np.ndarray,
        groups: np.ndarray,
        asked: Iterable[Asked],
        config: EvaluationConfig,
        seed: int,
    ) -> "Judge":
        """Draw the resamples by question."""
        answered = np.logical_and.reduce([one.answered[test] for one in asked])
        subjects = np.array([_part_name(examples[row].subject) for row in test])
        tags = np.array([examples[row].tag for row in test])
        weights = question_weights(groups[test], config.bootstrap, seed)
        return cls(test, subjects, tags, answered, weights, config.bins, seed)

    def parts(self) -> dict[str, np.ndarray]:
        """All test rows, those that every model answered where some did not, and each subject's of several."""
        names = sorted(set(self.subjects))
        parts = {ALL: np.ones(len(self.rows), dtype=bool)}
        if self.answered.any() and not self.answered.all():
            parts[ANSWERED] = self.answered
        return parts | ({name: self.subjects == name for name in names} if len(names) > 1 else {})

    def variant(self, asked: Asked, probed: Probed) -> "Judged":
        """Every scorer on every part, for one model."""
        y = asked.correct[self.rows]
        scored = {
            scorer: {
                name: score(p[part], y[part], self.weights[:, part], bins=self.bins)
                for name, part in self.parts().items()
                if name == ALL or scorer in BY_SUBJECT
            }
            for scorer, p in probed.confidences.items()
        }
        scores = {scorer: self._scores(scored[scorer], p) for scorer, p in probed.confidences.items()}
        if probed.sweep is not None:
            scores["shuffled_labels"] = self._shuffled(probed.shuffled, y)
        accuracy = {name: part.estimates()["accuracy"] for name, part in scored[OWN].items()}
        numbers = {
            "accuracy": {name: _number(estimate) for name, estimate in accuracy.items()},
            "tags": self._tags(y, probed.confidences[OWN]),
            "scores": scores,
            "advantages": _advantages(scored),
            "reliability": {
                name: Ranked.of(p, y).bins(self.bins).rows()
                for name, p in probed.confidences.items()
                if name in BY_SUBJECT
            },
            "layers": [asdict(result) for result in probed.sweep.results] if probed.sweep else [],
            "selected": _selected(probed.sweep.chosen) if probed.sweep else None,
            "missing": probed.missing,
        }
        return Judged(numbers, scored, y)

    def _scores(self, scored: Mapping[str, Scored], p: np.ndarray) -> dict[str, Any]:
        scores = {}
        for name in scored:
            part = self.parts()[name]
            numbers = {metric: _number(found) for metric, found in scored[name].estimates().items()}
            del numbers["accuracy"]  # the model's, not the scorer's
            nulls = calibrated_null(p[part], metrics=("ece", "ece_mass"), bins=self.bins, seed=self.seed)
            for metric, null in nulls.items():
                numbers[metric] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
            scores[name] = {"n": int(part.sum())} | numbers
        return scores

    def _shuffled(self, predictions: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """AUROC over the deals of labels: their mean, and the spread over deals and questions together."""
        scores = {}
        shares = np.array_split(np.arange(len(self.weights)), len(predictions))
        for name, part in self.parts().items():
            ones = np.ones((1, int(part.sum())))
            values, draws = [], []
            for p, share in zip(predictions, shares, strict=True):
                ranking = Ranking.of(p[part])
                values.append(ranking.auroc(y[part], ones)[0])
                draws.append(ranking.auroc(y[part], self.weights[np.ix_(share, part)].astype(np.float64)))
            estimate = Estimate(float(np.mean(values)), *interval(np.concatenate(draws)))
            if np.isnan(estimate.value):
                estimate = Estimate(estimate.value, reason="one class")
            scores[name] = {"n": int(part.sum()), "auroc": _number(estimate)}
        return scores

    def _tags(self, y: np.ndarray, own: np.ndarray) -> dict[str, Any]:
        tags = {}
        for tag in sorted(set(self.tags) - {""}):
            part = self.tags == tag
            scored = score(own[part], y[part], self.weights[:, part], bins=self.bins)
            tags[str(tag)] = {
                "n": int(part.sum()),
                "accuracy": _number(scored.estimates()["accuracy"]),
                "mean_own_probability": float(own[part].mean()),
            }
        return tags


@dataclass(frozen=True)
class Judged:
    """One model's numbers, and what a comparison with another needs: scorer -> part -> scored, and labels."""

    numbers: dict[str, Any]
    scored: Mapping[str, Mapping[str, Scored]]
    correct: np.ndarray


def compare(before: Judged, after: Judged) -> dict[str, Any]:
    """`after` minus `before`, paired by question, each model judged by its own labels."""
    shared = [scorer for scorer in before.scored if scorer in after.scored]
    return {
        "flips": asdict(flips(before.correct, after.correct)),
        "scores": {
            scorer: {
                part: _numbers(differences(scored, after.scored[scorer][part]))
                for part, scored in before.scored[scorer].items()
            }
            for scorer in shared
        },
    }


def _advantages(scored: Mapping[str, Mapping[str, Scored]]) -> dict[str, Any]:
    """AUROC of the probe minus that of own probability and of text, paired, on the same labels."""
    if PROBE not in scored:
        return {}
    return {
        f"{PROBE}_over_{other}": {
            part: _number(differences(found, scored[PROBE][part])["auroc"]) for part, found in scored[other].items()
        }
        for other in (OWN, TEXT)
    }


def _part_name(subject: str) -> str:
    """Subjects that are called like a part of all questions are told apart from it."""
    return f"{subject} (subject)" if subject in (ALL, ANSWERED) else subject


def _selected(chosen: PlaceResult) -> dict[str, Any]:
    return {"position": chosen.position, "layer": chosen.layer, "C": chosen.C}


def _numbers(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: _number(estimate) for metric, estimate in found.items()}


def _number(estimate: Estimate) -> dict[str, Any]:
    """As JSON: NaN becomes null, with the reason."""
    values = {key: getattr(estimate, key) for key in ("value", "low", "high")}
    number: dict[str, Any] = {key: None if np.isnan(value) else value for key, value in values.items()}
    return number | ({"reason": estimate.reason} if estimate.reason else {})
