"""Texts in, rows out: take what is cached, compute the rest in whole passes, keep each as it comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from src import files
from src.models.extraction.cache import ActivationCache, row_key
from src.models.extraction.capture import NEXT, Windows
from src.models.extraction.cost import token_budget
from src.models.extraction.fingerprint import check_can_be_cached, fingerprint, quantization_of
from src.models.extraction.keeping import Keeper
from src.models.extraction.layers import Anatomy, anatomy
from src.models.extraction.packed import why_not_packable
from src.models.extraction.passes import Job, run_job
from src.models.extraction.table import Table

POSITION = "last_prompt"
# What to do where the cache cannot be written: go on without it, or stop.
CachePolicy = Literal["optional", "required"]


@dataclass(frozen=True)
class Rows:
    """What was read, sequence by sequence and window by window.

    Attributes:
        states: layer name -> (n, d), in the model's dtype (means in float32).
        log_probabilities: (n, len(candidates)) float32, natural log over the whole vocabulary.
        computed: how many different rows went through the model; the others came from the cache.
    """

    states: dict[str, Tensor]
    log_probabilities: Tensor
    computed: int


@dataclass(frozen=True)
class Request:
    """Distinct sequences and what is wanted of each.

    Attributes:
        job: the texts, where each is read, layers and candidates.
        keys: what names each of the job's rows.
        place: (n,) the row of each window of each sequence as it was given.
    """

    job: Job
    keys: tuple[bytes, ...]
    place: np.ndarray

    @property
    def quantities(self) -> list[str]:
        """The names under which what is wanted is kept."""
        return [*self.job.layers, *([_candidate_name(self.job.candidates)] if self.job.candidates else [])]


def make_request(
    model: Any,
    sequences: Sequence[Sequence[int]],
    windows: Sequence[Windows] | None,
    layers: Sequence[str],
    candidates: Sequence[int],
) -> Request:
    """Arguments as in `read_rows`. Equal sequences become one, and end with the last token that is read."""
    windows = last_tokens(sequences) if windows is None else windows
    owner: dict[bytes, tuple[tuple[int, ...], tuple[int, int]]] = {}
    texts: dict[tuple[int, ...], dict[tuple[int, int], bytes]] = {}
    order: list[bytes] = []
    # 8-bit kernels let the tokens of a pass influence each other, also those of one text: each window has its own pass.
    together = quantization_of(model) != "8bit"
    for ids, some in zip(sequences, windows, strict=True):
        whole = tuple(ids[: max(last for _, last in some) + 1])
        for first, last in some:
            beginning = whole[: last + 1]
            key = row_key(beginning, first)
            order.append(key)
            # A row inside a beginning that several texts share belongs to the first of them.
            if key not in owner:
                owner[key] = (whole if together else beginning), (first, last)
    for key, (text, window) in owner.items():
        texts.setdefault(text, {})[window] = key
    place = {key: number for number, key in enumerate(key for some in texts.values() for key in some.values())}
    job = Job(
        model, anatomy(model), list(texts), [tuple(some) for some in texts.values()], tuple(layers), tuple(candidates)
    )
    return Request(job, tuple(place), np.array([place[key] for key in order], dtype=np.int64))


def last_tokens(sequences: Sequence[Sequence[int]]) -> list[Windows]:
    """The last token of each, as windows."""
    return [((len(ids) - 1, len(ids) - 1),) for ids in sequences]


def cache_context(model: Any, parts: Anatomy) -> dict[str, Any]:
    """Everything that determines a row besides its tokens."""
    packable = not why_not_packable(model, parts)
    return fingerprint(model) | {"position": POSITION} | ({"attention": "packed"} if packable else {})


def read_rows(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    windows: Sequence[Windows] | None = None,
    layers: Sequence[str] = (),
    candidates: Sequence[int] = (),
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    budget: int | None = None,
    progress: str = "hidden states",
) -> Rows:
    """States and next-token log-probabilities, in the order of `sequences`, and of the windows of each.

    All windows of a sequence are read in one pass; nothing after the last of them is computed. The state of a token
    depends on nothing after it, so a row is the same whatever else is read. Equal sequences are computed once.
    8-bit kernels let the texts of a batch influence each other (10 % with outlier channels), so an 8-bit model is given
    one text at a time.

    Args:
        model: a causal language model, wrapped by PEFT or not; the adapter counts as it is switched now.
        sequences: token ids, none of them empty.
        windows: of each, the stretches of tokens (first, last) whose mean state is wanted, one token's where both
            are the same; None: the last token.
        layers: canonical names, see `layer_names`.
        candidates: token ids whose log-probability as the next token is wanted.
        cache_dir: where rows are kept between calls; None: not kept.
        cache: what to do where it cannot be written.
        budget: tokens of one pass; None: what fits into the free memory, chosen once for a cache and recorded there.
        progress: the label of the progress bar, which counts tokens of texts whose rows are there.

    Raises:
        ModelError: a text does not fit into a GPU's memory, or a state that is not finite.
        CacheError: cache_dir cannot be used, or is required and cannot be written.
    """
    request = make_request(model, sequences, windows, layers, candidates)
    job, table = request.job, Table(request.keys, request.quantities)
    store = None
    if cache_dir is not None:
        check_can_be_cached(model)
        context, name = cache_context(model, job.parts), model.config._name_or_path
        store = ActivationCache(cache_dir, context, model_name=name, required=cache == "required")
        store.fill(table)
    known = table.known()
    if not known.all():
        _compute(job, job.texts_known(known), table, store, budget, progress)
    return _in_order(request, table, computed=int((~known).sum()))


def _compute(
    job: Job, known: np.ndarray, table: Table, store: ActivationCache | None, budget: int | None, progress: str
) -> None:
    def choose() -> int:
        return token_budget(job.model, job.parts, with_head=bool(job.candidates))

    budget = budget or (store.token_budget(choose) if store is not None else choose())
    lengths = np.array([len(ids) for ids in job.texts])
    bar = tqdm(
        total=int(lengths.sum()), initial=int(lengths[known].sum()), desc=progress, unit="tok", unit_scale=True,
        disable=None, leave=False,
    )  # fmt: skip
    with bar, Keeper(table, store) as keeper:
        for texts, states in run_job(job, known, budget):
            if states:
                keeper.keep(job.rows(texts), {_quantity(name, job): values for name, values in states.items()})
                bar.update(int(lengths[texts[~known[texts]]].sum()))


def _quantity(name: str, job: Job) -> str:
    return _candidate_name(job.candidates) if name == NEXT else name


def _candidate_name(candidates: Sequence[int]) -> str:
    return "next." + files.sha256_of_json(list(candidates))[:16]


def _in_order(request: Request, table: Table, *, computed: int) -> Rows:
    in_order = np.array_equal(request.place, np.arange(len(request.keys)))
    place = torch.from_numpy(request.place)

    def column(name: str) -> Tensor:
        return table[name] if in_order else table[name][place]

    job = request.job
    states = {layer: column(layer) for layer in job.layers}
    chances = column(_candidate_name(job.candidates)) if job.candidates else torch.empty(len(place), 0)
    return Rows(states, chances, computed)


def as_array(states: dict[str, Tensor]) -> np.ndarray:
    """float32 (n, layers, d), layers in the order of the dictionary."""
    first = next(iter(states.values()))
    array = np.empty((len(first), len(states), *first.shape[1:]), dtype=np.float32)
    for place, values in enumerate(states.values()):
        torch.from_numpy(array[:, place]).copy_(values)
    return array
