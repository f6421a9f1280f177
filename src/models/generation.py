"""Free answers: greedy generation in length-sorted batches, with the probability of what was said."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from src.errors import DataError
from src.models.adapter_switch import adapter_in_force
from src.models.decoding import Sampling, generate
from src.models.extraction.cache import ActivationCache, row_key
from src.models.extraction.engine import CachePolicy
from src.models.extraction.fingerprint import check_can_be_cached, fingerprint, quantization_of
from src.models.extraction.keeping import Keeper
from src.models.extraction.packing import plan_batches
from src.models.extraction.table import Table
from src.models.extraction.tokens import Truncation, context_length, tokenize
from src.models.halving import in_halves
from src.models.reading import Reader, Thinking, thinking_marks
from src.models.vllm_engine import VllmGenerator

GENERATION_BUDGET = 16_384
MIN_NEW_TOKENS = 8
# vLLM forms its own batches: this many tokens are the most that a killed run loses.
VLLM_BUDGET = 2_000_000
_GENERATOR = "_confprobe_generator"
_QUANTITIES = ("answer.tokens", "answer.log_probabilities")


@dataclass(frozen=True)
class FreeAnswers:
    """What a model said.

    Attributes:
        texts: the answers, cut before the stop string.
        log_probabilities: (n,) mean natural log-probability of an answer's tokens (its end included).
        least_log_probabilities: (n,) that of the least likely of these tokens.
        finished: (n,) False where the token limit ended the answer.
        truncated: row numbers of prompts that were cut.
        prompt_ids: token ids of each prompt, as it was given to the model.
        thought_ids: token ids that were generated before each answer: a thinking block with the marker that ends it;
            empty where there is none.
        answer_ids: token ids of each text: as generated, without the end and without what a stop string cut off.
        cut_while_thinking: (n,) True where the token limit ended the answer before it began; its text is empty.
    """

    texts: tuple[str, ...]
    log_probabilities: np.ndarray
    least_log_probabilities: np.ndarray
    finished: np.ndarray
    truncated: tuple[int, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    thought_ids: tuple[tuple[int, ...], ...]
    answer_ids: tuple[tuple[int, ...], ...]
    cut_while_thinking: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(n,): exp of the mean log-probability, the model's own probability per token."""
        return np.exp(self.log_probabilities)


def prompt_limit(model: Any, max_new_tokens: int) -> int | None:
    """The most tokens of a prompt that leave room for an answer; None where the model's context is not known."""
    context = context_length(model)
    return context - min(max_new_tokens, MIN_NEW_TOKENS) if context else None


def answer_with(model: Any, generator: VllmGenerator) -> None:
    """Have vLLM generate this model's answers from now on; all else about them stays as it is."""
    model.__dict__[_GENERATOR] = generator


def answer_freely(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    stop: Sequence[str] = (),
    max_new_tokens: int = 256,
    cache_dir: str | Path | None = None,
    truncation: Truncation | None = None,
    cache: CachePolicy = "optional",
    thinking: Thinking | None = None,
    sampling: Sampling | None = None,
    progress: str = "answers",
) -> FreeAnswers:
    """Generate one answer per prompt, greedy or sampled.

    A prompt and its answer share the model's context: where less than `max_new_tokens` is left, the answer
    gets what is left, and a prompt that leaves less than 8 tokens counts as over-long. In float32 an answer, drawn ones
    too, does not depend on the other prompts; in half precision the batch moves the last bits, and now and then a word.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        prompts: they end right before the answer.
        stop: strings that end an answer; they are cut off.
        max_new_tokens: the most tokens of one answer.
        cache_dir: answers are kept there batch by batch and used again; None: not kept.
        cache: where it is read-only or full, "optional" goes on with a warning, "required" is an error.
        truncation: for over-long prompts: None is an error; "left" or "right" cuts.
        thinking: how the model marks its thinking, see `reading.THINKING`; the answer is what comes after it, and stop
            strings in it do not count. None: all of it is the answer.
        sampling: temperature and seed; None: the likeliest token every time.
        progress: the label of the progress bar.

    Raises:
        DataError: no prompts, an empty or over-long one, or a tokenizer without these marks.
        CacheError: cache_dir cannot be used, or is required and cannot be written.
    """
    if not prompts:
        raise DataError("There are no prompts to answer.")
    marks, context = thinking_marks(tokenizer, thinking), context_length(model)
    max_new_tokens = min(max_new_tokens, context or max_new_tokens)
    # In a thinking block a stop string is no end; what follows it in the answer is cut off when it is read.
    ending = () if thinking else stop
    tokens = tokenize(tokenizer, prompts, limit=prompt_limit(model, max_new_tokens), truncation=truncation)
    generator: VllmGenerator | None = model.__dict__.get(_GENERATOR)
    by = generator.name if generator else None
    store = _answer_cache(model, cache_dir, max_new_tokens, ending, sampling, by, required=cache == "required")
    distinct = list(dict.fromkeys(tokens.ids))
    table = Table([row_key(ids) for ids in distinct], _QUANTITIES)
    if store is not None:
        store.fill(table)
    known = table.known()

    def said_of(batch: np.ndarray, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [distinct[row] for row in batch]
        if generator is None:
            return generate(model, tokenizer, rows, room, ending, width=max_new_tokens, sampling=sampling)
        return generator.generate(
            rows, room, ending, ends=_ends(model, tokenizer, ending), width=max_new_tokens, sampling=sampling,
            adapter=adapter_in_force(model),
        )  # fmt: skip

    bar = tqdm(total=len(distinct), desc=progress, unit="answer", disable=None, leave=False)
    with bar, Keeper(table, store, all_finite=False) as keeper:
        # 8-bit kernels let the texts of a batch influence each other: one at a time.
        budget = VLLM_BUDGET if generator else 1 if quantization_of(model) == "8bit" else GENERATION_BUDGET
        for batch, room in _batches([len(ids) for ids in distinct], max_new_tokens, context, budget):
            if not known[batch].all():
                for rows, tokens_and_scores in in_halves(np.array(batch), partial(said_of, room=room)):
                    keeper.keep(rows, dict(zip(_QUANTITIES, tokens_and_scores, strict=True)))
            bar.update(len(batch))
    reader = Reader(tokenizer, end_ids(model, tokenizer, stop), stop, marks)
    said = zip(*(table[name] for name in _QUANTITIES), strict=True)
    read = {ids: reader.read(ids, *spoken(*row)) for ids, row in zip(distinct, said, strict=True)}
    answers = [read[ids] for ids in tokens.ids]
    return FreeAnswers(
        texts=tuple(one.text for one in answers),
        log_probabilities=np.array([one.mean for one in answers]),
        least_log_probabilities=np.array([one.least for one in answers]),
        finished=np.array([one.finished for one in answers], dtype=bool),
        truncated=tokens.truncated,
        prompt_ids=tokens.ids,
        thought_ids=tuple(one.thought for one in answers),
        answer_ids=tuple(one.ids for one in answers),
        cut_while_thinking=np.array([one.cut_while_thinking for one in answers], dtype=bool),
    )


def _answer_cache(
    model: Any,
    cache_dir: str | Path | None,
    max_new_tokens: int,
    stop: Sequence[str],
    sampling: Sampling | None,
    generator: str | None,
    *,
    required: bool,
) -> ActivationCache | None:
    """A context of its own for each way to generate: the model's generation settings change what it says."""
    if cache_dir is None:
        return None
    check_can_be_cached(model)
    settings = {key: repr(value) for key, value in model.generation_config.to_diff_dict().items()}
    settings.pop("transformers_version", None)
    chosen = asdict(sampling) | {"drawn": "by row"} if sampling else {"greedy": True}
    chosen |= {"generator": generator} if generator else {}
    way = chosen | {"max_new_tokens": max_new_tokens, "stop": list(stop), "settings": settings}
    context = fingerprint(model) | {"generation": way}
    return ActivationCache(cache_dir, context, model_name=model.config._name_or_path, required=required)


def _batches(
    lengths: Sequence[int], max_new_tokens: int, context: int | None, budget: int
) -> Iterator[tuple[list[int], int]]:
    """Rows generated together, and the tokens their answers may have, which depends on each row's own length only.

    Where a prompt leaves less than `max_new_tokens`, it shares a batch with prompts of the same length.
    """
    rooms = [max_new_tokens if context is None else min(max_new_tokens, context - length) for length in lengths]
    for room in sorted(set(rooms), reverse=True):
        rows = [row for row, own in enumerate(rooms) if own == room]
        for batch in plan_batches([lengths[row] + room for row in rows], budget):
            yield [rows[place] for place in batch], room


def spoken(tokens: torch.Tensor, log_probabilities: torch.Tensor) -> tuple[list[int], np.ndarray]:
    """One row of `generate`: its tokens without the -1 after the batch's last step, and their log-probabilities."""
    count = int((tokens >= 0).sum())
    return tokens[:count].tolist(), log_probabilities[:count].double().numpy()


def end_ids(model: Any, tokenizer: Any, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end an answer: the configured ones, and stop strings that decoding leaves out as special tokens."""
    return _ends(model, tokenizer, stop) | ({tokenizer.eos_token_id} - {None})


def _ends(model: Any, tokenizer: Any, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end generation: the configured ones, and stop strings that are special tokens."""
    special = {tokenizer.convert_tokens_to_ids(mark) for mark in stop if mark in tokenizer.all_special_tokens}
    configured = model.generation_config.eos_token_id
    return frozenset((set(configured) if isinstance(configured, list) else {configured}) | special) - {None}
