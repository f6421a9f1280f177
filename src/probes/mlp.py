"""`MLPProbe`: one hidden layer, for what a straight line through the states cannot say."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.probes.folds import cross_validated
from src.probes.probe import Probe
from src.probes.scaling import Scaling
from src.probes.solver import mean_nll
from src.probes.states import Sample, States

HIDDEN = 64
_BATCH, _RATE, _DECAY = 256, 1e-3, 0.1
_MOST_EPOCHS, _PATIENCE = 100, 8


@dataclass(frozen=True)
class MLPWeights:
    """log-odds = relu(x into + offset) out + bias of standardised states x; all float64.

    Attributes:
        into: (d, h); 0 for a constant feature.
        offset: (h,).
        out: (h,).
        bias: log-odds where no hidden unit is active.
        mean, scale: (d,) of the training rows.
    """

    into: np.ndarray
    offset: np.ndarray
    out: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray

    def logit_of(self, states: States) -> np.ndarray:
        """(n,) float64 log-odds that the answer is correct."""
        parts = [self._of_block((block - self.mean) / self.scale) for _, block in states.blocks(dtype=np.float64)]
        return np.concatenate([np.empty(0), *parts])

    def _of_block(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ self.into + self.offset, 0) @ self.out + self.bias


class MLPProbe(Probe):
    """Predicts P(correct) with one hidden layer of 64 units (AdamW, seeded).

    How long it trains is chosen by the loss on validation rows, or over folds.

    Args:
        input_dim: the width d of the states.
        seed: of first weights and the order of rows.

    Attributes:
        weights_: the fitted `MLPWeights`.
        epochs_: how many passes over the training rows were best.
        val_nll_: the validation loss after them, in nats.
    """

    family = "mlp"
    weights_: MLPWeights
    epochs_: int

    def __init__(self, input_dim: int, *, seed: int = 0):
        super().__init__(input_dim)
        self.seed = seed

    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> np.ndarray | None:
        out_of_fold = None
        if val is None:
            best, self.val_nll_, out_of_fold = cross_validated(train, groups, self._said)
        else:
            losses = _losses(self._said(train, val), val)
            best = int(np.argmin(losses))
            self.val_nll_ = losses[best]
        self.epochs_ = best + 1
        networks = _trained(train, self.seed)
        for _ in range(self.epochs_):
            self.weights_ = next(networks)
        return out_of_fold

    def _said(self, fitted: Sample, held_out: Sample) -> list[np.ndarray]:
        """Log-odds of the held-out rows after each epoch, up to where their loss has not fallen for eight."""
        said: list[np.ndarray] = []
        for weights in _trained(fitted, self.seed):
            said.append(weights.logit_of(held_out.states)[held_out.rows])
            losses = _losses(said, held_out)
            if len(losses) - int(np.argmin(losses)) > _PATIENCE or len(losses) == _MOST_EPOCHS:
                return said
        return said

    def _logits(self, states: States) -> np.ndarray:
        return self.weights_.logit_of(states)


def _losses(said: list[np.ndarray], held_out: Sample) -> list[float]:
    return [mean_nll(logits, held_out.y, held_out.weight) for logits in said]


def _trained(sample: Sample, seed: int) -> Iterator[MLPWeights]:
    """The network after each epoch, without end. Torch's own random numbers stay where they are."""
    import torch

    scaling = Scaling.of(sample)
    X = torch.from_numpy(scaling.apply(sample)).float()
    y, weight = (torch.from_numpy(a).float() for a in (sample.y, sample.weight / sample.weight.mean()))
    rng = torch.Generator().manual_seed(seed)
    d = X.shape[1]
    into = (torch.randn(d, HIDDEN, generator=rng) * (2 / d) ** 0.5).requires_grad_()
    # It begins by saying the share of right answers of all rows: nothing that it says is chance of the first weights.
    out, offset = (torch.zeros(HIDDEN, requires_grad=True) for _ in range(2))
    bias = torch.logit((weight * y).mean()).requires_grad_()
    optimizer = torch.optim.AdamW([into, out, offset, bias], lr=_RATE, weight_decay=_DECAY)
    varies = ~scaling.constant[:, None]
    while True:
        for rows in torch.randperm(len(X), generator=rng).split(_BATCH):
            z = torch.relu(X[rows] @ into + offset) @ out + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y[rows], weight=weight[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        into_, offset_, out_, bias_ = (p.detach().double().numpy().copy() for p in (into, offset, out, bias))
        yield MLPWeights(into_ * varies, offset_, out_, float(bias_), scaling.mean, scaling.scale)
