"""Probes tried where they were not trained: on a group of questions left out, and from one group on all others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from src.errors import ScoringError
from src.probes.part import Part
from src.probes.sweep import Family, Place, PlaceResult, Sweep, sweep_places


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
    places: Sequence[Place], train: Grouped, val: Grouped | None, test: Grouped, *, groups: int,
    families: Sequence[Family] = ("logistic",), each_alone: bool = True, progress: str = "probes elsewhere",
) -> Elsewhere:  # fmt: skip
    """Make the whole choice anew without each group, and of each group alone.

    Args:
        places: what the states are of.
        train: rows to fit to.
        val: rows to choose with; None: by cross-validation within train.
        test: rows that are only predicted.
        groups: how many there are, numbered from 0.
        families: of the probes.
        each_alone: whether to train on each group alone too.
        progress: name of the bars.
    """

    def fitted(pick: Callable[[Grouped, int], Part], group: int) -> Sweep | str:
        label = f"{progress}, {group + 1} of {groups}"
        try:
            chosen_on = None if val is None else pick(val, group)
            return sweep_places(places, pick(train, group), chosen_on, families=families, progress=label)
        except ScoringError as error:
            return str(error)

    # Of two groups, to leave one out is to train on the other alone.
    alone = [fitted(Grouped.only, group) for group in range(groups)] if each_alone else []
    without = alone[::-1] if alone and groups == 2 else [fitted(Grouped.without, group) for group in range(groups)]
    left_out = np.full(test.groups.size, np.nan)
    for group, sweep in enumerate(without):
        rows = np.flatnonzero(test.groups == group)
        if isinstance(sweep, Sweep) and rows.size:
            left_out[rows] = sweep.predict(test.part.only(rows))
    by_one = np.full((len(alone), test.groups.size), np.nan)
    for said, sweep in zip(by_one, alone, strict=True):
        if isinstance(sweep, Sweep):
            said[:] = sweep.predict(test.part)
    return Elsewhere(
        left_out=left_out,
        alone=by_one,
        chosen=tuple(sweep.chosen if isinstance(sweep, Sweep) else None for sweep in without),
        missing=tuple("" if isinstance(sweep, Sweep) else sweep for sweep in without),
        missing_alone=tuple("" if isinstance(sweep, Sweep) else sweep for sweep in alone),
    )
