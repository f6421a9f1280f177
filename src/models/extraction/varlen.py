"""Packed attention on a GPU: torch's kernel for texts of several lengths, one call for all of them."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

_OLDEST = (8, 0)  # compute capability of Ampere, which the kernel needs
_WIDEST_HEAD, _HEAD_STEP = 256, 8


def is_new(device: torch.device) -> bool:
    """Whether a GPU is of the generation of Ampere or later."""
    return torch.cuda.get_device_capability(device) >= _OLDEST


def has_kernel(query: Tensor) -> bool:
    """Whether the kernel takes queries of this kind."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    if width > _WIDEST_HEAD or width % _HEAD_STEP or not is_new(query.device):
        return False
    from torch.nn.attention import varlen

    # The first versions of it knew neither windows nor fewer heads of keys than of queries.
    return {"window_size", "enable_gqa"} <= inspect.signature(varlen.varlen_attn).parameters.keys()


def attend(
    lengths: Sequence[int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    scaling: float | None,
    *,
    window: int | None,
    last: bool,
) -> Tensor:
    """Causal attention of each text over itself and over a beginning that all share.

    Args:
        lengths: tokens of each text.
        query, key, value: (1, heads, T, d) and (1, kv heads, T, d), T the sum of the lengths.
        prefix: keys and values of the shared beginning, (1, kv heads, P, d).
        scaling: of the scores; None: 1 / sqrt(d).
        window: how many tokens a query sees, itself counted; None: all before it. Not together with a prefix.
        last: compute each text's last token only.

    Returns:
        (1, T, heads, d); with `last`, 0 in all other rows.
    """
    ends = torch.tensor([0, *lengths], device=query.device, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    asked, begins, longest = query[0].transpose(0, 1), ends, max(lengths)
    rows = ends[1:].long() - 1
    if last:
        asked, longest = asked[rows], 1
        begins = torch.arange(len(lengths) + 1, device=query.device, dtype=torch.int32)
    left = -1 if window is None else window - 1
    found, own = _call(asked, key, value, begins, ends, longest, max(lengths), scaling, window=(left, 0))
    if prefix is not None:
        whole = torch.tensor([0, len(asked)], device=query.device, dtype=torch.int32)
        size = prefix[0].shape[2]
        until = torch.tensor([0, size], device=query.device, dtype=torch.int32)
        shared, before = _call(asked, *prefix, whole, until, len(asked), size, scaling, window=(-1, -1))
        # Sigmoid of the difference is the share of the own tokens in the common softmax.
        share = torch.sigmoid(own - before).transpose(0, 1)[..., None]
        found = torch.lerp(shared.float(), found.float(), share).to(found.dtype)
    if not last:
        return found[None]
    output = query.new_zeros(1, query.shape[2], *found.shape[1:])
    output[0, rows] = found
    return output


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: Tensor,
    ends: Tensor,
    longest_query: int,
    longest_key: int,
    scaling: float | None,
    *,
    window: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Attention (T, heads, d) and the log-sum-exp of its scores (heads, T)."""
    from torch.nn.attention import varlen

    found = varlen.varlen_attn(
        query, key[0].transpose(0, 1), value[0].transpose(0, 1), begins, ends, longest_query, longest_key,
        return_aux=varlen.AuxRequest(lse=True), scale=scaling, window_size=window,
        enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return found[0], found[1]
