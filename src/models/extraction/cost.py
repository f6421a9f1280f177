"""What passes cost before they run: memory per token, the budget that fits, floating-point operations."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from src import machine
from src.models.extraction.fingerprint import is_split
from src.models.extraction.layers import Anatomy

# More tokens at once make a CPU no faster; a GPU needs more to be busy.
_MOST_TOKENS = {"cpu": 2048, "cuda": 16_384}
_FEWEST_TOKENS = 256
# Share of the free memory that one pass may take, and of the peak of a matrix product that a pass reaches (both
# measured, see benchmarks/RESULTS.md; a pass on the CPU reached 60 to 75 %).
_SHARE_OF_MEMORY = 0.5
_SHARE_OF_PEAK = 0.6


def bytes_per_token(model: Any, parts: Anatomy, *, with_head: bool) -> int:
    """An upper estimate of what one token of a pass holds in memory at the worst moment.

    That moment is in the feed-forward part of a block: its hidden layer three times, the residual stream and its
    float32 copies; in attention queries, keys and values twice. With the head, the logits of a text of 16 tokens.
    """
    config = model.config.get_text_config(decoder=True)
    size = _element_size(model)
    inner = getattr(config, "intermediate_size", None) or 4 * parts.hidden_dim
    active = getattr(config, "num_experts_per_tok", None) or 1
    logits = config.vocab_size * (size + 8) // 16 if with_head else 0
    return size * (4 * inner * active + 10 * parts.hidden_dim) + 8 * parts.hidden_dim + logits


def token_budget(model: Any, parts: Anatomy, *, with_head: bool) -> int:
    """Tokens of one pass: a power of two that takes at most half of the free memory."""
    device = _device(model)
    free = _free_on_gpu(device) if device.type == "cuda" else machine.free_memory()
    budget = _MOST_TOKENS.get(device.type, _MOST_TOKENS["cpu"])
    needed = bytes_per_token(model, parts, with_head=with_head)
    while free is not None and budget > _FEWEST_TOKENS and budget * needed > _SHARE_OF_MEMORY * free:
        budget //= 2
    return _least_of_all(budget, device) if is_split(model) else budget


def _least_of_all(budget: int, device: torch.device) -> int:
    """Of all processes that share a model: each must make the same passes."""
    least = torch.tensor(budget, device=device)
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least)


def _free_on_gpu(device: torch.device) -> int:
    """Bytes that torch can still use there: those of nobody, and what it holds without using it."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def block_operations(model: Any, parts: Anatomy, modules: Sequence[nn.Module] | None = None) -> int:
    """Floating-point operations of one token in the matrices of one block, or of some of its parts.

    Of a mixture of experts the active share counts.
    """
    config = model.config.get_text_config(decoder=True)
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    active = (getattr(config, "num_experts_per_tok", None) or 1) / experts if experts else 1.0
    parameters = [p for module in modules or [parts.blocks[0]] for p in module.parameters()]
    return int(sum(2 * p.numel() * (active if p.ndim == 3 else 1) for p in parameters if p.ndim >= 2))


def attention_operations(model: Any, parts: Anatomy, lengths: Sequence[int], begun: int) -> int:
    """Of one block: every token of these texts sees itself, what is before it, and `begun` tokens before the text."""
    width = query_width(model, parts)
    return 4 * width * sum(n * begun + n * (n + 1) // 2 for n in lengths)


def query_width(model: Any, parts: Anatomy) -> int:
    """Heads times the size of a head."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 1)
    return heads * (getattr(config, "head_dim", None) or parts.hidden_dim // heads)


def seconds_for(operations: float, model: Any) -> float:
    """How long so many operations take here, from a quick matrix product in the model's precision."""
    device, dtype = _device(model), model.get_input_embeddings().weight.dtype
    a, b = (torch.ones(512, 1024, device=device, dtype=dtype), torch.ones(1024, 1024, device=device, dtype=dtype))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        nn.functional.linear(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return operations / (2 * 512 * 1024 * 1024 / best) / _SHARE_OF_PEAK


def _element_size(model: Any) -> int:
    return model.get_input_embeddings().weight.element_size()


def _device(model: Any) -> torch.device:
    """Where the model computes; of a model without weights, where it would."""
    device = model.get_input_embeddings().weight.device
    if device.type != "meta":
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
