"""Logistic regression on what is no state, such as a text: what turns items into features is learnt from the items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.probes.folds import cross_validated
from src.probes.solver import Fit, Path, fit_at, fit_path, one_thread, probability
from src.probes.states import Sample

Items = Sequence[Any] | np.ndarray
Encode = Callable[[Items], Any]  # n items -> (n, d) features, dense or sparse

# Weaker penalties than a probe of hidden states needs: features are few, or rows of a TF-IDF matrix, of length 1.
_GRID = tuple(float(10 ** (k / 2)) for k in range(-6, 7))


@dataclass(frozen=True)
class Encoded:
    """A fitted regression.

    Attributes:
        encode: what turns items into its features.
        fit: on these.
        out_of_fold: (n,) P(correct) of the training items, each said without its fold; NaN where that could not be.
            None where validation items were given.
    """

    encode: Encode
    fit: Fit
    out_of_fold: np.ndarray | None = None

    def predict(self, items: Items) -> np.ndarray:
        """(n,) float64 P(correct)."""
        return probability(self.encode(items) @ self.fit.weight + self.fit.bias)


@one_thread
def fit_encoded(
    learn: Callable[[Items], Encode], items: Items, y: np.ndarray, items_val: Items | None = None,
    y_val: np.ndarray | None = None, *, groups: Any = None,
) -> Encoded:  # fmt: skip
    """Fit, and choose C, as a `Probe` does: on validation items, or in the folds of a probe of the same questions.

    Args:
        learn: from items to fit to, to what encodes any.
        items, items_val: n of them.
        y, y_val: (n,) 1 where the answer was right, else 0.
        groups: (n,) the question of each item, where no validation items are given.

    Raises:
        ScoringError: one class only, or no fold that could be set aside.
    """
    encode = learn(items)
    if items_val is not None and y_val is not None:
        return Encoded(encode, fit_path(encode(items), y, encode(items_val), y_val, grid=_GRID))

    def walk(fitted: Sample, held_out: Sample) -> list[np.ndarray]:
        chosen = [items[row] for row in fitted.rows]
        encode = learn(chosen)
        path, X = Path(encode(chosen), fitted.y), encode([items[row] for row in held_out.rows])
        return [path.logits(step, X) for step in path.walk(X, held_out.y, _GRID)]

    # Rows without states: which fold an item is in follows from its group.
    best, _, said = cross_validated(Sample.of(np.zeros((len(items), 1)), y, None, "items", 1), groups, walk)
    return Encoded(encode, fit_at(encode(items), y, _GRID[best], grid=_GRID), probability(said))
