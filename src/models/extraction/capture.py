"""Run one batch and keep only the wanted states of the last real token; stop when nothing more is wanted."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.models.extraction.layers import EMBEDDINGS, FINAL_NORM, Anatomy


class _Enough(Exception):
    """Raised inside the forward pass by the last hook that is needed: it ends the pass and is no error."""


def forward_last_token(
    model: Any,
    parts: Anatomy,
    batch: Sequence[Sequence[int]],
    layers: Sequence[str],
    candidates: Sequence[int],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """States, and next-token log-probabilities, at the last token of every sequence.

    Sequences are padded on the right: under causal attention a real token never sees the padding, so no
    mask is needed and positions count from 0 in every row.

    Args:
        model: the model to call (a `PeftModel` with its adapter switched as wanted, or a plain one).
        parts: its anatomy.
        batch: token ids, each sequence at least one long.
        layers: canonical layer names.
        candidates: token ids; where there are none, the pass stops above the highest wanted layer.

    Returns:
        `{layer: (n, d)}` in the model's dtype, and log-probabilities `(n, len(candidates))` in float32 over
        the whole vocabulary, or None.
    """
    device = model.get_input_embeddings().weight.device
    lengths = torch.tensor([len(ids) for ids in batch])
    padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(batch):
        padded[row, : len(ids)] = torch.tensor(ids)
    kept: dict[str, Tensor] = {}
    logits = None
    with (
        _hooks(parts, layers, lengths - 1, kept, stop=not candidates),
        torch.inference_mode(),
        contextlib.suppress(_Enough),
    ):
        logits = model(input_ids=padded.to(device), use_cache=False).logits[:, 0]
    kept = {name: state.cpu() for name, state in kept.items()}
    if logits is None:
        return kept, None
    log_probabilities = logits.float().log_softmax(-1)
    return kept, log_probabilities[:, torch.tensor(candidates, device=logits.device)].cpu()


@contextlib.contextmanager
def _hooks(
    parts: Anatomy, layers: Sequence[str], last: Tensor, kept: dict[str, Tensor], *, stop: bool
) -> Iterator[None]:
    """Hooks that fill `kept`, let the head see only the last tokens, and end the pass early if told to."""
    handles = []
    blocks = sorted(int(name.split(".")[1]) for name in layers if name.startswith("block."))
    highest = FINAL_NORM if FINAL_NORM in layers else f"block.{blocks[-1]}" if blocks else EMBEDDINGS

    def keep(name: str, states: Tensor) -> Tensor:
        rows = torch.arange(len(last), device=states.device)
        # Indexing copies: a view would keep the whole activation alive.
        kept[name] = states[rows, last.to(states.device)]
        if stop and name == highest:
            raise _Enough
        return kept[name]

    try:
        if EMBEDDINGS in layers:
            handles.append(parts.blocks[0].register_forward_pre_hook(_on_input(keep), with_kwargs=True))
        for index in blocks:
            handles.append(parts.blocks[index].register_forward_hook(_on_output(keep, f"block.{index}")))
        if parts.head is not None:
            handles.append(parts.head.register_forward_pre_hook(_on_head(keep, FINAL_NORM in layers, last)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(keep: Callable[[str, Tensor], Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(EMBEDDINGS, args[0] if args else kwargs["hidden_states"])

    return hook


def _on_output(keep: Callable[[str, Tensor], Tensor], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(name, output[0] if isinstance(output, tuple) else output)

    return hook


def _on_head(keep: Callable[[str, Tensor], Tensor], wanted: bool, last: Tensor) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        if wanted:
            return (keep(FINAL_NORM, args[0])[:, None],)
        rows = torch.arange(len(last), device=args[0].device)
        return (args[0][rows, last.to(args[0].device)][:, None],)

    return hook
