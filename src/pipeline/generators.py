"""Who generates answers in words: transformers, or vLLM beside it."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from src.config import Config
from src.errors import ConfigError
from src.pipeline.questions import Task


def check_generator(tasks: Sequence[Task], skeleton: Any, adapters: Sequence[str]) -> None:
    """Check whether vLLM, where it is asked for, can serve this run.

    Args:
        tasks: the run's own data set first.
        skeleton: the model without its weights.
        adapters: their folders, those that are there already.

    Raises:
        ConfigError: it cannot.
    """
    config = tasks[0].config
    if config.run.generator != "vllm":
        return
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "run.generator is vllm, which is not installed: see docs.vllm.ai for your hardware, or leave it out."
        )
    if config.model.quantization:
        raise ConfigError(
            f"run.generator is vllm, which would answer with other weights than the {config.model.quantization} ones "
            "that states are read from. Leave one of the two out."
        )
    if not any(_in_words(task) for task in tasks):
        raise ConfigError(
            "run.generator is vllm, and nothing here is answered in words: leave it out, or set data.answer_by: "
            "generation."
        )
    from src.models.vllm_engine import check_vllm

    check_vllm(skeleton, adapters)


def _in_words(task: Task) -> bool:
    questions = task.questions
    return not questions.given and (not questions.with_choices or task.config.baselines.stated)


def answer_as_configured(model: Any, config: Config, adapters: Sequence[str]) -> None:
    """Have vLLM generate this model's answers from now on, where run.generator says so.

    Args:
        model: with its adapters attached.
        config: of the run.
        adapters: their folders, in the order in which they were attached.

    Raises:
        as `src.models.vllm_engine.start_vllm`.
    """
    if config.run.generator != "vllm":
        return
    from src.models.adapter_switch import adapter_name
    from src.models.generation import answer_with
    from src.models.vllm_engine import start_vllm

    named = {adapter_name(place): folder for place, folder in enumerate(adapters)}
    answer_with(model, start_vllm(model, config.model.name, revision=config.model.revision, adapters=named))
