"""The configured positions: which token's state each means, and what it is called afterwards."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.config import Config
from src.config.values import Position
from src.models.answer_states import Span, answer_states
from src.models.answering import ChoiceAnswers, letter_states
from src.models.generation import FreeAnswers
from src.pipeline.outside import states_of
from src.probes.attention import ATTENTION
from src.probes.sweep import Place
from src.probes.tokens import TokenStates


def read_positions(
    model: Any,
    tokenizer: Any,
    answers: FreeAnswers,
    spans: Sequence[Span | None],
    config: Config,
    layers: tuple[str, ...],
) -> dict[str, Any]:
    """`hidden`, `tokens`, `places` and `elsewhere` of `Asked`, at all configured positions of answers in words."""
    positions = read_once(config.extraction.position)
    # In words, the letter is what the marking rule found.
    read: list[Any] = ["exact_answer_last" if one == "answer_letter" else one for one in positions]
    every_token = ATTENTION in config.extraction.position
    states = answer_states(
        model,
        tokenizer,
        answers,
        layers,
        positions=read,
        spans=spans,
        every_token=every_token,
        outside=states_of(config),
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
    )
    names = [*positions, ATTENTION] if every_token else positions
    n, _, _, d = states.hidden.shape
    return {
        "hidden": states.hidden.reshape(n, len(positions) * len(layers), d),
        "tokens": states.tokens and TokenStates.of(states.tokens.hidden, states.tokens.answer),
        "places": places_of(config.extraction.position, layers),
        "elsewhere": {name: len(rows) for name, rows in zip(names, states.elsewhere, strict=True) if rows},
    }


def read_choice_positions(
    model: Any, answers: ChoiceAnswers, config: Config, layers: tuple[str, ...]
) -> tuple[np.ndarray, tuple[Place, ...]]:
    """`hidden` and `places` of `Asked`, at all configured positions of chosen answers."""
    extraction, outside = config.extraction, states_of(config)
    hidden = {"last_prompt": answers.hidden}
    if outside:
        chosen = [prompt + said for prompt, said in zip(answers.prompt_ids, answers.chosen_ids, strict=True)]
        sequences = {"last_prompt": answers.prompt_ids, "answer_letter": chosen}
        hidden = {position: outside.read(sequences[position], layers) for position in extraction.position}
    elif "answer_letter" in extraction.position:
        hidden["answer_letter"] = letter_states(
            model, answers, layers, cache_dir=extraction.cache_dir, cache=extraction.cache
        )
    joined = np.concatenate([hidden[position] for position in extraction.position], axis=1)
    return joined, places_of(extraction.position, layers)


def read_once(positions: Sequence[Position]) -> tuple[Position, ...]:
    """Those at which one state is read of each answer."""
    return tuple(position for position in positions if position != ATTENTION)


def places_of(positions: Sequence[Position], layers: Sequence[str]) -> tuple[Place, ...]:
    """In the order in which states are kept: position by position, and at last where every token is read."""
    ordered = [*read_once(positions), *(position for position in positions if position == ATTENTION)]
    return tuple(Place(position, layer) for position in ordered for layer in layers)
