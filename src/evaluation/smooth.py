"""Smooth calibration error: no bins, and the width of the kernel follows from the data."""

import numpy as np
from scipy.fft import dct, idct

_NODES, _FEWEST_NODES = 1 << 16, 1 << 12
_STEPS = 40


def smooth_ece(values: np.ndarray, residuals: np.ndarray, total: float) -> float:
    """The s for which E(s) = s (Blasiok and Nakkiran 2023, arXiv 2309.12236).

    E(s) is the integral over [0, 1] of |(1/n) sum (p_i - y_i) K_s(t, p_i)| dt, with the Gaussian of width s reflected
    at 0 and 1. In the cosine basis the kernel is a damping exp(-(k pi s)^2 / 2), so residuals are spread linearly on a
    grid, transformed once, and damped and transformed back at each step of a bisection. E falls with s.

    Args:
        values: (m,) confidences.
        residuals: (m,) sums of (confidence - label) at each.
        total: number of rows.
    """
    spread = _on_grid(values, residuals / total)
    # Type-1 transform: the ends of the grid stand once, all other nodes for both directions.
    spread[[0, -1]] *= 2
    series = np.asarray(dct(spread, type=1)) / 2
    frequency = np.pi * np.arange(series.size)

    def error(s: float) -> float:
        kept = int(min(_NODES, np.ceil(9.0 / (np.pi * s))))  # beyond, the damping is below 1e-17
        # What is left is smooth, so fewer nodes do.
        nodes = min(_NODES, max(_FEWEST_NODES, 1 << (4 * kept - 1).bit_length()))
        damped = np.zeros(nodes + 1)
        damped[: kept + 1] = series[: kept + 1] * np.exp(-((frequency[: kept + 1] * s) ** 2) / 2)
        damped[-1] *= 2
        # c_0 + 2 sum c_k cos(k pi t), at the nodes.
        residual = np.abs(np.asarray(idct(damped, type=1))) * 2 * nodes
        return float((residual.sum() - (residual[0] + residual[-1]) / 2) / nodes)

    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > middle else (low, middle)
    return (low + high) / 2


def _on_grid(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights shared linearly between the two nodes around each value."""
    place = values * _NODES
    node = np.minimum(place.astype(np.intp), _NODES - 1)
    after = weights * (place - node)
    grid = np.bincount(node, weights=weights - after, minlength=_NODES + 1)
    return grid + np.bincount(node + 1, weights=after, minlength=_NODES + 1)
