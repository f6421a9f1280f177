"""When a path of penalties ends: by what validation says of the C's so far."""

import numpy as np

# Measured on worlds whose signal comes late on the path (CLAUDE.md): a rule that ended it after two C's without
# improvement stayed at C of 1e-4 or less in 15 of 60 of them, with cross-validation in 42; this one in none.
_SHARE, _ROWS = 0.07, 20.0


def limit(best: float, n: float) -> float:
    """The validation loss in nats from which on a path is given up.

    It is 7 % above the best, and more where few rows are fitted to: along the first directions, which may be noise, a
    loss rises by one half over the rows for each of them before the one that tells something is reached.

    Args:
        best: the lowest loss so far.
        n: rows that are fitted to.
    """
    return best * (1 + _SHARE) + _ROWS / n


class Choice:
    """Validation losses along a path, from the strongest penalty to the weakest.

    Args:
        n: rows that are fitted to; None: the path never ends, and nothing is hopeless.

    Attributes:
        best: the lowest loss of a C so far.
    """

    def __init__(self, n: float | None) -> None:
        self.best, self._n, self._last = np.inf, n, np.inf

    def hopeless(self, loss: float) -> bool:
        """Whether the loss on the way to a C is beyond the limit, and more than when the path was last looked at."""
        before, self._last = self._last, loss
        return loss > before and self._beyond(loss)

    def ends(self, loss: float) -> bool:
        """Whether the path ends with a C that scored this loss."""
        self._last, self.best = loss, min(self.best, loss)
        return self._beyond(loss)

    def _beyond(self, loss: float) -> bool:
        return self._n is not None and loss > limit(self.best, self._n)
