"""`descent` for many layers side by side on one device: the same steps, on a stack of regressions with the same labels.

Products with the features go layer by layer, since one layer's fills a GPU (10,000 x 4,096 are 164 MB to read). All
else is batched: for one layer at a time it would be some hundred small calls a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.probes.descent import MEMORY
from src.probes.spectrum import ROUNDING, sketched_from

_BLOCK = 2**24  # features that are float64 at a time


@dataclass(frozen=True)
class Directions:
    """`Spectrum` of l layers: vectors (l, d, k), values (l, k), rest (l,). A vector that a layer lacks is 0."""

    vectors: Tensor
    values: Tensor
    rest: Tensor

    @classmethod
    def of(cls, X: Sequence[Tensor], share: Tensor) -> "Directions":
        """Of each layer's (n, d) features, seen from the rows that `Spectrum.of` takes."""
        n, d = X[0].shape
        rows, seeds = (torch.from_numpy(a).to(share.device) for a in sketched_from(n))
        found = [_nystrom(x[rows], share[rows] / share[rows].sum(), seeds) for x in X]
        values, total = torch.stack([one[1] for one in found]), torch.stack([one[2] for one in found])
        held = (values > 0).sum(1)
        rest = (total - values.sum(1)).clamp(min=0) / (min(n, d) - held).clamp(min=1)
        return cls(torch.stack([one[0] for one in found]), values, rest)

    def precondition(self, curvature: Tensor, penalty: Tensor, gradient: Tensor) -> Tensor:
        """(l, d + 1) -> (l, d + 1), in the precision of the vectors; curvature and penalty (l,)."""
        elsewhere = 1 / (curvature * self.rest + penalty)[:, None]
        along = 1 / (curvature[:, None] * self.values + penalty[:, None]) - elsewhere
        turned = torch.einsum("ldk,ld->lk", self.vectors, gradient[:, :-1])
        back = torch.einsum("ldk,lk->ld", self.vectors, along.to(turned.dtype) * turned)
        found = elsewhere.to(back.dtype) * gradient[:, :-1] + back
        return torch.cat([found, gradient[:, -1:] / curvature[:, None].to(back.dtype)], dim=1)

    def only(self, layers: list[int]) -> "Directions":
        """These of the layers."""
        return Directions(self.vectors[layers], self.values[layers], self.rest[layers])


def _nystrom(A: Tensor, weights: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (d, k) and values (k,) of A' weights A, and its trace; the steps are those of `Spectrum.of`."""
    Q = torch.linalg.qr(A[seeds].T)[0]
    B = A @ Q
    weighed = weights[:, None].to(A.dtype) * B
    inner, turn = torch.linalg.eigh((weighed.T @ B).double())
    root = turn * torch.where(inner > ROUNDING * inner[-1], inner, torch.inf).rsqrt()
    F = A.T @ weighed @ root.to(A.dtype)
    values, turn = torch.linalg.eigh((F.T @ F).double())
    there = values > ROUNDING**2 * values[-1]
    vectors = F @ (turn * torch.where(there, values, torch.inf).rsqrt()).to(A.dtype)
    return vectors, torch.where(there, values, 0), weights @ A.square().sum(1).double()


@dataclass(frozen=True)
class Batch:
    """Regressions of l layers, each at a point of its own.

    Attributes:
        X: (n, d) standardised features of each layer.
        y: (n,) float64 targets.
        share: (n,) float64 weights of the rows, sum 1.
        directions: of the features.
        v: (l, d + 1) float64 weights, the intercept last.
        z: (l, n) float64 margins.
        slope: (l, d + 1) float64, of the mean loss.
        steps, changes: (l, m, d + 1) the last steps and what they did to the slope, oldest first; 0 where a layer's
            loss did not bend.
    """

    X: tuple[Tensor, ...]
    y: Tensor
    share: Tensor
    directions: Directions
    v: Tensor
    z: Tensor
    slope: Tensor
    steps: Tensor
    changes: Tensor

    @classmethod
    def start(cls, X: Sequence[Tensor], y: Tensor, share: Tensor) -> "Batch":
        """At weights of 0 and the base rate."""
        n, d = X[0].shape
        v = torch.zeros(len(X), d + 1, dtype=torch.float64, device=y.device)
        v[:, -1] = torch.logit(share @ y)
        z = v[:, -1:].expand(-1, n).clone()
        none = torch.zeros(len(X), 0, d + 1, dtype=X[0].dtype, device=y.device)
        batch = cls(tuple(X), y, share, Directions.of(X, share), v, z, v, none, none)
        return replace(batch, slope=batch._slope(batch._residuals(z)))

    def only(self, layers: list[int]) -> "Batch":
        """These of the layers."""
        parts = (a[layers] for a in (self.v, self.z, self.slope, self.steps, self.changes))
        return Batch(tuple(self.X[i] for i in layers), self.y, self.share, self.directions.only(layers), *parts)

    def gradient(self, penalty: Tensor) -> Tensor:
        """(l, d + 1) of the objectives, with a penalty each (l,) that leaves the intercepts alone."""
        gradient = self.slope + penalty[:, None] * self.v
        gradient[:, -1] = self.slope[:, -1]
        return gradient

    def steepness(self, penalty: Tensor) -> Tensor:
        """(l,) largest entry of each gradient."""
        return self.gradient(penalty).abs().amax(1)

    def stepped(self, penalty: Tensor, moving: Tensor | None = None) -> "Batch":
        """One step further; layers that are not `moving` (l,) stay where they are."""
        p = torch.sigmoid(self.z)
        curvature = (p * (1 - p) @ self.share).clamp(min=1e-4)
        direction = self._direction(self.gradient(penalty), penalty, curvature).double()
        if moving is not None:
            direction = torch.where(moving[:, None], direction, 0)
        dz = self._margins(direction)
        length = self._length(direction, dz, penalty)[:, None]
        z, step = self.z + length * dz, length * direction
        # Only the change goes through the product, so that its rounding error shrinks with the steps.
        change = self._slope(self._residuals(z) - self._residuals(self.z))
        sure = (step * change).sum(1) > 1e-12 * step.norm(dim=1) * change.norm(dim=1)
        kept = (
            torch.cat([past[:, 1 - MEMORY :], torch.where(sure[:, None], new, 0).to(past.dtype)[:, None]], 1)
            for past, new in ((self.steps, step), (self.changes, change))
        )
        return Batch(self.X, self.y, self.share, self.directions, self.v + step, z, self.slope + change, *kept)

    def exact(self) -> "Batch":
        """The same points, with margins and slopes from products in float64."""
        z, slope = torch.empty_like(self.z), torch.zeros_like(self.slope)
        for i, X in enumerate(self.X):
            for rows, block in in_blocks(X):
                z[i, rows] = block @ self.v[i, :-1] + self.v[i, -1]
                residuals = self.share[rows] * (torch.sigmoid(z[i, rows]) - self.y[rows])
                slope[i, :-1] += residuals @ block
                slope[i, -1] += residuals.sum()
        return replace(self, z=z, slope=slope)

    def _residuals(self, z: Tensor) -> Tensor:
        return self.share * (torch.sigmoid(z) - self.y)

    def _margins(self, v: Tensor) -> Tensor:
        weights = v[:, :-1].to(self.X[0].dtype)
        return torch.stack([X @ w for X, w in zip(self.X, weights, strict=True)]).double() + v[:, -1:]

    def _slope(self, residuals: Tensor) -> Tensor:
        narrow = residuals.to(self.X[0].dtype)
        products = torch.stack([r @ X for X, r in zip(self.X, narrow, strict=True)]).double()
        return torch.cat([products, residuals.sum(1, keepdim=True)], 1)

    def _direction(self, gradient: Tensor, penalty: Tensor, curvature: Tensor) -> Tensor:
        """(l, d + 1) downhill, as `Memory.direction` finds it: its two loops are two triangular systems.

        With steps S, changes Y (of the objective, so with the penalty) and U the upper triangle of S Y', the first
        loop's shares solve U a = S q; what the second adds solves U' b = diag(U) a - Y r.
        """
        found = -gradient.to(self.steps.dtype)
        if not self.steps.shape[1]:
            return self.directions.precondition(curvature, penalty, found)
        changes = self.changes.clone()
        changes[..., :-1] += penalty[:, None, None].to(changes.dtype) * self.steps[..., :-1]
        upper = torch.triu(torch.bmm(self.steps, changes.mT).double())
        bends = upper.diagonal(dim1=1, dim2=2)
        bends.copy_(torch.where(bends > 0, bends, 1.0))  # of a step that is 0
        shares = torch.linalg.solve_triangular(upper, _times(self.steps, found), upper=True)
        found = found - _back(changes, shares)
        found = self.directions.precondition(curvature, penalty, found)
        more = bends[..., None] * shares - _times(changes, found)
        return found + _back(self.steps, torch.linalg.solve_triangular(upper.mT, more, upper=False))

    def _length(self, direction: Tensor, dz: Tensor, penalty: Tensor) -> Tensor:
        """(l,) as `descent` finds it: Newton's method along the directions, on the margins."""
        slope = (self.gradient(penalty) * direction).sum(1)
        bend = penalty * direction[:, :-1].square().sum(1)
        start, t = torch.sigmoid(self.z), torch.ones_like(penalty)
        for _ in range(8):
            p = torch.sigmoid(self.z + t[:, None] * dz)
            first = slope + (self.share * (p - start) * dz).sum(1) + t * bend
            second = (self.share * p * (1 - p) * dz.square()).sum(1) + bend
            t, old = torch.clamp(t - first / second.clamp(min=1e-300), t / 10, t * 10), t
            if bool(((t - old).abs() <= 1e-3 * t).all()):
                break
        return t


def in_blocks(X: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of (n, d) features at a time, in float64."""
    step = max(_BLOCK // X.shape[1], 1)
    for start in range(0, len(X), step):
        yield slice(start, start + step), X[start : start + step].double()


def _times(pairs: Tensor, found: Tensor) -> Tensor:
    """(l, m, d) by (l, d): (l, m, 1) float64."""
    return torch.bmm(pairs, found[..., None]).double()


def _back(pairs: Tensor, shares: Tensor) -> Tensor:
    """(l, m, d) by (l, m, 1): the sums (l, d), in the pairs' precision."""
    return torch.bmm(pairs.mT, shares.to(pairs.dtype))[..., 0]
