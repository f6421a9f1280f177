"""Stage 4: everything that predicts whether an answer is right, fitted on train and val, applied to test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from src.data.example import Example
from src.data.splits import Splits
from src.errors import ConfigError
from src.evaluation.recalibration import fit_platt
from src.pipeline.asked import Asked
from src.probes.baselines import Surface, fit_signal, fit_surface, subject_means
from src.probes.encoded import Encoded, Items
from src.probes.origin import Family
from src.probes.part import Part
from src.probes.refits import half_predictions, out_of_fold_predictions, shuffled_predictions
from src.probes.states import MIN_ROWS
from src.probes.sweep import Sweep, can_be_fitted, sweep_places, to_choose_with
from src.probes.text_only import fit_text_only

PROBE, OWN, TEXT, SURFACE, SUBJECT = "probe", "own_probability", "text_only", "surface", "subject_mean"
RECALIBRATED = "own_recalibrated"


@dataclass(frozen=True)
class Probed:
    """Confidences on the questions that no scorer was fitted on.

    Attributes:
        splits: the rows of each split among all questions.
        test: scorer -> (n_test,): "own_probability", and where they could be fitted "own_recalibrated" (on val),
            "probe", "text_only", "surface" (letter, length, subject), "subject_mean" and the signals of `Asked`.
        val, calibration: scorer -> (n_val,) and (n_calibration,), of the first three. Val has chosen the probe's layer
            and C or, of few questions (`to_choose_with`), is trained on too: then these are said by fits that were
            made without these very questions, NaN where there is none. Calibration has chosen nothing.
        train_own, train_probe: (n_train,) the own probability, and what probes say that were trained without these very
            questions; empty without a probe.
        shuffled: (shuffles, n_test) of probes trained on shuffled labels; empty without a probe.
        halves: (repeats, n_test) of probes trained on halves of the questions; empty without a probe.
        sweep: the candidates and the chosen one; None without a probe.
        missing: why there is no probe, or "".
    """

    splits: Splits
    test: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    calibration: dict[str, np.ndarray]
    train_own: np.ndarray
    train_probe: np.ndarray
    shuffled: np.ndarray
    halves: np.ndarray
    sweep: Sweep | None
    missing: str

    def everywhere(self, scorer: str) -> np.ndarray:
        """(n,) of all questions, NaN where the scorer was fitted or there is none."""
        confidences = np.full(self.splits.groups.size, np.nan)
        for split in ("val", "calibration", "test"):
            found = getattr(self, split).get(scorer)
            if found is not None:
                confidences[getattr(self.splits, split)] = found
        return confidences


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


def fit_scorers(
    asked: Asked,
    examples: tuple[Example, ...],
    splits: Splits,
    *,
    seed: int,
    repeats: int,
    label: str,
    families: Sequence[Family] = ("logistic",),
) -> Probed:
    """Fit probe, baselines and controls for one model; all rows but those of train and val are only predicted.

    Every baseline is fitted to the rows of the probe: those of train, or of few questions those of train and val.

    Args:
        asked: what the model said.
        examples: all questions.
        splits: their rows.
        seed: of the shuffled labels and the halves.
        repeats: probes trained on halves.
        label: of the model, shown while it works.
        families: of the probes.
    """

    def own(rows: np.ndarray) -> np.ndarray:
        return asked.confidence[rows]

    first, second, tested = (part_of(asked, rows, splits.groups) for rows in (splits.train, splits.val, splits.test))
    if missing := _why_not(first, second):
        test, val, calibration = _predicted({OWN: own}, splits)
        none = np.empty((0, splits.test.size))
        test |= _recalibrated(asked, splits)
        return Probed(splits, test, val, calibration, np.empty(0), np.empty(0), none, none, None, missing)
    train, val = to_choose_with(first, second)
    sweep = sweep_places(asked.places, train, val, families=families, progress=f"{label}: probes")
    fitting = _Fitting.of(splits, train, val)
    text = fitting.fitted(fit_text_only, lambda rows: _texts(examples, rows))

    def probe(rows: np.ndarray) -> np.ndarray:
        return sweep.predict(part_of(asked, rows, splits.groups))

    def text_only(rows: np.ndarray) -> np.ndarray:
        return text.predict(_texts(examples, rows))

    test, val_said, calibration = _predicted({PROBE: probe, OWN: own, TEXT: text_only}, splits)
    place, family = sweep.place, sweep.chosen.family
    if sweep.out_of_fold is not None and text.out_of_fold is not None:
        train_probe, val_said[PROBE] = sweep.out_of_fold[: len(first)], sweep.out_of_fold[len(first) :]
        val_said[TEXT] = text.out_of_fold[len(first) :]
    else:
        train_probe = out_of_fold_predictions(first, second, place, seed=seed, family=family)
    return Probed(
        splits=splits,
        test=test | _recalibrated(asked, splits) | _baselines(asked, examples, splits.test, fitting),
        val=val_said,
        calibration=calibration,
        train_own=own(splits.train),
        train_probe=train_probe,
        shuffled=shuffled_predictions(train, val, tested, place, seed=seed, family=family),
        halves=half_predictions(train, val, tested, place, seed=seed, repeats=repeats, family=family),
        sweep=sweep,
        missing="",
    )


def part_of(asked: Asked, rows: np.ndarray, groups: np.ndarray) -> Part:
    """These rows of what a model was asked; `groups` (n,) are the questions' numbers, of all rows."""
    return Part(asked.hidden, asked.correct[rows], groups[rows], rows, asked.tokens)


def _predicted(
    scorers: Mapping[str, Callable[[np.ndarray], np.ndarray]], splits: Splits
) -> list[dict[str, np.ndarray]]:
    """What each says on test, val and calibration; nothing where a split is empty."""
    return [
        {name: scorer(rows) if rows.size else np.empty(0) for name, scorer in scorers.items()}
        for rows in (splits.test, splits.val, splits.calibration)
    ]


def _recalibrated(asked: Asked, splits: Splits) -> dict[str, np.ndarray]:
    """The own probability after Platt scaling on val: how much of its miscalibration is a matter of scale."""
    right = asked.correct[splits.val]
    if not right.size or right.min() == right.max():
        return {}
    return {RECALIBRATED: fit_platt(asked.confidence[splits.val], right)(asked.confidence[splits.test])}


@dataclass(frozen=True)
class _Fitting:
    """Which questions a baseline is fitted to: those of the probe.

    Attributes:
        rows, rows_val: among all questions; val None: C is chosen in the probe's folds.
        train, val: their labels, and the numbers of the questions.
    """

    rows: np.ndarray
    rows_val: np.ndarray | None
    train: Part
    val: Part | None

    @classmethod
    def of(cls, splits: Splits, train: Part, val: Part | None) -> "_Fitting":
        if val is None:
            return cls(np.concatenate([splits.train, splits.val]), None, train, None)
        return cls(splits.train, splits.val, train, val)

    def fitted(self, fit: Callable[..., Encoded], items: Callable[[np.ndarray], Items]) -> Encoded:
        """`fit` on the items of these rows."""
        if self.val is None or self.rows_val is None:
            return fit(items(self.rows), self.train.labels, groups=self.train.questions)
        return fit(items(self.rows), self.train.labels, items(self.rows_val), self.val.labels)


def _baselines(
    asked: Asked, examples: tuple[Example, ...], test: np.ndarray, fitting: _Fitting
) -> dict[str, np.ndarray]:
    """Each turned into P(correct) on the rows of the probe, so that calibration compares information and not scales."""

    def surface(rows: np.ndarray) -> list[Surface]:
        with_letter = "margin" in asked.signals
        return [(asked.answers[r] if with_letter else "", len(examples[r].prompt), examples[r].subject) for r in rows]

    def subjects(rows: np.ndarray) -> list[str]:
        return [examples[row].subject for row in rows]

    found = {
        name: fitting.fitted(fit_signal, partial(np.take, signal)).predict(signal[test])
        for name, signal in asked.signals.items()
        if not np.isnan(signal[fitting.rows]).all()
    }
    found[SURFACE] = fitting.fitted(fit_surface, surface).predict(surface(test))
    if len({example.subject for example in examples}) > 1:
        found[SUBJECT] = subject_means(subjects(fitting.rows), fitting.train.labels, subjects(test))
    return found


def _why_not(train: Part, val: Part) -> str:
    if not len(val) or len(train) < MIN_ROWS:
        return f"too few questions: {len(train)} to train on, {len(val)} to choose with"
    if train.labels.min() == train.labels.max():
        return f"one class: every training answer is {'right' if train.labels[0] else 'wrong'}"
    if not can_be_fitted(*to_choose_with(train, val)):
        return f"too few different questions: {np.unique(train.questions).size} to train on"
    return ""


def _texts(examples: tuple[Example, ...], rows: np.ndarray) -> list[str]:
    """The question and its choices, as the model sees them, without description and solved examples."""
    return ["\n".join([examples[row].question, *examples[row].choices]) for row in rows]
