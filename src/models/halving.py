"""Batches that a GPU's memory does not hold are computed in halves."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from src.errors import ModelError

log = logging.getLogger(__name__)

T = TypeVar("T")


def in_halves(rows: np.ndarray, compute: Callable[[np.ndarray], T]) -> Iterator[tuple[np.ndarray, T]]:
    """Of (n,) row numbers, those that were computed together, and what came of them; all of them where there is room.

    Raises:
        ModelError: one row alone does not fit.
    """
    queue = deque([rows])
    while queue:
        some = queue.popleft()
        if (found := _computed(some, compute)) is not None:
            yield some, found
            continue
        torch.cuda.empty_cache()  # outside of the handler, whose traceback holds the tensors
        half = len(some) // 2
        log.warning("The GPU's memory is full: %d texts are taken in two halves.", len(some))
        queue.extendleft((some[half:], some[:half]))


def _computed(rows: np.ndarray, compute: Callable[[np.ndarray], T]) -> T | None:
    try:
        return compute(rows)
    except torch.OutOfMemoryError as error:
        if len(rows) == 1:
            raise ModelError(
                "One text alone does not fit into the GPU's memory beside the model. Shorten it (data.truncation) or "
                "its answer (data.max_new_tokens), or use a quantised or smaller model."
            ) from error
    return None
