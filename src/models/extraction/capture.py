"""One pass through a model that keeps only the wanted states and stops when nothing more is wanted."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import ModelError
from src.models.extraction.layers import EMBEDDINGS, FINAL_NORM, Anatomy

# From the states of a whole pass (batch, tokens, d) to the wanted rows (n, d).
Take = Callable[[Tensor], Tensor]
# First and last token of each stretch of a text whose mean state is wanted; one token's state where they are the same.
Windows = tuple[tuple[int, int], ...]
NEXT = "next"


class Enough(Exception):
    """Raised inside the forward pass by the last hook that is needed: it ends the pass and is no error."""


def forward_padded(
    model: Any,
    parts: Anatomy,
    batch: Sequence[Sequence[int]],
    windows: Sequence[Windows],
    layers: Sequence[str],
    candidates: Sequence[int],
) -> dict[str, Tensor]:
    """States and next-token log-probabilities of every window, the sequences padded to one length.

    Padding is on the right: under causal attention a real token never sees it, so no mask is needed and
    positions count from 0 in every row.

    Args:
        model, parts, layers, candidates: as in `forward`, which also says what is returned.
        batch: token ids.
        windows: where each text is read.
    """
    lengths = torch.tensor([len(ids) for ids in batch])
    padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(batch):
        padded[row, : len(ids)] = torch.tensor(ids)

    read = window_reader(range(0, padded.numel(), padded.shape[1]), windows)
    return forward(
        model, parts, {"input_ids": padded}, lambda states: read(states.flatten(0, 1)), layers, candidates
    )  # fmt: skip


def only_last(texts: Sequence[Sequence[int]], windows: Sequence[Windows]) -> bool:
    """Whether each text's last token is all that is wanted."""
    return all(wanted == ((len(ids) - 1, len(ids) - 1),) for ids, wanted in zip(texts, windows, strict=True))


def window_reader(begins: Sequence[int], windows: Sequence[Windows]) -> Take:
    """Makes of states (tokens, d) of a whole pass (rows, d): what each window holds, text by text.

    All are float32 where one of them is a mean: the mean of half-precision states is kept as exact as it is.

    Args:
        begins: of each text, its first token among those of the pass.
        windows: where each text is read, counted from its own first token.
    """
    stretches = [
        (begin + first, begin + last)
        for begin, wanted in zip(begins, windows, strict=True) for first, last in wanted
    ]  # fmt: skip
    if all(first == last for first, last in stretches):
        places = torch.tensor([last for _, last in stretches])
        return lambda states: states[places.to(states.device)]
    return lambda states: torch.stack([states[first : last + 1].float().mean(0) for first, last in stretches])


def forward(
    model: Any,
    parts: Anatomy,
    inputs: Mapping[str, Any],
    take: Take,
    layers: Sequence[str],
    candidates: Sequence[int],
) -> dict[str, Tensor]:
    """One pass.

    Args:
        model: the model to call (a `PeftModel` with its adapter switched as wanted, or a plain one).
        parts: its anatomy.
        inputs: what it is called with; tensors are moved to its device.
        take: picks the wanted rows.
        layers: canonical layer names.
        candidates: token ids; where there are none, the pass stops above the highest wanted layer.

    Returns:
        on the model's device: layer -> (n, d) in the model's dtype, and where there are candidates, `NEXT` ->
        (n, len(candidates)) float32, natural log-probabilities over the whole vocabulary.
    """
    device = model.get_input_embeddings().weight.device
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    kept: dict[str, Tensor] = {}
    with _hooks(parts, layers, take, kept, stop=not candidates), torch.inference_mode(), contextlib.suppress(Enough):
        log_probabilities = model(**inputs, use_cache=False).logits[:, 0].float().log_softmax(-1)
        kept[NEXT] = log_probabilities[:, torch.tensor(candidates, device=log_probabilities.device)]
    return kept


@contextlib.contextmanager
def _hooks(parts: Anatomy, layers: Sequence[str], take: Take, kept: dict[str, Tensor], *, stop: bool) -> Iterator[None]:
    """Hooks that fill `kept`, show the head only the wanted rows, and end the pass early if told to."""
    handles = []
    highest = highest_layer(layers)

    def keep(name: str, states: Tensor) -> Tensor:
        kept[name] = take(states)  # indexing copies: a view would keep the whole activation alive
        if stop and name == highest:
            raise Enough
        return kept[name]

    try:
        if EMBEDDINGS in layers:
            handles.append(parts.blocks[0].register_forward_pre_hook(_on_input(keep), with_kwargs=True))
        for index in block_numbers(layers):
            handles.append(parts.blocks[index].register_forward_hook(_on_output(keep, f"block.{index}")))
        if parts.head is not None:
            head_rows = partial(keep, FINAL_NORM) if FINAL_NORM in layers else take
            handles.append(parts.head.register_forward_pre_hook(_on_head(head_rows)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def watching(parts: Anatomy, layer: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Let `see` look at one layer's states (batch, tokens, d) in every pass of the block; the pass itself is unchanged.

    Of "final_norm" they are what the head is given: in generation the last token's.

    Raises:
        ModelError: "final_norm" of a model without a head.
    """

    def keep(_name: str, states: Tensor) -> None:
        see(states)

    if layer == EMBEDDINGS:
        handle = parts.blocks[0].register_forward_pre_hook(_on_input(keep), with_kwargs=True)
    elif layer != FINAL_NORM:
        handle = parts.blocks[block_numbers([layer])[0]].register_forward_hook(_on_output(keep, layer))
    elif parts.head is not None:
        handle = parts.head.register_forward_pre_hook(lambda _module, args: see(args[0]))
    else:
        raise ModelError("This model has no head, whose input the state after the final norm is.")
    try:
        yield
    finally:
        handle.remove()


def block_numbers(layers: Sequence[str]) -> list[int]:
    """The decoder blocks among canonical layer names, ascending."""
    return sorted(int(name.split(".")[1]) for name in layers if name.startswith("block."))


def highest_layer(layers: Sequence[str]) -> str:
    """The last of the wanted layers that a pass reaches."""
    blocks = block_numbers(layers)
    return FINAL_NORM if FINAL_NORM in layers else f"block.{blocks[-1]}" if blocks else EMBEDDINGS


def _on_input(keep: Callable[[str, Tensor], Any]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(EMBEDDINGS, args[0] if args else kwargs["hidden_states"])

    return hook


def _on_output(keep: Callable[[str, Tensor], Any], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(name, output[0] if isinstance(output, tuple) else output)

    return hook


def _on_head(rows: Take) -> Callable[..., Any]:
    """The head is given (n, 1, d): logits of whole texts are never made."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (rows(args[0])[:, None],)

    return hook
