"""Rows of one purpose: what probes are fitted to, chosen with, and asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """Rows of one purpose. States stay where they are: a part of them is row numbers, and a copy is made of one place.

    Attributes:
        states: (m, places, d).
        labels: (n,) 1 where the answer was right, else 0.
        questions: (n,) the number of the question that each row asks.
        rows: (n,) which of the m rows of states these are; None: all of them.
    """

    states: np.ndarray
    labels: np.ndarray
    questions: np.ndarray
    rows: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Part":
        """All rows, part by part. Equal numbers in two parts are two questions: they are numbered anew."""
        numbered, first = [], 0
        for part in parts:
            distinct, which = np.unique(part.questions, return_inverse=True)
            numbered.append(first + which)
            first += distinct.size
        labels, questions = np.concatenate([part.labels for part in parts]), np.concatenate(numbered)
        if all(part.states is parts[0].states for part in parts):
            return cls(parts[0].states, labels, questions, np.concatenate([part._rows for part in parts]))
        return cls(np.concatenate([part.states[part._rows] for part in parts]), labels, questions)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """The d of the states."""
        return self.states.shape[2]

    def at(self, place: int) -> np.ndarray:
        """(n, d) the states of one place."""
        return self.states[:, place] if self.rows is None else self.states[self.rows, place]

    def only(self, places: np.ndarray) -> "Part":
        """These of its rows, given by their places among them."""
        return Part(self.states, self.labels[places], self.questions[places], self._rows[places])

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(len(self)) if self.rows is None else self.rows
