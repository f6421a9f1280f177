"""Estimates as they stand in results.json."""

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from src.evaluation.comparison import Difference, holm
from src.evaluation.intervals import Estimate

Key = TypeVar("Key", bound=Hashable)
NO_SPREAD = "the resamples show no spread"


def number(estimate: Estimate) -> dict[str, Any]:
    """As JSON: NaN becomes null, with the reason."""
    values = {key: getattr(estimate, key) for key in ("value", "low", "high")}
    found: dict[str, Any] = {key: None if np.isnan(value) else value for key, value in values.items()}
    return found | ({"reason": estimate.reason} if estimate.reason else {})


def honest(estimate: Estimate) -> Estimate:
    """Without its interval where that has no width: a handful of questions that are all alike is no certainty."""
    if estimate.low < estimate.high or np.isnan(estimate.low):
        return estimate
    return Estimate(estimate.value, reason=NO_SPREAD)


def with_p_values(differences: Mapping[Key, Difference]) -> dict[Key, dict[str, Any]]:
    """Each difference with `p`, and `p_holm` corrected for their number."""
    corrected = holm([difference.p for difference in differences.values()])
    return {
        key: number(honest(difference.estimate)) | {"p": _or_none(difference.p), "p_holm": _or_none(p_holm)}
        for (key, difference), p_holm in zip(differences.items(), corrected, strict=True)
    }


def beyond_floors(change: dict[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A difference of two errors of calibration with `excess`: without what perfect models would differ by.

    The sharper a perfectly calibrated model is, the lower its ECE. In simulations of two such models (n from 200 to
    4,000) the plain interval leaves out zero in up to 80 % of runs, this one in 1 to 7 %.
    """
    if change["low"] is None:
        return change
    shift = after["calibrated_mean"] - before["calibrated_mean"]
    return change | {"excess": {key: change[key] - shift for key in ("value", "low", "high")}}


def _or_none(p: float) -> float | None:
    return None if np.isnan(p) else p
