"""Stage 3: one model's answers, marked, with its own confidence and the hidden states."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.config import Config
from src.data.example import LETTERS
from src.data.scoring import mark
from src.models.answering import answer_choices
from src.models.extractor import HiddenStateExtractor
from src.models.generation import answer_freely, prompt_limit
from src.pipeline.questions import Questions


@dataclass(frozen=True)
class Asked:
    """What one model said about every question; labels belong to the model.

    Attributes:
        answers: a letter, or the answer's text.
        correct: (n,) 1.0 where the answer is right.
        confidence: (n,) the model's own probability: of the chosen one among the choices, or per token.
        layers: names of the layers, in the order of `hidden`.
        hidden: (n, layers, d) float32 at the last token of the prompt.
        status: how many answers were "answered", had "nothing found", or were "cut at the token limit".
        truncated: how many prompts were cut.
        choice_mass: mean probability of all the choices together; None for free answers.
    """

    answers: tuple[str, ...]
    correct: np.ndarray
    confidence: np.ndarray
    layers: tuple[str, ...]
    hidden: np.ndarray
    status: dict[str, int]
    truncated: int
    choice_mass: float | None


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
    asker = _ask_choices if questions.with_choices else _ask_freely
    return asker(model, tokenizer, questions, config, layers, label)


def _ask_choices(
    model: Any, tokenizer: Any, questions: Questions, config: Config, layers: tuple[str, ...], label: str
) -> Asked:
    examples = questions.examples
    answers = answer_choices(
        model,
        tokenizer,
        [example.prompt for example in examples],
        [example.continuations for example in examples],
        layers=layers,
        cache_dir=config.extraction.cache_dir,
        truncation=config.data.truncation,
        progress=f"{label}: answers and states",
    )
    letters = tuple(LETTERS[choice] for choice in answers.chosen)
    correct = [letter == example.target for letter, example in zip(letters, examples, strict=True)]
    return Asked(
        answers=letters,
        correct=np.array(correct, dtype=np.float64),
        confidence=answers.confidence,
        layers=layers,
        hidden=answers.hidden,
        status={"answered": len(letters)},
        truncated=len(answers.truncated),
        choice_mass=float(answers.mass.mean()),
    )


def _ask_freely(
    model: Any, tokenizer: Any, questions: Questions, config: Config, layers: tuple[str, ...], label: str
) -> Asked:
    prompts = [example.prompt for example in questions.examples]
    answers = answer_freely(
        model,
        tokenizer,
        prompts,
        stop=questions.stop,
        max_new_tokens=questions.max_new_tokens,
        cache_dir=config.extraction.cache_dir,
        truncation=config.data.truncation,
        progress=f"{label}: answers",
    )
    marks = [
        mark(text, example.target, rule=questions.marking)
        for text, example in zip(answers.texts, questions.examples, strict=True)
    ]
    status = Counter(
        "cut at the token limit" if not ended else "nothing found" if m.extracted is None else "answered"
        for m, ended in zip(marks, answers.finished, strict=True)
    )
    hidden = HiddenStateExtractor(model, tokenizer).extract(
        prompts,
        layers,
        config.extraction.cache_dir,
        truncation=config.data.truncation,
        max_tokens=prompt_limit(model, questions.max_new_tokens),  # the very prompts that were answered
    )
    return Asked(
        answers=answers.texts,
        correct=np.array([m.correct for m in marks], dtype=np.float64),
        confidence=answers.confidence,
        layers=layers,
        hidden=hidden,
        status=dict(status),
        truncated=len(answers.truncated),
        choice_mass=None,
    )
