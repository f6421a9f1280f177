"""Fewer rows than features: the weights lie in the span of the rows, so they are sought there."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from src.probes.spectrum import Spectrum

MOST_ROWS = 512  # the eigenvectors of more cost more than they save: 1,019 rows of 4,096 took .48 s, without .32 s
_BLOCK = 512


@dataclass(frozen=True)
class RowSpace:
    """Coordinates of the rows in which lengths, and so the penalty, are what they were.

    Attributes:
        features: (n, r) float64, the rows in those coordinates.
        spectrum: of the features; exact where all rows weigh the same.
        turn: (n, r) float64, such that X' turn are the r directions.
    """

    features: np.ndarray
    spectrum: Spectrum
    turn: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray) -> "RowSpace":
        """From the n x n products of the rows with each other."""
        n, d = X.shape
        gram = np.zeros((n, n))
        for start in range(0, d, _BLOCK):
            columns = X[:, start : start + _BLOCK].astype(np.float64)
            gram += columns @ columns.T
        values, vectors = eigh(gram, overwrite_a=True, driver="evd")
        there = values > 1e-12 * max(values[-1], 1e-300)
        lengths = np.sqrt(values[there])
        spectrum = Spectrum(None, values[there] / n, 0.0)
        return cls(vectors[:, there] * lengths, spectrum, vectors[:, there] / lengths)

    def weight(self, X: np.ndarray, found: np.ndarray) -> np.ndarray:
        """(r,) on the features -> (d,) float64 on X."""
        along = self.turn @ found
        weight = np.zeros(X.shape[1])
        for start in range(0, len(X), _BLOCK):
            weight += along[start : start + _BLOCK] @ X[start : start + _BLOCK].astype(np.float64)
        return weight
