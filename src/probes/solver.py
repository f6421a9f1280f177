"""One L2 logistic regression per C, each started at the last solution; validation loss picks.

The spacing of the grid matters more than the solver: with scikit-learn's default C = 1 a probe of 4096
features scored NLL 2.57 where .58 was possible.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from src.errors import ScoringError

HALF_DECADES = tuple(float(10 ** (k / 2)) for k in range(-12, 1))  # 1e-6 .. 1
PATIENCE = 2


@dataclass(frozen=True)
class Fit:
    """The best fit of a path.

    Attributes:
        weight: (d,) on the features as given.
        bias: log-odds at zero features.
        C: inverse L2 strength that scored best.
        val_nll: its validation loss in nats.
        converged: False where the iteration limit ended it.
    """

    weight: np.ndarray
    bias: float
    C: float
    val_nll: float
    converged: bool


def fit_path(
    X: Any, y: np.ndarray, X_val: Any, y_val: np.ndarray, *, grid: tuple[float, ...] = HALF_DECADES,
    max_iter: int = 1000
) -> Fit:  # fmt: skip
    """Fit from the strongest penalty to the weakest; stop after two C's without improvement.

    Args:
        X, X_val: (n, d) standardised features, dense or sparse.
        y, y_val: labels 0/1; the training labels must hold both classes.
        grid: values of C, ascending (C as in scikit-learn: the penalty is |w|^2 / (2 C) beside the sum).
        max_iter: limit of iterations per C.

    Raises:
        ScoringError: one class in training, or no validation rows.
    """
    if y.min() == y.max():
        raise ScoringError(f"All {y.size} training labels are {y[0]:.0f}: a probe needs right and wrong answers.")
    if not y_val.size:
        raise ScoringError("There are no validation rows to choose C with.")
    model = LogisticRegression(solver=_solver(X), max_iter=max_iter, warm_start=True, tol=1e-4)
    best: Fit | None = None
    waited = 0
    for C in grid:
        model.set_params(C=C)
        converged = _fit_quietly(model, X, y)
        weight, bias = model.coef_[0].astype(np.float64), float(np.ravel(model.intercept_)[0])
        loss = mean_nll(X_val @ weight + bias, y_val)
        if best is None or loss < best.val_nll:
            best, waited = Fit(weight, bias, C, loss, converged), 0
        elif (waited := waited + 1) == PATIENCE:
            break
    if best is None:
        raise ScoringError("The grid of C is empty.")
    return best


def _solver(X: Any) -> str:
    """Newton's method where the d x d Hessian is small beside the data, L-BFGS elsewhere."""
    n, d = X.shape
    return "newton-cholesky" if isinstance(X, np.ndarray) and d <= min(n, 512) else "lbfgs"


def _fit_quietly(model: LogisticRegression, X: Any, y: np.ndarray) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def mean_nll(logits: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log-likelihood from log-odds, in float64."""
    z = np.asarray(logits, dtype=np.float64)
    return float(np.mean(np.logaddexp(0, z) - y * z))


def probability(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64: in bfloat16 it is exactly 1 from 6.24 on."""
    return expit(np.asarray(logits, dtype=np.float64))
