"""What was generated, taken apart: thinking, the answer, and what stands after its end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from src.errors import DataError

Thinking = Literal["think", "harmony"]
# What begins and what ends a thinking block: Qwen3, DeepSeek-R1 and Kimi-K2-Thinking; gpt-oss (the harmony format).
THINKING: dict[str, tuple[str, str]] = {
    "think": ("<think>", "</think>"),
    "harmony": ("<|channel|>analysis", "<|channel|>final<|message|>"),
}


@dataclass(frozen=True)
class Said:
    """One answer.

    Attributes:
        text: without what ends it, without spaces around it.
        thought: token ids before it: a thinking block with the mark that ends it; empty where there is none.
        ids: token ids of the text.
        mean, least: of the natural log-probabilities of the answer's tokens, its end included.
        finished: whether it ended by itself.
        cut_while_thinking: whether the token limit came before the answer began.
    """

    text: str
    thought: tuple[int, ...]
    ids: tuple[int, ...]
    mean: float
    least: float
    finished: bool
    cut_while_thinking: bool = False


@dataclass(frozen=True)
class Reader:
    """Reads generated tokens.

    Attributes:
        tokenizer: of the model that generated them.
        ends: tokens that end an answer; what comes after one is padding.
        stop: strings that end an answer.
        marks: token ids that begin and that end a thinking block; None for a model that does not think.
    """

    tokenizer: Any
    ends: frozenset[int]
    stop: Sequence[str]
    marks: tuple[list[int], list[int]] | None = None

    def read(self, prompt: Sequence[int], new: Sequence[int], log_probabilities: np.ndarray) -> Said:
        """One answer to a prompt, from the tokens generated after it and their log-probabilities."""
        begun = self._answer_begins(prompt, new)
        if begun is None:
            return Said("", tuple(new), (), *_mean_and_least(log_probabilities), False, cut_while_thinking=True)
        thought, new, log_probabilities = new[:begun], new[begun:], log_probabilities[begun:]
        end = next((place for place, token in enumerate(new) if token in self.ends), None)
        spoken = new if end is None else new[:end]
        text = self._decode(spoken)
        cut = min((place for place in (text.find(mark) for mark in self.stop) if place >= 0), default=None)
        kept, counted = len(spoken), len(spoken) + (end is not None)
        if cut is not None:
            counted = self._until(spoken, lambda said: any(mark in said for mark in self.stop))
            kept = self._until(spoken, lambda said: len(said) >= cut) if cut else 0
        numbers = _mean_and_least(log_probabilities[:counted])
        finished = end is not None or cut is not None
        return Said(text[:cut].strip(), tuple(thought), tuple(spoken[:kept]), *numbers, finished)

    def _answer_begins(self, prompt: Sequence[int], new: Sequence[int]) -> int | None:
        """The first token after a thinking block, 0 where there is none; None where the block does not end."""
        if self.marks is None:
            return 0
        begin, end = self.marks
        if (place := _find(new, end)) is not None:
            return place + len(end)
        # The chat template may have begun the block already.
        opened, closed = _find(prompt, begin), _find(prompt, end)
        still_open = opened is not None and (closed is None or closed < opened)
        return None if still_open or _find(new, begin) is not None else 0

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _until(self, spoken: Sequence[int], enough: Callable[[str], bool]) -> int:
        """How many tokens it took to say enough: found by halving, since decoding only grows."""
        low, high = 1, len(spoken)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(self._decode(spoken[:middle])) else (middle + 1, high)
        return low


def thinking_marks(tokenizer: Any, thinking: Thinking | None) -> tuple[list[int], list[int]] | None:
    """The marks as token ids.

    Raises:
        DataError: the tokenizer does not write them, so the model cannot have learned them.
    """
    if thinking is None:
        return None
    begin, end = (tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in THINKING[thinking])
    for mark, ids in zip(THINKING[thinking], (begin, end), strict=True):
        if not ids or tokenizer.decode(ids) != mark:
            raise DataError(f"This tokenizer does not know {mark!r}, so {thinking!r} is not how its model thinks.")
    return begin, end


def _find(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where a run of tokens begins for the last time."""
    places = range(len(ids) - len(wanted), -1, -1)
    return next((place for place in places if list(ids[place : place + len(wanted)]) == list(wanted)), None)


def _mean_and_least(log_probabilities: np.ndarray) -> tuple[float, float]:
    """0 and 0 (certain) where nothing was said: an empty answer that the token limit cut off."""
    if not log_probabilities.size:
        return 0.0, 0.0
    return float(log_probabilities.mean()), float(log_probabilities.min())
