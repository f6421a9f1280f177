"""The packed path: texts in one row without padding, a shared beginning once, the top block for wanted rows only."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.models.extraction.attention import NotPackable, Segments, packed_attention
from src.models.extraction.capture import Enough, Windows, block_numbers, forward, only_last, window_reader
from src.models.extraction.fingerprint import quantization_of
from src.models.extraction.layers import FINAL_NORM, Anatomy

Prefix = dict[int, tuple[Tensor, Tensor]]

# How the decoders of transformers call the parts of a block that work token by token.
_ATTENTION = ("self_attn", "attn", "attention")
_QUERY = ("q_proj",)
_OUTPUT = ("o_proj", "dense", "c_proj", "out_proj")
FEED_FORWARD = ("mlp", "block_sparse_moe", "feed_forward")


def why_not_packable(model: Any, parts: Anatomy) -> str:
    """Why a model cannot take the packed path, as far as its structure tells; "" where nothing speaks against it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(base, "_supports_attention_backend", False):
        return "its attention does not go through transformers' attention interface"
    if any(child(block, _ATTENTION) is None for block in parts.blocks):
        return "not all of its blocks have attention"
    if quantization := quantization_of(model):
        return f"{quantization} kernels let the texts of a pass influence each other"
    return ""


def forward_packed(
    model: Any,
    parts: Anatomy,
    texts: Sequence[Sequence[int]],
    windows: Sequence[Windows],
    layers: Sequence[str],
    candidates: Sequence[int],
    *,
    prefix: Prefix | None = None,
) -> dict[str, Tensor]:
    """As `capture.forward_padded`, without padding.

    Args:
        model, parts, layers, candidates: as in `capture.forward`.
        texts: token ids, shortest first; with a prefix, without the shared beginning.
        windows: where each is read.
        prefix: what `shared_beginning` returned.

    Raises:
        NotPackable: the model's attention does something that packing does not do.
    """
    lengths = [len(ids) for ids in texts]
    begun = next(iter(prefix.values()))[0].shape[2] if prefix else 0
    ends = torch.tensor(lengths).cumsum(0) - 1
    # Where other tokens than the last ones are wanted, all are computed in the top block too.
    sparing = only_last(texts, windows)
    top = top_block(parts, layers, candidates) if sparing else None
    segments = Segments(lengths, prefix=prefix or {}, last_only=top)
    inputs = {
        "input_ids": torch.tensor([token for ids in texts for token in ids])[None],
        "position_ids": torch.cat([torch.arange(begun, begun + length) for length in lengths])[None],
        "packed": segments,
    }

    read = window_reader([0, *(ends[:-1] + 1).tolist()], windows)
    with packed_attention(model), _only_rows(token_wise(parts, top), ends):
        return forward(model, parts, inputs, lambda states: read(states[0]), layers, candidates)


def shared_beginning(
    model: Any, parts: Anatomy, ids: Sequence[int], layers: Sequence[str], candidates: Sequence[int]
) -> Prefix:
    """Keys and values, after rotation, of a beginning in every block that the texts after it will need."""
    top = top_block(parts, layers, candidates)
    segments = Segments([len(ids)], recorded={})
    device = model.get_input_embeddings().weight.device
    stop = None if top is None else _attention_output(parts.blocks[top]).register_forward_pre_hook(_stop)
    try:
        with packed_attention(model), torch.inference_mode(), contextlib.suppress(Enough):
            model(input_ids=torch.tensor(ids, device=device)[None], use_cache=False, packed=segments)
    finally:
        if stop is not None:
            stop.remove()
    return segments.recorded or {}


def _stop(*_: Any) -> None:
    raise Enough


def top_block(parts: Anatomy, layers: Sequence[str], candidates: Sequence[int]) -> int | None:
    """The block above which no other row than the wanted ones is read; None where no block is needed."""
    if candidates or FINAL_NORM in layers:
        return len(parts.blocks) - 1
    blocks = block_numbers(layers)
    return blocks[-1] if blocks else None


def token_wise(parts: Anatomy, top: int | None) -> list[nn.Module]:
    """Parts of the top block whose other rows nobody reads. Keys and values are needed of all tokens."""
    if top is None:
        return []
    block = parts.blocks[top]
    query = child(_attention(block), _QUERY)
    feed_forward = child(block, FEED_FORWARD)
    return [m for m in (query, _attention_output(block), feed_forward) if m is not None]


def _attention(block: nn.Module) -> nn.Module:
    found = child(block, _ATTENTION)
    if found is None:
        raise NotPackable("its blocks have no attention under a known name")
    return found


def _attention_output(block: nn.Module) -> nn.Module:
    found = child(_attention(block), _OUTPUT)
    if found is None:
        raise NotPackable("its attention has no output projection under a known name")
    return found


def child(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The first of a module's children under one of these names."""
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


@contextlib.contextmanager
def _only_rows(modules: Sequence[nn.Module], rows: Tensor) -> Iterator[None]:
    """Let modules that work token by token see `rows` only; elsewhere their output is 0, and is not read."""
    handles = []
    try:
        for module in modules:
            tokens: list[int] = []
            handles.append(module.register_forward_pre_hook(_gather(rows, tokens)))
            handles.append(module.register_forward_hook(_scatter(rows, tokens)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gather(rows: Tensor, tokens: list[int]) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not args:
            raise NotPackable("its blocks call their parts with named arguments")
        tokens[:] = [args[0].shape[1]]
        return (args[0][:, rows.to(args[0].device)], *args[1:])

    return hook


def _scatter(rows: Tensor, tokens: list[int]) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        whole = first.new_zeros(1, tokens[0], first.shape[-1])
        whole[:, rows.to(first.device)] = first
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    return hook
