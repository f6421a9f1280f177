"""Stage 5: numbers with intervals, per model and per subject. Test questions only; two models: `contrasting`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from src.config import EvaluationConfig
from src.data.example import Example
from src.data.splits import SPLITS
from src.evaluation.groups import auroc_variance, share_variance, shrink
from src.evaluation.intervals import Estimate, Scored, calibrated_null, interval, score, score_in_full
from src.evaluation.null import CALIBRATION
from src.evaluation.resampling import METRICS, Ranking, metric_draws, question_weights
from src.evaluation.shares import wilson
from src.pipeline.asked import Asked
from src.pipeline.deciding import promises
from src.pipeline.numbers import honest, number
from src.pipeline.picturing import examples_of, pictures
from src.pipeline.probing import OWN, PROBE, TEXT, Probed

ALL, ANSWERED = "all", "answered"
# The other baselines are judged on all questions only.
BY_SUBJECT = (PROBE, OWN, TEXT)


@dataclass(frozen=True)
class Judge:
    """The test questions, and the bootstrap resamples that all comparisons share.

    Attributes:
        examples: all questions.
        rows: (n_test,) the places of the test questions among them.
        groups: (n_test,) the question that each row asks, as a number.
        answered: (n_test,) True where every model gave an answer that was found.
        weights: (resamples, n_test).
        settings: of the evaluation.
        seed: of the calibrated null.
    """

    examples: tuple[Example, ...]
    rows: np.ndarray
    groups: np.ndarray
    answered: np.ndarray
    weights: np.ndarray
    settings: EvaluationConfig
    seed: int

    @classmethod
    def of(
        cls,
        examples: tuple[Example, ...],
        test: np.ndarray,
        groups: np.ndarray,
        asked: Iterable[Asked],
        settings: EvaluationConfig,
        seed: int,
    ) -> "Judge":
        """Draw the resamples by question."""
        answered = np.logical_and.reduce([one.answered[test] for one in asked])
        weights = question_weights(groups[test], settings.bootstrap, seed)
        return cls(examples, test, groups[test], answered, weights, settings, seed)

    @cached_property
    def subjects(self) -> np.ndarray:
        """(n_test,) the subject of each row."""
        return np.array([_part_name(self.examples[row].subject) for row in self.rows])

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """All test rows, those that every model answered where some did not, and each subject's of several."""
        parts = {ALL: np.ones(len(self.rows), dtype=bool)}
        if self.answered.any() and not self.answered.all():
            parts[ANSWERED] = self.answered
        return parts | {name: self.subjects == name for name in self.subject_names}

    @cached_property
    def subject_names(self) -> list[str]:
        """Of several subjects; nothing where there is one."""
        names = sorted(set(self.subjects))
        return names if len(names) > 1 else []

    def variant(self, asked: Asked, probed: Probed) -> "Judged":
        """Every scorer on every part, for one model."""
        y = asked.correct[self.rows]
        scored = {scorer: self._scored(scorer, p, y) for scorer, p in probed.test.items()}
        scores = {scorer: self._scores(scored[scorer], p, y) for scorer, p in probed.test.items()}
        if probed.sweep is not None:
            scores["shuffled_labels"] = self._shuffled(probed.shuffled, y)
            for metric, spread in self._training_sd(probed.halves, y).items():
                scores[PROBE][ALL][metric]["training_sd"] = spread
        shown = [scorer for scorer in BY_SUBJECT if scorer in probed.test]
        decided = [scorer for scorer in shown if scorer != TEXT]
        splits = probed.splits
        numbers = {
            "splits": {name: len(getattr(splits, name)) for name in SPLITS},
            "accuracy": self._accuracy(scored[OWN], y),
            "tags": self._tags(y, probed.test[OWN]),
            "scores": scores,
            "selective": {name: promises(probed, name, asked.correct, self.weights, self.settings) for name in decided},
            **pictures({name: probed.test[name] for name in shown}, y, self.settings.bins),
            "examples": {name: examples_of(self.examples, self.rows, asked, probed.test[name]) for name in decided},
            "layers": [asdict(result) for result in probed.sweep.results] if probed.sweep else [],
            "selected": _selected(probed),
            "missing": probed.missing,
        }
        return Judged(numbers, scored, y, probed, asked.correct)

    def _scored(self, scorer: str, p: np.ndarray, y: np.ndarray) -> dict[str, Scored]:
        bins, strata = self.settings.bins, self.subjects if self.subject_names else None
        if scorer not in BY_SUBJECT:
            return {ALL: score(p, y, self.weights, bins=bins)}
        parts = {
            name: score(p[part], y[part], self.weights[:, part], bins=bins)
            for name, part in self.parts.items()
            if name != ALL
        }
        return {ALL: score_in_full(p, y, self.weights, bins=bins, strata=strata)} | parts

    def _scores(self, scored: Mapping[str, Scored], p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        scores = {}
        for name, found in scored.items():
            part = self.parts[name]
            numbers = {metric: number(honest(estimate)) for metric, estimate in found.estimates().items()}
            del numbers["accuracy"]  # the model's, not the scorer's
            metrics = [metric for metric in CALIBRATION if metric in numbers]
            nulls = calibrated_null(p[part], metrics=metrics, bins=self.settings.bins, seed=self.seed)
            for metric, null in nulls.items():
                numbers[metric] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
            scores[name] = {"n": int(part.sum())} | numbers
        for name, shrunk in self._shrunk_aurocs(scored, y).items():
            scores[name]["auroc"]["shrunk"] = shrunk
        return scores

    def _accuracy(self, scored: Mapping[str, Scored], y: np.ndarray) -> dict[str, Any]:
        numbers = {}
        for name, found in scored.items():
            n = int(self.parts[name].sum())
            numbers[name] = _share(found.estimates()["accuracy"], n) | {"n": n}
        n = np.array([numbers[name]["n"] for name in self.subject_names])
        values = np.array([numbers[name]["value"] for name in self.subject_names])
        overall = (y.sum() + 0.5) / (y.size + 1)  # all right is no certainty
        shrunk = shrink(values, share_variance(float(overall), n)) if n.size else []
        for name, estimate in zip(self.subject_names, shrunk, strict=True):
            numbers[name]["shrunk"] = number(estimate)
        return numbers

    def _shrunk_aurocs(self, scored: Mapping[str, Scored], y: np.ndarray) -> dict[str, dict[str, Any]]:
        names = [name for name in self.subject_names if name in scored]
        overall = scored[ALL].values.get("auroc_within", float("nan"))
        if not names or np.isnan(overall):
            return {}
        right, wrong = (np.array([(y[self.parts[name]] == side).sum() for name in names]) for side in (1, 0))
        values = np.array([scored[name].values["auroc"] for name in names])
        shrunk = shrink(values, auroc_variance(overall, right, wrong))
        return {name: number(estimate) for name, estimate in zip(names, shrunk, strict=True)}

    def _training_sd(self, halves: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
        """Over probes trained on halves: the spread of each metric; None where fewer than two could be trained."""
        once = np.ones((1, y.size))
        draws = [metric_draws(p, y, once, bins=self.settings.bins) for p in halves]
        return {
            metric: float(np.std([draw[metric][0] for draw in draws], ddof=1)) if len(draws) > 1 else None
            for metric in METRICS
            if metric != "accuracy"
        }

    def _shuffled(self, predictions: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """AUROC over the deals of labels: their mean, and the spread over deals and questions together."""
        scores = {}
        shares = np.array_split(np.arange(len(self.weights)), len(predictions))
        for name, part in self.parts.items():
            ones = np.ones((1, int(part.sum())))
            values, draws = [], []
            for p, share in zip(predictions, shares, strict=True):
                ranking = Ranking.of(p[part])
                values.append(ranking.auroc(y[part], ones)[0])
                draws.append(ranking.auroc(y[part], self.weights[np.ix_(share, part)].astype(np.float64)))
            estimate = honest(Estimate(float(np.mean(values)), *interval(np.concatenate(draws))))
            if np.isnan(estimate.value):
                estimate = Estimate(estimate.value, reason="one class")
            scores[name] = {"n": int(part.sum()), "auroc": number(estimate)}
        return scores

    def _tags(self, y: np.ndarray, own: np.ndarray) -> dict[str, Any]:
        every = np.array([self.examples[row].tag for row in self.rows])
        tags = {}
        for tag in sorted(set(every) - {""}):
            part = every == tag
            scored = score(own[part], y[part], self.weights[:, part], bins=self.settings.bins)
            tags[str(tag)] = {
                "n": int(part.sum()),
                "accuracy": _share(scored.estimates()["accuracy"], int(part.sum())),
                "mean_own_probability": float(own[part].mean()),
            }
        return tags


@dataclass(frozen=True)
class Judged:
    """One model's numbers, and what a comparison needs.

    Attributes:
        numbers: for results.json.
        scored: scorer -> part -> its scores.
        correct: (n_test,) labels.
        probed: the confidences.
        correct_everywhere: (n,) labels of all questions.
    """

    numbers: dict[str, Any]
    scored: Mapping[str, Mapping[str, Scored]]
    correct: np.ndarray
    probed: Probed
    correct_everywhere: np.ndarray


def _share(estimate: Estimate, n: int) -> dict[str, Any]:
    """Where all of n are right or all wrong, resamples show no spread: Wilson's interval."""
    known = estimate.low < estimate.high
    return number(estimate if known else Estimate(estimate.value, *wilson(estimate.value * n, n)))


def _part_name(subject: str) -> str:
    """Subjects that are called like a part of all questions are told apart from it."""
    return f"{subject} (subject)" if subject in (ALL, ANSWERED) else subject


def _selected(probed: Probed) -> dict[str, Any] | None:
    if probed.sweep is None:
        return None
    chosen = probed.sweep.chosen
    found = {key: getattr(chosen, key) for key in ("position", "layer", "family", "C")}
    by = "validation" if probed.sweep.out_of_fold is None else "cross-validation"
    return found | {"candidates": len(probed.sweep.results), "chosen_by": by}
