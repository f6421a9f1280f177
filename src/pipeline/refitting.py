"""The yardstick of a check: a probe of the new model's own states and labels, and what fewer labels would have done."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from src.evaluation.resampling import metric_draws
from src.probes.linear import LinearProbe
from src.probes.states import MIN_ROWS
from src.probes.sweep import CROSS_VALIDATED_BELOW

SHARES = (0.125, 0.25, 0.5)
REPEATS = 5


@dataclass(frozen=True)
class Marked:
    """States (n, d) of one layer and position, labels (n,) and the question of each row (n,), by purpose."""

    states: np.ndarray
    labels: np.ndarray
    questions: np.ndarray

    def only(self, rows: np.ndarray) -> "Marked":
        """These rows."""
        return Marked(self.states[rows], self.labels[rows], self.questions[rows])

    def share(self, share: float, rng: np.random.Generator) -> "Marked":
        """The rows of so many of its questions, drawn at random."""
        questions = rng.permutation(np.unique(self.questions))
        kept = questions[: max(round(share * questions.size), 1)]
        return self.only(np.flatnonzero(np.isin(self.questions, kept)))


@dataclass(frozen=True)
class Step:
    """Refits to so many labels: their mean AUROC and NLL (nats) on the test questions."""

    labels: int
    auroc: float
    nll: float


def why_no_refit(train: Marked, val: Marked) -> str:
    """Why no probe can be fitted to these labels, or ""."""
    if not val.labels.size or train.labels.size < MIN_ROWS:
        return f"too few questions: {train.labels.size} to train on, {val.labels.size} to choose with"
    if train.labels.min() == train.labels.max():
        return f"one class: every training answer is {'right' if train.labels[0] else 'wrong'}"
    return ""


def refit(train: Marked, val: Marked) -> LinearProbe:
    """A probe of these states, chosen as a run chooses: on val, or of few questions over folds, and fitted to all.

    Raises ScoringError where `why_no_refit` says why.
    """
    probe = LinearProbe(train.states.shape[1])
    if sum(np.unique(part.questions).size for part in (train, val)) >= CROSS_VALIDATED_BELOW:
        return probe.fit(train.states, train.labels, val.states, val.labels)
    states, labels, questions = (
        np.concatenate([getattr(part, name) for part in (train, val)]) for name in ("states", "labels", "questions")
    )
    return probe.fit(states, labels, groups=questions)


def learning_curve(train: Marked, val: Marked, test: Marked, *, seed: int, whole: LinearProbe) -> tuple[Step, ...]:
    """How refits to an eighth, a quarter and a half of the labelled questions do, and `whole`, the refit to all, last.

    A size is left out where none of its five draws could be fitted.
    """
    rng = np.random.default_rng(seed)
    steps = []
    for share in tqdm(SHARES, desc="refits to fewer labels", unit="size", disable=None, leave=False):
        found = list(_refits(train, val, share, rng))
        if found:
            steps.append(_step([labels for labels, _ in found], [probe for _, probe in found], test))
    return (*steps, _step([train.labels.size + val.labels.size], [whole], test))


def _refits(train: Marked, val: Marked, share: float, rng: np.random.Generator) -> Iterator[tuple[int, LinearProbe]]:
    for _ in range(REPEATS):
        fitted, chosen_on = train.share(share, rng), val.share(share, rng)
        if not why_no_refit(fitted, chosen_on):
            yield fitted.labels.size + chosen_on.labels.size, refit(fitted, chosen_on)


def _step(labels: list[int], probes: list[LinearProbe], test: Marked) -> Step:
    once = np.ones((1, test.labels.size))
    draws = [metric_draws(probe.predict(test.states), test.labels, once) for probe in probes]
    auroc, nll = (float(np.mean([draw[metric][0] for draw in draws])) for metric in ("auroc", "nll"))
    return Step(round(float(np.mean(labels))), auroc, nll)
