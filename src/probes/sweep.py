"""Where a model knows: one probe per layer and position, chosen on validation."""

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
from src.probes.probe import Probe

Family = Literal["logistic", "mean_difference", "mlp"]


@dataclass(frozen=True)
class Place:
    """Where states were read: after which layer, at which token."""

    position: str
    layer: str


@dataclass(frozen=True)
class Part:
    """Rows of one purpose: states (n, places, d), labels (n,) and the number of the question that each asks (n,)."""

    states: np.ndarray
    labels: np.ndarray
    questions: np.ndarray

    def only(self, rows: np.ndarray) -> "Part":
        """These rows."""
        return Part(self.states[rows], self.labels[rows], self.questions[rows])


@dataclass(frozen=True)
class PlaceResult:
    """How the probe of one place did on the validation rows (AUROC: 95 % interval), and the C chosen there if any."""

    position: str
    layer: str
    val_nll: float
    val_auroc: float
    val_auroc_low: float
    val_auroc_high: float
    C: float | None


@dataclass(frozen=True)
class Sweep:
    """All candidates, and the one chosen by validation loss."""

    results: tuple[PlaceResult, ...]
    best: int
    probe: Probe

    @property
    def chosen(self) -> PlaceResult:
        """The place of the probe."""
        return self.results[self.best]


def new_probe(family: Family, width: int) -> Probe:
    """An unfitted probe of states (n, width)."""
    kinds = {"logistic": LinearProbe, "mean_difference": MeanDifferenceProbe, "mlp": MLPProbe}
    return kinds[family](width)


def sweep_places(
    places: Sequence[Place], train: Part, val: Part, *, family: Family = "logistic", progress: str = "probes"
) -> Sweep:
    """Fit a probe at every place and keep the one with the lowest validation NLL. Test rows play no part.

    Raises:
        ScoringError: a probe cannot be fitted; the message names the place.
    """
    probes, results = [], []
    for index, place in enumerate(tqdm(places, desc=progress, unit="probe", disable=None, leave=False)):
        probe = new_probe(family, train.states.shape[2])
        try:
            probe.fit(train.states[:, index], train.labels, val.states[:, index], val.labels)
        except ScoringError as error:
            raise ScoringError(f"{place.layer} at {place.position}: {error}") from error
        C = probe.C_ if isinstance(probe, LinearProbe) else None
        said = probe.predict(val.states[:, index])
        auroc = (Ranked.of(said, val.labels).auroc(), *auroc_interval(said, val.labels, val.questions))
        probes.append(probe)
        results.append(PlaceResult(place.position, place.layer, probe.val_nll_, *auroc, C))
    best = int(np.argmin([result.val_nll for result in results]))
    return Sweep(tuple(results), best, probes[best])
