"""Where a model knows: a probe of each family at each layer and position, and the one chosen among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from src.errors import ScoringError
from src.evaluation.delong import auroc_within
from src.probes.attention import ATTENTION, AttentionProbe
from src.probes.folds import FOLDS, fold_of_names
from src.probes.linear import LinearProbe
from src.probes.mean_difference import MeanDifferenceProbe
from src.probes.mlp import MLPProbe
from src.probes.origin import Family
from src.probes.part import Part
from src.probes.probe import Probe
from src.probes.states import MIN_ROWS

if TYPE_CHECKING:
    from src.probes.layers import LayerFit

CROSS_VALIDATED_BELOW = 2000  # questions: measured in CLAUDE.md


@dataclass(frozen=True)
class Place:
    """Where states were read: after which layer, at which token."""

    position: str
    layer: str


@dataclass(frozen=True)
class PlaceResult:
    """How one candidate did on validation: a probe of this family at this place.

    Attributes:
        position, layer: the place.
        family: of the probe.
        val_nll: what decides, in nats.
        val_auroc, val_auroc_low, val_auroc_high: with DeLong's 95 % interval; out of fold of pairs of one fold only.
        C: chosen there, of families that have one.
    """

    position: str
    layer: str
    family: Family
    val_nll: float
    val_auroc: float
    val_auroc_low: float
    val_auroc_high: float
    C: float | None


@dataclass(frozen=True)
class Sweep:
    """All candidates, and the one chosen by validation loss.

    Attributes:
        results: of the candidates, place by place, and of a place family by family.
        best: the chosen candidate among them.
        place: its place among the places.
        probe: fitted.
        out_of_fold: (n,) P(correct) of the training rows where the choice was made by cross-validation: of each fold
            what a probe says that was trained without it, of the candidate that the other folds prefer. None otherwise.
    """

    results: tuple[PlaceResult, ...]
    best: int
    place: int
    probe: Probe
    out_of_fold: np.ndarray | None = None

    @property
    def chosen(self) -> PlaceResult:
        """The candidate of the probe."""
        return self.results[self.best]

    def predict(self, part: Part) -> np.ndarray:
        """(n,) float64 P(correct) of the part's rows, whose places are those that were swept."""
        return self.probe.predict(part.at(self.place))


def to_choose_with(train: Part, val: Part) -> tuple[Part, Part | None]:
    """What to fit to and what to choose with: of fewer than 2,000 questions all rows, and None for cross-validation."""
    questions = sum(np.unique(part.questions).size for part in (train, val))
    return (train, val) if questions >= CROSS_VALIDATED_BELOW else (Part.joined([train, val]), None)


def new_probe(family: Family, width: int) -> Probe:
    """An unfitted probe of states (n, width)."""
    kinds = {
        "logistic": LinearProbe,
        "mean_difference": MeanDifferenceProbe,
        "mlp": MLPProbe,
        "attention": AttentionProbe,
    }
    return kinds[family](width)


def families_at(place: Place, families: Sequence[Family]) -> Sequence[Family]:
    """Those of the families that are tried at a place."""
    return ("attention",) if place.position == ATTENTION else families


def can_be_fitted(train: Part, val: Part | None) -> bool:
    """Whether there are rows, classes and questions enough for `fitted`."""
    if len(train) < MIN_ROWS or train.labels.min() == train.labels.max():
        return False
    return np.unique(train.questions).size >= FOLDS if val is None else len(val) > 0


def fitted(family: Family, train: Part, val: Part | None, place: int) -> Probe:
    """A probe of one place; without `val`, what is to be chosen is chosen by cross-validation over whole questions."""
    probe, X = new_probe(family, train.width), train.at(place)
    if val is None:
        return probe.fit(X, train.labels, groups=train.questions)
    return probe.fit(X, train.labels, val.at(place), val.labels)


def sweep_places(
    places: Sequence[Place],
    train: Part,
    val: Part | None,
    *,
    families: Sequence[Family] = ("logistic",),
    progress: str = "probes",
) -> Sweep:
    """Fit a probe of every family at every place and keep the one with the lowest loss. Test rows play no part.

    With validation rows and a GPU, the logistic probes of all layers are fitted at once there: see `fit_layers`.

    Args:
        places: what the states of the parts are of.
        train: rows to fit to.
        val: rows to choose with; None: chosen by 5-fold cross-validation over whole questions of train, all of which
            the chosen probe is fitted to. See `to_choose_with`.
        families: of the probes; at a place where every token is read attention is the only one.
        progress: name of the bar.

    Raises:
        ScoringError: a probe cannot be fitted; the message names the place.
    """
    candidates: list[tuple[int, Family]] = [
        (index, family) for index, place in enumerate(places) for family in families_at(place, families)
    ]
    on_gpu = _fitted_on_gpu(places, train, val) if "logistic" in families else []
    probes, said, results = [], [], []
    held_out = train if val is None else val
    parts = fold_of_names(train.questions) if val is None else np.zeros(len(held_out))
    for index, family in tqdm(candidates, desc=progress, unit="probe", disable=None, leave=False):
        try:
            if family == "logistic" and on_gpu:
                probe = LinearProbe.of(on_gpu[index].fit, on_gpu[index].scaling, train.at(index), train.labels)
            else:
                probe = fitted(family, train, val, index)
        except ScoringError as error:
            raise ScoringError(f"{places[index].layer} at {places[index].position}, {family}: {error}") from error
        probes.append(probe)
        said.append(probe.predict(held_out.at(index)) if probe.out_of_fold_ is None else probe.out_of_fold_)
        results.append(_result(places[index], family, probe, said[-1], held_out, parts))
    best = int(np.argmin([result.val_nll for result in results]))
    out_of_fold = _out_of_fold(np.array(said), train) if val is None else None
    return Sweep(tuple(results), best, candidates[best][0], probes[best], out_of_fold)


def _fitted_on_gpu(places: Sequence[Place], train: Part, val: Part | None) -> "list[LayerFit]":
    """The regressions of all places that are read once, at once where there is a GPU; without one, or `val`, none."""
    device = _gpu()
    if device is None or val is None:
        return []
    from src.probes.layers import fit_layers

    names = [f"{place.layer} at {place.position}, logistic" for place in places[: train.states.shape[1]]]
    return fit_layers(
        train.states, train.labels, val.states, val.labels, device=device, names=names, rows=train.rows,
        rows_val=val.rows,
    )  # fmt: skip


def _gpu() -> str | None:
    """What torch calls the GPU that is there."""
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _result(
    place: Place, family: Family, probe: Probe, said: np.ndarray, held_out: Part, parts: np.ndarray
) -> PlaceResult:
    there = np.isfinite(said)  # all, but for a fold that could not be set aside
    p, y = said[there], held_out.labels[there]
    auroc = auroc_within(p, y, parts[there], held_out.questions[there])
    C = probe.C_ if isinstance(probe, LinearProbe | AttentionProbe) else None
    return PlaceResult(place.position, place.layer, family, probe.val_nll_, *auroc, C)


def _out_of_fold(said: np.ndarray, train: Part) -> np.ndarray:
    """(n,) of (candidates, n): whose loss is lowest outside of a fold speaks in it. No row chooses its own speaker."""
    fold, chosen = fold_of_names(train.questions), np.empty(said.shape[1])
    p = np.clip(said, 1e-15, 1 - 1e-15)
    losses = -np.where(train.labels == 1, np.log(p), np.log1p(-p))
    for number in np.unique(fold):
        here, others = fold == number, (fold != number) & np.isfinite(losses[0])
        chosen[here] = said[np.argmin(losses[:, others].mean(axis=1)), here]
    return chosen
