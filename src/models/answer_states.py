"""Hidden states inside free answers, at the very tokens that were generated: nothing is tokenised again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from src.errors import DataError
from src.models.extraction.engine import CachePolicy, as_array, read_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.generation import FreeAnswers

AnswerPosition = Literal[
    "last_prompt", "end_of_thinking", "first_answer", "last_answer", "mean_answer", "exact_answer_first",
    "exact_answer_last",
]  # fmt: skip
Span = tuple[int, int]


@dataclass(frozen=True)
class AnswerStates:
    """States of n answers.

    Attributes:
        hidden: (n, layers, d) float32.
        elsewhere: row numbers of answers that have no such token (an empty answer, nothing found in it, no thinking);
            the last token before the end was read: of the answer, of the thinking, or of the prompt.
    """

    hidden: np.ndarray
    elsewhere: tuple[int, ...]


def answer_states(
    model: Any,
    tokenizer: Any,
    answers: FreeAnswers,
    layers: Layers,
    *,
    position: AnswerPosition = "last_answer",
    spans: Sequence[Span | None] = (),
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    token_budget: int | None = None,
) -> AnswerStates:
    """Read the states of answers that `answer_freely` gave.

    Args:
        model, tokenizer: the same.
        answers: what it returned.
        layers, cache_dir, cache, token_budget: as in `HiddenStateExtractor.extract`.
        position: the last token of the prompt, the one that ends the thinking, the first or last of the answer, the
            mean of the answer's, or the first or last token that holds a piece of the exact answer.
        spans: for the exact answer, where it stands in each answer's text (start, end), such as `Mark.span`; None where
            nothing was found.

    Raises:
        DataError: an unknown position, or spans that do not fit.
    """
    if position.startswith("exact_answer") and len(spans) != len(answers.texts):
        raise DataError(f"There are {len(answers.texts)} answers and {len(spans)} spans: give one for each, or None.")
    sequences, starts, elsewhere = [], [], []
    for row, (prompt, thought, said) in enumerate(
        zip(answers.prompt_ids, answers.thought_ids, answers.answer_ids, strict=True)
    ):
        span = spans[row] if spans else None
        place = _place(tokenizer, thought, said, answers.texts[row], position, span)
        first, last = place or (len(thought) + len(said) - 1,) * 2
        sequences.append((*prompt, *thought, *said)[: len(prompt) + last + 1])
        starts.append(len(prompt) + first)
        if place is None:
            elsewhere.append(row)
    names = layer_names(layers, len(anatomy(model).blocks))
    rows = read_rows(
        model, sequences, starts=starts, layers=names, cache_dir=cache_dir, cache=cache, budget=token_budget
    )
    return AnswerStates(as_array(rows.states), tuple(elsewhere))


def _place(
    tokenizer: Any, thought: Sequence[int], said: Sequence[int], text: str, position: str, span: Span | None
) -> Span | None:
    """First and last wanted token, counted from the first one generated; None where there is none."""
    begins, ends = len(thought), len(thought) + len(said) - 1
    if position == "last_prompt":
        return -1, -1
    if position == "end_of_thinking":
        return (begins - 1, begins - 1) if thought else None
    if position not in get_args(AnswerPosition):
        raise DataError(f"There is no position {position!r} in an answer. Choose one of {get_args(AnswerPosition)}.")
    if not said or (span is None and position.startswith("exact_answer")):
        return None
    if position == "mean_answer":
        return begins, ends
    if span is None or not position.startswith("exact_answer"):
        return (begins, begins) if position == "first_answer" else (ends, ends)
    # Around the text there may be spaces, which were cut off.
    shift = tokenizer.decode(list(said), skip_special_tokens=True).find(text)
    character = (span[0] if position == "exact_answer_first" else span[1] - 1) + shift
    place = begins + _holding(tokenizer, said, character)
    return place, place


def _holding(tokenizer: Any, ids: Sequence[int], character: int) -> int:
    """The token that brings the text to more than so many characters."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(list(ids[: middle + 1]), skip_special_tokens=True)) > character:
            high = middle
        else:
            low = middle + 1
    return low
