"""`LinearProbe`: standardised L2 logistic regression on one layer's hidden states."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.errors import ScoringError
from src.probes.solver import HALF_DECADES, fit_path, probability


@dataclass(frozen=True)
class ProbeWeights:
    """The four arrays that are a probe.

    Attributes:
        weight: (d,) float64, on standardised features.
        bias: log-odds of a state at the training mean.
        mean: (d,) of the training rows.
        scale: (d,) their standard deviation; 1 for a constant feature.
    """

    weight: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray

    def logit(self, hidden: np.ndarray) -> np.ndarray:
        """(n, d) hidden states -> (n,) float64 log-odds that the answer is correct."""
        return ((hidden - self.mean) / self.scale) @ self.weight + self.bias


class LinearProbe:
    """Predicts P(the model's answer is correct) from its hidden state.

    Args:
        input_dim: the width d of the states.

    Attributes:
        weights_: the fitted `ProbeWeights`.
        C_: the inverse L2 strength that scored best on the validation rows, from half decades 1e-6 to 1.
        val_nll_: its validation loss in nats.
        converged_: False where the iteration limit ended the fit.
    """

    weights_: ProbeWeights
    C_: float
    val_nll_: float
    converged_: bool

    def __init__(self, input_dim: int):
        self.input_dim = input_dim

    def fit(self, X: Any, y: Any, X_val: Any, y_val: Any) -> "LinearProbe":
        """Fit on the training rows and choose C on the validation rows.

        Args:
            X, X_val: (n, d) or (n, 1, d) states; numpy or torch.
            y, y_val: (n,) 1 where the answer was correct, else 0.

        Returns:
            the probe itself.

        Raises:
            ScoringError (a ValueError): shapes or lengths that do not fit, several layers at once, NaN (with
                the row), labels other than 0 and 1, or one class only.
        """
        X, X_val = self._states(X, "X"), self._states(X_val, "X_val")
        y, y_val = _labels(y, len(X), "y"), _labels(y_val, len(X_val), "y_val")
        mean = X.mean(axis=0, dtype=np.float64)
        scale = X.std(axis=0, dtype=np.float64)
        # A constant feature has a rounding error for a deviation: dividing by it would invent a signal.
        scale[scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        fit = fit_path(_standardised(X, mean, scale), y, _standardised(X_val, mean, scale), y_val,
                       grid=HALF_DECADES)  # fmt: skip
        self.weights_ = ProbeWeights(fit.weight, fit.bias, mean, scale)
        self.C_, self.val_nll_, self.converged_ = fit.C, fit.val_nll, fit.converged
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) float64 P(correct)."""
        return probability(self.decision_function(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """(n,) float64 log-odds that the answer is correct."""
        if not hasattr(self, "weights_"):
            raise ScoringError("This probe has not been fitted: call fit(X, y, X_val, y_val) first.")
        return self.weights_.logit(self._states(X, "X"))

    def _states(self, X: Any, name: str) -> np.ndarray:
        if hasattr(X, "detach"):
            X = X.detach().cpu().float().numpy()
        X = np.asarray(X)
        if X.ndim == 3 and X.shape[1] > 1:
            raise ScoringError(
                f"{name} has shape {X.shape}: {X.shape[1]} layers. A probe reads one: pass {name}[:, i] with "
                "the i of the layer wanted, or extract with layers=[one]."
            )
        if X.ndim == 3:
            X = X[:, 0]
        if X.ndim != 2 or X.shape[1] != self.input_dim:
            raise ScoringError(
                f"{name} has shape {X.shape}; (n, {self.input_dim}) or (n, 1, {self.input_dim}) is needed."
            )
        bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
        if bad.size:
            raise ScoringError(f"{name} holds NaN or infinity in {bad.size} rows, the first is row {bad[0]}.")
        return X


def _standardised(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((X - mean) / scale).astype(np.float32)


def _labels(y: Any, n: int, name: str) -> np.ndarray:
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    y = np.asarray(y, dtype=np.float64)
    if y.shape != (n,):
        raise ScoringError(f"{name} has shape {y.shape}, but there are {n} rows of states.")
    bad = np.flatnonzero((y != 0) & (y != 1))
    if bad.size:
        raise ScoringError(f"{name} must be 0 or 1; {bad.size} are not, the first is {y[bad[0]]:g} at index {bad[0]}.")
    return y
