"""Which module is which layer, for any decoder of transformers, wrapped by PEFT or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from src.errors import ModelError

EMBEDDINGS = "embeddings"
FINAL_NORM = "final_norm"

Layers = Sequence[int | str] | str


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder that states are read from.

    Attributes:
        blocks: decoder blocks in order; layer i is the residual stream after block i, before the final norm.
        head: the output embedding, whose input is the state after the final norm; None for a bare decoder.
        hidden_dim: the width of the residual stream.
    """

    blocks: tuple[nn.Module, ...]
    head: nn.Module | None
    hidden_dim: int


def anatomy(model: Any) -> Anatomy:
    """Find the parts. Raises ModelError where the model has no such list of blocks."""
    config = model.config.get_text_config(decoder=True)
    count = config.num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of its {count} decoder blocks to read states from.")
    return Anatomy(tuple(lists[0]), model.get_output_embeddings(), config.hidden_size)


def layer_names(layers: Layers, n_blocks: int) -> tuple[str, ...]:
    """Canonical names ("block.3", "embeddings", "final_norm") of the asked layers, in the order asked.

    Args:
        layers: block numbers from 0, negative ones from the end; the names above (so that names may be passed
            on); or "all" for all blocks.
        n_blocks: how many decoder blocks the model has.

    Raises:
        ModelError: out of range, unknown, or asked for twice.
    """
    if layers == "all":
        return tuple(f"block.{i}" for i in range(n_blocks))
    if isinstance(layers, str):
        layers = [layers]
    names = tuple(_layer_name(layer, n_blocks) for layer in layers)
    if not names:
        raise ModelError("No layers were asked for. Give layers=[...] with at least one.")
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise ModelError(f"The layers {list(layers)} name {duplicate} twice.")
    return names


def _layer_name(layer: int | str, n_blocks: int) -> str:
    if isinstance(layer, str):
        number = layer.removeprefix("block.")
        if layer in (EMBEDDINGS, FINAL_NORM):
            return layer
        if number != layer and number.isdecimal():
            return _layer_name(int(number), n_blocks)
        raise ModelError(f"Unknown layer {layer!r}. Use a number, {EMBEDDINGS!r}, {FINAL_NORM!r} or 'all'.")
    if isinstance(layer, bool) or not -n_blocks <= layer < n_blocks:
        raise ModelError(
            f"Layer {layer!r} is out of range: this model has blocks 0 to {n_blocks - 1}, or -1 to {-n_blocks}."
        )
    return f"block.{layer % n_blocks}"
