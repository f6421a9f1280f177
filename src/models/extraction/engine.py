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
        states: layer name -> (n, d), in the model's dtype (means in float32).
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
    starts: Sequence[int] | None = None,
    layers: Sequence[str] = (),
    candidates: Sequence[int] = (),
    cache_dir: str | Path | None = None,
    budget: int = TOKEN_BUDGET,
    progress: str = "hidden states",
) -> Rows:
    """States and next-token log-probabilities, in the order of `sequences`.

    The state of a token depends on nothing after it, so a token in the middle is read as the last one of a shorter
    sequence. Equal sequences are computed once. 8-bit kernels let the texts of a batch influence each other (10 % with
    outlier channels), so an 8-bit model is given one text at a time.

    Args:
        model: a causal language model, wrapped by PEFT or not; the adapter counts as it is switched now.
        sequences: token ids, none of them empty.
        starts: of each, the token from which on states are averaged up to the last one; None: the last token's state.
        layers: canonical names, see `layer_names`.
        candidates: token ids whose log-probability as the next token is wanted.
        cache_dir: where rows are kept between calls; None: not kept.
        budget: tokens of one pass.
        progress: the label of the progress bar.
    """
    parts = anatomy(model)
    packable = not why_not_packable(model, parts)
    context = fingerprint(model) | {"position": POSITION} | ({"attention": "packed"} if packable else {})
    starts = [len(ids) - 1 for ids in sequences] if starts is None else starts
    wanted = [(tuple(ids), start) for ids, start in zip(sequences, starts, strict=True)]
    distinct = list(dict.fromkeys(wanted))
    keys = [row_key(*one) for one in distinct]
    quantities = [*layers, *([_candidate_name(candidates)] if candidates else [])]
    name = model.config._name_or_path
    cache = ActivationCache(cache_dir, context, model_name=name) if cache_dir is not None else None
    found = cache.read(keys, quantities) if cache is not None else {}
    texts, first = [ids for ids, _ in distinct], [start for _, start in distinct]
    job = Job(model, parts, texts, first, tuple(layers), tuple(candidates))
    computed = 0
    with tqdm(total=len(distinct), desc=progress, unit="text", disable=None, leave=False) as bar:
        for rows, states in run_job(job, [key in found for key in keys], budget):
            if states:
                if candidates:
                    states[_candidate_name(candidates)] = states.pop(NEXT)
                keep_new(cache, [keys[row] for row in rows], states, found)
                computed += len(rows)
            bar.update(len(rows))
    return _in_order(found, [row_key(*one) for one in wanted], layers, candidates, computed)


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
