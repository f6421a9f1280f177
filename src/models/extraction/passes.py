"""All passes of one call: packed where the model allows it, padded where not, each pass whole."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from src.models.extraction.attention import NotPackable
from src.models.extraction.capture import forward_padded
from src.models.extraction.fingerprint import quantization_of
from src.models.extraction.layers import Anatomy
from src.models.extraction.packed import Prefix, forward_packed, shared_beginning, why_not_packable
from src.models.extraction.packing import Pack, plan_batches, plan_packs

log = logging.getLogger(__name__)

_CHECK_TOKENS = 16
# How far two correct ways to compute a state may lie apart, as a share of its length.
_TOLERANCE = {"torch.float32": 1e-3, "torch.float64": 1e-6}
_COARSE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Job:
    """What is read of which texts.

    Attributes:
        model, parts: the model and its anatomy.
        texts: token ids.
        starts: of each text, the token from which on states are averaged; the last one for the last token's state.
        layers, candidates: as in `engine.read_rows`.
    """

    model: Any
    parts: Anatomy
    texts: Sequence[tuple[int, ...]]
    starts: Sequence[int]
    layers: tuple[str, ...]
    candidates: tuple[int, ...]


def run_job(job: Job, known: Sequence[bool], budget: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Row numbers and states of each pass; a pass whose rows are all known is not computed, its states are empty.

    Passes are planned from all texts, known or not, so that an interrupted call that goes on forms the same ones.
    """
    if all(known):
        yield np.arange(len(job.texts)), {}
        return
    reason = why_not_packable(job.model, job.parts) or _refusal(job)
    if reason:
        log.info("%s takes the padded path: %s.", type(job.model).__name__, reason)
    yield from _padded(job, known, budget) if reason else _packed(job, known, budget)


def _packed(job: Job, known: Sequence[bool], budget: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    beginning: tuple[int, ...] = ()
    prefix: Prefix = {}
    # What is averaged must be computed, so only what lies before it can be shared.
    for pack in plan_packs(job.texts, budget, most_shared=job.starts if _sees_all(job) else [0] * len(job.texts)):
        if all(known[row] for row in pack.rows):
            yield pack.rows, {}
            continue
        if pack.shared and beginning != job.texts[pack.rows[0]][: pack.shared]:
            beginning = job.texts[pack.rows[0]][: pack.shared]
            prefix = shared_beginning(job.model, job.parts, beginning, job.layers, job.candidates)
        yield pack.rows, _run_pack(job, pack, prefix if pack.shared else {})


def _sees_all(job: Job) -> bool:
    """Whether every token of every text sees the whole text before it: what a sliding window hides is not shared."""
    window = getattr(job.model.config.get_text_config(decoder=True), "sliding_window", None)
    return window is None or max(map(len, job.texts)) <= window


def _run_pack(job: Job, pack: Pack, prefix: Prefix) -> dict[str, Tensor]:
    own = [job.texts[row][pack.shared :] for row in pack.rows]
    starts = [job.starts[row] - pack.shared for row in pack.rows]
    return forward_packed(job.model, job.parts, own, starts, job.layers, job.candidates, prefix=prefix)


def _padded(job: Job, known: Sequence[bool], budget: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    # 8-bit kernels let the texts of a batch influence each other (10 % with outlier channels): one at a time.
    size = 1 if quantization_of(job.model) == "8bit" else budget
    for rows in plan_batches([len(ids) for ids in job.texts], size):
        if all(known[row] for row in rows):
            yield rows, {}
        else:
            texts = [job.texts[row] for row in rows]
            starts = [job.starts[row] for row in rows]
            yield rows, forward_padded(job.model, job.parts, texts, starts, job.layers, job.candidates)


def _refusal(job: Job) -> str:
    """Compare both paths on two short texts, one of them behind a beginning; "" where they agree."""
    first = (max(job.texts, key=len) * 2)[:_CHECK_TOKENS]
    texts = [first, first[:1] + first[::-1]]
    try:
        prefix = shared_beginning(job.model, job.parts, first[:1], job.layers, job.candidates)
        own = [ids[1:] for ids in sorted(texts, key=len)]
        last = [len(ids) - 1 for ids in own]
        packed = forward_packed(job.model, job.parts, own, last, job.layers, job.candidates, prefix=prefix)
    except NotPackable as error:
        return str(error)
    for place, ids in enumerate(sorted(texts, key=len)):
        for name, expected in forward_padded(
            job.model, job.parts, [ids], [len(ids) - 1], job.layers, job.candidates
        ).items():
            difference = (packed[name][place].float() - expected[0].float()).norm() / expected[0].float().norm()
            if not difference <= _TOLERANCE.get(str(expected.dtype), _COARSE_TOLERANCE):
                return f"packed and single states of {name} differ by {difference:.1e}"
    return ""
