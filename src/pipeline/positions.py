"""The configured positions: which token's state each means, and what it is called afterwards."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.config import Config
from src.models.answer_states import Span, answer_states
from src.models.generation import FreeAnswers
from src.probes.sweep import Place


def read_positions(
    model: Any,
    tokenizer: Any,
    answers: FreeAnswers,
    spans: Sequence[Span | None],
    config: Config,
    layers: tuple[str, ...],
) -> tuple[np.ndarray, dict[str, int]]:
    """(n, places, d) at all configured positions of answers in words, and how many answers lack each (see `Asked`)."""
    positions = config.extraction.position
    states = answer_states(
        model,
        tokenizer,
        answers,
        layers,
        # In words, the letter is what the marking rule found.
        positions=["exact_answer_last" if one == "answer_letter" else one for one in positions],
        spans=spans,
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
    )
    elsewhere = {name: len(rows) for name, rows in zip(positions, states.elsewhere, strict=True) if rows}
    return states.hidden.reshape(len(states.hidden), -1, states.hidden.shape[-1]), elsewhere


def places_of(positions: Sequence[str], layers: Sequence[str]) -> tuple[Place, ...]:
    """In the order in which states are read: position by position."""
    return tuple(Place(position, layer) for position in positions for layer in layers)
