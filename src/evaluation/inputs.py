"""Confidences and labels as float64 vectors, or an error that says what is wrong with them."""

import logging
from typing import Any

import numpy as np

from src.errors import ScoringError

log = logging.getLogger(__name__)


def as_vector(values: Any, name: str) -> np.ndarray:
    """A finite float64 vector from numpy, torch (any dtype or device) or a list; (n, 1) is flattened.

    Raises:
        ScoringError: no numbers, empty, another shape, NaN or infinity (how many, and the first index).
    """
    vector = _as_float64(values, name)
    _check_finite(vector, name, vector.min(), vector.max())
    return vector


def as_probabilities(values: Any, name: str = "confidences") -> np.ndarray:
    """A vector within [0, 1]. Rounding beyond the ends (at most 1e-6) is clipped with a warning.

    There is a warning too where more than one in a hundred is exactly 1 in half precision: a sigmoid computed there
    rounds to 1 from a logit of 6.24, and confidences that differ become equal.
    """
    vector = _as_float64(values, name)
    low, high = vector.min(), vector.max()
    _check_finite(vector, name, low, high)
    saturated = int((vector == 1).sum()) if _is_half(values) else 0
    if saturated > vector.size / 100:
        log.warning(
            "%d of %d %s are exactly 1, in half precision. Compute them in float32: rounded, they are all alike.",
            saturated,
            vector.size,
            name,
        )
    if low < -1e-6 or high > 1 + 1e-6:
        outside = int(((vector < 0) | (vector > 1)).sum())
        raise ScoringError(
            f"{outside} of {vector.size} {name} lie outside [0, 1] (from {low:.6g} to {high:.6g}). Are they "
            "logits? Apply a sigmoid first."
        )
    if low < 0 or high > 1:
        log.warning("%s reach from %.9g to %.9g and were clipped to [0, 1].", name, low, high)
        vector = vector.clip(0, 1)
    return vector


def _is_half(values: Any) -> bool:
    return str(getattr(values, "dtype", "")).removeprefix("torch.") in ("float16", "bfloat16")


def as_labels(values: Any, name: str = "labels") -> np.ndarray:
    """A vector of exactly 0.0 and 1.0."""
    return as_flags(values, name).astype(np.float64)


def as_flags(values: Any, name: str) -> np.ndarray:
    """A vector of bool, from exactly 0 and 1, True and False."""
    if isinstance(values, np.ndarray) and values.dtype == bool and values.ndim == 1 and values.size:
        return values
    vector = _as_float64(values, name)
    ones = vector == 1
    bad = vector.size - np.count_nonzero(ones) - np.count_nonzero(vector == 0)
    if bad:
        _check_finite(vector, name, vector.min(), vector.max())
        first = np.flatnonzero(~ones & (vector != 0))[0]
        raise ScoringError(
            f"{name} must be 0, 1, True or False; {bad} are not, the first is {vector[first]:g} at index {first}."
        )
    return ones


def _as_float64(values: Any, name: str) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"{name} cannot be read as a vector of numbers: {error}.") from error
    if vector.ndim == 2 and vector.shape[1] == 1:
        vector = vector[:, 0]
    if vector.ndim != 1:
        raise ScoringError(f"{name} has shape {vector.shape}; a vector (n,) is needed.")
    if not vector.size:
        raise ScoringError(f"{name} is empty: no metric has a value without data.")
    return vector


def _check_finite(vector: np.ndarray, name: str, low: float, high: float) -> None:
    """Raises where the smallest or the largest is NaN or infinite: of a vector with NaN, both are NaN."""
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.flatnonzero(~np.isfinite(vector))
        raise ScoringError(f"{name} holds {bad.size} NaN or infinite values, the first at index {bad[0]}.")


def check_same_length(**vectors: np.ndarray) -> None:
    """Raises ScoringError with all the lengths where they differ."""
    if len({vector.size for vector in vectors.values()}) > 1:
        lengths = ", ".join(f"{name} {vector.size}" for name, vector in vectors.items())
        raise ScoringError(f"The lengths differ: {lengths}. Every row needs one of each.")
