"""Where PEFT keeps an adapter's tensors in a loaded model, and what must stand there.

A module's halves lie beside it as they are in the file. The experts of a block are one parameter in transformers 5, and
PEFT keeps one pair for all of them. With E experts, rank r each, and gate and up in one parameter of rank 2r:

    A  (E·2r, in)    of each expert its gate's rows, then its up's
    B  (out, 2r·E)   seen as (out, 2r, E), the last index the expert: block diagonal of its gate's and its up's

and of the down projections the same with rank r and one block.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from src.adapters import PREFIX
from src.adapters.base_model import expert_of
from src.adapters.tensor_file import TensorFile

Read = Callable[[TensorFile], Tensor]
_BLOCKS = {"gate_proj": ("gate_proj", "up_proj"), "up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


class _Expert(NamedTuple):
    number: int
    leaf: str


def module_in_model(name: str) -> str:
    """The path of the module that holds the update of `name`: of an expert, PEFT's wrapper around all of them."""
    expert = expert_of(name)
    if expert is None:
        return name
    # PEFT wraps the parameters one after the other: down_proj outside, gate_up_proj inside.
    return expert[0] if expert[2] == "down_proj" else f"{expert[0]}.base_layer"


def expected_tensors(names: Mapping[str, str]) -> dict[str, Read]:
    """What must be in force: name of the tensor in the model -> how to make it from the adapter's file.

    Args:
        names: module in the file -> module of the base model.
    """
    readers: dict[str, Read] = {}
    experts: dict[str, dict[_Expert, str]] = {}
    for module, name in names.items():
        if expert := expert_of(name):
            experts.setdefault(module_in_model(name), {})[_Expert(*expert[1:])] = module
        else:
            readers |= {f"{name}.lora_{half}.weight": partial(_read, module, half) for half in "AB"}
    for path, modules in experts.items():
        readers[f"{path}.lora_A.weight"] = partial(_all_a, modules)
        readers[f"{path}.lora_B.weight"] = partial(_all_b, modules)
    return readers


def _read(module: str, half: str, tensors: TensorFile) -> Tensor:
    return tensors.read(f"{PREFIX}{module}.lora_{half}.weight")


def _in_order(modules: Mapping[_Expert, str]) -> list[list[str]]:
    """The file's modules of every expert, gate before up."""
    leaves = _BLOCKS[next(iter(modules)).leaf]
    return [[modules[_Expert(n, leaf)] for leaf in leaves] for n in sorted({expert.number for expert in modules})]


def _all_a(modules: Mapping[_Expert, str], tensors: TensorFile) -> Tensor:
    return torch.cat([_read(module, "A", tensors) for parts in _in_order(modules) for module in parts])


def _all_b(modules: Mapping[_Expert, str], tensors: TensorFile) -> Tensor:
    blocks = [torch.block_diag(*(_read(module, "B", tensors) for module in parts)) for parts in _in_order(modules)]
    return torch.stack(blocks, dim=-1).flatten(1)
