"""Stage 1: the questions of a run, and how their answers are to be read."""

from dataclasses import dataclass

from src.config import DataConfig
from src.data.example import Example, ExampleDataset
from src.errors import ConfigError, DataError


@dataclass(frozen=True)
class Questions:
    """Questions of one kind.

    Attributes:
        examples: the questions.
        marking: how free answers are judged.
        stop: strings that end a free answer.
        max_new_tokens: the most tokens of a free answer.
    """

    examples: tuple[Example, ...]
    marking: str
    stop: tuple[str, ...]
    max_new_tokens: int

    @property
    def with_choices(self) -> bool:
        """Whether the questions offer choices."""
        return bool(self.examples[0].choices)

    @property
    def chance(self) -> float:
        """The share that guessing gets right: 0 for free answers."""
        shares = [1 / len(e.choices) if e.choices else 0.0 for e in self.examples]
        return sum(shares) / len(shares)


def load_questions(config: DataConfig) -> Questions:
    """Read the data set. Raises DataError, DownloadError, or ConfigError where a key has no meaning here."""
    dataset = _dataset(config)
    examples = tuple(dataset[: config.limit] if config.limit else dataset)
    if not examples:
        raise DataError(f"{config.name} has no questions for split {config.split!r}, category {config.category!r}.")
    questions = Questions(examples, config.marking or dataset.marking, dataset.stop, dataset.max_new_tokens)
    if config.marking and questions.with_choices:
        raise ConfigError(f"data.marking is {config.marking!r}, but these questions offer choices. Leave it out.")
    return questions


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
    from src.data.custom import QADataset

    return QADataset(
        config.path or "",
        columns=config.columns.model_dump() if config.columns else None,
        marking=config.marking or "exact",
    )


_MEANINGLESS = {
    "mmlu": ("columns", "marking"),
    "gsm8k": ("columns", "category"),
    "quickstart": ("columns", "marking", "path", "shots"),
    "custom": ("split", "category", "shots"),
}


def _check_keys(config: DataConfig) -> None:
    for key in _MEANINGLESS[config.name]:
        if getattr(config, key):
            raise ConfigError(f"data.{key} has no meaning for data.name: {config.name}. Leave it out.")
