"""`LinearProbe`: standardised L2 logistic regression on one layer's hidden states."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.probes.folds import folds
from src.probes.probe import Probe
from src.probes.scaling import Scaling
from src.probes.solver import HALF_DECADES, Path, fit_at, fit_path
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
    """

    weights_: ProbeWeights
    C_: float
    converged_: bool

    def __init__(self, input_dim: int, *, tolerance: float = 1e-6):
        super().__init__(input_dim)
        self.tolerance = tolerance

    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> None:
        if val is None:
            C, loss = _cross_validated(train, groups)
            scaling = Scaling.of(train)
            fit = fit_at(scaling.apply(train), train.y, C, sample_weight=train.weight, tolerance=self.tolerance)
        else:
            scaling = Scaling.of(train)
            fit = fit_path(
                scaling.apply(train), train.y, scaling.apply(val), val.y, sample_weight=train.weight,
                tolerance=self.tolerance,
            )  # fmt: skip
            loss = fit.val_nll
        self.weights_ = ProbeWeights(fit.weight, fit.bias, scaling.mean, scaling.scale)
        self.C_, self.val_nll_, self.converged_ = fit.C, loss, fit.converged

    def _logits(self, states: States) -> np.ndarray:
        return self.weights_.logit_of(states)


def _cross_validated(train: Sample, groups: Any) -> tuple[float, float]:
    """The C whose loss is lowest over all folds, and that loss; a C that a fold's path did not reach does not count."""
    sums, total, reached = np.zeros(len(HALF_DECADES)), 0.0, len(HALF_DECADES)
    for fitted, chosen_on in folds(train, groups):
        scaling = Scaling.of(fitted)
        path = Path(scaling.apply(fitted), fitted.y, fitted.weight)
        steps = path.walk(scaling.apply(chosen_on), chosen_on.y, HALF_DECADES, val_weight=chosen_on.weight)
        reached = min(reached, len(steps))
        weight = float(chosen_on.weight.sum())
        sums[: len(steps)] += weight * np.array([step.val_nll for step in steps])
        total += weight
    best = int(np.argmin(sums[:reached]))
    return HALF_DECADES[best], float(sums[best]) / total
