"""Stage 5: numbers with intervals, per model, per subject, and base against tuned. Test questions only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.config import EvaluationConfig
from src.data.example import Example
from src.evaluation.calibration import Ranking, reliability
from src.evaluation.comparison import Sample, differences, flips
from src.evaluation.intervals import Estimate, calibrated_null, estimates, interval, question_weights
from src.pipeline.asking import Asked
from src.pipeline.probing import OWN, PROBE, TEXT, Probed

ALL = "all"


@dataclass(frozen=True)
class Judge:
    """The test questions, and the bootstrap resamples that all comparisons share.

    Attributes:
        rows: (n_test,) their places among all questions.
        subjects: (n_test,) the subject of each.
        tags: (n_test,) the tag of each.
        weights: (resamples, n_test).
        bins: of ECE and reliability.
        seed: of the calibrated null.
    """

    rows: np.ndarray
    subjects: np.ndarray
    tags: np.ndarray
    weights: np.ndarray
    bins: int
    seed: int

    @classmethod
    def of(
        cls,
        examples: tuple[Example, ...],
        test: np.ndarray,
        groups: np.ndarray,
        config: EvaluationConfig,
        seed: int,
    ) -> "Judge":
        """Draw the resamples by question."""
        subjects = np.array([examples[row].subject for row in test])
        tags = np.array([examples[row].tag for row in test])
        weights = question_weights(groups[test], config.bootstrap, seed)
        return cls(test, subjects, tags, weights, config.bins, seed)

    def parts(self) -> dict[str, np.ndarray]:
        """All test rows, and those of each subject where there are several."""
        names = sorted(set(self.subjects))
        parts = {ALL: np.ones(len(self.rows), dtype=bool)}
        return parts | ({name: self.subjects == name for name in names} if len(names) > 1 else {})

    def variant(self, asked: Asked, probed: Probed) -> dict[str, Any]:
        """Every scorer on every part, for one model."""
        y = asked.correct[self.rows]
        scores = {name: self._scores(p, y) for name, p in probed.confidences.items()}
        if probed.sweep is not None:
            scores["shuffled_labels"] = self._shuffled(probed.shuffled, y)
        return {
            "accuracy": {name: _number(self._accuracy(y, part)) for name, part in self.parts().items()},
            "tags": self._tags(y, probed.confidences[OWN]),
            "scores": scores,
            "advantages": self._advantages(probed.confidences, y),
            "reliability": {
                name: [asdict(b) for b in reliability(p, y, self.bins)] for name, p in probed.confidences.items()
            },
            "layers": [asdict(layer) for layer in probed.sweep.layers] if probed.sweep else [],
            "selected": {"layer": probed.sweep.layer, "C": probed.sweep.probe.C_} if probed.sweep else None,
            "missing": probed.missing,
        }

    def _accuracy(self, y: np.ndarray, part: np.ndarray) -> Estimate:
        weights = self.weights[:, part].astype(np.float64)
        total = weights.sum(axis=1)
        draws = (weights @ y[part]) / np.where(total > 0, total, np.nan)
        return Estimate(float(y[part].mean()), *interval(draws))

    def _scores(self, p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        scores = {}
        for name, part in self.parts().items():
            found = estimates(p[part], y[part], self.weights[:, part], bins=self.bins)
            null = calibrated_null(p[part], bins=self.bins, seed=self.seed)
            scores[name] = {"n": int(part.sum())} | {
                metric: _number(estimate) for metric, estimate in found.items() if metric != "accuracy"
            }
            scores[name]["ece"] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
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

    def _advantages(self, confidences: Mapping[str, np.ndarray], y: np.ndarray) -> dict[str, Any]:
        """AUROC of the probe minus that of own probability and of text, paired, on the same labels."""
        if PROBE not in confidences:
            return {}
        return {
            f"{PROBE}_over_{other}": {
                name: self._differences(confidences[other], y, confidences[PROBE], y, part)["auroc"]
                for name, part in self.parts().items()
            }
            for other in (OWN, TEXT)
        }

    def compare(self, before: tuple[Asked, Probed], after: tuple[Asked, Probed]) -> dict[str, Any]:
        """Tuned minus base, paired by question, each model judged by its own labels."""
        y = [asked.correct[self.rows] for asked, _ in (before, after)]
        changed = flips(*y)
        shared = [name for name in before[1].confidences if name in after[1].confidences]
        return {
            "flips": asdict(changed),
            "scores": {
                scorer: {
                    name: self._differences(
                        before[1].confidences[scorer], y[0], after[1].confidences[scorer], y[1], part
                    )
                    for name, part in self.parts().items()
                }
                for scorer in shared
            },
        }

    def _differences(
        self,
        p_before: np.ndarray,
        y_before: np.ndarray,
        p_after: np.ndarray,
        y_after: np.ndarray,
        part: np.ndarray,
    ) -> dict[str, Any]:
        found = differences(
            Sample(p_before[part], y_before[part]),
            Sample(p_after[part], y_after[part]),
            self.weights[:, part],
            bins=self.bins,
        )
        return {metric: _number(estimate) for metric, estimate in found.items()}

    def _tags(self, y: np.ndarray, own: np.ndarray) -> dict[str, Any]:
        return {
            str(tag): {
                "n": int((self.tags == tag).sum()),
                "accuracy": _number(self._accuracy(y, self.tags == tag)),
                "mean_own_probability": float(own[self.tags == tag].mean()),
            }
            for tag in sorted(set(self.tags) - {""})
        }


def _number(estimate: Estimate) -> dict[str, Any]:
    """As JSON: NaN becomes null, with the reason."""
    values = {key: getattr(estimate, key) for key in ("value", "low", "high")}
    number: dict[str, Any] = {key: None if np.isnan(value) else value for key, value in values.items()}
    return number | ({"reason": estimate.reason} if estimate.reason else {})
