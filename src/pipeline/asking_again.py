"""Confidences that need more questions to the model: is its answer true, how likely, and would it say it again?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.config import Config
from src.data import prompts
from src.data.example import LETTERS
from src.data.scoring import NOTHING_FOUND, Mark, as_number, mark, stated_probability
from src.data.splits import normalised
from src.models.answering import answer_choices
from src.models.decoding import Sampling
from src.models.generation import answer_freely
from src.pipeline.questions import Questions

P_TRUE, STATED, SELF_CONSISTENCY = "p_true", "stated", "self_consistency"
_TRUE_OR_FALSE = "Is this answer true or false?\nA. True\nB. False"
_HOW_LIKELY = "How likely is it that this answer is right? Say a number from 0 (surely wrong) to 100 (surely right)."
_STATED_TOKENS = 16


def ask_again(
    model: Any, tokenizer: Any, questions: Questions, answers: Sequence[str], config: Config, *, label: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The configured confidences for which the model is shown its own answers.

    Args:
        model, tokenizer, questions, config: as in `asking.ask`.
        answers: the model's own: a letter, or a text.
        label: names the model in progress bars.

    Returns:
        name -> (n,); and name -> of how many prompts the beginning was cut off, since with the answer and the question
        about it they were longer than the model's context; only where there were some.
    """
    found, shortened = {}, {}
    if config.baselines.p_true:
        found[P_TRUE], shortened[P_TRUE] = _p_true(model, tokenizer, questions, answers, config, label)
    if config.baselines.stated:
        found[STATED], shortened[STATED] = _stated(model, tokenizer, questions, answers, config, label)
    return found, {name: count for name, count in shortened.items() if count}


def _p_true(
    model: Any, tokenizer: Any, questions: Questions, answers: Sequence[str], config: Config, label: str
) -> tuple[np.ndarray, int]:
    """The probability of "True" against "False" (arXiv 2207.05221); how many prompts were cut."""
    found = answer_choices(
        model,
        tokenizer,
        _follow_ups(tokenizer, questions, answers, _TRUE_OR_FALSE, cue="Answer:"),
        ("A", "B") if questions.messages else (" A", " B"),
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
        truncation="left",  # the answer and the question about it stand at the end
        progress=f"{label}: is it true?",
    )
    return found.probabilities[:, 0], len(found.truncated)


def _stated(
    model: Any, tokenizer: Any, questions: Questions, answers: Sequence[str], config: Config, label: str
) -> tuple[np.ndarray, int]:
    """The confidence that the model puts into words (arXiv 2305.14975), NaN where it names none; how many were cut."""
    said = answer_freely(
        model,
        tokenizer,
        _follow_ups(tokenizer, questions, answers, _HOW_LIKELY, cue="Probability:"),
        stop=() if questions.messages else ("\n",),
        max_new_tokens=questions.max_new_tokens if config.data.thinking else _STATED_TOKENS,
        cache_dir=config.extraction.cache_dir,
        cache=config.extraction.cache,
        truncation="left",
        thinking=config.data.thinking,
        progress=f"{label}: how likely is it?",
    )
    named = [np.nan if (stated := stated_probability(text)) is None else stated for text in said.texts]
    return np.array(named), len(said.truncated)


def _follow_ups(tokenizer: Any, questions: Questions, answers: Sequence[str], question: str, *, cue: str) -> list[str]:
    said = [_said(example.continuations, answer) for example, answer in zip(questions.examples, answers, strict=True)]
    if questions.messages:
        return [
            prompts.chat_follow_up(message, text, question, tokenizer)
            for message, text in zip(questions.messages, said, strict=True)
        ]
    return [
        prompts.follow_up(example.prompt, text, question, cue=cue)
        for example, text in zip(questions.examples, said, strict=True)
    ]


def _said(continuations: tuple[str, ...], answer: str) -> str:
    """The answer as it continues the prompt: a choice's own text where the letter is not what is written."""
    if len(answer) == 1 and answer in LETTERS[: len(continuations)]:
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
