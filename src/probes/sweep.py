"""Where a model knows: one probe per layer and position, chosen on validation, with a shuffled-label control."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from src.evaluation.ranking import Ranked
from src.probes.linear import LinearProbe

SHUFFLES = 20


@dataclass(frozen=True)
class Place:
    """Where states were read: after which layer, at which token."""

    position: str
    layer: str


@dataclass(frozen=True)
class Part:
    """Rows of one purpose: states (n, places, d) and labels (n,)."""

    states: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class PlaceResult:
    """How the probe of one place did on the validation rows, and the C it chose there."""

    position: str
    layer: str
    val_nll: float
    val_auroc: float
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
        auroc = Ranked.of(probe.predict(val.states[:, index]), val.labels).auroc()
        probes.append(probe)
        results.append(PlaceResult(place.position, place.layer, probe.val_nll_, auroc, probe.C_))
    best = int(np.argmin([result.val_nll for result in results]))
    return Sweep(tuple(results), best, probes[best])


def shuffled_predictions(
    train: Part, val: Part, test_states: np.ndarray, place: int, *, seed: int, shuffles: int = SHUFFLES
) -> np.ndarray:
    """What probes say that were trained on labels dealt out at random: (shuffles, n_test).

    A control: with no information in the labels, any AUROC but .5 on the true test labels would come from a
    leak. One deal alone is a poor control, since a random direction may happen to point the right way.
    """
    rng = np.random.default_rng(seed)
    predictions = []
    for _ in tqdm(range(shuffles), desc="shuffled labels", unit="probe", disable=None, leave=False):
        probe = LinearProbe(train.states.shape[2]).fit(
            train.states[:, place],
            rng.permutation(train.labels),
            val.states[:, place],
            rng.permutation(val.labels),
        )
        predictions.append(probe.predict(test_states[:, place]))
    return np.array(predictions)
