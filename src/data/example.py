"""One question, as every data set gives it."""

from dataclasses import dataclass
from functools import cached_property

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
        tag: a mark by which results are broken down further ("" for none). The quickstart world marks
            how often a fact was seen in training.
    """

    question: str
    target: str
    choices: tuple[str, ...] = ()
    subject: str = ""
    prompt: str = ""
    tag: str = ""

    @cached_property
    def id(self) -> str:
        """16 hex digits that depend only on the question, its choices, its answer and its subject."""
        return files.sha256_of_json([self.question, list(self.choices), self.target, self.subject])[:16]
