"""Attention over packed sequences: many texts in one row, none of which sees another.

Registered with transformers' public attention interface, so no model code is copied: a model calls this in place of
its own kernel, with rotated queries and keys, and hands over what it was called with (`packed=`). Causal attention
runs per text; a beginning that all texts share is attended once, for all queries together, and the two results are
merged exactly by their log-sum-exp.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from src.models.extraction import varlen

NAME = "confprobe_packed"


class NotPackable(Exception):
    """The model asks its attention for something that packing does not do; it takes the padded path."""


@dataclass
class Segments:
    """The texts of one packed row, for one pass through a model.

    Attributes:
        lengths: tokens of each text, ascending, in the order in which they are packed.
        prefix: layer index -> (keys, values) of shape (1, kv heads, P, d) of the shared beginning; empty: none.
        recorded: filled with keys and values in that form, where the pass itself is a shared beginning; else None.
        last_only: the layer in which only each text's last token is wanted; None: all tokens everywhere.
    """

    lengths: list[int]
    prefix: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    recorded: dict[int, tuple[Tensor, Tensor]] | None = None
    last_only: int | None = None

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(start, texts, length) of neighbours of equal length, which one kernel call takes together."""
        start = first = 0
        for index in range(1, len(self.lengths) + 1):
            length = self.lengths[first]
            if index == len(self.lengths) or self.lengths[index] != length:
                yield start, index - first, length
                start, first = start + (index - first) * length, index


@contextlib.contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Let every attention layer of `model` call this module's kernel until the block ends."""
    before = model.config._attn_implementation
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _no_mask(*_: Any, **__: Any) -> None:
    """Segments take the place of a mask."""


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed: Segments | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The interface's signature: query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d)."""
    packed = _checked(packed, attention_mask, options)
    if value.shape[-1] != query.shape[-1]:
        raise NotPackable(f"its values are {value.shape[-1]} wide, and its queries {query.shape[-1]}")
    layer = module.layer_idx
    if packed.recorded is not None:
        packed.recorded[layer] = (key, value)
    last = layer == packed.last_only
    prefix = packed.prefix.get(layer)
    if prefix is not None and sliding_window is not None:
        if prefix[0].shape[2] + packed.lengths[-1] > sliding_window:
            raise NotPackable(f"its sliding window of {sliding_window} tokens is shorter than the texts")
        sliding_window = None
    if varlen.has_kernel(query):
        window, lengths = sliding_window, packed.lengths
        return varlen.attend(lengths, query, key, value, prefix, scaling, window=window, last=last), None
    if query.device.type == "cuda" and query.dtype == torch.bfloat16 and not varlen.is_new(query.device):
        raise NotPackable("this GPU's kernels know no bfloat16")
    if prefix is None:
        return _own(packed, query, key, value, scaling, window=sliding_window, last=last), None
    return _own_and_shared(packed, query, key, value, prefix, scaling, last=last), None


def _checked(packed: Segments | None, mask: Tensor | None, options: dict[str, Any]) -> Segments:
    """Whatever changes the scores and is not honoured here must not be ignored."""
    if packed is None:
        raise NotPackable("its attention layers are not told what is packed")
    if mask is not None:
        raise NotPackable("it builds an attention mask of its own")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise NotPackable(f"its attention uses {name}")
    if options.get("dropout"):
        raise NotPackable("it is in training mode")
    return packed


def _own(
    packed: Segments,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    *,
    window: int | None,
    last: bool,
) -> Tensor:
    """Causal attention of each text over itself, or over the last `window` tokens of it."""
    output = _empty(query, zero=last)
    grouped = key.shape[1] != query.shape[1]
    for start, texts, length in packed.runs():
        q, k, v = (_folded(states, start, texts, length) for states in (query, key, value))
        if last:
            q, k, v = q[:, :, -1:], *(states[:, :, -(window or length) :] for states in (k, v))
        band = _band(length, window, query.device) if window is not None and length > window and not last else None
        causal = not last and length > 1 and band is None
        found = scaled_dot_product_attention(q, k, v, band, is_causal=causal, scale=scaling, enable_gqa=grouped)
        _unfold(output, found, start, texts, length)
    return output


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """(length, length) True where a query sees a key: itself and the window - 1 tokens before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril() & seen.triu(1 - window)


def _own_and_shared(
    packed: Segments,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor],
    scaling: float | None,
    *,
    last: bool,
) -> Tensor:
    """Softmax over prefix and own tokens, from the two parts and their log-sum-exp."""
    output = _empty(query, zero=last)
    rows = torch.tensor(packed.lengths, device=query.device).cumsum(0) - 1 if last else slice(None)
    asked = query[:, :, rows]
    shared, shared_lse = _with_lse(asked, *prefix, causal=False, scaling=scaling)
    place = 0
    for start, texts, length in packed.runs():
        q, k, v = (_folded(states, start, texts, length) for states in (query, key, value))
        if last:
            q = q[:, :, -1:]
        own, own_lse = _with_lse(q, k, v, causal=not last, scaling=scaling)
        count = texts * q.shape[2]
        there = slice(place, place + count)
        place += count
        part = _regrouped(shared[:, :, there], texts)
        part_lse = _regrouped(shared_lse[:, :, there, None], texts)
        # Sigmoid of the difference is the share of the own tokens in the common softmax.
        share = torch.sigmoid(own_lse[..., None] - part_lse)
        merged = torch.lerp(part.float(), own.float(), share).to(own.dtype)
        _unfold(output, merged, start, texts, length)
    return output


def _with_lse(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scaling: float | None) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores, float32, (batch, heads, queries)."""
    if q.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(q, k, v, 0.0, causal and q.shape[2] > 1, scale=scaling)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (states.repeat_interleave(groups, dim=1) for states in (k, v))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    found = efficient(q, k, v, None, True, 0.0, causal and q.shape[2] > 1, scale=scaling)
    return found[0], found[1][:, :, : q.shape[2]]


def _empty(query: Tensor, *, zero: bool) -> Tensor:
    """(1, T, heads, d); zeros where rows stay unused, so that nothing infinite spreads from them."""
    _, heads, tokens, width = query.shape
    make = query.new_zeros if zero else query.new_empty
    return make(1, tokens, heads, width)


def _folded(states: Tensor, start: int, texts: int, length: int) -> Tensor:
    """(1, heads, T, d) -> (texts, heads, length, d) of one run, without a copy."""
    own = states[0, :, start : start + texts * length]
    return own.unflatten(1, (texts, length)).transpose(0, 1)


def _regrouped(states: Tensor, texts: int) -> Tensor:
    """(1, heads, texts * n, d) -> (texts, heads, n, d)."""
    return states[0].unflatten(1, (texts, -1)).transpose(0, 1)


def _unfold(output: Tensor, found: Tensor, start: int, texts: int, length: int) -> None:
    """Write (texts, heads, n, d) to the last n tokens of each text of a run of `output` (1, T, heads, d)."""
    run = output[0, start : start + texts * length].unflatten(0, (texts, length))
    run[:, length - found.shape[2] :] = found.transpose(1, 2)
