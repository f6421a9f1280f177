"""Stage 4: everything that predicts whether an answer is right, fitted on train and val, applied to test."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from src.data.example import Example
from src.data.splits import Splits
from src.errors import ConfigError
from src.pipeline.asked import Asked
from src.probes.baselines import SurfaceAssessor, signal_confidence, subject_means
from src.probes.sweep import Part, Sweep, shuffled_predictions, sweep_places
from src.probes.text_only import TextOnlyAssessor

PROBE, OWN, TEXT, SURFACE, SUBJECT = "probe", "own_probability", "text_only", "surface", "subject_mean"


@dataclass(frozen=True)
class Probed:
    """Confidences on the test questions.

    Attributes:
        rows: (n_test,) their places among all questions.
        confidences: scorer -> (n_test,): "own_probability", and where they could be fitted "probe", "text_only",
            "surface" (letter, length, subject), "subject_mean" and the signals of `Asked`.
        shuffled: (shuffles, n_test) of probes trained on shuffled labels; empty without a probe.
        sweep: the candidates and the chosen one; None without a probe.
        missing: why there is no probe, or "".
    """

    rows: np.ndarray
    confidences: dict[str, np.ndarray]
    shuffled: np.ndarray
    sweep: Sweep | None
    missing: str


def answered_splits(splits: Splits, asked: Mapping[str, Asked]) -> dict[str, Splits]:
    """For each model, the splits without the questions whose answers could not be read.

    Each model trains on what it answered itself; test holds what every model answered, so that they can be compared.

    Raises:
        ConfigError: no test question is left.
    """
    everyone = np.logical_and.reduce([one.answered for one in asked.values()])
    test = splits.test[everyone[splits.test]]
    if not test.size:
        raise ConfigError(
            "data.unparsed is drop, and no test question was answered in a way that could be read. Set it to wrong, or "
            "allow longer answers (data.max_new_tokens)."
        )

    def of(one: Asked) -> Splits:
        train, val, calibration = (rows[one.answered[rows]] for rows in (splits.train, splits.val, splits.calibration))
        return replace(splits, train=train, val=val, calibration=calibration, test=test)

    return {name: of(one) for name, one in asked.items()}


def fit_scorers(asked: Asked, examples: tuple[Example, ...], splits: Splits, *, seed: int, label: str) -> Probed:
    """Fit probe, text-only assessor and control for one model; the test rows are only predicted."""
    own = {OWN: asked.confidence[splits.test]}
    if missing := _why_not(asked.correct, splits):
        return Probed(splits.test, own, np.empty((0, splits.test.size)), None, missing)
    train, val = (Part(asked.hidden[rows], asked.correct[rows]) for rows in (splits.train, splits.val))
    sweep = sweep_places(asked.places, train, val, progress=f"{label}: probes")
    test = asked.hidden[splits.test]
    text = TextOnlyAssessor().fit(
        _texts(examples, splits.train), train.labels, _texts(examples, splits.val), val.labels
    )
    confidences = {
        PROBE: sweep.probe.predict(test[:, sweep.best]),
        **own,
        TEXT: text.predict(_texts(examples, splits.test)),
        **_baselines(asked, examples, splits, train.labels, val.labels),
    }
    return Probed(splits.test, confidences, shuffled_predictions(train, val, test, sweep.best, seed=seed), sweep, "")


def _baselines(
    asked: Asked, examples: tuple[Example, ...], splits: Splits, y: np.ndarray, y_val: np.ndarray
) -> dict[str, np.ndarray]:
    """Each turned into P(correct) on train and val, so that calibration compares information and not scales."""

    def surface(rows: np.ndarray) -> list[tuple[str, int, str]]:
        with_letter = "margin" in asked.signals
        return [(asked.answers[r] if with_letter else "", len(examples[r].prompt), examples[r].subject) for r in rows]

    def subjects(rows: np.ndarray) -> list[str]:
        return [examples[row].subject for row in rows]

    found = {
        name: signal_confidence(signal[splits.train], y, signal[splits.val], y_val, signal[splits.test])
        for name, signal in asked.signals.items()
        if not np.isnan(signal[splits.train]).all()
    }
    assessor = SurfaceAssessor().fit(surface(splits.train), y, surface(splits.val), y_val)
    found[SURFACE] = assessor.predict(surface(splits.test))
    if len({example.subject for example in examples}) > 1:
        found[SUBJECT] = subject_means(subjects(splits.train), y, subjects(splits.test))
    return found


def _why_not(correct: np.ndarray, splits: Splits) -> str:
    train = correct[splits.train]
    if not splits.val.size or train.size < 10:
        return f"too few questions: {train.size} to train on, {splits.val.size} to choose with"
    if train.min() == train.max():
        return f"one class: every training answer is {'right' if train[0] else 'wrong'}"
    return ""


def _texts(examples: tuple[Example, ...], rows: np.ndarray) -> list[str]:
    """The question and its choices, as the model sees them, without description and solved examples."""
    return ["\n".join([examples[row].question, *examples[row].choices]) for row in rows]
