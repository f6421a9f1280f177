"""States of every token of each answer: as many as the answer is long."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.errors import ScoringError
from src.probes.states import States


@dataclass(frozen=True)
class TokenStates:
    """States of the tokens of n answers, answer by answer.

    Attributes:
        states: (m, d) or (m, places, d).
        ends: (n,) where each answer's tokens end among the m; ascending, none is without a token.
    """

    states: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray, answer: np.ndarray) -> "TokenStates":
        """From the number of the answer that each of the m rows belongs to: 0, 0, 1, 2, 2, 2.

        Raises:
            ScoringError: lengths that differ, numbers that do not ascend, or one that is missing.
        """
        answer = np.asarray(answer)
        if answer.shape != (len(states),):
            raise ScoringError(f"answer has shape {answer.shape}, but there are {len(states)} rows of token states.")
        steps = np.diff(answer, prepend=-1)
        if not np.isin(steps, (0, 1)).all() or (steps.size and steps[0] != 1):
            place = int(np.flatnonzero(~np.isin(steps, (0, 1)))[0]) if steps[0] == 1 else 0
            raise ScoringError(
                f"answer is {answer[place]} at row {place} of the token states. Number the answers 0, 1, 2 and so on, "
                "each with one token or more."
            )
        return cls(states, np.flatnonzero(np.append(steps[1:], 1)) + 1)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def begins(self) -> np.ndarray:
        """(n,) where each answer's tokens begin."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.intp)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) how many tokens each answer has."""
        return self.ends - self.begins

    def at(self, place: int) -> "TokenStates":
        """Of one of several places, without a copy."""
        return TokenStates(self.states[:, place], self.ends)

    def only(self, rows: np.ndarray) -> "TokenStates":
        """These answers, in this order."""
        begins, lengths = self.begins[rows], self.lengths[rows]
        ends = np.cumsum(lengths)
        within = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
        return TokenStates(self.states[np.repeat(begins, lengths) + within], ends)

    def followed_by(self, other: "TokenStates") -> "TokenStates":
        """These answers and then those."""
        return TokenStates(
            np.concatenate([self.states, other.states]), np.append(self.ends, len(self.states) + other.ends)
        )


class Tokens(States):
    """`TokenStates` (m, d) that are checked. As `States` they are the means of the answers' tokens, (n, d).

    Raises:
        ScoringError: no token states, another width, or NaN or infinity.
    """

    def __init__(self, X: Any, name: str, width: int):
        if not isinstance(X, TokenStates):
            raise ScoringError(
                f"{name} is no TokenStates: attention reads all tokens of each answer. Pass TokenStates.of(states, "
                "answer)."
            )
        self._given = X.at(0) if X.states.ndim == 3 and X.states.shape[1] == 1 else X
        self.shape, self.dtype = (len(X), width), States(self._given.states, f"{name}.states", width).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def tokens(self, rows: np.ndarray | None = None) -> TokenStates:
        """Of these answers."""
        return self._given if rows is None else self._given.only(rows)

    def blocks(self, rows: np.ndarray | None = None, *, dtype: Any = None) -> Iterator[tuple[slice, np.ndarray]]:
        """The answers' means; arguments as of `States`."""
        every = np.arange(len(self)) if rows is None else rows
        step = max(2**18 // max(self.shape[1], 1), 1)
        for start in range(0, len(every), step):
            some = self._given.only(every[start : start + step])
            sums = np.add.reduceat(some.states, some.begins, axis=0, dtype=np.float64)
            place = slice(start, start + len(some))
            yield place, (sums / some.lengths[:, None]).astype(dtype or self.dtype)
