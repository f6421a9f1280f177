"""Which texts are computed together, and which beginnings once: a pure function of all tokens and a budget."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# A shared beginning costs a pass of its own and packs of its own: it must save at least so many tokens.
LEAST_SAVED = 512


@dataclass(frozen=True)
class Pack:
    """Texts of one pass.

    Attributes:
        rows: row numbers, shortest text first.
        shared: how many tokens at the beginning are the same in all of them and computed once for all packs
            with the same beginning; 0 for none.
    """

    rows: np.ndarray
    shared: int = 0

    def halves(self) -> list["Pack"]:
        """Two packs of half the texts each."""
        middle = len(self.rows) // 2
        return [Pack(self.rows[:middle], self.shared), Pack(self.rows[middle:], self.shared)]


def plan_batches(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """Row numbers of each padded batch: sorted by length, filled while the padded tokens stay within the budget.

    A text longer than the budget is a batch of its own. Batches are computed and stored whole, so a run that
    was killed and resumed forms the same ones and gives the same bits.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > budget:
            batches.append(order[start:end])
            start = end
    return batches


def plan_packs(
    sequences: Sequence[Sequence[int]], budget: int, *, most_shared: Sequence[int] | None = None
) -> list[Pack]:
    """Packs without padding: each holds at most `budget` own tokens (or one longer text).

    Texts that share a long beginning are packed together, and the beginning is counted once. Like batches, packs
    depend on nothing but the whole list.

    Args:
        sequences: token ids.
        budget: tokens of one pack.
        most_shared: of each text, how many tokens may be shared at most, less than all; None: all but the last.
    """
    packs: list[Pack] = []
    alone = np.ones(len(sequences), dtype=bool)
    limits = [len(ids) - 1 for ids in sequences] if most_shared is None else most_shared
    for shared, rows in _shared_beginnings([ids[:limit] for ids, limit in zip(sequences, limits, strict=True)]):
        alone[rows] = False
        packs += [Pack(part, shared) for part in _filled(rows, sequences, shared, budget)]
    rest = np.flatnonzero(alone)
    return [Pack(part) for part in _filled(rest, sequences, 0, budget)] + packs


def _filled(rows: np.ndarray, sequences: Sequence[Sequence[int]], shared: int, budget: int) -> Iterator[np.ndarray]:
    own = np.array([len(sequences[row]) - shared for row in rows])
    order = np.argsort(own, kind="stable")
    start = total = 0
    for place, index in enumerate(order):
        if total and total + own[index] > budget:
            yield rows[order[start:place]]
            start, total = place, 0
        total += own[index]
    if len(order):
        yield rows[order[start:]]


def _shared_beginnings(sequences: Sequence[Sequence[int]]) -> list[tuple[int, np.ndarray]]:
    """Disjoint groups of rows and the number of tokens each shares, chosen so that most tokens are saved.

    Given is of each text what may be shared.

    In lexicographic order, texts with a common beginning are neighbours, and the beginnings form a tree: a node is
    worth (texts - 1) x tokens, and is taken where that is more than its branches are worth together.
    """
    begun = [np.asarray(ids) for ids in sequences]
    order = sorted(range(len(sequences)), key=lambda row: tuple(sequences[row]))
    common = [_common(begun[a], begun[b]) for a, b in itertools.pairwise(order)] + [0]
    chosen: list[tuple[int, np.ndarray]] = []
    open_nodes: list[_Node] = []
    for last, shared in enumerate(common):
        node = _Node(shared, last, 0, [])
        while open_nodes and open_nodes[-1].tokens >= shared:
            closed = open_nodes.pop()
            node = _Node(shared, closed.first, *closed.best(last, node))
        if shared:
            open_nodes.append(node)
        else:
            chosen += [(tokens, np.array(order[start : end + 1])) for tokens, start, end in node.groups]
    return chosen


@dataclass(frozen=True)
class _Node:
    """A beginning of `tokens` tokens that texts from `first` on share, with the best groups inside it so far."""

    tokens: int
    first: int
    saved: int
    groups: list[tuple[int, int, int]]

    def best(self, last: int, branch: "_Node") -> tuple[int, list[tuple[int, int, int]]]:
        """What this node is worth when it ends with text `last`: itself, or its branches one by one."""
        saved, groups = self.saved + branch.saved, self.groups + branch.groups
        whole = (last - self.first) * self.tokens
        if whole >= max(saved, LEAST_SAVED):
            return whole, [(self.tokens, self.first, last)]
        return saved, groups


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two texts have in common at the beginning."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if different.size else size
