"""From the passes to memory and disk in threads of their own: neither copying nor writing holds up the next pass."""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from src.errors import CacheError, ModelError
from src.models.extraction.cache import ActivationCache
from src.models.extraction.table import Table

# Short passes share a shard: one is written when the first of its rows has waited so long, or at so many bytes. A kill
# loses what waits and the pass that is running.
SECONDS = 2.0
BYTES = 64 << 20
_MOST_WAITING = 4

# Quantities and their dtypes -> parts of a shard: keys and rows.
_Unwritten = dict[tuple[tuple[str, torch.dtype], ...], list[tuple[list[bytes], dict[str, Tensor]]]]


class Keeper:
    """Takes whole passes, and has all of them in the table and in the cache when its block ends.

    Rows that are in the table already are neither changed nor written again, so that none stands in two shards.

    Args:
        table: gets the rows.
        cache: gets them too; None: they are not kept between calls.
        all_finite: whether a number that is not finite is an error.
    """

    def __init__(self, table: Table, cache: ActivationCache | None, *, all_finite: bool = True):
        self._all_finite = all_finite
        self._table = table
        self._cache = cache
        self._memory, self._disk = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._writing: deque[Future[None]] = deque()
        self._unwritten: _Unwritten = {}
        self._bytes = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def keep(self, places: np.ndarray, rows: Mapping[str, Tensor]) -> None:
        """Hand over a pass: quantity -> (len(places), width), on any device.

        Raises:
            ModelError: an earlier pass held a number that is not finite.
            CacheError: the cache is required and cannot be written.
        """
        self._waiting.append(self._memory.submit(self._store, places, rows, _computed(rows)))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft().result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.shutdown(wait=True)
        # Where the block ended with an error, one more that a full disk adds must not hide it.
        with contextlib.suppress(CacheError) if kind else contextlib.nullcontext():
            try:
                self._write()
            finally:
                self._disk.shutdown(wait=True)
        if kind is None:
            for waiting in (*self._waiting, *self._writing):
                waiting.result()

    def _store(self, places: np.ndarray, rows: Mapping[str, Tensor], computed: Sequence[torch.Event]) -> None:
        for event in computed:
            event.synchronize()
        here = {name: values.cpu() for name, values in rows.items()}
        if self._all_finite:
            _refuse_what_is_not_finite(here)
        if self._cache is not None:
            for names, new in self._table.lacking(places):
                self._to_be_written(names, [self._table.keys[place] for place in places[new]], new, here)
        self._table.add(places, here)
        if self._bytes and (self._bytes >= BYTES or time.monotonic() - self._since >= SECONDS):
            self._write()

    def _to_be_written(
        self, names: tuple[str, ...], keys: list[bytes], new: np.ndarray, rows: Mapping[str, Tensor]
    ) -> None:
        if not self._bytes:
            self._since = time.monotonic()
        every = len(new) == len(rows[names[0]])
        chosen = {name: rows[name] if every else rows[name][torch.from_numpy(new)] for name in names}
        kind = tuple((name, values.dtype) for name, values in chosen.items())
        self._unwritten.setdefault(kind, []).append((keys, chosen))
        self._bytes += sum(values.nbytes for values in chosen.values())

    def _write(self) -> None:
        unwritten, self._unwritten, self._bytes = self._unwritten, {}, 0
        if unwritten:
            self._writing.append(self._disk.submit(self._write_shards, unwritten))
        while len(self._writing) > 1:  # what waits for a slow disk takes memory
            self._writing.popleft().result()

    def _write_shards(self, unwritten: _Unwritten) -> None:
        for kind, parts in unwritten.items():
            keys = [key for some, _ in parts for key in some]
            if self._cache is not None:
                self._cache.write(keys, {name: [rows[name] for _, rows in parts] for name, _ in kind})


def _computed(rows: Mapping[str, Tensor]) -> Sequence[torch.Event]:
    """What says when these are computed: another thread's copy waits for its own stream only, not for the caller's."""
    devices = {values.device for values in rows.values() if values.is_cuda}
    return [torch.cuda.current_stream(device).record_event() for device in devices]


def _refuse_what_is_not_finite(rows: Mapping[str, Tensor]) -> None:
    for name, values in rows.items():
        # The extremes tell of every infinity and NaN, many times faster than a look at each number.
        if not values.is_floating_point() or torch.stack(values.aminmax()).isfinite().all():
            continue
        bad = int((~values.isfinite().flatten(1).all(1)).sum())
        raise ModelError(
            f"{name} holds numbers that are not finite in {bad} of {len(values)} rows of a pass ({values.dtype}). "
            "float16 overflows at 65,504: load the model with dtype='bfloat16' or 'float32'."
        )
