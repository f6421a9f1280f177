"""One layer's rows on a device: moved a block at a time, standardised there in place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from src.errors import ScoringError
from src.probes.batch import in_blocks
from src.probes.scaling import Scaling
from src.probes.states import Sample


@dataclass(frozen=True)
class Layer:
    """A layer to fit to and to choose C with.

    Attributes:
        X, X_val: (n, d), (m, d) standardised features in the precision of the states.
        y, y_val, weight: (n,), (m,), (n,) float64.
        scaling: that of the training rows.
    """

    X: Tensor
    X_val: Tensor
    y: Tensor
    y_val: Tensor
    weight: Tensor
    scaling: Scaling

    @classmethod
    def on(cls, device: torch.device, train: Sample, val: Sample) -> "Layer":
        """From samples, which stay as they are.

        Raises:
            ScoringError: rows that no probe can be trained on, or none to choose C with.
        """
        train.check_can_train()
        if not val.y.size:
            raise ScoringError("There are no validation rows to choose C with.")
        y, y_val, weight = (torch.from_numpy(a).to(device) for a in (train.y, val.y, train.weight))
        X, X_val = (_moved(sample, device) for sample in (train, val))
        scaling = _scaling(X, weight / weight.sum())
        mean, inverse = (torch.from_numpy(a).to(X) for a in (scaling.mean, scaling.inverse))
        for part in (X, X_val):
            part.sub_(mean).mul_(inverse)
        return cls(X, X_val, y, y_val, weight, scaling)

    def loss(self, v: Tensor) -> float:
        """Mean validation loss in nats of weights (d + 1,), the intercept last."""
        z = (self.X_val @ v[:-1].to(self.X_val.dtype)).double() + v[-1]
        return float((softplus(z) - self.y_val * z).mean())


def _moved(sample: Sample, device: torch.device) -> Tensor:
    dtype = torch.float64 if sample.states.dtype == np.float64 else torch.float32
    X = torch.empty(len(sample.rows), sample.states.shape[1], dtype=dtype, device=device)
    for place, block in sample.states.blocks(sample.rows):
        X[place] = torch.from_numpy(np.array(block))  # a copy: torch warns of memory that cannot be written
    return X


def _scaling(X: Tensor, share: Tensor) -> Scaling:
    mean, square = (torch.zeros(X.shape[1], dtype=torch.float64, device=X.device) for _ in range(2))
    for rows, block in in_blocks(X):
        mean += share[rows] @ block
    for rows, block in in_blocks(X):
        square += share[rows] @ (block - mean).square()
    dtype = np.dtype(np.float64 if X.dtype == torch.float64 else np.float32)
    return Scaling.found(mean.cpu().numpy(), square.sqrt().cpu().numpy(), dtype)
