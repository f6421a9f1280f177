"""Many small groups of questions, such as subjects: what each one's number is worth beside those of the others."""

import numpy as np
from scipy.stats import t as student

from src.evaluation.intervals import Estimate


def shrink(values: np.ndarray, variances: np.ndarray) -> list[Estimate]:
    """Each group's share or AUROC drawn to the mean of all, by as much as its few questions call for (empirical Bayes).

    The spread between groups is that of DerSimonian and Laird (1986, Controlled Clinical Trials 7); with none, all
    groups get the mean. Intervals also hold what is not known of that spread (Morris 1983, JASA 78) and end at 0 and 1.

    Args:
        values: (k,) a number for each group; NaN where it has none, and its result is NaN.
        variances: (k,) of sampling, best as if the group were like all: see `share_variance` and `auroc_variance`.

    Returns:
        k estimates with 95 % intervals.
    """
    there = np.isfinite(values) & np.isfinite(variances)
    if not there.any():
        return [Estimate(float("nan"), reason="undefined in every group")] * len(values)
    value, variance = values[there], np.maximum(variances[there], 1e-12)
    between = _between(value, variance)
    weight = 1 / (variance + between)
    mean = float(weight @ value / weight.sum())
    kept = between / (between + variance)
    centre = mean + kept * (value - mean)
    # The spread between groups is itself an estimate of few groups: Morris's last term and Student's quantile.
    unsure = 2 / max(value.size - 3, 1) * ((1 - kept) * (value - mean)) ** 2
    reach = student.ppf(0.975, max(value.size - 1, 1)) * np.sqrt(
        kept * variance + (1 - kept) ** 2 / weight.sum() + unsure
    )
    low, high = (end.clip(0, 1).tolist() for end in (centre - reach, centre + reach))
    found = iter(zip(centre.tolist(), low, high, strict=True))
    return [Estimate(*next(found)) if one else Estimate(float("nan"), reason="undefined") for one in there]


def _between(value: np.ndarray, variance: np.ndarray) -> float:
    weight = 1 / variance
    total = weight.sum()
    room = total - (weight @ weight) / total
    if room <= 0:  # one group
        return 0.0
    heterogeneity = weight @ (value - weight @ value / total) ** 2
    return float(max(0.0, (heterogeneity - (value.size - 1)) / room))


def share_variance(share: float, n: np.ndarray) -> np.ndarray:
    """(k,) sampling variance of a share of n (k,) rows, were it this one in every group."""
    return share * (1 - share) / np.maximum(n, 1)


def auroc_variance(auroc: float, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(k,) sampling variance of an AUROC of so many right and wrong rows (k,), were it this one in every group.

    Hanley and McNeil 1982 (Radiology 143). NaN where a class is missing.
    """
    both = 1 / (1 + auroc)
    of_right, of_wrong = auroc / (2 - auroc) - auroc**2, 2 * auroc**2 * both - auroc**2
    pairs = np.where((right > 0) & (wrong > 0), right * wrong, np.nan)
    return (auroc * (1 - auroc) + (right - 1) * of_right + (wrong - 1) * of_wrong) / pairs
