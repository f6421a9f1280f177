"""When a path of penalties ends: by what validation says of the C's so far."""

import numpy as np

PATIENCE = 2
_ABANDONED = 0.01


class Choice:
    """Validation losses along a path, from the strongest penalty to the weakest.

    Args:
        patience: C's without improvement that end the path; None: it never ends, and nothing is hopeless.

    Attributes:
        best: the lowest loss of a C so far.
    """

    def __init__(self, patience: int | None = PATIENCE) -> None:
        self.best, self._patience, self._last, self._waited = np.inf, patience, np.inf, 0

    def hopeless(self, loss: float) -> bool:
        """Whether the loss on the way to a C is .01 above the best, and more than when the path was last looked at."""
        before, self._last = self._last, loss
        return self._patience is not None and loss > max(self.best + _ABANDONED, before)

    def ends(self, loss: float) -> bool:
        """Whether the path ends with a C that scored this loss."""
        self._last, self._waited = loss, 0 if loss < self.best else self._waited + 1
        self.best = min(self.best, loss)
        return self._patience is not None and (self._waited >= self._patience or loss > self.best + _ABANDONED)
