"""Which texts are computed together: a pure function of all their lengths and a token budget."""

from collections.abc import Sequence

import numpy as np

TOKEN_BUDGET = 4096


def plan_batches(lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> list[np.ndarray]:
    """Row numbers of each batch: sorted by length, filled while the padded tokens stay within the budget.

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
