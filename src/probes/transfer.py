"""Probes tried where they were not trained: on a group of questions left out, and from one group on all others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from src.errors import ScoringError
from src.probes.origin import Family
from src.probes.part import Part
from src.probes.states import MIN_ROWS
from src.probes.sweep import Place, PlaceResult, Sweep, can_be_fitted, sweep_places, to_choose_with

Chooser = Callable[[Part, Part], tuple[Part, Part | None]]


def on_val(train: Part, val: Part) -> tuple[Part, Part | None]:
    """Fit to train and choose on val, however few questions there are: a quarter of the time of cross-validation."""
    return train, val


@dataclass(frozen=True)
class Grouped:
    """Rows, and the number (n,) of the group that each belongs to, such as a subject or a data set."""

    part: Part
    groups: np.ndarray

    def only(self, group: int) -> Part:
        """The rows of this group."""
        return self.part.only(np.flatnonzero(self.groups == group))

    def without(self, group: int) -> Part:
        """The rows of all other groups."""
        return self.part.only(np.flatnonzero(self.groups != group))


@dataclass(frozen=True)
class Elsewhere:
    """What probes say of the test rows that never saw a question of their group, or questions of one group alone.

    Attributes:
        left_out: (n_test,) of each row, what a probe says that was fitted, and whose place, family and C were chosen,
            without the row's group; NaN where there is none.
        alone: (groups, n_test) what the probe of each group alone says of all rows, NaN where there is none; (0, ...)
            where none was asked for.
        chosen: of the probe without each group, which candidate it is; None where there is none.
        missing: why there is no probe without each group, or "".
        missing_alone: why there is no probe of each group alone, or "".
    """

    left_out: np.ndarray
    alone: np.ndarray
    chosen: tuple[PlaceResult | None, ...]
    missing: tuple[str, ...]
    missing_alone: tuple[str, ...]


def try_elsewhere(
    places: Sequence[Place], train: Grouped, val: Grouped, test: Grouped, *, groups: int,
    families: Sequence[Family] = ("logistic",), alone: Chooser | None = to_choose_with, progress: str = "elsewhere",
) -> Elsewhere:  # fmt: skip
    """Make the whole choice anew without each group, and of each group alone.

    Args:
        places: what the states are of.
        train: rows to fit to.
        val: rows to choose with; of few questions, train and val together by cross-validation (`to_choose_with`).
        test: rows that are only predicted.
        groups: how many there are, numbered from 0.
        families: of the probes.
        alone: with what a probe of each group alone is chosen: as all others are, or `on_val`; None: none is trained.
        progress: name of the bars.
    """

    def fitted(pick: Callable[[Grouped, int], Part], group: int, chooser: Chooser) -> Sweep | str:
        to_fit, to_choose = chooser(pick(train, group), pick(val, group))
        if reason := _why_not(to_fit, to_choose):
            return reason
        try:
            label = f"{progress}, {group + 1} of {groups}"
            return sweep_places(places, to_fit, to_choose, families=families, progress=label)
        except ScoringError as error:  # such as a probe that ranks its own training rows the wrong way round
            return str(error)

    of_one = [fitted(Grouped.only, group, alone) for group in range(groups)] if alone else []
    if groups == 2 and alone is to_choose_with:
        without = of_one[::-1]  # to leave one out is to train on the other alone
    else:
        without = [fitted(Grouped.without, group, to_choose_with) for group in range(groups)]
    left_out = np.full(test.groups.size, np.nan)
    for group, sweep in enumerate(without):
        rows = np.flatnonzero(test.groups == group)
        if isinstance(sweep, Sweep) and rows.size:
            left_out[rows] = sweep.predict(test.part.only(rows))
    by_one = np.full((len(of_one), test.groups.size), np.nan)
    for said, sweep in zip(by_one, of_one, strict=True):
        if isinstance(sweep, Sweep):
            said[:] = sweep.predict(test.part)
    return Elsewhere(
        left_out=left_out,
        alone=by_one,
        chosen=tuple(sweep.chosen if isinstance(sweep, Sweep) else None for sweep in without),
        missing=tuple("" if isinstance(sweep, Sweep) else sweep for sweep in without),
        missing_alone=tuple("" if isinstance(sweep, Sweep) else sweep for sweep in of_one),
    )


def _why_not(train: Part, val: Part | None) -> str:
    """Why nothing can be fitted, or ""."""
    if len(train) < MIN_ROWS:
        return f"too few questions: {len(train)} to train on"
    if train.labels.min() == train.labels.max():
        return f"one class: every training answer is {'right' if train.labels[0] else 'wrong'}"
    return "" if can_be_fitted(train, val) else "too few different questions to choose with"
