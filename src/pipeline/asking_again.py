"""Confidences that need more questions to the model: whether its answer is true, and whether it would say it again."""

from typing import Any

import numpy as np

from src.config import Config
from src.data.example import LETTERS
from src.data.scoring import NOTHING_FOUND, Mark, as_number, mark
from src.data.splits import normalised
from src.models.answering import answer_choices
from src.models.decoding import Sampling
from src.models.generation import answer_freely
from src.pipeline.questions import Questions

P_TRUE, SELF_CONSISTENCY = "p_true", "self_consistency"
_ASKED_AGAIN = "{prompt}{answer}\n\nIs this answer true or false?\nA. True\nB. False\nAnswer:"


def p_true(
    model: Any, tokenizer: Any, questions: Questions, answers: tuple[str, ...], config: Config, *, label: str
) -> np.ndarray:
    """(n,) the probability of "True" against "False" when the model is shown its own answer (arXiv 2207.05221).

    Args:
        model, tokenizer, questions, config: as in `asking.ask`.
        answers: the model's own: a letter, or a text.
        label: names the model in progress bars.
    """
    prompts = [
        _ASKED_AGAIN.format(prompt=example.prompt, answer=_said(example.continuations, answer))
        for example, answer in zip(questions.examples, answers, strict=True)
    ]
    found = answer_choices(
        model,
        tokenizer,
        prompts,
        (" A", " B"),
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
        truncation=config.data.truncation or "left",  # the answer stands at the end
        progress=f"{label}: is it true?",
    )
    return found.probabilities[:, 0]


def _said(continuations: tuple[str, ...], answer: str) -> str:
    """The answer as it continues the prompt: a choice's own text where the letter is not what is written."""
    if continuations and answer in LETTERS[: len(continuations)]:
        return continuations[LETTERS.index(answer)]
    return f" {answer}"


def self_consistency(
    model: Any, tokenizer: Any, questions: Questions, marks: tuple[Mark, ...], config: Config, *, label: str
) -> np.ndarray:
    """(n,) the share of sampled answers that say what the greedy one said; nothing found agrees with nothing found.

    Args:
        model, tokenizer, questions, config: as in `asking.ask`.
        marks: of the greedy answers.
        label: names the model in progress bars.
    """
    count = config.baselines.samples
    agreed = np.zeros(len(marks))
    for number in range(count):
        answers = answer_freely(
            model,
            tokenizer,
            [example.prompt for example in questions.examples],
            stop=questions.stop,
            max_new_tokens=questions.max_new_tokens,
            sampling=Sampling(config.baselines.temperature, config.experiment.seed + number),
            cache_dir=config.extraction.cache_dir,
            cache=config.extraction.cache,
            truncation=config.data.truncation,
            thinking=config.data.thinking,
            progress=f"{label}: sample {number + 1} of {count}",
        )
        sampled = [
            mark(text, example.target, rule=questions.marking, choices=example.choices)
            for text, example in zip(answers.texts, questions.examples, strict=True)
        ]
        agreed += [same_answer(one, other) for one, other in zip(marks, sampled, strict=True)]
    return agreed / count


def same_answer(one: Mark, other: Mark) -> bool:
    """Whether two answers to one question say the same: as numbers where both are, else as words."""
    if NOTHING_FOUND in (one, other):
        return one == other
    first, second = str(one.extracted), str(other.extracted)
    if (number := as_number(first)) is not None:
        return number == as_number(second)
    return normalised(first) == normalised(second)
