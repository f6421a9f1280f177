"""The usual mistakes with an adapter, undone one at a time: what the loaded tensors would be without each.

Each of them passes every check of shapes and names, since tensors of equal shape are exchanged, scaled or left out.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from src.adapters import PREFIX, module_names
from src.models.update_report import layer_of

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """An adapter as it would be without one mistake.

    Attributes:
        mistake: what the mistake was, as a sentence.
        tensors: the tensors that differ from the file, under the file's names.
    """

    mistake: str
    tensors: Tensors


def trials(tensors: Tensors) -> Iterator[Trial]:
    """The cheap and likely mistakes first, pairs of layers last: there are many of them."""
    modules = module_names(tensors)
    by_leaf: dict[str, list[str]] = {}
    for module in modules:
        by_leaf.setdefault(module.rsplit(".", 1)[-1], []).append(module)
    yield from _left_out(tensors, by_leaf)
    yield from _transposed(tensors, by_leaf)
    yield from _exchanged_leaves(tensors, modules, list(by_leaf))
    yield from _exchanged_layers(tensors, modules)


def scaled(tensors: Tensors, factor: float) -> Tensors:
    """Every update times a factor."""
    return {name: factor * tensor for name, tensor in tensors.items() if ".lora_B." in name}


def can_be_changed(model: nn.Module, tensors: Tensors) -> bool:
    """Whether the model holds each tensor as the file does: experts, and modules of another name, it does not."""
    held = {name.replace(".default.weight", ".weight") for name, _ in model.named_parameters()}
    return tensors.keys() <= held


@contextlib.contextmanager
def instead(model: nn.Module, tensors: Tensors, original: Tensors) -> Iterator[None]:
    """Put other tensors into the loaded adapter, and the file's back when the block ends."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, dict(tensors))
    try:
        yield
    finally:
        set_peft_model_state_dict(model, {name: original[name] for name in tensors})


def _left_out(tensors: Tensors, by_leaf: Mapping[str, list[str]]) -> Iterator[Trial]:
    for leaf, modules in by_leaf.items():
        zeroed = {_name(module, "B"): 0 * tensors[_name(module, "B")] for module in modules}
        yield Trial(f"The update of {leaf} is in the adapter, and Tinker computes without it.", zeroed)


def _transposed(tensors: Tensors, by_leaf: Mapping[str, list[str]]) -> Iterator[Trial]:
    """(B A)^T = A^T B^T, so a transposed update of a square weight is its two halves exchanged."""

    def turned(modules: list[str]) -> dict[str, Tensor]:
        changed = {}
        for module in modules:
            a, b = tensors[_name(module, "A")], tensors[_name(module, "B")]
            if a.shape == b.T.shape:
                changed |= {_name(module, "A"): b.T.contiguous(), _name(module, "B"): a.T.contiguous()}
        return changed

    every = turned([module for modules in by_leaf.values() for module in modules])
    if every:
        yield Trial("The updates of all square weights are transposed (A and B exchanged).", every)
    for leaf, modules in by_leaf.items():
        if one := turned(modules):
            yield Trial(f"The updates of {leaf} are transposed (A and B exchanged).", one)


def _exchanged_leaves(tensors: Tensors, modules: list[str], leaves: list[str]) -> Iterator[Trial]:
    for first, second in itertools.combinations(leaves, 2):
        swap = {first: second, second: first}

        def other(module: str, swap: Mapping[str, str] = swap) -> str:
            *stem, leaf = module.split(".")
            return ".".join([*stem, swap.get(leaf, leaf)])

        if changed := _moved(tensors, modules, other):
            yield Trial(f"The updates of {first} and {second} are exchanged.", changed)


def _exchanged_layers(tensors: Tensors, modules: list[str]) -> Iterator[Trial]:
    layers = sorted({layer for module in modules if (layer := layer_of(module))}, key=int)
    orders = {
        "The layers are in the order of the alphabet (10 before 2).": dict(zip(sorted(layers), layers, strict=True)),
        "The layers are in reverse order.": dict(zip(layers, reversed(layers), strict=True)),
    }
    for first, second in itertools.combinations(layers, 2):
        orders[f"The updates of layers {first} and {second} are exchanged."] = {first: second, second: first}
    for mistake, order in orders.items():

        def other(module: str, order: Mapping[str, str] = order) -> str:
            layer = layer_of(module)
            # The first number is the layer's; an expert may have the same.
            return module if layer is None else module.replace(f".{layer}.", f".{order.get(layer, layer)}.", 1)

        if changed := _moved(tensors, modules, other):
            yield Trial(mistake, changed)


def _moved(tensors: Tensors, modules: list[str], other: Callable[[str], str]) -> dict[str, Tensor] | None:
    """Every module with the tensors of `other(module)`; None where they do not fit, or nothing moves."""
    changed: dict[str, Tensor] = {}
    for module in modules:
        if (source := other(module)) == module:
            continue
        for half in "AB":
            here, there = _name(module, half), _name(source, half)
            if there not in tensors or tensors[there].shape != tensors[here].shape:
                return None
            changed[here] = tensors[there]
    return changed or None


def _name(module: str, half: str) -> str:
    return f"{PREFIX}{module}.lora_{half}.weight"
