"""One question, as every data set gives it, and what all data sets have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from src import files

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Example:
    """One question with its right answer.

    Attributes:
        question: the text that is asked, before any prompt format.
        target: the right answer: a letter where there are choices, else the answer's text.
        choices: the answer texts in the order of their letters; empty for a free answer.
        subject: what the question is about ("" where the data set does not say).
        prompt: the whole text the model is given; it ends where the answer begins.
        continuations: with choices, the texts that continue the prompt, one per choice, each with the space it
            begins with: letters (" A") where the prompt lists the choices, or the choices themselves (" Paris")
            where it does not (the cloze form, which suits small models better: arXiv 2406.08446).
        tag: a mark by which results are broken down further ("" for none). The quickstart world marks
            how often a fact was seen in training.
    """

    question: str
    target: str
    choices: tuple[str, ...] = ()
    subject: str = ""
    prompt: str = ""
    continuations: tuple[str, ...] = ()
    tag: str = ""

    @cached_property
    def id(self) -> str:
        """16 hex digits that depend only on the question, its choices, its answer and its subject."""
        return files.sha256_of_json([self.question, list(self.choices), self.target, self.subject])[:16]


class ExampleDataset(Sequence[Example]):
    """A data set: a sequence of examples, read when the first one is asked for.

    Attributes:
        marking: how free answers are judged, see `src.data.scoring.mark`.
        stop: strings that end a free answer.
        max_new_tokens: the most tokens of a free answer.
    """

    marking: str = "exact"
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 64

    @abstractmethod
    def _read(self) -> list[Example]:
        """All examples, in order."""

    @cached_property
    def _examples(self) -> list[Example]:
        return self._read()

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return self._examples[index]
