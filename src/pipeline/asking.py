"""Stage 3: one model's answers, marked, with its own confidence and the hidden states."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from src.config import Config
from src.data.example import LETTERS
from src.data.scoring import Mark, mark
from src.models.adapter_switch import switched_to
from src.models.answering import answer_choices, plan_choices
from src.models.extraction.forecast import ExtractionPlan
from src.models.extractor import HiddenStateExtractor
from src.models.generation import answer_freely, prompt_limit
from src.pipeline.asked import ANSWERED, Asked
from src.pipeline.asking_again import SELF_CONSISTENCY, ask_again, self_consistency
from src.pipeline.asking_given import take_given
from src.pipeline.naming import BASE
from src.pipeline.positions import read_choice_positions, read_positions
from src.pipeline.questions import Questions

log = logging.getLogger(__name__)


def ask(
    model: Any, tokenizer: Any, questions: Questions, config: Config, *, layers: tuple[str, ...], label: str
) -> Asked:
    """Ask every question of the model as its adapter is switched now.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        questions: what is asked.
        config: truncation and cache folder.
        layers: canonical names of the hidden states to read.
        label: names the model in progress bars.
    """
    asker = take_given if questions.given else _ask_choices if questions.with_choices else _ask_freely
    return asker(model, tokenizer, questions, config, layers, label)


def ask_all(
    model: Any, tokenizer: Any, questions: Questions, config: Config, *, name: str, layers: tuple[str, ...],
    adapters: Sequence[str],
) -> dict[str, Asked]:  # fmt: skip
    """Ask the base model and its adapters, in this order: one loaded model, the adapters switched.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        questions: what is asked.
        config: truncation and cache folder.
        name: of the data set, for progress bars.
        layers: canonical names of the hidden states to read.
        adapters: what the model's adapters are called, in the order in which they were loaded.
    """
    found = {}
    for variant, switched in each_variant(model, adapters):
        with switched:
            found[variant] = ask(model, tokenizer, questions, config, layers=layers, label=f"{variant}, {name}")
    return found


def each_variant(model: Any, adapters: Sequence[str]) -> Iterator[tuple[str, contextlib.AbstractContextManager[None]]]:
    """The base model and each adapter by name, with the block within which it is in force."""
    yield BASE, switched_to(model, None)
    for place, name in enumerate(adapters):
        yield name, switched_to(model, place)


def forecast(
    model: Any, tokenizer: Any, questions: Questions, config: Config, *, layers: tuple[str, ...]
) -> ExtractionPlan:
    """What reading the states of all prompts takes, of one model; arguments as in `ask`.

    The model may be one without weights. Generating free answers comes on top. States from outside are not read.
    """
    prompts, extraction = [example.prompt for example in questions.examples], config.extraction
    if questions.with_choices:
        continuations = [example.continuations for example in questions.examples]
        return plan_choices(
            model, tokenizer, prompts, continuations, layers=() if extraction.states else layers,
            cache_dir=extraction.cache_dir, truncation=config.data.truncation,
            whole_answer="answer_letter" in extraction.position,
        )  # fmt: skip
    extractor = HiddenStateExtractor(model, tokenizer)
    if questions.given:
        texts = [prompt + given.response for prompt, given in zip(prompts, questions.given, strict=True)]
        found = extractor.plan(texts, layers, extraction.cache_dir)
    else:
        found = extractor.plan(
            prompts, layers, extraction.cache_dir, truncation=config.data.truncation,
            max_tokens=prompt_limit(model, questions.max_new_tokens),
        )  # fmt: skip
    if extraction.states:
        return replace(found, tokens_computed=0, passes=0, operations=0, memory_bytes=0, seconds=0.0)
    return found


def _ask_choices(
    model: Any, tokenizer: Any, questions: Questions, config: Config, layers: tuple[str, ...], label: str
) -> Asked:
    examples = questions.examples
    answers = answer_choices(
        model,
        tokenizer,
        [example.prompt for example in examples],
        [example.continuations for example in examples],
        layers=() if config.extraction.states else layers,
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
        truncation=config.data.truncation,
        whole_answer="answer_letter" in config.extraction.position,
        progress=f"{label}: answers and states",
    )
    letters = tuple(LETTERS[choice] for choice in answers.chosen)
    signals = {"entropy": answers.entropy, "margin": answers.margin, "choice_mass": answers.mass}
    again, shortened = ask_again(model, tokenizer, questions, letters, config, label=label)
    signals |= again
    hidden, places = read_choice_positions(model, answers, config, layers)
    correct = [letter == example.target for letter, example in zip(letters, examples, strict=True)]
    return Asked(
        answers=letters,
        correct=np.array(correct, dtype=np.float64),
        confidence=answers.confidence,
        signals=signals,
        places=places,
        hidden=hidden,
        status=(ANSWERED,) * len(letters),
        marks=(),
        elsewhere={},
        truncated=len(answers.truncated),
        shortened=shortened,
    )


def _ask_freely(
    model: Any, tokenizer: Any, questions: Questions, config: Config, layers: tuple[str, ...], label: str
) -> Asked:
    prompts, extraction = [example.prompt for example in questions.examples], config.extraction
    answers = answer_freely(
        model,
        tokenizer,
        prompts,
        stop=questions.stop,
        max_new_tokens=questions.max_new_tokens,
        cache_dir=extraction.cache_dir,
        cache=extraction.cache,
        truncation=config.data.truncation,
        thinking=config.data.thinking,
        progress=f"{label}: answers",
    )
    if config.data.thinking and not any(answers.thought_ids):
        log.warning("%s: no answer has a thinking block: is data.thinking %r right?", label, config.data.thinking)
    marks = tuple(
        mark(text, example.target, rule=questions.marking, choices=example.choices)
        for text, example in zip(answers.texts, questions.examples, strict=True)
    )
    signals = {
        "least_log_probability": answers.least_log_probabilities,
        "perplexity": np.exp(-answers.log_probabilities),
    }
    again, shortened = ask_again(model, tokenizer, questions, answers.texts, config, label=label)
    signals |= again
    if config.baselines.samples:
        signals[SELF_CONSISTENCY] = self_consistency(model, tokenizer, questions, marks, config, label=label)
    states = read_positions(model, tokenizer, answers, [one.span for one in marks], config, layers)
    return Asked(
        answers=answers.texts,
        correct=np.array([one.correct for one in marks], dtype=np.float64),
        confidence=answers.confidence,
        signals=signals,
        status=tuple(map(_status, marks, answers.finished, answers.cut_while_thinking)),
        marks=marks,
        truncated=len(answers.truncated),
        shortened=shortened,
        **states,
    )


def _status(marked: Mark, finished: bool, cut_while_thinking: bool) -> str:
    if cut_while_thinking:
        return "cut while thinking"
    if not finished:
        return "cut at the token limit"
    return "nothing found" if marked.extracted is None else ANSWERED
