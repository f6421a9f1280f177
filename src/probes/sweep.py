"""Where a model knows: a probe of each family at each layer and position, and the one chosen among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from src.errors import ScoringError
from src.evaluation.delong import auroc_interval
from src.evaluation.ranking import Ranked
from src.probes.linear import LinearProbe
from src.probes.mean_difference import MeanDifferenceProbe
from src.probes.mlp import MLPProbe
from src.probes.part import Part
from src.probes.probe import Probe

Family = Literal["logistic", "mean_difference", "mlp"]


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
        val_auroc, val_auroc_low, val_auroc_high: with DeLong's 95 % interval.
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
    """

    results: tuple[PlaceResult, ...]
    best: int
    place: int
    probe: Probe

    @property
    def chosen(self) -> PlaceResult:
        """The candidate of the probe."""
        return self.results[self.best]

    def predict(self, part: Part) -> np.ndarray:
        """(n,) float64 P(correct) of the part's rows, whose places are those that were swept."""
        return self.probe.predict(part.at(self.place))


def new_probe(family: Family, width: int) -> Probe:
    """An unfitted probe of states (n, width)."""
    kinds = {"logistic": LinearProbe, "mean_difference": MeanDifferenceProbe, "mlp": MLPProbe}
    return kinds[family](width)


def sweep_places(
    places: Sequence[Place],
    train: Part,
    val: Part,
    *,
    families: Sequence[Family] = ("logistic",),
    progress: str = "probes",
) -> Sweep:
    """Fit a probe of every family at every place and keep the one with the lowest loss. Test rows play no part.

    Args:
        places: what the states of the parts are of.
        train: rows to fit to.
        val: rows to choose with.
        families: of the probes.
        progress: name of the bar.

    Raises:
        ScoringError: a probe cannot be fitted; the message names the place.
    """
    candidates = [(index, family) for index in range(len(places)) for family in families]
    probes, results = [], []
    for index, family in tqdm(candidates, desc=progress, unit="probe", disable=None, leave=False):
        place, probe = places[index], new_probe(family, train.width)
        try:
            probe.fit(train.at(index), train.labels, val.at(index), val.labels)
        except ScoringError as error:
            raise ScoringError(f"{place.layer} at {place.position}, {family}: {error}") from error
        C = probe.C_ if isinstance(probe, LinearProbe) else None
        said = probe.predict(val.at(index))
        auroc = (Ranked.of(said, val.labels).auroc(), *auroc_interval(said, val.labels, val.questions))
        probes.append(probe)
        results.append(PlaceResult(place.position, place.layer, family, probe.val_nll_, *auroc, C))
    best = int(np.argmin([result.val_nll for result in results]))
    return Sweep(tuple(results), best, candidates[best][0], probes[best])
