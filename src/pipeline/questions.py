"""Stage 1: the questions of a run, and how their answers are to be read."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.config import Config, DataConfig
from src.data import prompts
from src.data.example import Example, ExampleDataset
from src.data.given import AnsweredDataset, Given
from src.data.splits import Splits
from src.errors import ConfigError, DataError

CHAT = "chat"


@dataclass(frozen=True)
class Questions:
    """Questions of one kind.

    Attributes:
        examples: the questions.
        marking: how free answers are judged.
        stop: strings that end a free answer.
        max_new_tokens: the most tokens of a free answer.
        with_choices: whether the answer is the likeliest of the choices; otherwise it is generated.
        given: the answers, where they are there already; empty where the model is asked.
        messages: of each question, its prompt without the chat template; empty where there is none.
    """

    examples: tuple[Example, ...]
    marking: str
    stop: tuple[str, ...]
    max_new_tokens: int
    with_choices: bool
    given: tuple[Given, ...] = ()
    messages: tuple[str, ...] = ()

    def only(self, rows: Iterable[int]) -> "Questions":
        """These questions, in this order."""
        rows = list(rows)
        parts = {name: getattr(self, name) for name in ("examples", "given", "messages")}
        return replace(self, **{name: tuple(part[row] for row in rows) if part else () for name, part in parts.items()})

    @property
    def chance(self) -> float:
        """The share that guessing gets right: 0 for free answers."""
        shares = [1 / len(e.choices) if e.choices else 0.0 for e in self.examples]
        return sum(shares) / len(shares)


@dataclass(frozen=True)
class Task:
    """A data set that models are asked.

    Attributes:
        name: what people call it.
        config: the run's; of a data set of transfer.data with that one in the place of its own, and no baselines that
            ask again.
        questions, splits: what is asked.
    """

    name: str
    config: Config
    questions: Questions
    splits: Splits


def data_name(config: DataConfig) -> str:
    """What people call a data set, such as "gsm8k", "mmlu stem" or, of a file of questions, "custom history"."""
    of_file = Path(config.path).stem if config.path and config.name in ("custom", "answered") else ""
    return " ".join(part for part in (config.name, of_file, config.category or "") if part)


def load_questions(config: DataConfig) -> Questions:
    """Read the data set. Raises DataError, DownloadError, or ConfigError where a key has no meaning here."""
    dataset = _dataset(config)
    examples = tuple(dataset[: config.limit] if config.limit else dataset)
    if not examples:
        raise DataError(f"{config.name} has no questions for split {config.split!r}, category {config.category!r}.")
    given = dataset.given[: len(examples)] if isinstance(dataset, AnsweredDataset) else ()
    offered = bool(examples[0].choices) and not given
    if config.answer_by and not offered:
        raise ConfigError(
            f"data.answer_by is {config.answer_by!r}, but these questions offer no choices. Leave it out."
        )
    with_choices = offered and config.answer_by != "generation"
    for key in ("marking", "max_new_tokens", "thinking"):
        if with_choices and getattr(config, key):
            raise ConfigError(
                f"data.{key} is {getattr(config, key)!r}, but the answers are chosen by likelihood. Leave it out, or "
                "set data.answer_by: generation."
            )
    if config.marking == "letter" and not offered:
        raise ConfigError("data.marking is 'letter', but these questions offer no choices.")
    if config.template not in (None, CHAT):
        examples = tuple(
            prompts.from_template(example, config.template, answer_by_letter=offered) for example in examples
        )
    return Questions(
        examples=examples,
        marking=config.marking or ("letter" if offered else dataset.marking),
        stop=dataset.stop,
        max_new_tokens=config.max_new_tokens or dataset.max_new_tokens,
        with_choices=with_choices,
        given=given,
    )


def as_chat(questions: Questions, tokenizer: Any) -> Questions:
    """The same questions, each as a message in the tokenizer's chat template.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "data.template is chat, but this tokenizer has no chat template: it is that of a base model. Leave it out, "
            "or write a Jinja text."
        )
    return replace(
        questions,
        examples=tuple(prompts.as_chat(example, tokenizer) for example in questions.examples),
        messages=tuple(example.prompt for example in questions.examples),
    )


def _dataset(config: DataConfig) -> ExampleDataset:
    _check_keys(config)
    if config.name == "mmlu":
        from src.data.mmlu import MMLUDataset

        return MMLUDataset(config.split or "test", config.category, path=config.path, shots=config.shots)
    if config.name == "gsm8k":
        from src.data.gsm8k import GSM8KDataset

        return GSM8KDataset(config.split or "test", path=config.path, shots=config.shots)
    if config.name == "quickstart":
        from src.data.quickstart import QuickstartDataset

        return QuickstartDataset(config.split or "all", config.category)
    if config.name == "answered":
        return AnsweredDataset(config.path or "", filter=config.filter)
    from src.data.custom import QADataset

    return QADataset(
        config.path or "",
        columns=config.columns.model_dump() if config.columns else None,
        marking=config.marking or "exact",
        split=config.split,
    )


_MEANINGLESS = {
    "mmlu": ("columns",),
    "gsm8k": ("columns", "category"),
    "quickstart": ("columns", "marking", "path", "shots", "answer_by", "template"),
    "answered": (
        "columns",
        "marking",
        "shots",
        "category",
        "split",
        "answer_by",
        "template",
        "max_new_tokens",
        "thinking",
        "truncation",
    ),
    "custom": ("category", "shots"),
}


def _check_keys(config: DataConfig) -> None:
    for key in _MEANINGLESS[config.name]:
        if getattr(config, key):
            raise ConfigError(f"data.{key} has no meaning for data.name: {config.name}. Leave it out.")
    if config.filter and config.name != "answered":
        raise ConfigError("data.filter belongs to data.name: answered. Leave it out.")
    if config.shots and config.template not in (None, CHAT):
        raise ConfigError("data.shots has no meaning beside a data.template of your own: write the shots into it.")
