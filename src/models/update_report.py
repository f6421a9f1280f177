"""What a LoRA does to each weight, in numbers: how large its update is, of what rank, and whether that looks odd."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.adapters import PREFIX, WEIGHTS_NAME, Adapter, read_tensors

_OUTLIER = 100  # times the median


@dataclass(frozen=True)
class ModuleUpdate:
    """The update (alpha / r) · B · A of one weight.

    Attributes:
        module: the path of the weight's layer in the base model.
        norm: Frobenius norm.
        relative: the same, divided by that of the base weight; None where that is not at hand (quantised).
        largest: the largest singular value: the most by which a state of length 1 is changed.
        effective_rank: exp of the entropy of the normalised singular values (Roy and Vetterli 2007), 1 to r; 0 for an
            update of zero.
        rank: r.
    """

    module: str
    norm: float
    relative: float | None
    largest: float
    effective_rank: float
    rank: int


@dataclass(frozen=True)
class UpdateReport:
    """All updates of an adapter, in the order of its file."""

    modules: tuple[ModuleUpdate, ...]

    @property
    def biggest(self) -> ModuleUpdate:
        """Relative to the base weight where every base weight is known."""
        known = all(update.relative is not None for update in self.modules)
        return max(self.modules, key=lambda update: (update.relative or 0.0) if known else update.norm)

    @cached_property
    def layers(self) -> dict[str, float]:
        """Decoder block ("7"), or a module outside of them, -> Frobenius norm of all its updates together."""
        squares: dict[str, float] = defaultdict(float)
        for update in self.modules:
            squares[layer_of(update.module) or update.module] += update.norm**2
        return {layer: float(np.sqrt(square)) for layer, square in squares.items()}

    @property
    def odd(self) -> list[str]:
        """What a sound training rarely leaves behind, in sentences."""
        sentences = []
        if zero := [update.module for update in self.modules if update.norm == 0]:
            sentences.append(f"{len(zero)} of {len(self.modules)} updates are zero, the first that of {zero[0]}.")
        median = float(np.median(list(self.layers.values())))
        for layer, norm in self.layers.items():
            if norm > _OUTLIER * median > 0:
                name = f"layer {layer}" if layer.isdigit() else layer
                sentences.append(f"The update of {name} is {norm / median:,.0f} times the median of all layers.")
        for update in self.modules:
            if update.relative is not None and update.relative > 1:
                sentences.append(
                    f"The update of {update.module} is {update.relative:.1f} times the weight that it changes."
                )
        return sentences


def report_update(adapter: Adapter, model: nn.Module | None = None) -> UpdateReport:
    """Measure every update of an adapter, without ever making a full product.

    Args:
        adapter: from `read_adapter`.
        model: the base model with it attached, for the norms of the base weights.
    """
    tensors = read_tensors(adapter.folder / WEIGHTS_NAME)
    weights = dict(model.named_parameters()) if model is not None else {}
    return UpdateReport(tuple(_measured(adapter, module, tensors, weights) for module in adapter.modules))


def layer_of(module: str) -> str | None:
    """The number of the decoder block that a module belongs to ("model.layers.7.mlp.up_proj" -> "7")."""
    return next((part for part in module.split(".") if part.isdigit()), None)


def singular_values(a: Tensor, b: Tensor) -> Tensor:
    """Of B @ A, for A (r, in) and B (out, r): (min(r, in, out),) float64, descending; through two thin QRs."""
    right = torch.linalg.qr(a.double().T, mode="r").R
    left = torch.linalg.qr(b.double(), mode="r").R
    return torch.linalg.svdvals(left @ right.T)


def _measured(adapter: Adapter, module: str, tensors: Mapping[str, Tensor], weights: Mapping[str, Any]) -> ModuleUpdate:
    a, b = (tensors[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
    values = _scaling(adapter, module, rank=len(a)) * singular_values(a, b)
    norm = float(values.norm())
    share = values / values.sum()
    entropy = float(-torch.special.xlogy(share, share).sum()) if norm else -np.inf
    weight = weights.get(f"{PREFIX}{module}.base_layer.weight")
    known = weight is not None and weight.is_floating_point() and not weight.is_meta
    return ModuleUpdate(
        module=module,
        norm=norm,
        relative=norm / float(weight.detach().float().norm()) if weight is not None and known else None,
        largest=float(values[0]),
        effective_rank=float(np.exp(entropy)),
        rank=len(a),
    )


def _scaling(adapter: Adapter, module: str, *, rank: int) -> float:
    patterns = adapter.config.get("alpha_pattern") or {}
    alphas = (alpha for name, alpha in patterns.items() if module == name or module.endswith(f".{name}"))
    return next(alphas, adapter.config["lora_alpha"]) / rank
