"""The chosen probe fitted again: on shuffled labels, as a control; on halves, to see it vary; on folds, to judge it."""

import contextlib
from dataclasses import replace

import numpy as np
from tqdm.auto import tqdm

from src.errors import ScoringError
from src.probes.folds import FOLDS
from src.probes.origin import Family
from src.probes.part import Part
from src.probes.sweep import can_be_fitted, fitted

SHUFFLES = 20
_DEALS = 5  # tries for each


def shuffled_predictions(
    train: Part,
    val: Part | None,
    test: Part,
    place: int,
    *,
    seed: int,
    shuffles: int = SHUFFLES,
    family: Family = "logistic",
) -> np.ndarray:
    """What probes say that were trained on labels dealt out at random: (shuffles, n_test).

    A control: with no information in the labels, any AUROC but .5 on the true test labels would come from a
    leak. One deal alone is a poor control, since a random direction may happen to point the right way.

    A deal whose probe is refused is dealt anew: where there is nothing to learn, a nearly constant probe may rank its
    own training rows the wrong way round.
    """
    rng = np.random.default_rng(seed)
    predictions: list[np.ndarray] = []
    for _ in tqdm(range(_DEALS * shuffles), desc="shuffled labels", unit="deal", disable=None, leave=False):
        dealt = replace(train, labels=rng.permutation(train.labels))
        dealt_val = val and replace(val, labels=rng.permutation(val.labels))
        with contextlib.suppress(ScoringError):
            predictions.append(fitted(family, dealt, dealt_val, place).predict(test.at(place)))
        if len(predictions) == shuffles:
            return np.array(predictions)
    raise ScoringError(
        f"{len(predictions)} of {_DEALS * shuffles} probes of shuffled labels could be fitted: too few for a "
        "control. Ask more questions."
    )


def half_predictions(
    train: Part, val: Part | None, test: Part, place: int, *, seed: int, repeats: int, family: Family = "logistic"
) -> np.ndarray:
    """What probes say that were trained, and whose C was chosen, on random halves of the questions.

    The spread of a metric over them estimates how much it depends on which questions happened to be trained on: half
    the questions double the variance, and two halves share half of theirs (the delete-half jackknife, Shao and Wu 1989,
    Annals of Statistics 17). Splitting train and val anew, with nearly all questions in common, shows half of it.

    Args:
        train, val: as for `sweep_places`.
        test: rows of which only the states are looked at.
        place: which of the places.
        seed: of the halves.
        repeats: how many.
        family: of the probes.

    Returns:
        (repeats, n_test); fewer rows where a half was left with one class or too few rows, or its probe was refused.
    """
    rng = np.random.default_rng(seed)
    predictions = []
    for _ in tqdm(range(repeats), desc="halves", unit="probe", disable=None, leave=False):
        half, chosen_on = _half(train, rng), val and _half(val, rng)
        if not can_be_fitted(half, chosen_on):
            continue
        with contextlib.suppress(ScoringError):  # as with shuffled labels, where there is next to nothing to learn
            predictions.append(fitted(family, half, chosen_on, place).predict(test.at(place)))
    return np.array(predictions).reshape(-1, len(test))


def out_of_fold_predictions(
    train: Part, val: Part, place: int, *, seed: int, folds: int = FOLDS, family: Family = "logistic"
) -> np.ndarray:
    """What probes say of the training rows that were trained on the other folds: (n_train,).

    Folds are of whole questions; C is chosen on val each time. NaN where the other folds hold one class or too few
    rows, or their probe was refused.
    """
    questions, question = np.unique(train.questions, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(np.arange(questions.size) % folds)[question]
    predictions = np.full(len(train), np.nan)
    for number in tqdm(range(folds), desc="folds", unit="probe", disable=None, leave=False):
        others, here = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        rest, held_out = train.only(others), train.only(here)
        if not here.size or not can_be_fitted(rest, val):
            continue
        with contextlib.suppress(ScoringError):
            predictions[here] = fitted(family, rest, val, place).predict(held_out.at(place))
    return predictions


def _half(part: Part, rng: np.random.Generator) -> Part:
    """Half of the questions, all rows of each."""
    questions = np.unique(part.questions)
    kept = rng.permutation(questions)[: (questions.size + 1) // 2]
    return part.only(np.flatnonzero(np.isin(part.questions, kept)))
