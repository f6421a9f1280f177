"""What the local model has inside while it reads one request's tokens: the yardstick for states from outside."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.errors import ModelError
from src.models.extraction.capture import forward
from src.models.extraction.layers import EMBEDDINGS, FINAL_NORM, anatomy
from src.models.extraction.packed import FEED_FORWARD, child

# Of a long request the first and last tokens are looked at: in between it may share a beginning with all others.
_FIRST, _LAST = 8, 120


@dataclass(frozen=True)
class Truth:
    """One request.

    Attributes:
        tokens: which of its tokens are looked at, ascending.
        states: canonical layer -> (tokens, d) float32, of every layer of the model.
        added: block -> (tokens, d) float32: what its feed-forward part adds to the stream, where it has one under a
            known name.
    """

    tokens: tuple[int, ...]
    states: dict[str, Tensor]
    added: dict[str, Tensor]


def looked_at(length: int) -> tuple[range, ...]:
    """The tokens of a request of that many that are looked at."""
    if length <= _FIRST + _LAST:
        return (range(length),)
    return range(_FIRST), range(length - _LAST, length)


def truth_of(model: Any, token_ids: Sequence[int]) -> Truth:
    """One forward pass of the model, as its adapter is switched now.

    Raises:
        ModelError: a state that is not finite.
    """
    parts, tokens = anatomy(model), tuple(itertools.chain(*looked_at(len(token_ids))))
    chosen, added = torch.tensor(tokens), dict[str, Tensor]()

    def take(states: Tensor) -> Tensor:
        return states[0, chosen.to(states.device)]

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            added[name] = take(output[0] if isinstance(output, tuple) else output).float().cpu()

        return hook

    names = [f"block.{i}" for i in range(len(parts.blocks))]
    with contextlib.ExitStack() as hooks:
        for name, block in zip(names, parts.blocks, strict=True):
            if (feed_forward := child(block, FEED_FORWARD)) is not None:
                hooks.callback(feed_forward.register_forward_hook(keep(name)).remove)
        inputs = {"input_ids": torch.tensor([list(token_ids)])}
        # A decoder without a head shows nothing above its last block.
        above = [FINAL_NORM] if parts.head is not None else []
        found = forward(model, parts, inputs, take, [EMBEDDINGS, *names, *above], ())
    if bad := next((name for name, values in found.items() if not values.isfinite().all()), None):
        raise ModelError(
            f"The model's own state of {bad} holds NaN or infinity, so nothing can be compared with it. Load it in "
            "bfloat16 or float32."
        )
    return Truth(tokens, {name: values.float().cpu() for name, values in found.items()}, added)
