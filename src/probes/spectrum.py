"""The curvature that a penalised regression has before it has seen a label: what makes its steps few."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh, qr

_SAMPLED_ROWS = 2048
_RANK = 128
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

        Few features: exactly. Many: a Gaussian sketch of 2,048 rows with one power iteration (Halko, Martinsson and
        Tropp 2011, SIAM Review 53). Sparse ones: their mean alone, since their products cost next to nothing.
        """
        n, d = X.shape
        if not isinstance(X, np.ndarray):
            squares = np.asarray(X.multiply(X).sum(axis=1)).ravel()
            return cls(np.empty((d, 0)), np.empty(0), float(squares @ share) / d)
        rng = np.random.default_rng(0)
        rows = np.arange(n) if d <= _SMALL else np.sort(rng.choice(n, min(n, _SAMPLED_ROWS), replace=False))
        A = X[rows]
        A *= np.sqrt(share[rows] / share[rows].sum()).astype(X.dtype)[:, None]
        if d <= _SMALL:
            values, vectors = eigh((A.T @ A).astype(np.float64))
            return cls(vectors.astype(X.dtype), np.maximum(values, 0.0), 0.0)
        Q = _orthonormal(A.T @ rng.standard_normal((len(rows), _RANK), dtype=np.float32).astype(X.dtype, copy=False))
        Q = _orthonormal(A.T @ (A @ Q))
        B = A @ Q
        values, turn = eigh((B.T @ B).astype(np.float64))
        rest = max(float(np.einsum("ij,ij->", A, A, dtype=np.float64)) - values.sum(), 0.0) / (d - _RANK)
        return cls(Q @ turn.astype(X.dtype), np.maximum(values, 0.0), rest)

    def precondition(self, curvature: float, penalty: float, gradient: np.ndarray) -> np.ndarray:
        """(d + 1,) -> (d + 1,): roughly the inverse Hessian times a gradient whose last entry is the intercept's.

        Args:
            curvature: mean of p (1 - p) over the rows.
            penalty: the ridge on the weights.
            gradient: float64.
        """
        g = gradient[:-1]
        along = 1 / (curvature * self.values + penalty)
        if self.vectors is None:
            return np.append(along * g, gradient[-1] / curvature)
        elsewhere = 1 / (curvature * self.rest + penalty)
        turned = self.vectors.T @ g.astype(self.vectors.dtype)
        found = elsewhere * g + self.vectors @ ((along - elsewhere) * turned).astype(self.vectors.dtype)
        return np.append(found, gradient[-1] / curvature)


def _orthonormal(Y: np.ndarray) -> np.ndarray:
    return np.asarray(qr(Y, mode="economic", overwrite_a=True, check_finite=False)[0])
