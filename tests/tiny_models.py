"""Tiny random models of the families whose adapters are converted, and random updates of them under Tinker's names."""

from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "base_model.model."
_COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "max_position_embeddings": 128, "initializer_range": 0.1,
    "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def qwen3_moe(**changes):
    """Two blocks of four experts, two of which are used by a token."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = _COMMON | _HEADS | {
        "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 2, "num_experts": 4,
        "num_experts_per_tok": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**(settings | changes))).eval()


def qwen3_5(*, vision: bool = False):
    """Three blocks of linear attention, one of full; with vision the class that holds the text part one level down."""
    from transformers import Qwen3_5Config, Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration, Qwen3_5TextConfig

    torch.manual_seed(0)
    text: dict[str, Any] = _COMMON | _HEADS | {
        "intermediate_size": 48, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "initializer_range": 0.05,
    }  # fmt: skip
    if not vision:
        return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**text)).eval()
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=eyes)).eval()


def halves(module: str, into: int, out: int, *, rank: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A random pair for one module of 2-D weights."""
    generator = torch.Generator().manual_seed(seed + sum(map(ord, module)))
    return {
        f"{PREFIX}{module}.lora_A.weight": 0.1 * torch.randn(rank, into, generator=generator),
        f"{PREFIX}{module}.lora_B.weight": 0.1 * torch.randn(out, rank, generator=generator),
    }


def expert_halves(group: str, leaf: str, into: int, out: int, *, experts: int = 4, rank: int = 4) -> dict[str, Tensor]:
    """A random pair for all experts of a block in Tinker's layout: A is shared by w1 and w3, B by w2."""
    generator = torch.Generator().manual_seed(sum(map(ord, group + leaf)))
    a, b = (experts, 1) if leaf == "w2" else (1, experts)
    return {
        f"{PREFIX}{group}.{leaf}.lora_A.weight": 0.1 * torch.randn(a, rank, into, generator=generator),
        f"{PREFIX}{group}.{leaf}.lora_B.weight": 0.1 * torch.randn(b, out, rank, generator=generator),
    }


def moe_checkpoint(model, *, rank: int = 4, expert_rank: int = 4) -> dict[str, Tensor]:
    """Attention, experts and unembedding of a Qwen3-MoE as Tinker names them."""
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            known_as = "model.unembed_tokens" if name == "lm_head" else name
            tensors |= halves(known_as, module.in_features, module.out_features, rank=rank)
        elif name.endswith(".experts"):
            for leaf, into, out in (("w1", 32, 24), ("w2", 24, 32), ("w3", 32, 24)):
                tensors |= expert_halves(name, leaf, into, out, rank=expert_rank)
    return tensors


def qwen3_5_checkpoint(model) -> dict[str, Tensor]:
    """Every linear layer of the text part as Tinker names them: q, k and v of a linear attention apart."""
    tensors = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or "visual" in name:
            continue
        known_as = name.replace("model.language_model.", "model.")
        known_as = "model.unembed_tokens" if name == "lm_head" else known_as
        parts = {known_as: module.out_features}
        if name.endswith("in_proj_qkv"):
            parts = {known_as[:-3] + leaf: size for leaf, size in (("q", 16), ("k", 16), ("v", 32))}
        for part, size in parts.items():
            tensors |= halves(part, module.in_features, size)
    return tensors


def product(tensors: dict[str, Tensor], module: str, expert: int | None = None) -> Tensor:
    """B @ A of one module, or of one expert with a half that may be shared."""
    a, b = (tensors[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
    if expert is not None:
        a, b = (half[expert if len(half) > 1 else 0] for half in (a, b))
    return b @ a


@torch.no_grad()
def merge(model, tensors: dict[str, Tensor], scale: float):
    """W + scale · B A in every weight of the model, written out by hand."""
    for name, module in model.named_modules():
        known_as = "model.unembed_tokens" if name == "lm_head" else name.replace("model.language_model.", "model.")
        if f"{PREFIX}{known_as}.lora_A.weight" in tensors:
            module.weight += scale * product(tensors, known_as)
        elif name.endswith("in_proj_qkv"):
            parts = [product(tensors, known_as[:-3] + leaf) for leaf in "qkv"]
            module.weight += scale * torch.cat(parts)
        elif f"{PREFIX}{name}.w1.lora_A.weight" in tensors:
            for e in range(len(module.gate_up_proj)):
                gate_and_up = [product(tensors, f"{name}.{leaf}", e) for leaf in ("w1", "w3")]
                module.gate_up_proj[e] += scale * torch.cat(gate_and_up)
                module.down_proj[e] += scale * product(tensors, f"{name}.w2", e)
    return model


def log_probabilities(model) -> Tensor:
    """(2, 12, 64) of two fixed texts."""
    with torch.inference_mode():
        return model(input_ids=torch.arange(2, 26).reshape(2, 12), use_cache=False).logits.log_softmax(-1)
