"""All passes of one call: packed where the model allows it, padded where not, each pass whole."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.errors import ModelError
from src.models.extraction.attention import NotPackable
from src.models.extraction.capture import NEXT, Windows, forward_padded
from src.models.extraction.fingerprint import is_split, quantization_of
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
        windows: where each text is read: one row for each window, in this order.
        layers, candidates: as in `engine.read_rows`.
    """

    model: Any
    parts: Anatomy
    texts: Sequence[tuple[int, ...]]
    windows: Sequence[Windows]
    layers: tuple[str, ...]
    candidates: tuple[int, ...]

    @cached_property
    def means(self) -> bool:
        """Whether some state is a mean: then all are float32, whichever pass they come from."""
        return any(first < last for wanted in self.windows for first, last in wanted)

    @cached_property
    def _begins(self) -> np.ndarray:
        """(texts,): the first row of each text."""
        return np.cumsum([0, *(len(wanted) for wanted in self.windows[:-1])])

    def rows(self, texts: np.ndarray) -> np.ndarray:
        """The rows of these texts, text by text."""
        return np.concatenate([self._begins[text] + np.arange(len(self.windows[text])) for text in texts])

    def texts_known(self, known: np.ndarray) -> np.ndarray:
        """(texts,) True where every row of a text is known."""
        return np.logical_and.reduceat(known, self._begins)


def plan_passes(job: Job, budget: int, *, padded: bool) -> list[Pack]:
    """A pure function of all texts and the budget, so that a call that was interrupted forms the same passes again."""
    if not padded:
        # What is averaged must be computed, so only what lies before it can be shared.
        begins = [min(first for first, _ in wanted) for wanted in job.windows]
        most = begins if _sees_all(job) else [0] * len(job.texts)
        return plan_packs(job.texts, budget, most_shared=most)
    # 8-bit kernels let the texts of a batch influence each other (10 % with outlier channels): one at a time.
    size = 1 if quantization_of(job.model) == "8bit" else budget
    return [Pack(rows) for rows in plan_batches([len(ids) for ids in job.texts], size)]


def run_job(job: Job, known: np.ndarray, budget: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Texts and states of each pass (of its rows in order); one whose texts are all known is not computed: no states.

    Args:
        job: what is read.
        known: (texts,) see `Job.texts_known`.
        budget: the most tokens of a pass.

    Where a GPU's memory does not hold a pass, it and all later ones are halved.

    Raises:
        ModelError: one text alone does not fit.
    """
    if known.all():
        yield np.arange(len(job.texts)), {}
        return
    reason = why_not_packable(job.model, job.parts) or _refusal(job)
    if reason:
        log.info("%s takes the padded path: %s.", type(job.model).__name__, reason)
    compute = _run_padded if reason else _PackedPasses()
    queue = deque(plan_passes(job, budget, padded=bool(reason)))
    most = None
    while queue:
        pack = queue.popleft()
        if known[pack.rows].all():
            yield pack.rows, {}
        elif most is not None and len(pack.rows) > 1 and own_tokens(job, pack) > most:
            queue.extendleft(reversed(pack.halves()))
        elif (states := _computed(compute, job, pack)) is not None:
            yield pack.rows, states
        else:
            most = own_tokens(job, pack) // 2
            log.warning("The GPU's memory is full: going on with %d tokens at once.", most)
            queue.appendleft(pack)


Compute = Callable[[Job, Pack], dict[str, Tensor]]


def _computed(compute: Compute, job: Job, pack: Pack) -> dict[str, Tensor] | None:
    """None where the GPU's memory does not hold it."""
    try:
        states = compute(job, pack)
        return {name: values.float() for name, values in states.items()} if job.means else states
    except torch.OutOfMemoryError as error:
        if is_split(job.model):
            raise ModelError(
                "A GPU's memory is full, and the processes that share this model cannot go on with fewer tokens each "
                "by itself. Give a smaller token_budget."
            ) from error
        if len(pack.rows) == 1:
            raise ModelError(
                f"A text of {len(job.texts[pack.rows[0]]):,} tokens does not fit into the GPU's memory beside the "
                "model. Shorten it (data.truncation), or use a quantised or smaller model."
            ) from error
    torch.cuda.empty_cache()  # outside of the handler, whose traceback holds the tensors
    return None


def own_tokens(job: Job, pack: Pack) -> int:
    """Tokens of a pack's texts after what they share."""
    return sum(len(job.texts[row]) - pack.shared for row in pack.rows)


def _sees_all(job: Job) -> bool:
    """Whether every token of every text sees the whole text before it: what a sliding window hides is not shared."""
    window = getattr(job.model.config.get_text_config(decoder=True), "sliding_window", None)
    return window is None or max(map(len, job.texts)) <= window


@dataclass
class _PackedPasses:
    """Computes packs; the last shared beginning is at hand for the next pack, which mostly has the same."""

    beginning: tuple[int, ...] = ()
    prefix: Prefix = field(default_factory=dict)

    def __call__(self, job: Job, pack: Pack) -> dict[str, Tensor]:
        beginning = job.texts[pack.rows[0]][: pack.shared]
        if pack.shared and self.beginning != beginning:
            self.prefix, self.beginning = {}, ()
            self.prefix = shared_beginning(job.model, job.parts, beginning, job.layers, job.candidates)
            self.beginning = beginning
        own = [job.texts[row][pack.shared :] for row in pack.rows]
        windows = [tuple((a - pack.shared, b - pack.shared) for a, b in job.windows[row]) for row in pack.rows]
        prefix = self.prefix if pack.shared else {}
        return forward_packed(job.model, job.parts, own, windows, job.layers, job.candidates, prefix=prefix)


def _run_padded(job: Job, pack: Pack) -> dict[str, Tensor]:
    texts, windows = [job.texts[row] for row in pack.rows], [job.windows[row] for row in pack.rows]
    return forward_padded(job.model, job.parts, texts, windows, job.layers, job.candidates)


def _refusal(job: Job) -> str:
    """Compare both paths on two short texts, one of them behind a beginning; "" where they agree."""
    first = (max(job.texts, key=len) * 2)[:_CHECK_TOKENS]
    texts = [first, first[:1] + first[::-1]]
    try:
        prefix = shared_beginning(job.model, job.parts, first[:1], job.layers, job.candidates)
        own = [ids[1:] for ids in sorted(texts, key=len)]
        last = [((len(ids) - 1, len(ids) - 1),) for ids in own]
        packed = forward_packed(job.model, job.parts, own, last, job.layers, job.candidates, prefix=prefix)
    except NotPackable as error:
        return str(error)
    except torch.OutOfMemoryError:
        return "the GPU's memory is too full to compare it with the packed one"
    # Log-probabilities are float32 whatever the states are that they come from.
    tolerance = _TOLERANCE.get(str(job.model.get_input_embeddings().weight.dtype), _COARSE_TOLERANCE)
    for place, ids in enumerate(sorted(texts, key=len)):
        for name, expected in forward_padded(
            job.model, job.parts, [ids], [((len(ids) - 1, len(ids) - 1),)], job.layers, job.candidates
        ).items():
            size = expected[0].float().norm()
            if name == NEXT:  # a token that is almost certain has a log-probability of almost 0
                size = size.clamp(min=expected[0].numel() ** 0.5)
            difference = (packed[name][place].float() - expected[0].float()).norm() / size
            if not difference <= tolerance:
                return f"packed and single states of {name} differ by {difference:.1e}"
    return ""
