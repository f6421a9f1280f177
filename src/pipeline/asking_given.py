"""Answers that were given already: their tokens, their likelihood and their states, without asking again."""

from typing import Any

import numpy as np

from src.config import Config
from src.models.extraction.tokens import context_length, spans_to_tokens, tokenize
from src.models.generation import FreeAnswers
from src.models.likelihood import answer_likelihood
from src.pipeline.asked import ANSWERED, Asked
from src.pipeline.positions import read_positions
from src.pipeline.questions import Questions
from src.pipeline.sense import needs_no_weights


def take_given(
    model: Any, tokenizer: Any, questions: Questions, config: Config, layers: tuple[str, ...], label: str
) -> Asked:
    """As `asking.ask`, with the answers and labels that the questions bring.

    The model's own probability is what the file says, and where it says nothing that of the answer's tokens.
    """
    answers = _tokens(model, tokenizer, questions)
    confidence, signals = _own_probability(model, answers, questions, config, label)
    return Asked(
        answers=answers.texts,
        correct=np.array([one.correct for one in questions.given]),
        confidence=confidence,
        signals=signals,
        status=(ANSWERED,) * len(answers.texts),
        marks=(),
        truncated=0,
        **read_positions(model, tokenizer, answers, (), config, layers),
    )


def _own_probability(
    model: Any, answers: FreeAnswers, questions: Questions, config: Config, label: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(n,) as the file says, else that of the answers' tokens; and what else these say."""
    said, extraction = [one.confidence for one in questions.given], config.extraction
    if needs_no_weights(config, questions):
        return np.array(said), {}
    likelihood = answer_likelihood(
        model, answers.prompt_ids, answers.answer_ids, cache_dir=extraction.cache_dir, cache=extraction.cache,
        progress=f"{label}: likelihood of the answers",
    )  # fmt: skip
    own = np.exp(likelihood.mean)
    confidence = np.array([mine if given is None else given for given, mine in zip(said, own, strict=True)])
    return confidence, {"least_log_probability": likelihood.least, "perplexity": np.exp(-likelihood.mean)}


def _tokens(model: Any, tokenizer: Any, questions: Questions) -> FreeAnswers:
    """Prompt and answer are tokenised as one text; the answer begins at the token that holds its first character.

    Raises:
        DataError: a text over the model's context, or an answer without a token.
    """
    prompts = [example.prompt for example in questions.examples]
    texts = [prompt + given.response for prompt, given in zip(prompts, questions.given, strict=True)]
    tokens = tokenize(tokenizer, texts, limit=context_length(model))
    spans = [(len(prompt), len(text)) for prompt, text in zip(prompts, texts, strict=True)]
    places = spans_to_tokens(tokenizer, texts, tokens, spans)
    nothing = np.zeros(len(texts))
    return FreeAnswers(
        texts=tuple(given.response.strip() for given in questions.given),
        log_probabilities=nothing,
        least_log_probabilities=nothing,
        finished=nothing == 0,
        truncated=(),
        prompt_ids=tuple(ids[:first] for ids, (first, _) in zip(tokens.ids, places, strict=True)),
        thought_ids=((),) * len(texts),
        answer_ids=tuple(ids[first : last + 1] for ids, (first, last) in zip(tokens.ids, places, strict=True)),
        cut_while_thinking=nothing > 0,
    )
