"""The questions of the planted world, in the two forms that every data set of this library has."""

import random
from collections.abc import Sequence
from typing import overload

from src.data.example import LETTERS, Example
from src.data.planted import SUBJECTS, Item, world
from src.data.splits import SPLITS, split_of
from src.errors import DataError

KINDS = ("choice", "free")


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The question with lettered choices; the answer that continues it is " A", " B" and so on."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([f"Question: {question}", *lines, "Answer:"])


def free_prompt(question: str) -> str:
    """The question alone; the answer that continues it is a space and one word or number."""
    return f"Question: {question}\nAnswer:"


def choice_example(item: Item, rng: random.Random) -> Example:
    """The item with four choices drawn by `rng`; the target is the letter of the right one."""
    choices = item.choices(rng)
    letter = LETTERS[choices.index(item.answer)]
    prompt = choice_prompt(item.question, choices)
    return Example(item.question, letter, choices, item.subject, prompt, item.tag)


def free_example(item: Item) -> Example:
    """The item without choices; the target is the answer's text."""
    prompt = free_prompt(item.question)
    return Example(item.question, item.answer, (), item.subject, prompt, item.tag)


class QuickstartDataset(Sequence[Example]):
    """The planted world as questions: invented facts and arithmetic, made from the seed, no file.

    Every item is asked once. The tag of a fact is its band of exposure ("never", "taught", "rare",
    "often"); arithmetic has none.

    Args:
        split: "all", or one of "train", "val", "calibration", "test": the questions that `split_of`
            puts there, the same ones the pipeline puts there when it is given "all".
        category: a subject, "facts" or "arithmetic"; None for everything.
        kind: "choice" for four choices and a letter, "free" for the answer's text.
        seed: which world. The shipped model knows the world of seed 0 and no other.

    Raises:
        DataError: on a split, category or kind that does not exist.
    """

    def __init__(self, split: str = "all", category: str | None = None, *, kind: str = "choice", seed: int = 0) -> None:
        _check("split", split, ("all", *SPLITS))
        _check("kind", kind, KINDS)
        subjects = _subjects(category)
        items = [item for item in world(seed) if item.subject in subjects]
        if split != "all":
            items = [item for item in items if split_of(item.question) == split]
        self._examples = [_example(item, kind, seed) for item in items]

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return self._examples[index]


def _example(item: Item, kind: str, seed: int) -> Example:
    if kind == "free":
        return free_example(item)
    # An item's own generator, so that its choices do not depend on which other items are asked for.
    return choice_example(item, random.Random(f"choices {seed} {item.question}"))


def _subjects(category: str | None) -> tuple[str, ...]:
    every = tuple(subject for group in SUBJECTS.values() for subject in group)
    if category is None:
        return every
    _check("category", category, (*SUBJECTS, *every))
    return SUBJECTS.get(category, (category,))


def _check(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise DataError(f"The quickstart world has no {what} {value!r}. Use one of: {', '.join(allowed)}.")
