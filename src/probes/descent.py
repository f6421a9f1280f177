"""L-BFGS for one penalised logistic regression: two products with the features per step, and none for anything else.

The objective is sum_i share_i (softplus(z_i) - y_i z_i) + penalty |w|^2 / 2, z = X w + b, with shares that sum to 1.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from src.probes.spectrum import Spectrum

MEMORY = 100
_BLOCK = 64  # rows that are float64 at a time: few enough to stay in a core's cache
ASKED = 3  # steps between questions whether a descent is hopeless


@dataclass(frozen=True)
class Rows:
    """What is fitted to.

    Attributes:
        X: (n, d) features, dense float32 or float64, or sparse.
        y: (n,) float64 targets within [0, 1].
        share: (n,) float64 weights of the rows, sum 1.
    """

    X: Any
    y: np.ndarray
    share: np.ndarray

    def margins(self, v: np.ndarray) -> np.ndarray:
        """(n,) float64 X w + b of v = (w, b)."""
        return (self.X @ v[:-1].astype(self.X.dtype)).astype(np.float64) + v[-1]

    def slope(self, residuals: np.ndarray) -> np.ndarray:
        """(d + 1,) float64 (X' r, sum r)."""
        return np.append((self.X.T @ residuals.astype(self.X.dtype)).astype(np.float64), residuals.sum())

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """(n,) derivative of the mean loss in each margin."""
        return self.share * (expit(z) - self.y)

    def at(self, v: np.ndarray) -> "Point":
        """The point v = (w, b), with products in float64 whatever the features are."""
        if self.X.dtype == np.float64:
            z = self.margins(v)
            return Point(v, z, self.slope(self.residuals(z)))
        z, slope = np.empty(len(self.y)), np.zeros(v.size)
        for start in range(0, len(z), _BLOCK):
            part = Rows(*(a[start : start + _BLOCK] for a in (self.X, self.y, self.share)))
            block = Rows(part.X.astype(np.float64), part.y, part.share)
            z[start : start + _BLOCK] = block.margins(v)
            slope += block.slope(block.residuals(z[start : start + _BLOCK]))
        return Point(v, z, slope)


@dataclass(frozen=True)
class Point:
    """Weights with the intercept last (d + 1,), the margins there (n,), the slope of the mean loss there (d + 1,)."""

    v: np.ndarray
    z: np.ndarray
    slope: np.ndarray

    def gradient(self, penalty: float) -> np.ndarray:
        """(d + 1,) of the objective: the penalty leaves the intercept alone."""
        gradient = self.slope + penalty * self.v
        gradient[-1] = self.slope[-1]
        return gradient

    def steepness(self, penalty: float) -> float:
        """Largest entry of the gradient."""
        return float(np.abs(self.gradient(penalty)).max())


class Memory:
    """How the loss bends: the features' spectrum, and the last steps along a path with what each did to the slope.

    The penalty's part of a change of gradient is known, so the pairs found under one penalty serve under the next.
    They are kept, and directions found, in the features' precision: a product sees no more of a direction.

    Args:
        spectrum: of the features.
        dtype: of the features.
    """

    def __init__(self, spectrum: Spectrum, dtype: Any) -> None:
        self._spectrum, self._dtype = spectrum, dtype
        self._pairs: deque[tuple[np.ndarray, np.ndarray, float, float]] = deque(maxlen=MEMORY)

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        """Keep a step (d + 1,) and its change of slope, if the loss bends along it by more than rounding."""
        bend, square = float(step @ change), float(step[:-1] @ step[:-1])
        if bend > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            self._pairs.append((step.astype(self._dtype), change.astype(self._dtype), bend, square))

    def direction(self, gradient: np.ndarray, penalty: float, curvature: float) -> np.ndarray:
        """(d + 1,) downhill: the two loops of Nocedal (1980, Mathematics of Computation 35) round a preconditioner.

        Args:
            gradient: of the objective.
            penalty: ridge on the weights.
            curvature: mean of p (1 - p) over the rows.
        """
        found, used = -gradient.astype(self._dtype), []
        for step, change, bend, square in reversed(self._pairs):
            whole = bend + penalty * square
            share = float(step @ found) / whole
            found -= share * change
            found[:-1] -= share * penalty * step[:-1]
            used.append((step, change, whole, share))
        found = self._spectrum.precondition(curvature, penalty, found)
        for step, change, whole, share in reversed(used):
            found += (share - float(change @ found + penalty * (step[:-1] @ found[:-1])) / whole) * step
        return found


def descend(
    rows: Rows,
    start: Point,
    memory: Memory,
    *,
    penalty: float,
    tolerance: float,
    max_iter: int,
    hopeless: Callable[[np.ndarray], bool] | None = None,
) -> tuple[Point, bool]:
    """Go down from a point until no entry of the gradient exceeds the tolerance.

    Args:
        rows: what is fitted to.
        start: where to begin.
        memory: of earlier descents on the same rows; added to.
        penalty: ridge on the weights.
        tolerance: of the gradient's largest entry.
        max_iter: limit of steps.
        hopeless: asked at every third step about (d + 1,) weights; True ends the descent.

    Returns:
        the last point, and whether the tolerance was reached.
    """
    at, residuals = start, rows.residuals(start.z)
    for step in range(max_iter):
        if at.steepness(penalty) <= tolerance:
            return at, True
        if hopeless and step % ASKED == ASKED - 1 and hopeless(at.v):
            return at, False
        curvature = max(float(rows.share @ (expit(at.z) * expit(-at.z))), 1e-4)
        direction = memory.direction(at.gradient(penalty), penalty, curvature).astype(np.float64)
        dz = rows.margins(direction)
        length = _step_length(rows, at, direction, dz, penalty)
        z = at.z + length * dz
        # Only the change goes through the product, so that its rounding error shrinks with the steps.
        old, residuals = residuals, rows.residuals(z)
        change = rows.slope(residuals - old)
        at = Point(at.v + length * direction, z, at.slope + change)
        memory.add(length * direction, change)
    return at, at.steepness(penalty) <= tolerance


def polish(
    rows: Rows, start: Point, memory: Memory, *, penalty: float, tolerance: float, max_iter: int
) -> tuple[Point, bool]:
    """Go on to a tolerance that float32 products cannot see: every round ends with a slope in float64.

    A round makes the gradient some thousand times smaller, since what float32 products add to it are changes only.
    """
    at, known = start, np.inf
    while True:
        near = max(tolerance / 2, at.steepness(penalty) * 1e-3)
        at, reached = descend(rows, at, memory, penalty=penalty, tolerance=near, max_iter=max_iter)
        at = rows.at(at.v)
        size = at.steepness(penalty)
        if size <= tolerance or size > known / 2 or not reached:
            return at, size <= tolerance
        known = size


def _step_length(rows: Rows, at: Point, direction: np.ndarray, dz: np.ndarray, penalty: float) -> float:
    """Newton's method along the direction, on the margins: no product with the features.

    The slope at the start is known to more digits than the margins' change, which therefore enters with changes only.
    """
    slope, bend = at.gradient(penalty) @ direction, penalty * (direction[:-1] @ direction[:-1])
    start, t = expit(at.z), 1.0
    for _ in range(8):
        p = expit(at.z + t * dz)
        first = slope + (rows.share * (p - start)) @ dz + t * bend
        second = (rows.share * p * (1 - p)) @ dz**2 + bend
        change = first / max(float(second), 1e-300)
        t, old = float(np.clip(t - change, t / 10, t * 10)), t
        if abs(t - old) <= 1e-3 * t:
            break
    return t
