"""Features brought to mean 0 and deviation 1, in the one copy of a layer that a fit makes."""

from dataclasses import dataclass

import numpy as np

from src.errors import ScoringError
from src.probes.states import Sample


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of the training rows.

    Attributes:
        mean: (d,) float64, but of values that the states' precision has, so that subtracting it is the same everywhere.
        scale: (d,) float64; 1 for a constant feature.
        constant: (d,) True where a feature does not vary.
    """

    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray

    @classmethod
    def of(cls, sample: Sample) -> "Scaling":
        """Weighted moments, in one pass over the states.

        Raises:
            ScoringError: a feature's squares overflow.
        """
        share = sample.weight / sample.weight.sum()
        shift = next(iter(sample.states.blocks(sample.rows)))[1].mean(axis=0)
        first, second = (np.zeros(shift.size) for _ in range(2))
        for place, block in sample.states.blocks(sample.rows):
            off = block - shift
            weights = share[place].astype(off.dtype)
            first += weights @ off
            with np.errstate(over="ignore"):
                second += weights @ (off * off)
        mean, scale = shift + first, np.sqrt(np.maximum(second - first**2, 0))
        if not np.isfinite(scale).all():
            worst = int(np.flatnonzero(~np.isfinite(scale))[0])
            raise ScoringError(f"Feature {worst} spreads further than {sample.states.dtype} can square: scale it down.")
        return cls.found(mean, scale, sample.states.dtype)

    @classmethod
    def found(cls, mean: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> "Scaling":
        """From (d,) float64 means and deviations of states of this precision."""
        # A constant feature has a rounding error for a deviation: dividing by it would invent a signal.
        constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
        mean = mean.astype(dtype).astype(np.float64)
        return cls(mean, np.where(constant, 1.0, scale), constant)

    def apply(self, sample: Sample) -> np.ndarray:
        """(m, d) in the precision of the states: constant features are 0, so that they get no weight."""
        features = np.empty((len(sample.rows), sample.states.shape[1]), dtype=sample.states.dtype)
        mean = self.mean.astype(features.dtype)
        inverse = self.inverse.astype(features.dtype)
        for place, block in sample.states.blocks(sample.rows):
            np.subtract(block, mean, out=features[place])
            features[place] *= inverse
        return features

    @property
    def inverse(self) -> np.ndarray:
        """(d,) 1 / scale; 0 for a constant feature."""
        return np.where(self.constant, 0.0, 1 / self.scale)
