"""What a second confidence adds to a first one: not whether it is better, but whether it knows something more."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from src.evaluation.resampling import row_nll

FEWEST_ROWS = 20
_CLIP = 1e-6


@dataclass(frozen=True)
class RowLosses:
    """(n,) negative log-likelihoods in nats: of the first confidence recalibrated, and of both put together."""

    own: np.ndarray
    both: np.ndarray


def likelihood_losses(
    own: np.ndarray, other: np.ndarray, y: np.ndarray, fitted_on: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> RowLosses | None:
    """How likely the labels are, given one confidence and given two.

    Two logistic regressions on log-odds (clipped at 1e-6), standardised, with scikit-learn's penalty at C = 1: one on
    the first confidence alone, one on both. Both are fitted on the same rows, which must have had no part in fitting or
    choosing either confidence: else the second one looks better there than it is, and is trusted too much.

    Args:
        own, other, y: (n,) confidences and labels of the rows to judge.
        fitted_on: the same three of the rows to fit on.

    Returns:
        None where the rows to fit on are fewer than 20 or of one class.
    """
    own_fit, other_fit, y_fit = fitted_on
    if y_fit.size < FEWEST_ROWS or y_fit.min() == y_fit.max():
        return None

    def losses(fit: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
        features = _features(fit)
        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[scale <= 1e-9] = 1.0
        model = LogisticRegression().fit((features - mean) / scale, y_fit)
        return row_nll(model.predict_proba((_features(rows) - mean) / scale)[:, 1], y)

    return RowLosses(losses([own_fit], [own]), losses([own_fit, other_fit], [own, other]))


def _features(confidences: Sequence[np.ndarray]) -> np.ndarray:
    return np.column_stack([logit(p.clip(_CLIP, 1 - _CLIP)) for p in confidences])
