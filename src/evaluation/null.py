"""What a perfectly calibrated model scores: the same confidences under labels drawn from them."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from src.evaluation.binning import Closed
from src.evaluation.full import NEAR, Steps
from src.evaluation.resampling import blocks, in_bins, weighted_sums
from src.evaluation.smooth import smooth_ece, smooth_eces

CALIBRATION = ("ece", "ece_mass", "smooth_ece", "ks")
_SCHEMES = {"ece": "width", "ece_mass": "mass"}
_HELD = 32_000_000  # labels held at once, a byte each
_ALL_AT_ONCE = 50_000  # rows: of more, the cosines at each of them are slower than a grid, and too large


def null_draws(p: np.ndarray, metrics: Sequence[str], *, bins: int, closed: Closed, draws: int,
               seed: int) -> dict[str, np.ndarray]:  # fmt: skip
    """Metrics of `CALIBRATION` for labels y ~ Bernoulli(p), drawn `draws` times: name -> (draws,).

    Each is a function of sums of p - y over some rows, so bins, ranks and cosines of p are found once.
    """
    rng = np.random.default_rng(seed)
    binned = {name: in_bins(p, scheme, bins, closed) for name, scheme in _SCHEMES.items() if name in metrics}
    step = max(1, _HELD // p.size)
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for start in range(0, draws, step):
        labels = np.stack([rng.random(p.size) < p for _ in range(min(step, draws - start))])
        for name, columns in binned.items():
            found[name].append(np.abs(_mean_residuals(p, labels, columns)).sum(axis=1))
        if "smooth_ece" in metrics:
            found["smooth_ece"].append(_smooth(p, labels))
        if "ks" in metrics:
            found["ks"].append(_ks(p, labels))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _mean_residuals(p: np.ndarray, labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(b, k): for labels (b, n), the mean over rows of (p - y) times columns (n, k)."""
    return (p @ columns - weighted_sums(labels, columns)) / p.size


def _smooth(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if p.size <= _ALL_AT_ONCE:
        return smooth_eces(p, partial(_mean_residuals, p, labels))
    return np.array([smooth_ece(p, p - drawn, p.size) for drawn in labels])


def _ks(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    steps = Steps.of(p, labels[0].astype(np.float64))
    sums = [steps.cumulated((p - labels[part]).T[steps.order]) for part in blocks(labels, NEAR)]
    return np.concatenate([np.abs(one).max(axis=0) for one in sums]) / p.size
