"""Settings that are sound one by one, but make no sense together with these questions."""

import importlib.util

from src.config import Config
from src.errors import ConfigError
from src.pipeline.questions import Questions

# Read without generating an answer; of answers from outside no thinking and no exact answer is known.
_OF_CHOICES = ("last_prompt", "answer_letter")
_NOT_OF_GIVEN = ("answer_letter", "end_of_thinking", "before_exact_answer", "exact_answer_first", "exact_answer_last",
                 "after_exact_answer")  # fmt: skip


def check_settings(config: Config, questions: Questions) -> None:
    """Raises ConfigError, naming the setting and what to do."""
    _check_engine(config)
    _check_states(config, questions)
    if questions.given:
        _check_given(config)
    elif questions.with_choices:
        _check_choices(config)
    elif "answer_letter" in config.extraction.position and questions.marking != "letter":
        raise ConfigError(
            f"extraction.position names answer_letter, but answers are marked by {questions.marking!r}. Choose "
            "exact_answer_last, or another position."
        )
    elif "end_of_thinking" in config.extraction.position and not config.data.thinking:
        raise ConfigError("extraction.position names end_of_thinking, but data.thinking does not say how it is marked.")


def _check_engine(config: Config) -> None:
    if config.extraction.cache == "required" and config.extraction.cache_dir is None:
        raise ConfigError("extraction.cache is required, and extraction.cache_dir is null: name a folder or a URL.")
    if config.run.engine != "ray":
        return
    if config.extraction.states is not None:
        raise ConfigError("run.engine is ray, and extraction.states are there already: use the local engine.")
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('run.engine is ray, which is not installed: pip install "llm-confidence-probing[ray]".')
    if config.extraction.cache_dir is None:
        raise ConfigError(
            "run.engine is ray, and workers meet in the cache: set extraction.cache_dir to a folder or a URL that all "
            "of them reach."
        )
    if config.extraction.cache_dir.startswith("memory://"):
        raise ConfigError(
            f"run.engine is ray, and {config.extraction.cache_dir} lives in one process: no worker would see what "
            "another wrote. Set extraction.cache_dir to a folder or a URL that all of them reach."
        )


def _check_states(config: Config, questions: Questions) -> None:
    extraction = config.extraction
    if extraction.states is None:
        if extraction.layer_ids is not None:
            raise ConfigError("extraction.layer_ids belongs to extraction.states. Leave it out.")
        return
    if config.adapter_folders:
        raise ConfigError(
            "extraction.states are those of one model, and an adapter makes two. Leave the adapter out (it can be "
            "merged into its model)."
        )
    if not extraction.verify_rows and not needs_no_weights(config, questions):
        raise ConfigError(
            "extraction.verify_rows is 0, so that the model is not loaded, but it has to be asked. Set it to a few, or "
            "bring answers with a confidence each (data.name: answered)."
        )


def needs_no_weights(config: Config, questions: Questions) -> bool:
    """Whether answers, confidences and states all come from outside, and nothing is to be verified."""
    extraction = config.extraction
    said = questions.given and all(one.confidence is not None for one in questions.given)
    return bool(extraction.states and not extraction.verify_rows and said)


def _check_given(config: Config) -> None:
    baselines = config.baselines
    if config.adapter_folders or baselines.p_true or baselines.stated or baselines.samples:
        raise ConfigError(
            "data.name is answered: these answers belong to one model, which is not asked again. Leave the adapter and "
            "baselines out (an adapter can be merged into its model)."
        )
    if config.data.unparsed == "drop":
        raise ConfigError("data.unparsed is drop, but these answers are marked already. Leave it out.")
    for position in config.extraction.position:
        if position in _NOT_OF_GIVEN:
            raise ConfigError(f"extraction.position {position!r} is not known for answers from outside.")


def _check_choices(config: Config) -> None:
    if config.baselines.samples:
        raise ConfigError("baselines.samples needs answers in words, but these are chosen by likelihood. Leave it out.")
    if config.data.unparsed == "drop":
        raise ConfigError("data.unparsed is drop, but answers chosen by likelihood can always be read. Leave it out.")
    for position in config.extraction.position:
        if position not in _OF_CHOICES:
            raise ConfigError(
                f"extraction.position is {position!r}, but answers that are chosen by likelihood have no such token. "
                f"Choose {' or '.join(_OF_CHOICES)}, or set data.answer_by: generation."
            )
