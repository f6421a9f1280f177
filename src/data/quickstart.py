"""The questions of the planted world, in the two forms that every data set of this library has."""

import random
from collections.abc import Sequence

from src.data import prompts
from src.data.example import LETTERS, Example, ExampleDataset
from src.data.planted import SUBJECTS, Item, world
from src.data.splits import SPLITS, split_of
from src.errors import DataError

KINDS = ("choice", "free")


def choice_example(item: Item, rng: random.Random) -> Example:
    """The item with four choices drawn by `rng`, of which the model picks the likeliest to follow "Answer:".

    The prompt does not list them (the cloze form): a model this small does not learn to answer by letter.
    """
    choices = item.choices(rng)
    letter = LETTERS[choices.index(item.answer)]
    continuations = tuple(f" {choice}" for choice in choices)
    prompt = prompts.free_answer(item.question)
    return Example(item.question, letter, choices, item.subject, prompt, continuations, item.tag)


def free_example(item: Item) -> Example:
    """The item without choices; the target is the answer's text."""
    return Example(item.question, item.answer, (), item.subject, prompts.free_answer(item.question), (), item.tag)


class QuickstartDataset(ExampleDataset):
    """The planted world as questions: invented facts and arithmetic, made from the seed, no file.

    Every item is asked once. The tag of a fact is its band of exposure ("never", "taught", "rare",
    "often"); arithmetic has none.

    Args:
        split: "all", or one of "train", "val", "calibration", "test": the questions that `split_of`
            puts there, the same ones the pipeline puts there when it is given "all".
        category: a subject, "facts" or "arithmetic"; None for everything.
        kind: "choice" for four choices, "free" for the answer's text; the prompt is the same.
        seed: which world. The shipped model knows the world of seed 0 and no other.

    Raises:
        DataError: on a split, category or kind that does not exist.
    """

    def __init__(self, split: str = "all", category: str | None = None, *, kind: str = "choice", seed: int = 0) -> None:
        _check("split", split, ("all", *SPLITS))
        _check("kind", kind, KINDS)
        self.split, self.subjects, self.kind, self.seed = split, _subjects(category), kind, seed

    def _read(self) -> list[Example]:
        items = [item for item in world(self.seed) if item.subject in self.subjects]
        if self.split != "all":
            items = [item for item in items if split_of(item.question) == self.split]
        return [_example(item, self.kind, self.seed) for item in items]


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
