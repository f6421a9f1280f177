"""Ask a model questions: multiple choice in one forward pass with the hidden states, or free answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import DataError
from src.models.extraction.engine import as_array, read_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.extraction.packing import TOKEN_BUDGET
from src.models.extraction.tokens import Truncation, context_length, tokenize


@dataclass(frozen=True)
class ChoiceAnswers:
    """What a model chose, and what it looked like inside.

    Attributes:
        chosen: (n,) index of the most probable choice.
        log_likelihoods: (n, k) float64, natural log of P(continuation | prompt); -inf beyond a question's
            own number of choices.
        hidden: (n, layers, d) float32 at the last token of the prompt.
        truncated: row numbers of prompts that were cut.
        computed: how many sequences went through the model; the others came from the cache.
    """

    chosen: np.ndarray
    log_likelihoods: np.ndarray
    hidden: np.ndarray
    truncated: tuple[int, ...]
    computed: int

    @property
    def probabilities(self) -> np.ndarray:
        """(n, k): the likelihoods as shares of the choices, summing to 1."""
        shifted = np.exp(self.log_likelihoods - self.log_likelihoods.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    @property
    def confidence(self) -> np.ndarray:
        """(n,): the model's own probability of what it chose."""
        return self.probabilities.max(axis=1)

    @property
    def mass(self) -> np.ndarray:
        """(n,): total probability of all the choices. Low: the model did not want to answer in this form."""
        return np.exp(self.log_likelihoods).sum(axis=1)


def answer_choices(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    n_choices: Sequence[int] | None = None,
    layers: Layers = (),
    cache_dir: str | Path | None = None,
    truncation: Truncation | None = None,
    token_budget: int = TOKEN_BUDGET,
    progress: str = "answers",
) -> ChoiceAnswers:
    """Choose among fixed continuations (" A", " B", ...) of every prompt.

    Where every continuation is one token, one forward pass gives answer, probabilities and hidden states.
    Longer ones share what they share: each distinct beginning is one more pass.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        prompts: they end right before the answer, without a trailing space.
        continuations: the possible answers, the same for all prompts, each beginning with its space.
        n_choices: how many of the continuations each question has; None: all.
        layers, cache_dir, truncation, token_budget: as in `HiddenStateExtractor.extract`.
        progress: the label of the progress bar.

    Raises:
        DataError: no prompts, an empty or over-long one, or continuations whose tokens depend on the prompt.
    """
    if not prompts:
        raise DataError("There are no prompts to answer.")
    endings = _continuation_ids(tokenizer, prompts, continuations)
    longest = max(len(ids) for ids in endings)
    limit = context_length(model)
    room = limit - longest + 1 if limit is not None else None
    tokens = tokenize(tokenizer, prompts, limit=room, truncation=truncation)
    names = layer_names(layers, len(anatomy(model).blocks)) if len(layers) else ()
    scores = np.zeros((len(prompts), len(endings)))
    hidden, computed = np.empty((len(prompts), 0, 0), dtype=np.float32), 0
    for begun, following in _tree(endings).items():
        candidates = sorted({endings[i][len(begun)] for i in following})
        rows = read_rows(
            model,
            [ids + begun for ids in tokens.ids],
            layers=() if begun else names,
            candidates=candidates,
            cache_dir=cache_dir,
            budget=token_budget,
            progress=progress,
        )
        columns = [candidates.index(endings[i][len(begun)]) for i in following]
        scores[:, following] += rows.log_probabilities[:, columns].double().numpy()
        computed += rows.computed
        if not begun and names:
            hidden = as_array(rows.states)
    if n_choices is not None:
        scores[np.arange(len(endings)) >= np.asarray(n_choices)[:, None]] = -np.inf
    return ChoiceAnswers(scores.argmax(axis=1), scores, hidden, tokens.truncated, computed)


def _tree(endings: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Each distinct beginning (the empty one first) and the continuations that go through it."""
    tree: dict[tuple[int, ...], list[int]] = {}
    for depth in range(max(len(ids) for ids in endings)):
        for index, ids in enumerate(endings):
            if len(ids) > depth:
                tree.setdefault(ids[:depth], []).append(index)
    return tree


def _continuation_ids(tokenizer: Any, prompts: Sequence[str], continuations: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens each continuation adds to a prompt, checked on a spread of prompts."""
    sample = prompts[:: max(1, len(prompts) // 8)]
    found = {tuple(_added_ids(tokenizer, prompt, text) for text in continuations) for prompt in sample}
    if len(found) != 1:
        raise DataError(
            f"The tokens of {list(continuations)} depend on the prompt before them, so they cannot be compared "
            "across questions. End every prompt with the same text, such as 'Answer:'."
        )
    endings = list(found.pop())
    if len(set(endings)) != len(endings):
        raise DataError(f"This tokenizer gives several of {list(continuations)} the same tokens.")
    return endings


def _added_ids(tokenizer: Any, prompt: str, continuation: str) -> tuple[int, ...]:
    before, whole = tokenizer([prompt, prompt + continuation], verbose=False)["input_ids"]
    if whole[: len(before)] != before or len(whole) == len(before):
        raise DataError(
            f"{continuation!r} does not start a new token after {prompt[-20:]!r}. End the prompt without a space."
        )
    return tuple(whole[len(before) :])
