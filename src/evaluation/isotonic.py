"""Isotonic regression of labels on confidences: what of Brier no recalibration that keeps the ranking could remove."""

import numpy as np
from scipy.optimize import isotonic_regression


def pool_starts(n: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The first step of each pool: neighbours of which isotonic regression makes one, however rows are weighted.

    A step that is all right is never below its neighbour, and one that is all wrong never above it.
    """
    apart = (right[:-1] < n[:-1]) & (right[1:] > 0)
    return np.flatnonzero(np.concatenate([[True], apart]))


def left_by_isotonic(n: np.ndarray, right: np.ndarray) -> float:
    """Squared errors, summed over rows, that isotonic regression of the labels leaves; of steps that all have rows."""
    if not n.size:
        return 0.0
    fitted = isotonic_regression(right / n, weights=n).x
    return float(right.sum() - (n * fitted**2).sum())
