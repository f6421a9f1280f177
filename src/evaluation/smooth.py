"""Smooth calibration error: no bins, and the width of the kernel follows from the data."""

from collections.abc import Callable

import numpy as np
from scipy.fft import dct

_NODES, _FEWEST_NODES = 1 << 16, 1 << 12
_CHUNK = 1 << 17  # rows at a time
_STEPS = 60
_FIRST_GUESS = 0.05

# Many samples at once
_FREQUENCIES, _MOST_FREQUENCIES = 64, 1024
_FADED = 5.7  # at a frequency of this / (pi s) and above, the damping is below 1e-7
_ROWS = 256  # samples whose curves are held at once

Project = Callable[[np.ndarray], np.ndarray]


def smooth_ece(values: np.ndarray, residuals: np.ndarray, total: float) -> float:
    """The s for which E(s) = s (Blasiok and Nakkiran 2023, arXiv 2309.12236).

    E(s) is the integral over [0, 1] of |(1/n) sum (p_i - y_i) K_s(t, p_i)| dt, with the Gaussian of width s reflected
    at 0 and 1. In the cosine basis the kernel is a damping exp(-(k pi s)^2 / 2), so residuals are spread linearly on a
    grid, transformed once, and damped and transformed back at each step of the search for s.

    Args:
        values: (m,) confidences.
        residuals: (m,) sums of (confidence - label) at each.
        total: number of rows.
    """
    spread = _on_grid(values, residuals) / total
    # Type-1 transform: the ends of the grid stand once, all other nodes for both directions.
    spread[[0, -1]] *= 2
    series = np.asarray(dct(spread, type=1)) / 2
    return float(_fixed_points(series[None], _FEWEST_NODES, tolerance=1e-12)[0])


def smooth_eces(p: np.ndarray, project: Project) -> np.ndarray:
    """`smooth_ece` of many samples of the same confidences: under other weights, or with other labels.

    The cosines are taken at the confidences themselves, and only so many as the widths that are found leave undamped:
    within 1e-6 of `smooth_ece`, and within 2e-4 where that is below .002.

    Args:
        p: (n,) confidences.
        project: (n, k) columns -> (B, k), for each sample sum_i (p_i - y_i) column_i over its rows, divided by their
            number.

    Returns:
        (B,) float64.
    """
    series = project(_cosines(p, 0, _FREQUENCIES))
    while True:
        blocks = [series[start : start + _ROWS] for start in range(0, len(series), _ROWS)]
        found = np.concatenate([_fixed_points(block, 16 * series.shape[1], tolerance=1e-7) for block in blocks])
        known = series.shape[1]
        open_ended = (found * np.pi * known < _FADED) & (np.abs(series) > 1e-9).any(axis=1)
        if known >= _MOST_FREQUENCIES or not open_ended.any():
            return found
        series = np.hstack([series, project(_cosines(p, known, 2 * known))])


def _cosines(p: np.ndarray, first: int, end: int) -> np.ndarray:
    return np.cos(np.pi * p[:, None] * np.arange(first, end))


def _fixed_points(series: np.ndarray, fewest_nodes: int, tolerance: float) -> np.ndarray:
    """(B,) the s with E(s) = s, for cosine coefficients (B, frequencies).

    E falls with s, so the fixed point always lies between s and E(s): each step bounds it from both sides, and where
    they are close, so is the fixed point. The next s is the secant's, or the middle where that leaves the bounds.
    """
    found = np.full(len(series), _FIRST_GUESS)
    open_ = np.arange(len(series))
    s, low, high = found.copy(), np.zeros(len(series)), np.ones(len(series))
    before, gap_before = s, np.full(len(series), np.nan)
    for _ in range(_STEPS):
        error = _error(series[open_], s, fewest_nodes)
        gap = error - s
        low, high = np.maximum(low, np.minimum(s, error)), np.minimum(high, np.maximum(s, error))
        with np.errstate(invalid="ignore", divide="ignore"):
            secant = s - gap * (s - before) / (gap - gap_before)
        following = np.where((secant >= low) & (secant <= high), secant, (low + high) / 2)
        found[open_] = s
        left = np.abs(gap) > tolerance
        if not left.any():
            break
        open_, before, gap_before = open_[left], s[left], gap[left]
        s, low, high = following[left], low[left], high[left]
    return found


def _error(series: np.ndarray, s: np.ndarray, fewest_nodes: int) -> np.ndarray:
    """(B,) E(s): what is left of the residuals after smoothing, as the integral of its absolute value."""
    # Beyond, the damping is below 1e-17; what is left is smooth, so fewer nodes do.
    kept = int(min(series.shape[1], np.ceil(9.0 / (np.pi * max(s.min(), 1e-5))) + 1))
    nodes = min(_NODES, max(fewest_nodes, 1 << (4 * kept - 1).bit_length()))
    damped = np.zeros((len(series), nodes + 1))
    damped[:, :kept] = series[:, :kept] * np.exp(-((np.pi * s[:, None] * np.arange(kept)) ** 2) / 2)
    damped[:, -1] *= 2
    residual = np.abs(np.asarray(dct(damped, type=1, axis=1)))  # |c_0 + 2 sum c_k cos(k pi t)| at the nodes
    return (residual.sum(axis=1) - (residual[:, 0] + residual[:, -1]) / 2) / nodes


def _on_grid(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights shared linearly between the two nodes around each value."""
    grid = np.zeros(_NODES + 1)
    for start in range(0, values.size, _CHUNK):
        rows = slice(start, start + _CHUNK)
        place = values[rows] * _NODES
        node = np.minimum(place.astype(np.intp), _NODES - 1)
        after = weights[rows] * (place - node)
        grid += np.bincount(node, weights=weights[rows] - after, minlength=_NODES + 1)
        grid[1:] += np.bincount(node, weights=after, minlength=_NODES)
    return grid
