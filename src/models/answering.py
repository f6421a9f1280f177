"""Ask a model questions: multiple choice in one forward pass with the hidden states, or free answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import entr

from src.errors import DataError
from src.models.extraction.engine import CachePolicy, as_array, read_rows
from src.models.extraction.forecast import ExtractionPlan, plan_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.extraction.tokens import Tokens, Truncation, check_texts, context_length, tokenize

MOST_CANDIDATES = 4096
_TAIL = 8  # characters; "Answer:" and the line break before it


@dataclass(frozen=True)
class ChoiceAnswers:
    """What a model chose, and what it looked like inside.

    Attributes:
        chosen: (n,) index of the most probable choice.
        log_likelihoods: (n, k) float64, natural log of P(continuation | prompt); -inf beyond a question's
            own number of choices.
        hidden: (n, layers, d) float32 at the last token of the prompt.
        prompt_ids: token ids of each prompt, as it was given to the model.
        chosen_ids: token ids of each chosen continuation.
        truncated: row numbers of prompts that were cut.
        computed: how many sequences went through the model; the others came from the cache.
    """

    chosen: np.ndarray
    log_likelihoods: np.ndarray
    hidden: np.ndarray
    prompt_ids: tuple[tuple[int, ...], ...]
    chosen_ids: tuple[tuple[int, ...], ...]
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
    def entropy(self) -> np.ndarray:
        """(n,): of these shares, in nats; 0 where one choice has them all."""
        return entr(self.probabilities).sum(axis=1)

    @property
    def margin(self) -> np.ndarray:
        """(n,): by how much the best share exceeds the second best."""
        second, best = np.partition(self.probabilities, -2, axis=1)[:, -2:].T
        return best - second

    @property
    def mass(self) -> np.ndarray:
        """(n,): total probability of all the choices. Low: the model did not want to answer in this form."""
        return np.exp(self.log_likelihoods).sum(axis=1)


def answer_choices(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    continuations: Sequence[str] | Sequence[Sequence[str]],
    *,
    layers: Layers = (),
    cache_dir: str | Path | None = None,
    truncation: Truncation | None = None,
    token_budget: int | None = None,
    cache: CachePolicy = "optional",
    whole_answer: bool = False,
    progress: str = "answers",
) -> ChoiceAnswers:
    """Choose the likeliest continuation of every prompt.

    Where every continuation is one token, one forward pass gives answer, probabilities and hidden states.
    Longer ones are scored token by token; a question's continuations share the passes of what they share.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        prompts: they end right before the answer, without a trailing space.
        continuations: the possible answers, each beginning with its space: one list for all prompts
            ([" A", " B"]), or one per prompt.
        layers, cache_dir, truncation, token_budget, cache: as in `HiddenStateExtractor.extract`.
        whole_answer: leave room in the model's context for the last token of an answer too, which scoring does not
            need and `letter_states` reads.
        progress: the label of the progress bar.

    Raises:
        DataError: no prompts, an empty or over-long one, or continuations that cannot be told apart.
    """
    endings, tokens = _prepared(model, tokenizer, prompts, continuations, truncation, whole_answer=whole_answer)
    names = layer_names(layers, len(anatomy(model).blocks)) if len(layers) else ()
    scores = np.full((len(prompts), max(map(len, endings))), -np.inf)
    hidden, computed = np.empty((len(prompts), 0, 0), dtype=np.float32), 0
    for depth in range(_longest(endings)):
        steps = _steps(endings, depth)
        candidates = _candidates(endings, depth)
        rows = read_rows(
            model,
            [tokens.ids[row] + begun for row, begun in steps],
            layers=names if depth == 0 else (),
            candidates=candidates,
            cache_dir=cache_dir,
            cache=cache,
            budget=token_budget,
            progress=progress,
        )
        column = {token: place for place, token in enumerate(candidates)}
        found = rows.log_probabilities.double().numpy()
        for place, ((row, _), options) in enumerate(steps.items()):
            before = 0.0 if depth == 0 else scores[row, options]
            scores[row, options] = before + found[place, [column[endings[row][i][depth]] for i in options]]
        computed += rows.computed
        if depth == 0 and names:
            hidden = as_array(rows.states)
    chosen = scores.argmax(axis=1)
    said = tuple(options[place] for options, place in zip(endings, chosen, strict=True))
    return ChoiceAnswers(chosen, scores, hidden, tokens.ids, said, tokens.truncated, computed)


def letter_states(
    model: Any,
    answers: ChoiceAnswers,
    layers: Layers,
    *,
    cache_dir: str | Path | None = None,
    cache: CachePolicy = "optional",
    token_budget: int | None = None,
) -> np.ndarray:
    """(n, layers, d) float32: the states at the last token of what each prompt's answer is: one more pass a prompt.

    Arguments as in `answer_choices`, which gave the answers with `whole_answer`.
    """
    names = layer_names(layers, len(anatomy(model).blocks))
    sequences = [prompt + said for prompt, said in zip(answers.prompt_ids, answers.chosen_ids, strict=True)]
    rows = read_rows(model, sequences, layers=names, cache_dir=cache_dir, cache=cache, budget=token_budget)
    return as_array(rows.states)


def plan_choices(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    continuations: Sequence[str] | Sequence[Sequence[str]],
    *,
    layers: Layers = (),
    cache_dir: str | Path | None = None,
    truncation: Truncation | None = None,
    token_budget: int | None = None,
    whole_answer: bool = False,
) -> ExtractionPlan:
    """What `answer_choices` with the same arguments would do for the first token of every continuation, undone.

    The model may be one without weights (`ModelLoader.skeleton()`).
    """
    endings, tokens = _prepared(model, tokenizer, prompts, continuations, truncation, whole_answer=whole_answer)
    names = layer_names(layers, len(anatomy(model).blocks)) if len(layers) else ()
    candidates = _candidates(endings, 0)
    return plan_rows(model, tokens.ids, None, names, candidates=candidates, cache_dir=cache_dir, budget=token_budget)


def _prepared(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    continuations: Sequence[str] | Sequence[Sequence[str]],
    truncation: Truncation | None,
    *,
    whole_answer: bool,
) -> tuple[list[list[tuple[int, ...]]], Tokens]:
    """The tokens that each continuation adds, and the prompts' own, which leave room for all (but its last one)."""
    if not prompts:
        raise DataError("There are no prompts to answer.")
    check_texts(prompts)
    endings = _endings(tokenizer, prompts, continuations)
    limit = context_length(model)
    room = limit - _longest(endings) + (not whole_answer) if limit is not None else None
    if room is not None and room < 1:
        raise DataError(
            f"A continuation has {_longest(endings):,} tokens, and the model's context {limit:,}: shorten it."
        )
    return endings, tokenize(tokenizer, prompts, limit=room, truncation=truncation)


def _longest(endings: Sequence[Sequence[tuple[int, ...]]]) -> int:
    return max(len(ending) for options in endings for ending in options)


def _candidates(endings: Sequence[Sequence[tuple[int, ...]]], depth: int) -> list[int]:
    """The tokens that some continuation has at this depth."""
    found = sorted({ending[depth] for options in endings for ending in options if len(ending) > depth})
    if len(found) > MOST_CANDIDATES:
        raise DataError(
            f"The continuations use {len(found):,} different tokens; at most {MOST_CANDIDATES:,} are kept per prompt. "
            "Offer letters, or shorter answers."
        )
    return found


def _steps(endings: Sequence[Sequence[tuple[int, ...]]], depth: int) -> dict[tuple[int, tuple[int, ...]], list[int]]:
    """Every (row, beginning of that many tokens), and the row's continuations that go on from it."""
    steps: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for row, options in enumerate(endings):
        for index, ending in enumerate(options):
            if len(ending) > depth:
                steps.setdefault((row, ending[:depth]), []).append(index)
    return steps


def _endings(
    tokenizer: Any, prompts: Sequence[str], continuations: Sequence[str] | Sequence[Sequence[str]]
) -> list[list[tuple[int, ...]]]:
    """The tokens that each continuation adds to its prompt."""
    shared = [text for text in continuations if isinstance(text, str)]
    per_prompt = [shared] * len(prompts) if shared else [list(options) for options in continuations]
    if len(per_prompt) != len(prompts):
        raise DataError(f"There are {len(prompts)} prompts and {len(per_prompt)} lists of continuations.")
    check_texts([*dict.fromkeys(text for options in per_prompt for text in options)])
    known: dict[tuple[str, str], tuple[int, ...]] = {}
    endings = []
    for prompt, options in zip(prompts, per_prompt, strict=True):
        # What a continuation adds depends on the text right before it, so equal endings are looked up once.
        tail = prompt[-_TAIL:]
        for text in options:
            if (tail, text) not in known:
                known[tail, text] = _added_ids(tokenizer, prompt, text)
        endings.append([known[tail, text] for text in options])
        if len(set(endings[-1])) != len(options):
            raise DataError(f"This tokenizer gives several of {list(options)} the same tokens.")
    return endings


def _added_ids(tokenizer: Any, prompt: str, continuation: str) -> tuple[int, ...]:
    before, whole = tokenizer([prompt, prompt + continuation], verbose=False)["input_ids"]
    if whole[: len(before)] != before or len(whole) == len(before):
        raise DataError(
            f"{continuation!r} does not start a new token after {prompt[-20:]!r}. End the prompt without a space."
        )
    return tuple(whole[len(before) :])
