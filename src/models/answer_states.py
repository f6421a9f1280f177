"""Hidden states inside free answers, at the very tokens that were generated: nothing is tokenised again."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from src.errors import DataError
from src.models.extraction.engine import CachePolicy, as_array, read_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.extraction.tokens import leading_special
from src.models.generation import FreeAnswers
from src.models.outside.states_folder import StatesFolder

AnswerPosition = Literal[
    "last_prompt", "mean_prompt", "end_of_thinking", "chunk_ends", "first_answer", "last_answer", "mean_answer",
    "before_exact_answer", "exact_answer_first", "exact_answer_last", "after_exact_answer",
]  # fmt: skip
Span = tuple[int, int]
EVERY = "every token"  # as a position of `Reading.of`


@dataclass(frozen=True)
class AnswerStates:
    """States of n answers.

    Attributes:
        hidden: (n, positions, layers, d) float32.
        elsewhere: of each position, the row numbers of answers that have no such token (an empty answer, nothing found
            in it, no thinking); the last token before the end was read: of the answer, of the thinking, or of the
            prompt. Where every token was asked for, its row numbers follow.
        tokens: of every token of every answer, where that was asked for.
    """

    hidden: np.ndarray
    elsewhere: tuple[tuple[int, ...], ...]
    tokens: "ChunkStates | None" = None


@dataclass(frozen=True)
class ChunkStates:
    """States at the ends of the m chunks of n answers, or at all of their m tokens.

    Attributes:
        hidden: (m, layers, d) float32, chunk by chunk, answer by answer.
        answer: (m,) the row of the answer that each chunk or token belongs to.
    """

    hidden: np.ndarray
    answer: np.ndarray


def answer_states(
    model: Any,
    tokenizer: Any,
    answers: FreeAnswers,
    layers: Layers,
    *,
    positions: Sequence[AnswerPosition] = ("last_answer",),
    spans: Sequence[Span | None] = (),
    every_token: bool = False,
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    token_budget: int | None = None,
    outside: StatesFolder | None = None,
) -> AnswerStates:
    """Read the states of answers that `answer_freely` gave. All positions of an answer are read in one pass.

    Args:
        model, tokenizer: the same.
        answers: what it returned.
        layers, cache_dir, cache, token_budget: as in `HiddenStateExtractor.extract`.
        positions: the last token of the prompt, the mean of its tokens (but leading special ones), the one that ends
            the thinking, the first or last of the answer, the mean of the answer's, the first or last token that holds
            a piece of the exact answer, the tokens before and after these; "chunk_ends" is the mean over the ends of
            the chunks (see `chunk_states`).
        spans: for the exact answer, where it stands in each answer's text (start, end), such as `Mark.span`; None where
            nothing was found.
        every_token: whether each token of the answers is read as well; of an answer without one, the last before it.
        outside: states that another program read; the model is then not asked.

    Raises:
        DataError: an unknown position, or spans that do not fit.
    """
    for position in positions:
        _check(position, answers, spans)
    wanted, n = [*positions, *([EVERY] if every_token else [])], len(answers.texts)
    read = [
        Reading.of(tokenizer, answers, row, position, spans[row] if spans else None)
        for row in range(n)
        for position in wanted
    ]
    states = _read(model, read, layers, cache_dir, cache, token_budget, outside)
    pieces = np.split(states, np.cumsum([len(one.places) for one in read])[:-1])
    by_position = [pieces[place :: len(wanted)] for place in range(len(wanted))]
    hidden = np.empty((n, len(positions), *states.shape[1:]), dtype=states.dtype)
    for place, several in enumerate(by_position[: len(positions)]):
        for row, piece in enumerate(several):
            hidden[row, place] = piece.mean(0) if len(piece) > 1 else piece[0]  # the ends of several chunks
    elsewhere = [tuple(row for row, one in enumerate(read[place :: len(wanted)]) if one.elsewhere)
                 for place in range(len(wanted))]  # fmt: skip
    tokens = None
    if every_token and n:
        lengths = [len(piece) for piece in by_position[-1]]
        tokens = ChunkStates(np.concatenate(by_position[-1]), np.repeat(np.arange(n), lengths))
    return AnswerStates(hidden, tuple(elsewhere), tokens)


def chunk_states(
    model: Any,
    tokenizer: Any,
    answers: FreeAnswers,
    layers: Layers,
    *,
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    token_budget: int | None = None,
) -> ChunkStates:
    """The states at the last tokens of the chunks of every answer's thinking, or of an answer without thinking.

    Chunks are what blank lines separate; in a text without one, what line breaks separate (reasoning models
    reconsider between them: arXiv 2504.05419). Arguments as in `answer_states`; an answer without a token has no chunk.
    """
    read = [Reading.of(tokenizer, answers, row, "chunk_ends", None) for row in range(len(answers.texts))]
    hidden = _read(model, [one for one in read if not one.elsewhere], layers, cache_dir, cache, token_budget)
    answer = [row for row, one in enumerate(read) if not one.elsewhere for _ in one.places]
    return ChunkStates(hidden, np.array(answer, dtype=np.int64))


@dataclass(frozen=True)
class Reading:
    """An answer's tokens with its prompt's, and where they are read: first and last token of each stretch."""

    row: int
    ids: tuple[int, ...]
    places: tuple[Span, ...]
    elsewhere: bool

    @classmethod
    def of(cls, tokenizer: Any, answers: FreeAnswers, row: int, position: str, span: Span | None) -> "Reading":
        """Of one answer; `span` as one of those of `answer_states`."""
        prompt, thought, said = (part[row] for part in (answers.prompt_ids, answers.thought_ids, answers.answer_ids))
        if position == "chunk_ends":
            chunks = _chunk_ends(tokenizer, thought or said)
            places = tuple((end, end) for end in chunks)
        elif position == EVERY:
            places = tuple((len(thought) + token,) * 2 for token in range(len(said)))
        elif position == "mean_prompt":
            places = ((leading_special(tokenizer, prompt) - len(prompt), -1),)
        else:
            place = _place(tokenizer, thought, said, answers.texts[row], position, span)
            places = (place,) if place else ()
        ids, end = (*prompt, *thought, *said), len(thought) + len(said) - 1
        begun = len(prompt)
        return cls(row, ids, tuple((begun + a, begun + b) for a, b in places or ((end, end),)), not places)


def _read(
    model: Any, read: Sequence[Reading], layers: Layers, cache_dir: str | Path | None, cache: CachePolicy,
    token_budget: int | None, outside: StatesFolder | None = None,
) -> np.ndarray:  # fmt: skip
    """(places, layers, d), reading by reading."""
    parts = anatomy(model)
    names = layer_names(layers, len(parts.blocks))
    if not read:
        return np.empty((0, len(names), parts.hidden_dim), dtype=np.float32)
    together = [list(some) for _, some in itertools.groupby(read, key=lambda one: one.row)]
    sequences = [some[0].ids for some in together]
    windows = [tuple(place for one in some for place in one.places) for some in together]
    if outside is not None:
        return outside.read(sequences, names, windows)
    rows = read_rows(
        model, sequences, windows=windows, layers=names, cache_dir=cache_dir, cache=cache, budget=token_budget
    )
    return as_array(rows.states)


def _check(position: str, answers: FreeAnswers, spans: Sequence[Span | None]) -> None:
    if position not in get_args(AnswerPosition):
        raise DataError(f"There is no position {position!r} in an answer. Choose one of {get_args(AnswerPosition)}.")
    if "exact_answer" in position and len(spans) != len(answers.texts):
        raise DataError(f"There are {len(answers.texts)} answers and {len(spans)} spans: give one for each, or None.")


def _place(
    tokenizer: Any, thought: Sequence[int], said: Sequence[int], text: str, position: str, span: Span | None
) -> Span | None:
    """First and last wanted token, counted from the first one generated; None where there is none."""
    begins, ends = len(thought), len(thought) + len(said) - 1
    if position == "last_prompt":
        return -1, -1
    if position == "end_of_thinking":
        return (begins - 1, begins - 1) if thought else None
    if not said or (span is None and "exact_answer" in position):
        return None
    if position == "mean_answer":
        return begins, ends
    if span is None or "exact_answer" not in position:
        return (begins, begins) if position == "first_answer" else (ends, ends)
    # Around the text there may be spaces, which were cut off.
    shift = tokenizer.decode(list(said), skip_special_tokens=True).find(text)
    character = span[0] if position in ("before_exact_answer", "exact_answer_first") else span[1] - 1
    step = {"before_exact_answer": -1, "after_exact_answer": 1}.get(position, 0)
    place = begins + _holding(tokenizer, said, character + shift) + step
    return (place, place) if place <= ends else None


def _chunk_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The last token of each chunk, ascending, each once."""
    if not ids:
        return []
    text = tokenizer.decode(list(ids), skip_special_tokens=True)
    gaps = [(gap.start(), gap.group().count("\n")) for gap in re.finditer(r"\s+", text.strip())]
    least = 2 if any(lines > 1 for _, lines in gaps) else 1
    shift = len(text) - len(text.lstrip())
    ends = [start + shift for start, lines in gaps if lines >= least] + [len(text.rstrip())]
    return sorted({_holding(tokenizer, ids, max(end - 1, 0)) for end in ends})


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
