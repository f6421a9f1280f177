"""What a call would do and cost, before it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import machine
from src.models.extraction import cost
from src.models.extraction.cache import ActivationCache, peek, shards
from src.models.extraction.capture import Windows, only_last
from src.models.extraction.engine import cache_context, make_request
from src.models.extraction.layers import EMBEDDINGS
from src.models.extraction.maintenance import contexts_like
from src.models.extraction.packed import token_wise, top_block, why_not_packable
from src.models.extraction.packing import Pack
from src.models.extraction.passes import Job, own_tokens, plan_passes

_PLAIN_BATCH = 16


@dataclass(frozen=True)
class ExtractionPlan:
    """What is computed, and what it takes.

    Attributes:
        texts, distinct: how many, and how many different ones.
        cached: distinct texts whose rows are in the cache already; for a model without weights, under its name, so that
            they are used if its weights have not changed.
        tokens: of all texts.
        tokens_padded: of the same texts in batches of 16 in the given order, as they are computed without this library.
        tokens_computed: that go through the model now, after cache, repeats and shared beginnings.
        passes: how many.
        token_budget: the most tokens of one pass (a longer text has one of its own).
        padded: why the packed path is not taken; "" where it is.
        operations: floating-point operations of these passes.
        memory_bytes: an estimate of what a pass needs beside the model.
        seconds: an estimate from a quick matrix product on this machine.
    """

    texts: int
    distinct: int
    cached: int
    tokens: int
    tokens_padded: int
    tokens_computed: int
    passes: int
    token_budget: int
    padded: str
    operations: int
    memory_bytes: int
    seconds: float

    def __str__(self) -> str:
        counts = (
            f"{self.texts:,} texts ({self.distinct:,} different, {self.cached:,} cached), {self.tokens:,} tokens "
            f"({self.tokens_padded:,} with padding)"
        )
        if not self.passes:
            return f"{counts}; nothing to compute."
        path = f" Not packed: {self.padded}." if self.padded else ""
        return (
            f"{counts}; to compute: {self.tokens_computed:,} in {self.passes:,} passes of up to {self.token_budget:,}, "
            f"{self.operations / 1e12:.3g} TFLOP, about {self.seconds:.0f} s and {machine.in_words(self.memory_bytes)} "
            f"beside the model.{path}"
        )


def plan_rows(
    model: Any,
    sequences: Sequence[Sequence[int]],
    windows: Sequence[Windows] | None,
    layers: Sequence[str],
    *,
    candidates: Sequence[int] = (),
    cache_dir: str | Path | None = None,
    budget: int | None = None,
) -> ExtractionPlan:
    """What `engine.read_rows` would do with the same arguments. The model may be one without weights."""
    request = make_request(model, sequences, windows, layers, candidates)
    job = request.job
    context = cache_context(model, job.parts)
    name = model.config._name_or_path
    folders = contexts_like(cache_dir, context, model_name=name) if cache_dir is not None else []
    kept = np.zeros(len(request.keys), dtype=bool)
    for folder in folders:
        kept |= _kept(folder, request.keys, request.quantities)
    known = job.texts_known(kept)
    if budget is None:
        recorded = next((found for folder in folders if (found := ActivationCache.recorded_budget(folder))), None)
        budget = recorded or cost.token_budget(model, job.parts, with_head=bool(candidates))
    padded = why_not_packable(model, job.parts)
    packs = [pack for pack in plan_passes(job, budget, padded=bool(padded)) if not known[pack.rows].all()]
    operations = _operations(job, packs)
    lengths = [len(ids) for ids in sequences]
    per_token = cost.bytes_per_token(model, job.parts, with_head=bool(candidates))
    return ExtractionPlan(
        texts=len(sequences),
        distinct=len(job.texts),
        cached=int(known.sum()),
        tokens=sum(lengths),
        tokens_padded=sum(
            len(part) * max(part)
            for part in (lengths[i : i + _PLAIN_BATCH] for i in range(0, len(lengths), _PLAIN_BATCH))
        ),
        tokens_computed=_computed(job, packs, padded=bool(padded)),
        passes=len(packs),
        token_budget=budget,
        padded=padded,
        operations=operations,
        memory_bytes=per_token * max((own_tokens(job, pack) for pack in packs), default=0),
        seconds=cost.seconds_for(operations, model) if packs else 0.0,
    )


def _kept(folder: Path, keys: Sequence[bytes], quantities: Sequence[str]) -> np.ndarray:
    """(n,) whether every quantity of a row lies in this folder, going by what the shards say of themselves."""
    place = {key: index for index, key in enumerate(keys)}
    there = np.zeros((len(quantities), len(keys)), dtype=bool)
    for path in shards(folder):
        header = peek(path)
        rows = [place[key] for key in header.keys if key in place]
        for index, quantity in enumerate(quantities):
            if quantity in header.quantities:
                there[index, rows] = True
    return np.array(there.all(axis=0))


def _beginnings(job: Job, packs: Sequence[Pack]) -> set[tuple[int, ...]]:
    return {job.texts[pack.rows[0]][: pack.shared] for pack in packs if pack.shared}


def _computed(job: Job, packs: Sequence[Pack], *, padded: bool) -> int:
    if padded:
        return sum(len(pack.rows) * max(len(job.texts[row]) for row in pack.rows) for pack in packs)
    return sum(own_tokens(job, pack) for pack in packs) + sum(map(len, _beginnings(job, packs)))


def _operations(job: Job, packs: Sequence[Pack]) -> int:
    """Of all blocks up to the highest wanted one; in that one, what works token by token sees the wanted rows only."""
    top = top_block(job.parts, job.layers, job.candidates)
    if top is None or job.layers == (EMBEDDINGS,):
        return 0
    sparing = only_last(job.texts, job.windows)
    every = cost.block_operations(job.model, job.parts)
    spared = cost.block_operations(job.model, job.parts, token_wise(job.parts, top)) if sparing else 0
    width = cost.query_width(job.model, job.parts)
    total = 0
    for pack in packs:
        lengths = [len(job.texts[row]) - pack.shared for row in pack.rows]
        attention = cost.attention_operations(job.model, job.parts, lengths, pack.shared)
        last = 4 * width * sum(n + pack.shared for n in lengths) if sparing else attention
        total += top * (sum(lengths) * every + attention) + last
        total += sum(lengths) * (every - spared) + len(lengths) * spared
    for beginning in _beginnings(job, packs):
        attention = cost.attention_operations(job.model, job.parts, [len(beginning)], 0)
        total += top * (len(beginning) * every + attention) + len(beginning) * (every - spared)
    head = job.model.config.get_text_config(decoder=True).vocab_size * job.parts.hidden_dim
    return total + (2 * head * sum(len(job.rows(pack.rows)) for pack in packs) if job.candidates else 0)
