"""`MeanDifferenceProbe`: from the mean of the wrong answers' states to that of the right ones."""

from typing import Any

import numpy as np
from scipy.special import logit

from src.probes.folds import folds, gathered
from src.probes.linear import ProbeWeights
from src.probes.probe import Probe
from src.probes.scaling import Scaling
from src.probes.solver import fit_at, mean_nll
from src.probes.states import Sample, States

_HARDLY_ANY_PENALTY = 1e4


class MeanDifferenceProbe(Probe):
    """Predicts P(correct) along the difference of the class means of standardised states.

    It learns a direction in closed form and is steadier than logistic regression where rows are few. How far along it
    means how sure (Platt's two numbers) is learnt on validation rows, or out of fold: on its own training rows it would
    be too sure. Where those rows contradict the direction, or are all alike, P is their share of right answers, with
    half a right and half a wrong one added.

    Args:
        input_dim: the width d of the states.

    Attributes:
        weights_: the fitted `ProbeWeights`.
        val_nll_: the loss in nats on the rows that Platt's numbers were learnt on.
    """

    family = "mean_difference"
    weights_: ProbeWeights

    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> np.ndarray | None:
        pairs = [(train, val)] if val is not None else folds(train, groups)
        held_out = [_held_out(pair) for pair in pairs]
        along, y, weight = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
        slope, bias = _platt(along, y, weight)
        self.val_nll_ = mean_nll(slope * along + bias, y, weight)
        scaling = Scaling.of(train)
        direction = _difference(scaling.apply(train), train)
        self.weights_ = ProbeWeights(slope * direction, bias, scaling.mean, scaling.scale)
        if val is not None:
            return None
        return gathered(train, pairs, [slope * along + bias for along, _, _ in held_out])

    def _logits(self, states: States) -> np.ndarray:
        return self.weights_.logit_of(states)


def _difference(X: np.ndarray, sample: Sample) -> np.ndarray:
    right, wrong = sample.weight * sample.y, sample.weight * (1 - sample.y)
    return ((right / right.sum() - wrong / wrong.sum()).astype(X.dtype) @ X).astype(np.float64)


def _held_out(pair: tuple[Sample, Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far along the first rows' direction the second rows lie; their targets and weights."""
    fitted, held_out = pair
    scaling = Scaling.of(fitted)
    direction = _difference(scaling.apply(fitted), fitted)
    along = scaling.apply(held_out) @ direction.astype(fitted.states.dtype)
    return along.astype(np.float64), held_out.y, held_out.weight


def _platt(along: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    right, total = float(weight @ y), float(weight.sum())
    nothing = 0.0, float(logit((right + 0.5) / (total + 1)))
    if y.min() == y.max():
        return nothing
    spread = float(along.std()) or 1.0
    fit = fit_at(along[:, None] / spread, y, _HARDLY_ANY_PENALTY, grid=(), sample_weight=weight)
    if fit.weight[0] <= 0:
        return nothing
    return float(fit.weight[0]) / spread, fit.bias
