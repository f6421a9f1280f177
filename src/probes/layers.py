"""All layers' probes at once on one device, with the grid, the stopping rules and the answers of `fit_path`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from src.errors import ScoringError
from src.probes.batch import Batch
from src.probes.choice import Choice
from src.probes.descent import ASKED, MEMORY
from src.probes.on_device import Layer
from src.probes.scaling import Scaling
from src.probes.solver import HALF_DECADES, ON_THE_WAY, Fit
from src.probes.states import Sample


@dataclass(frozen=True)
class LayerFit:
    """One layer's regression on features that its scaling standardised."""

    fit: Fit
    scaling: Scaling


@dataclass(frozen=True)
class _Rules:
    grid: tuple[float, ...]
    whole: bool
    tolerance: float
    max_iter: int


def fit_layers(
    states: Any, y: Any, states_val: Any, y_val: Any, *, device: Any, names: Sequence[str] | None = None,
    grid: tuple[float, ...] = HALF_DECADES, sample_weight: Any = None, tolerance: float = 1e-6,
    whole: bool = False, max_iter: int = 1000, together: int | None = None, rows: Any = None, rows_val: Any = None
) -> list[LayerFit]:  # fmt: skip
    """What `LinearProbe.fit` finds at each place: C the same, validation loss within 1e-6, P within 1e-4.

    Args:
        states, states_val: (n, places, d) raw states of the rows to fit to, and of those to choose C with.
        y, y_val: targets within [0, 1], of the rows that count.
        device: of torch.
        names: (places,) what messages call the places; None: place 0, place 1, ...
        grid, sample_weight, tolerance, whole, max_iter: as for `fit_path`.
        together: places at a time; None: as many as the GPU's free memory holds, and all of them on a CPU.
        rows, rows_val: (n,) which rows of the states count, of which a copy is made a place at a time; None: all.

    Raises:
        ScoringError: as for `LinearProbe.fit`, with the place's name; an empty grid.
    """
    if not grid:
        raise ScoringError("The grid of C is empty.")
    names = [f"place {i}" for i in range(states.shape[1])] if names is None else names
    step = together or _room(torch.device(device), states, len(y), len(y_val))
    rules = _Rules(grid, whole, tolerance, max_iter)
    fits: list[LayerFit] = []
    for start in range(0, len(names), step):
        layers = []
        for i in range(start, min(start + step, len(names))):
            try:
                X, X_val = _place(states, rows, i), _place(states_val, rows_val, i)
                train = Sample.of(X, y, sample_weight, "X", states.shape[2])
                val = Sample.of(X_val, y_val, None, "X_val", states.shape[2])
                layers.append(Layer.on(torch.device(device), train, val))
            except ScoringError as error:
                raise ScoringError(f"{names[i]}: {error}") from error
        fits += _fitted(layers, rules)
    return fits


def _place(states: Any, rows: Any, i: int) -> Any:
    return states[:, i] if rows is None else states[rows, i]


def _room(device: torch.device, states: Any, n: int, rows_to_choose_with: int) -> int:
    """How many places the free memory holds, a fifth of it to spare."""
    _, places, d = states.shape
    if device.type != "cuda":
        return places
    numbers = (n + rows_to_choose_with + 8 * MEMORY) * d + 32 * n  # rows; steps, changes and what is made of them
    size = 8 if "64" in str(states.dtype) else 4
    return max(int(0.8 * torch.cuda.mem_get_info(device)[0] / (size * numbers)), 1)


class _Course:
    """Where one layer stands on its path: at which C, after how many steps, and what was best."""

    def __init__(self, layer: Layer, rules: _Rules):
        self.steps, self.ended = 0, False
        self.best: tuple[float, Tensor] | None = None
        choice = Choice(None if rules.whole else float(layer.weight.sum()))
        self._layer, self._choice, self._grid, self._at = layer, choice, rules.grid, 0

    @property
    def C(self) -> float:
        """The C that is descended to."""
        return self._grid[self._at]

    def done(self, v: Tensor, there: bool) -> bool:
        """Whether this C is done with, because it is reached or hopeless; the next one is taken then."""
        if not there and not (self.steps % ASKED == ASKED - 1 and self._choice.hopeless(self._layer.loss(v))):
            return False
        loss = self._layer.loss(v)
        if self.best is None or loss < self._choice.best:
            self.best = (self.C, v.clone())
        self.steps, self._at = 0, self._at + 1
        self.ended = self._choice.ends(loss) or self._at == len(self._grid)
        return True


def _fitted(layers: list[Layer], rules: _Rules) -> list[LayerFit]:
    total = float(layers[0].weight.sum())
    batch = Batch.start([layer.X for layer in layers], layers[0].y, layers[0].weight / total)
    best = _walked(batch, [_Course(layer, rules) for layer in layers], total, rules.max_iter)
    batch = replace(batch, v=torch.stack([v for _, v in best])).exact()
    penalty = _penalties([C for C, _ in best], total, batch)
    batch, converged = _polished(batch, penalty, rules)
    return [
        LayerFit(Fit(v[:-1].cpu().numpy(), float(v[-1]), C, layer.loss(v), here), layer.scaling)
        for layer, v, (C, _), here in zip(layers, batch.v, best, converged, strict=True)
    ]


def _walked(batch: Batch, courses: list[_Course], total: float, max_iter: int) -> list[tuple[float, Tensor]]:
    """Each layer's best C and its weights there. A layer whose path has ended leaves the batch."""
    going = courses
    while going:
        penalty = _penalties([course.C for course in going], total, batch)
        there = (batch.steepness(penalty) <= ON_THE_WAY).tolist()
        done = [
            course.done(v, here or course.steps == max_iter)
            for course, v, here in zip(going, batch.v, there, strict=True)
        ]
        if any(done):  # their penalties are others now
            left = [i for i, course in enumerate(going) if not course.ended]
            batch, going = batch.only(left), [going[i] for i in left]
            continue
        batch = batch.stepped(penalty)
        for course in going:
            course.steps += 1
    return [course.best for course in courses if course.best is not None]


def _polished(batch: Batch, penalty: Tensor, rules: _Rules) -> tuple[Batch, list[bool]]:
    """As `descent.polish`, until every layer is there or comes no nearer."""
    known = torch.full_like(penalty, torch.inf)
    while True:
        near = (batch.steepness(penalty) * 1e-3).clamp(min=rules.tolerance / 2)
        steps = 0
        while steps < rules.max_iter and bool((moving := batch.steepness(penalty) > near).any()):
            batch, steps = batch.stepped(penalty, moving), steps + 1
        batch = batch.exact()
        size = batch.steepness(penalty)
        if bool(((size <= rules.tolerance) | (size > known / 2)).all()) or steps == rules.max_iter:
            return batch, (size <= rules.tolerance).tolist()
        known = size


def _penalties(grid: Sequence[float], total: float, batch: Batch) -> Tensor:
    """(l,) the ridges that these C's are."""
    return 1 / (torch.tensor(grid, dtype=torch.float64, device=batch.v.device) * total)
