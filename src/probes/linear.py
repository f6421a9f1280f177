"""`LinearProbe`: standardised L2 logistic regression on one layer's hidden states."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from src.errors import ScoringError
from src.evaluation.inputs import as_probabilities
from src.evaluation.recalibration import Method, Recalibration, fit_recalibration
from src.probes.solver import HALF_DECADES, fit_path, probability

if TYPE_CHECKING:
    from src.probes.artifact import SavedProbe
    from src.probes.origin import Origin


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
        recalibration_: what `calibrated` has fitted; None: confidences are as the regression gives them.
    """

    weights_: ProbeWeights
    C_: float
    val_nll_: float
    converged_: bool
    recalibration_: Recalibration | None = None

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
        self.recalibration_ = None
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) float64 P(correct)."""
        p = probability(self.decision_function(X))
        return p if self.recalibration_ is None else self.recalibration_(p)

    def calibrated(self, p_or_states: Any, y: Any, *, method: Method = "temperature") -> "LinearProbe":
        """A copy whose `predict` is recalibrated on validation rows; `decision_function` stays.

        Args:
            p_or_states: (n,) this probe's own confidences, before any recalibration; or (n, d) or (n, 1, d) states.
            y: (n,) 1 where the answer was correct, else 0.
            method: see `fit_recalibration`.

        Raises:
            ScoringError: bad rows, or one class only.
        """
        if np.ndim(p_or_states) == 1:
            p = as_probabilities(p_or_states)
        else:
            p = probability(self.decision_function(p_or_states))
        other = copy.copy(self)
        other.recalibration_ = fit_recalibration(p, y, method=method)
        return other

    def frozen(self, origin: "Origin") -> "SavedProbe":
        """The fitted probe with where it comes from: to save, to share and to use. See `src.probes.artifact`."""
        from src.probes.artifact import SavedProbe

        return SavedProbe(self.weights_, origin, self.recalibration_)

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
