"""The rows of one call, in the order of their keys: filled from the cache and by passes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


class Table:
    """Several quantities (a layer's states, log-probabilities, ...) of every key, as far as they are there.

    Args:
        keys: what names a row; none of them twice.
        quantities: the names of what is wanted of every row.
    """

    def __init__(self, keys: Sequence[bytes], quantities: Sequence[str]):
        self.keys = tuple(keys)
        self._place = {key: place for place, key in enumerate(self.keys)}
        self._there = {name: np.zeros(len(self.keys), dtype=bool) for name in quantities}
        self._values: dict[str, Tensor] = {}

    def __getitem__(self, quantity: str) -> Tensor:
        """(n, width). A row that is not there holds nothing sensible."""
        return self._values[quantity]

    def known(self) -> np.ndarray:
        """(n,) True where everything wanted of a row is there."""
        known = np.ones(len(self.keys), dtype=bool)
        for there in self._there.values():
            known &= there
        return known

    def places(self, keys: Sequence[bytes]) -> np.ndarray:
        """Where these keys stand; -1 for one that is not wanted."""
        return np.array([self._place.get(key, -1) for key in keys], dtype=np.int64)

    def lacking(self, places: np.ndarray) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Of these rows (-1: none), groups that lack the same quantities: (quantities, positions in `places`)."""
        wanted = places >= 0
        lacks = np.stack([wanted & ~there[places] for there in self._there.values()])
        for pattern in np.unique(lacks[:, lacks.any(0)], axis=1).T:
            names = tuple(name for name, lack in zip(self._there, pattern, strict=True) if lack)
            yield names, np.flatnonzero((lacks == pattern[:, None]).all(0))

    def add(self, places: np.ndarray, rows: Mapping[str, Tensor]) -> None:
        """Take what is wanted and not there yet; what is there stays as it is.

        Args:
            places: where the rows belong; -1: nowhere.
            rows: quantity -> (len(places), width).
        """
        for name in self._there.keys() & rows.keys():
            new = np.flatnonzero((places >= 0) & ~self._there[name][places])
            if not new.size:
                continue
            if name not in self._values:
                width, dtype = rows[name].shape[1:], rows[name].dtype
                self._values[name] = torch.empty(len(self.keys), *width, dtype=dtype)
            # A text of one token has the state itself where others have means, in another precision.
            wider = torch.promote_types(self._values[name].dtype, rows[name].dtype)
            self._values[name] = self._values[name].to(wider)
            chosen = rows[name] if len(new) == len(places) else rows[name][torch.from_numpy(new)]
            self._values[name][_where(places[new])] = chosen
            self._there[name][places[new]] = True


def _where(places: np.ndarray) -> slice | Tensor:
    """Rows as an index; neighbours in order as a slice, which is copied several times faster."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places) and (np.diff(places) == 1).all():
        return slice(first, last + 1)
    return torch.from_numpy(places)
