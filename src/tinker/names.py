"""What the tensor names of a checkpoint mean: a white list, so that nothing is dropped and nothing guessed.

Tinker's own names and those of Hugging Face are both known: dense Llama and Qwen, gpt-oss attention, the experts of
Qwen3-MoE, the linear attention of Qwen3.5, the unembedding. PEFT drops every name it does not find in the model
without a warning (measured with 0.21), so what is not listed here is an error.
"""

import re
from dataclasses import dataclass
from typing import Literal

from src.adapters.folder import PREFIX, split_name
from src.errors import AdapterError

_BLOCK = r"model\.(?:language_model\.)?layers\.[0-9]{1,6}"
_SAME = re.compile(
    rf"{_BLOCK}\.(self_attn\.[qkvo]_proj|mlp\.(experts\.[0-9]{{1,6}}\.)?(gate|up|down)_proj"
    r"|linear_attn\.(in_proj_(qkv|z|a|b)|out_proj))"
)
_ATTENTION = re.compile(rf"(?P<block>{_BLOCK})\.attn\.(?P<leaf>[qkvo]_proj)")
_EXPERTS = re.compile(rf"(?P<group>{_BLOCK}\.mlp\.experts)\.(?P<leaf>w[123])")
_SPLIT = re.compile(rf"(?P<group>{_BLOCK}\.linear_attn)\.in_proj_(?P<leaf>[qkv])")
_HEAD = ("model.unembed_tokens", "model.lm_head", "lm_head", "model.language_model.unembed_tokens")
_EXPERT_LEAF = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass(frozen=True)
class Meaning:
    """What a module of a checkpoint is.

    Attributes:
        kind: "module", one module of the base model; "experts", all experts of a block in one 3-D tensor; "split", a
            third of a fused projection.
        module: the base model's module; of experts the group they lie in.
        leaf: of experts the projection of each; of a third "q", "k" or "v"; otherwise empty.
    """

    kind: Literal["module", "experts", "split"]
    module: str
    leaf: str = ""


def meaning_of(module: str) -> Meaning | None:
    """The meaning of a checkpoint's module name; None: not understood."""
    if module in _HEAD:
        return Meaning("module", "lm_head")
    if _SAME.fullmatch(module):
        return Meaning("module", module)
    if found := _ATTENTION.fullmatch(module):
        return Meaning("module", f"{found['block']}.self_attn.{found['leaf']}")
    if found := _EXPERTS.fullmatch(module):
        return Meaning("experts", found["group"], _EXPERT_LEAF[found["leaf"]])
    if found := _SPLIT.fullmatch(module):
        return Meaning("split", f"{found['group']}.in_proj_qkv", found["leaf"])
    return None


def understood(name: str, shape: tuple[int, ...]) -> tuple[str, Literal["A", "B"], Meaning]:
    """A tensor's name and shape -> (module in the checkpoint, half, its meaning).

    Raises:
        AdapterError: the name is not on the list, or the shape is not of its kind.
    """
    if name.startswith(PREFIX):
        module, half = split_name(name)
        meaning = meaning_of(module)
        if meaning and len(shape) == (3 if meaning.kind == "experts" else 2):
            return module, "A" if half == "A" else "B", meaning
    raise AdapterError(
        f"The tensor {name!r:.200} of shape {shape} is not understood, and leaving it out would change what the "
        f"adapter does. Understood are names such as {PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight: attention, "
        "MLP and unembedding of Llama and Qwen models, experts of Qwen3-MoE (3-D), linear attention of Qwen3.5, "
        "attention of gpt-oss."
    )
