"""Where a model knows: one probe per layer and position, chosen on validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from src.evaluation.delong import auroc_interval
from src.evaluation.ranking import Ranked
from src.probes.linear import LinearProbe


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
    """How the probe of one place did on the validation rows (AUROC: 95 % interval), and the C it chose there."""

    position: str
    layer: str
    val_nll: float
    val_auroc: float
    val_auroc_low: float
    val_auroc_high: float
    C: float


@dataclass(frozen=True)
class Sweep:
    """All candidates, and the one chosen by validation loss."""

    results: tuple[PlaceResult, ...]
    best: int
    probe: LinearProbe

    @property
    def chosen(self) -> PlaceResult:
        """The place of the probe."""
        return self.results[self.best]


def sweep_places(places: Sequence[Place], train: Part, val: Part, *, progress: str = "probes") -> Sweep:
    """Fit a probe at every place and keep the one with the lowest validation NLL. Test rows play no part."""
    probes, results = [], []
    for index, place in enumerate(tqdm(places, desc=progress, unit="probe", disable=None, leave=False)):
        probe = LinearProbe(train.states.shape[2])
        probe.fit(train.states[:, index], train.labels, val.states[:, index], val.labels)
        said = probe.predict(val.states[:, index])
        auroc = (Ranked.of(said, val.labels).auroc(), *auroc_interval(said, val.labels, val.questions))
        probes.append(probe)
        results.append(PlaceResult(place.position, place.layer, probe.val_nll_, *auroc, probe.C_))
    best = int(np.argmin([result.val_nll for result in results]))
    return Sweep(tuple(results), best, probes[best])
