"""Answering only when sure: thresholds chosen on the calibration questions, and how they did on test."""

from typing import Any

import numpy as np

from src.config import EvaluationConfig
from src.evaluation.intervals import Estimate, interval
from src.evaluation.selective import Promise, guaranteed_threshold, promising_thresholds
from src.evaluation.shares import wilson
from src.pipeline.numbers import number
from src.pipeline.probing import Probed


def promises(
    probed: Probed, scorer: str, correct: np.ndarray, weights: np.ndarray, settings: EvaluationConfig
) -> list[dict[str, Any]]:
    """One entry for each of `settings.risks`: the promise, and what became of it on the test questions.

    Of rows that ask the same question one is calibrated with, since a repeat is no new evidence. Where a threshold
    begins to be tried is read from val; calibration has chosen nothing else.

    Args:
        probed: the confidences.
        scorer: whose.
        correct: (n,) labels of all questions.
        weights: (resamples, n_test).
        settings: risks and certainty.
    """
    splits = probed.splits
    there = np.isfinite(probed.val[scorer])
    if not splits.calibration.size or not there.any():
        return []
    _, first = np.unique(splits.groups[splits.calibration], return_index=True)
    p, y = probed.calibration[scorer][first], correct[splits.calibration][first]
    found = []
    for risk in settings.risks:
        candidates = promising_thresholds(probed.val[scorer][there], correct[splits.val][there], risk=risk)
        promise = guaranteed_threshold(p, y, risk=risk, certainty=settings.certainty, candidates=candidates)
        kept = _on_test(promise, probed.test[scorer], correct[splits.test], weights) if promise.kept else None
        found.append(_as_plain(promise, p.size) | {"test": kept})
    return found


def _as_plain(promise: Promise, n: int) -> dict[str, Any]:
    return {
        "risk": promise.risk,
        "certainty": promise.certainty,
        "threshold": promise.threshold if promise.kept else None,
        "n": n,
        "answered": promise.answered,
        "wrong": promise.wrong,
        "coverage": promise.coverage,
    }


def _on_test(promise: Promise, p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    above = p >= promise.threshold
    answered, wrong = int(above.sum()), int((1 - y[above]).sum())
    of_resample = weights[:, above].sum(axis=1, dtype=np.float64)
    coverage = Estimate(answered / p.size, *interval(of_resample / weights.sum(axis=1)))
    if not answered:
        risk = Estimate(float("nan"), reason="no test question is above the threshold")
    else:
        # Of few wrong answers resamples show too little spread.
        risk = Estimate(wrong / answered, *wilson(wrong, answered))
    return {"answered": answered, "wrong": wrong, "coverage": number(coverage), "risk": number(risk)}
