"""Rows of one purpose: what probes are fitted to, chosen with, and asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from src.errors import ScoringError
from src.probes.tokens import TokenStates


@dataclass(frozen=True)
class Below:
    """States (m, places, d) of several such arrays, one below the other, of which only one place is ever copied."""

    arrays: "tuple[np.ndarray | Below, ...]"

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of an array."""
        _, places, width = self.arrays[0].shape
        return sum(len(one) for one in self.arrays), places, width

    @property
    def dtype(self) -> np.dtype:
        """That of the first."""
        return self.arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, of: tuple[Any, int]) -> np.ndarray:
        """(n, d) these rows at one place."""
        rows, place = of
        return np.concatenate([one[:, place] for one in self.arrays])[rows]


@dataclass(frozen=True)
class Part:
    """Rows of one purpose. States stay where they are: a part of them is row numbers, and a copy is made of one place.

    Attributes:
        states: (m, places, d) of places that are read at one token, or as one mean; of several models' answers `Below`.
        labels: (n,) 1 where the answer was right, else 0.
        questions: (n,) the number of the question that each row asks.
        rows: (n,) which of the m rows of states these are; None: all of them.
        tokens: of m answers, for the places at which every token is read: those that follow the others.
    """

    states: "np.ndarray | Below"
    labels: np.ndarray
    questions: np.ndarray
    rows: np.ndarray | None = None
    tokens: TokenStates | None = None

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Part":
        """All rows, part by part. Equal numbers in two parts are two questions: they are numbered anew.

        States of different models' answers are put below each other when a place is read; only parts that are some of
        their rows are copied before, and states of tokens.
        """
        numbered, first = [], 0
        for part in parts:
            distinct, which = np.unique(part.questions, return_inverse=True)
            numbered.append(first + which)
            first += distinct.size
        labels, questions = np.concatenate([part.labels for part in parts]), np.concatenate(numbered)
        of_one = all(part.states is parts[0].states and part.tokens is parts[0].tokens for part in parts)
        if of_one:
            rows = np.concatenate([part._rows for part in parts])
            return cls(parts[0].states, labels, questions, rows, parts[0].tokens)
        one_by_one = [(part.states, part.tokens) if part.rows is None else part._copied() for part in parts]
        tokens = [tokens for _, tokens in one_by_one if tokens is not None]
        states = Below(tuple(states for states, _ in one_by_one))
        return cls(states, labels, questions, tokens=reduce(TokenStates.followed_by, tokens) if tokens else None)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """The d of the states."""
        return self.states.shape[2]

    def at(self, place: int) -> np.ndarray | TokenStates:
        """(n, d) the states of one place; of a place at which every token is read the answers' `TokenStates`."""
        read_once = self.states.shape[1]
        if place < read_once:
            return self.states[:, place] if self.rows is None else self.states[self.rows, place]
        if self.tokens is None:
            raise ScoringError(f"There is no place {place}: states of {read_once} places were read, and of no tokens.")
        return self.tokens.at(place - read_once).only(self._rows)

    def only(self, places: np.ndarray) -> "Part":
        """These of its rows, given by their places among them."""
        return Part(self.states, self.labels[places], self.questions[places], self._rows[places], self.tokens)

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(len(self)) if self.rows is None else self.rows

    def _copied(self) -> "tuple[np.ndarray | Below, TokenStates | None]":
        """Its rows alone, of all places."""
        states = np.stack([self.states[self._rows, place] for place in range(self.states.shape[1])], axis=1)
        return states, self.tokens and self.tokens.only(self._rows)
