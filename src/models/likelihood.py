"""How likely a model finds an answer that was given: one pass, the head on the answer's tokens only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from src.errors import DataError, ModelError
from src.models.extraction.cache import ActivationCache, row_key
from src.models.extraction.engine import CachePolicy
from src.models.extraction.fingerprint import check_can_be_cached, fingerprint, quantization_of
from src.models.extraction.keeping import Keeper
from src.models.extraction.layers import anatomy
from src.models.extraction.packing import plan_batches
from src.models.extraction.table import Table
from src.models.halving import in_halves

_QUANTITY = "answer.likelihood"
_BUDGET = 2048


@dataclass(frozen=True)
class AnswerLikelihood:
    """Natural log-probabilities of the tokens of n answers: (n,) their mean, and the least of them."""

    mean: np.ndarray
    least: np.ndarray


def answer_likelihood(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    progress: str = "likelihood",
) -> AnswerLikelihood:
    """Score every answer after its prompt.

    Args:
        model: from `ModelLoader.load`.
        prompts, answers: token ids, none of them empty.
        cache_dir, cache: as in `HiddenStateExtractor.extract`.
        progress: the label of the progress bar.

    Raises:
        DataError: an empty answer or prompt.
        ModelError: a model without a head.
    """
    if (head := anatomy(model).head) is None:
        raise ModelError(f"{type(model).__name__} has no head, so it gives no probabilities.")
    if (empty := next((row for row, ids in enumerate(answers) if not ids), None)) is not None:
        raise DataError(f"Answer {empty} is empty: there is nothing to score.")
    if (bare := next((row for row, ids in enumerate(prompts) if not ids), None)) is not None:
        raise DataError(f"Prompt {bare} is empty: the first token of an answer needs one before it.")
    pairs = list(dict.fromkeys((tuple(p), tuple(a)) for p, a in zip(prompts, answers, strict=True)))
    table = Table([row_key((*prompt, *answer), len(prompt) - 1) for prompt, answer in pairs], [_QUANTITY])
    store = None
    if cache_dir is not None:
        check_can_be_cached(model)
        context = fingerprint(model) | {"position": "answer likelihood"}
        name = model.config._name_or_path
        store = ActivationCache(cache_dir, context, model_name=name, required=cache == "required")
        store.fill(table)
    known = table.known()
    size = 1 if quantization_of(model) == "8bit" else _BUDGET
    bar = tqdm(total=len(pairs), desc=progress, unit="answer", disable=None, leave=False)
    with bar, Keeper(table, store) as keeper:
        for rows in plan_batches([len(prompt) + len(answer) for prompt, answer in pairs], size):
            if not known[rows].all():
                for some, scores in in_halves(rows, lambda some: _scored(model, head, [pairs[row] for row in some])):
                    keeper.keep(some, {_QUANTITY: scores})
            bar.update(len(rows))
    place = {pair: row for row, pair in enumerate(pairs)}
    order = [place[tuple(p), tuple(a)] for p, a in zip(prompts, answers, strict=True)]
    mean, least = table[_QUANTITY][order].double().numpy().T
    return AnswerLikelihood(mean, least)


def _scored(model: Any, head: nn.Module, batch: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Tensor:
    """(n, 2) float32: mean and least log-probability of each answer's tokens."""
    device = model.get_input_embeddings().weight.device
    texts = [(*prompt, *answer) for prompt, answer in batch]
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    # The state before a token predicts it.
    rows = torch.cat([torch.full((len(answer),), row) for row, (_, answer) in enumerate(batch)])
    places = torch.cat([torch.arange(len(p) - 1, len(p) + len(a) - 1) for p, a in batch])
    wanted = torch.tensor([token for _, answer in batch for token in answer])

    def only_answers(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        states = args[0]  # of several GPUs, the head's inputs are on the last
        return (states[rows.to(states.device), places.to(states.device)][:, None],)

    handle = head.register_forward_pre_hook(only_answers)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[:, 0].float()
    finally:
        handle.remove()
    scores = logits.log_softmax(-1).gather(1, wanted.to(logits.device)[:, None])[:, 0]
    answers = scores.split([len(answer) for _, answer in batch])
    return torch.stack([torch.stack([one.mean(), one.min()]) for one in answers])


def token_log_probabilities(model: Any, token_ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, ...]:
    """What the model gives every token of these texts but the first, given those before it.

    One text at a time, nothing padded or kept: the plainest way there is, to compare others with.

    Returns:
        natural log-probabilities, float64 (computed in float32), of each text an array (tokens - 1,).

    Raises:
        ModelError: one that is not finite, such as after an overflow in float16.
    """
    device = model.get_input_embeddings().weight.device
    rows = []
    for text in token_ids:
        ids = torch.tensor([list(text)], device=device)
        with torch.inference_mode():
            scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        rows.append(scores.gather(1, ids[0, 1:, None].to(scores.device))[:, 0].double().cpu().numpy())
        if not np.isfinite(rows[-1]).all():
            raise ModelError("The model gives probabilities that are not finite: load it with dtype='float32'.")
    return tuple(rows)
