"""`LinearProbe`: standardised L2 logistic regression on one layer's hidden states."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.evaluation.inputs import as_probabilities
from src.evaluation.recalibration import Method, fit_recalibration
from src.probes.folds import cross_validated
from src.probes.probe import Probe
from src.probes.scaling import Scaling
from src.probes.solver import HALF_DECADES, Fit, Path, fit_at, fit_path, probability
from src.probes.states import Sample, States


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

    def logit(self, hidden: Any) -> np.ndarray:
        """(n, d) hidden states, numpy or torch -> (n,) float64 log-odds that the answer is correct."""
        return self.logit_of(States(hidden, "hidden", len(self.weight)))

    def logit_of(self, states: States) -> np.ndarray:
        """The same of checked states."""
        raw = self.weight / self.scale
        bias = self.bias - self.mean @ raw
        return np.concatenate([np.empty(0), *(block @ raw + bias for _, block in states.blocks(dtype=np.float64))])


class LinearProbe(Probe):
    """Predicts P(the model's answer is correct) from its hidden state.

    Args:
        input_dim: the width d of the states.
        tolerance: largest entry of the gradient at the chosen C; `fit_path` has more.

    Attributes:
        weights_: the fitted `ProbeWeights`.
        C_: the inverse L2 strength that scored best on the validation rows, from half decades 1e-6 to 1.
        val_nll_: its validation loss in nats.
        converged_: False where the iteration limit ended the fit.
        recalibration_: of its confidences, after `calibrated`; None: they stay as fitted.
    """

    family = "logistic"
    weights_: ProbeWeights
    C_: float
    converged_: bool

    def __init__(self, input_dim: int, *, tolerance: float = 1e-6):
        super().__init__(input_dim)
        self.tolerance = tolerance

    @classmethod
    def of(cls, fit: Fit, scaling: Scaling, X: Any, y: Any) -> "LinearProbe":
        """The probe of a fit that was made elsewhere, on standardised features, to rows X (n, d) and labels y (n,).

        Raises:
            ScoringError: it ranks these rows the wrong way round.
        """
        probe = cls(fit.weight.size)
        probe._take(fit, scaling, fit.val_nll)
        probe.out_of_fold_, probe.fitted = None, True
        return probe._checked(Sample.of(probe._read(X, "X"), y, None, "X", probe.input_dim))

    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> np.ndarray | None:
        out_of_fold = None
        if val is None:
            best, loss, out_of_fold = cross_validated(train, groups, _along_the_path)
            scaling, C = Scaling.of(train), HALF_DECADES[best]
            fit = fit_at(scaling.apply(train), train.y, C, sample_weight=train.weight, tolerance=self.tolerance)
        else:
            scaling = Scaling.of(train)
            fit = fit_path(
                scaling.apply(train), train.y, scaling.apply(val), val.y, sample_weight=train.weight,
                tolerance=self.tolerance,
            )  # fmt: skip
            loss = fit.val_nll
        self._take(fit, scaling, loss)
        return out_of_fold

    def _take(self, fit: Fit, scaling: Scaling, loss: float) -> None:
        self.weights_ = ProbeWeights(fit.weight, fit.bias, scaling.mean, scaling.scale)
        self.C_, self.val_nll_, self.converged_ = fit.C, loss, fit.converged
        self.recalibration_ = None

    def predict(self, X: Any) -> np.ndarray:
        """(n,) float64 P(correct)."""
        p = super().predict(X)
        return p if self.recalibration_ is None else self.recalibration_(p)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) float64 P(wrong), P(correct)."""
        if self.recalibration_ is None:
            return super().predict_proba(X)
        p = self.predict(X)
        return np.column_stack([1 - p, p])

    def calibrated(self, p_or_states: Any, y: Any, *, method: Method = "temperature") -> "LinearProbe":
        """A copy whose probabilities are recalibrated on validation rows; `decision_function` stays.

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

    def _logits(self, states: States) -> np.ndarray:
        return self.weights_.logit_of(states)


def _along_the_path(fitted: Sample, held_out: Sample) -> list[np.ndarray]:
    """Log-odds of the held-out rows at each C of the path."""
    scaling = Scaling.of(fitted)
    path, X = Path(scaling.apply(fitted), fitted.y, fitted.weight), scaling.apply(held_out)
    steps = path.walk(X, held_out.y, HALF_DECADES, val_weight=held_out.weight)
    return [path.logits(step, X) for step in steps]
