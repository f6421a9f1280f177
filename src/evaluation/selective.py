"""Answer only where the confidence is high enough: a threshold that keeps its promise on questions not yet seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from src.errors import ScoringError
from src.evaluation.inputs import as_labels, as_probabilities, check_same_length

_STEPS = 50


@dataclass(frozen=True)
class Promise:
    """Answer where the confidence reaches `threshold`: at most `risk` of that is wrong, with probability `certainty`.

    Attributes:
        threshold: infinity where nothing can be promised.
        risk, certainty: as they were asked for.
        coverage: the share of the calibration rows that would be answered.
        answered, wrong: how many these are, and how many of them are wrong.
    """

    threshold: float
    risk: float
    certainty: float
    coverage: float
    answered: int
    wrong: int

    @property
    def kept(self) -> bool:
        """Whether there is a threshold at all."""
        return bool(np.isfinite(self.threshold))


def guaranteed_threshold(
    confidences: Any,
    labels: Any,
    *,
    risk: float = 0.05,
    certainty: float = 0.95,
    candidates: Any = None,
) -> Promise:
    """The lowest threshold above which the share of wrong answers can be promised.

    Learn then test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed-sequence testing: candidates are tried from
    the highest down, each against the hypothesis that more than `risk` of the answers above it are wrong (an exact
    binomial test at level 1 - `certainty`), until one cannot be rejected. The promise holds for questions drawn like
    these, over the drawing of the calibration rows: these must have chosen nothing else (not the layer, nor C), and the
    candidates must not depend on their labels.

    Args:
        confidences: (n,) P(the answer is right) on the calibration rows.
        labels: (n,) whether it is.
        risk: the most that may be wrong, in (0, 1).
        certainty: the probability that the promise holds, in (0, 1).
        candidates: thresholds, best from other rows: see `promising_thresholds`. None: 50 steps from 0 to 1.

    Raises:
        ScoringError: a risk or certainty outside (0, 1), or no usable confidences and labels.
    """
    p, y = as_probabilities(confidences), as_labels(labels)
    check_same_length(confidences=p, labels=y)
    for name, value in (("risk", risk), ("certainty", certainty)):
        if not 0 < value < 1:
            raise ScoringError(f"{name}={value}: a number between 0 and 1 is needed.")
    steps = np.arange(_STEPS) / _STEPS if candidates is None else as_probabilities(candidates, "candidates")
    descending = np.unique(steps)[::-1]
    # A count too small to reject anything, even without an error, is passed over.
    answered, wrong = _counts_above(p, y, descending)
    enough = answered >= np.log(1 - certainty) / np.log(1 - risk)
    rejected = binom.cdf(wrong, answered, risk) <= 1 - certainty
    failed = np.flatnonzero(enough & ~rejected)
    passed = np.flatnonzero(enough & rejected)
    if failed.size:
        passed = passed[passed < failed[0]]
    if not passed.size:
        return Promise(float("inf"), risk, certainty, 0.0, 0, 0)
    last = passed[-1]
    count = int(answered[last])
    return Promise(float(descending[last]), risk, certainty, count / p.size, count, int(wrong[last]))


def promising_thresholds(confidences: Any, labels: Any, *, risk: float = 0.05) -> np.ndarray:
    """Candidates from rows that are not calibration rows, such as validation: (at most 50,), ascending.

    Quantiles of the confidences, up to the one for which the promise looks safest here: a test that began higher, where
    few rows are left, would often end with the first wrong answer. In simulations (1,400 rows, risks .05 to .2) this
    answers up to 16 % more than 50 even steps do, and is as rarely wrong.
    """
    p, y = as_probabilities(confidences), as_labels(labels)
    check_same_length(confidences=p, labels=y)
    steps = np.unique(np.quantile(p, np.arange(_STEPS) / _STEPS))
    answered, wrong = _counts_above(p, y, steps)
    return steps[: int(np.argmin(binom.cdf(wrong, answered, risk))) + 1]


def _counts_above(p: np.ndarray, y: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many rows are at or above each threshold, and how many of these are wrong."""
    order = np.argsort(p, kind="stable")
    answered = p.size - np.searchsorted(p[order], thresholds, side="left")
    return answered, np.concatenate([[0], np.cumsum(1 - y[order][::-1])])[answered]
