"""Texts in, rows out: plan the batches, take what is cached, compute the rest, store it batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from src import files
from src.models.extraction.cache import ActivationCache, keep_new, row_key
from src.models.extraction.capture import NEXT
from src.models.extraction.fingerprint import fingerprint
from src.models.extraction.layers import anatomy
from src.models.extraction.packed import why_not_packable
from src.models.extraction.packing import TOKEN_BUDGET
from src.models.extraction.passes import Job, run_job

POSITION = "last_prompt"


@dataclass(frozen=True)
class Rows:
    """What was read at the last token of each sequence.

    Attributes:
        states: layer name -> (n, d), in the model's dtype.
        log_probabilities: (n, len(candidates)) float32, natural log over the whole vocabulary.
        computed: how many distinct sequences went through the model; the others came from the cache.
    """

    states: dict[str, Tensor]
    log_probabilities: Tensor
    computed: int


def read_rows(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Sequence[str] = (),
    candidates: Sequence[int] = (),
    cache_dir: str | Path | None = None,
    budget: int = TOKEN_BUDGET,
    progress: str = "hidden states",
) -> Rows:
    """States and next-token log-probabilities at the last token, in the order of `sequences`.

    Equal sequences are computed once. 8-bit kernels let the texts of a batch influence each other (10 % with
    outlier channels), so an 8-bit model is given one text at a time.

    Args:
        model: a causal language model, wrapped by PEFT or not; the adapter counts as it is switched now.
        sequences: token ids, none of them empty.
        layers: canonical names, see `layer_names`.
        candidates: token ids whose log-probability as the next token is wanted.
        cache_dir: where rows are kept between calls; None: not kept.
        budget: padded tokens of one batch.
        progress: the label of the progress bar.
    """
    parts = anatomy(model)
    packable = not why_not_packable(model, parts)
    context = fingerprint(model) | {"position": POSITION} | ({"attention": "packed"} if packable else {})
    distinct = list(dict.fromkeys(tuple(ids) for ids in sequences))
    keys = [row_key(ids) for ids in distinct]
    quantities = [*layers, *([_candidate_name(candidates)] if candidates else [])]
    name = model.config._name_or_path
    cache = ActivationCache(cache_dir, context, model_name=name) if cache_dir is not None else None
    found = cache.read(keys, quantities) if cache is not None else {}
    job = Job(model, parts, distinct, tuple(layers), tuple(candidates))
    computed = 0
    with tqdm(total=len(distinct), desc=progress, unit="text", disable=None, leave=False) as bar:
        for rows, states in run_job(job, [key in found for key in keys], budget):
            if states:
                if candidates:
                    states[_candidate_name(candidates)] = states.pop(NEXT)
                keep_new(cache, [keys[row] for row in rows], states, found)
                computed += len(rows)
            bar.update(len(rows))
    return _in_order(found, [row_key(ids) for ids in sequences], layers, candidates, computed)


def _candidate_name(candidates: Sequence[int]) -> str:
    return "next." + files.sha256_of_json(list(candidates))[:16]


def _in_order(
    found: dict[bytes, dict[str, Tensor]],
    keys: Sequence[bytes],
    layers: Sequence[str],
    candidates: Sequence[int],
    computed: int,
) -> Rows:
    states = {layer: torch.stack([found[key][layer] for key in keys]) for layer in layers}
    if not candidates:
        return Rows(states, torch.empty(len(keys), 0), computed)
    name = _candidate_name(candidates)
    return Rows(states, torch.stack([found[key][name] for key in keys]), computed)


def as_array(states: dict[str, Tensor]) -> np.ndarray:
    """float32 (n, layers, d), layers in the order of the dictionary."""
    return np.stack([tensor.float().numpy() for tensor in states.values()], axis=1)
