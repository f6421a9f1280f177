"""The curvature that a penalised regression has before it has seen a label: what makes its steps few."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import qr

_SAMPLED_ROWS = 2048
_RANK = 128
_ROWS_A_VECTOR = 16  # few rows are soon fitted: 1,019 of 4,096 took .13 s with 64 vectors, .17 s with 128
ROUNDING = 1e-6  # of the largest eigenvalue: below it float32 products tell nothing
_SMALL = 512  # so many features or fewer: all eigenvectors, of all rows


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenvectors of the features' second moments, and the mean of the eigenvalues that are left.

    Attributes:
        vectors: (d, k) orthonormal; None where the features are such coordinates themselves (k = d).
        values: (k,) their eigenvalues.
        rest: the mean of the other d - k.
    """

    vectors: np.ndarray | None
    values: np.ndarray
    rest: float

    @classmethod
    def of(cls, X: Any, share: np.ndarray) -> "Spectrum":
        """Of (n, d) features whose rows weigh `share` (sum 1). The same for the same input: its draws are seeded.

        Few features: exactly. Many: Nyström's approximation from 2,048 rows (Frangella, Tropp and Udell 2023, SIAM
        Journal on Matrix Analysis 44), seen from where one power iteration takes 128 of them. Sparse ones: the mean
        alone, since their products cost next to nothing.
        """
        n, d = X.shape
        if not isinstance(X, np.ndarray):
            squares = np.asarray(X.multiply(X).sum(axis=1)).ravel()
            return cls(np.empty((d, 0)), np.empty(0), float(squares @ share) / d)
        if d <= _SMALL:
            values, vectors = np.linalg.eigh((X.T @ (X * share.astype(X.dtype)[:, None])).astype(np.float64))
            return cls(vectors.astype(X.dtype), np.maximum(values, 0.0), 0.0)
        rows, seeds = sketched_from(n)
        A, weights = X[rows], (share[rows] / share[rows].sum()).astype(X.dtype)
        Q = np.asarray(qr(A[seeds].T, mode="economic", overwrite_a=True, check_finite=False)[0])
        B = A @ Q
        weighed = weights[:, None] * B
        F = A.T @ weighed @ _inverse_root(weighed.T @ B)
        values, turn = np.linalg.eigh((F.T @ F).astype(np.float64))  # all above those of weighed' B, by interlacing
        vectors = F @ (turn / np.sqrt(values)).astype(F.dtype)
        total = float(weights.astype(np.float64) @ np.einsum("ij,ij->i", A, A))
        return cls(vectors, values, max(total - float(values.sum()), 0.0) / (min(n, d) - len(values)))

    def precondition(self, curvature: float, penalty: float, gradient: np.ndarray) -> np.ndarray:
        """(d + 1,) -> (d + 1,): roughly the inverse Hessian times a gradient whose last entry is the intercept's.

        Args:
            curvature: mean of p (1 - p) over the rows.
            penalty: the ridge on the weights.
            gradient: in the precision of the vectors.
        """
        g = gradient[:-1]
        along = (1 / (curvature * self.values + penalty)).astype(g.dtype)
        if self.vectors is None:
            return np.append(along * g, gradient[-1] / curvature)
        elsewhere = 1 / (curvature * self.rest + penalty)
        found = elsewhere * g + self.vectors @ ((along - elsewhere) * (self.vectors.T @ g))
        return np.append(found, gradient[-1] / curvature)


def sketched_from(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of n rows the sketch is made from, and where among these the ones stand that it begins with."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(n, min(n, _SAMPLED_ROWS), replace=False))
    return rows, rng.choice(len(rows), min(_RANK, -(-n // _ROWS_A_VECTOR)), replace=False)


def _inverse_root(M: np.ndarray) -> np.ndarray:
    """(k, r) R of a symmetric (k, k) M of rank r, such that R R' is its pseudo-inverse."""
    values, vectors = np.linalg.eigh(M.astype(np.float64))
    there = values > ROUNDING * values[-1]
    return (vectors[:, there] / np.sqrt(values[there])).astype(M.dtype)
