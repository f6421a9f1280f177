"""The YAML of a run: strict, one sentence per field, and an error that names key, value and what is allowed."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from src.errors import ConfigError

MAX_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ExperimentConfig(_Section):
    """What the run is called and what fixes its random numbers."""

    name: str = "experiment"
    """Shown in the report."""
    seed: StrictInt = 42
    """Decides which question is in which split, the bootstrap resamples and the shuffled labels."""


class ModelConfig(_Section):
    """The model that is asked."""

    name: str
    """Hub id or local folder."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    quantization: Literal["8bit", "4bit"] | None = None
    """bitsandbytes quantisation."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: as the weights were saved."""
    tinker_lora_path: str | None = None
    """A PEFT adapter folder: makes the run a comparison of base and tuned."""


class TinkerConfig(_Section):
    """A checkpoint to convert before the model is loaded."""

    enabled: StrictBool = True
    """false: this section is ignored."""
    checkpoint_path: str
    """The checkpoint archive."""
    download_weights: StrictBool = True
    """Convert it before loading; false: output_dir already holds the result."""
    output_dir: str
    """Gets peft_adapter/ and checkpoint_info.json."""

    @property
    def adapter_folder(self) -> str:
        """Where the converted adapter lies."""
        return str(Path(self.output_dir) / "peft_adapter")


class DataConfig(_Section):
    """The questions."""

    name: Literal["mmlu", "gsm8k", "quickstart", "custom"]
    """Which data set."""
    path: str | None = None
    """A local folder or file instead of the hub; custom: the JSONL file."""
    split: str | None = None
    """A split of the data set; none: test (quickstart: all)."""
    category: str | None = None
    """A category or subject of MMLU or of the quickstart world."""
    shots: StrictInt = Field(0, ge=0)
    """Solved examples before each question."""
    limit: StrictInt | None = Field(None, ge=1)
    """Use the first so many questions only."""
    columns: dict[str, str] | None = None
    """custom only: the file's own names, such as {question: q, answer: a}."""
    marking: Literal["exact", "contains", "numeric", "gsm8k_strict", "gsm8k_flexible"] | None = None
    """How free answers are judged; none: the data set's own rule."""
    truncation: Literal["left", "right"] | None = None
    """Prompts over the model's context: none is an error; left or right cuts, counted and reported."""


class ExtractionConfig(_Section):
    """Which hidden states are read."""

    layers: tuple[StrictInt | Literal["embeddings", "final_norm"], ...] | Literal["all"] = "all"
    """Decoder blocks counted from 0 (negative from the end), embeddings, final_norm, or all blocks."""
    position: Literal["last_prompt"] = "last_prompt"
    """The token whose state is read: the last one of the prompt."""
    cache_dir: str | None = None
    """Where states are kept between runs; none: not kept."""


class ProbeConfig(_Section):
    """The probe."""

    family: Literal["logistic"] = "logistic"
    """Standardised L2 logistic regression."""


class EvaluationConfig(_Section):
    """How numbers and their intervals are computed."""

    bootstrap: StrictInt = Field(2000, ge=100)
    """Resamples of the questions behind every interval."""
    bins: StrictInt = Field(15, ge=1)
    """Equal-width bins of ECE and of the reliability diagrams."""


class RunConfig(_Section):
    """Where the results go."""

    dir: str
    """Gets config.yaml, results.json, questions.csv and report.html."""


class Config(_Section):
    """One run."""

    experiment: ExperimentConfig = ExperimentConfig()
    model: ModelConfig
    tinker: TinkerConfig | None = None
    data: DataConfig
    extraction: ExtractionConfig = ExtractionConfig()
    probe: ProbeConfig = ProbeConfig()
    evaluation: EvaluationConfig = Field(default_factory=lambda: EvaluationConfig.model_validate({}))
    run: RunConfig

    @model_validator(mode="after")
    def _sections_agree(self) -> "Config":
        if self.data.name == "custom" and not self.data.path:
            raise ValueError("data.name is custom, but data.path (the JSONL file) is not given")
        tinker = self.tinker
        given = self.model.tinker_lora_path
        if tinker and tinker.enabled and given and Path(given) != Path(tinker.adapter_folder):
            raise ValueError(
                f"model.tinker_lora_path is {given!r}, but tinker.output_dir makes {tinker.adapter_folder!r}: "
                "make them agree, or leave model.tinker_lora_path out"
            )
        return self

    @property
    def adapter_folder(self) -> str | None:
        """The adapter to compare with the base model, or None."""
        if self.tinker and self.tinker.enabled:
            return self.tinker.adapter_folder
        return self.model.tinker_lora_path


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration.

    Args:
        source: a YAML file, a dictionary of the same shape, or a `Config`.
        overrides: {"a.b": value}, applied last; a value from the command line may be its YAML text.

    Raises:
        ConfigError: no such file, not plain YAML, or a key or value that is not allowed.
    """
    if isinstance(source, Config):
        values: Any = source.model_dump(mode="json")
    elif isinstance(source, Mapping):
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in source.items()}
    else:
        values = _read_yaml(Path(source))
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explained(error, values)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """Split "a.b=c" into ("a.b", c), with c read as YAML. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form a.b=value.")
    return key.strip(), _parse(value, f"--set {key}")


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {section!r} is a value, not a section.")
    values[last] = value


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML: no aliases (a few lines of them can fill the memory) and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise ConfigError(f"Line {event.start_mark.line + 1}: YAML aliases (*name) are not allowed here.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in lines:
                raise ConfigError(f"The key {key!r} stands on line {lines[key]} and again on line {line}.")
            lines[key] = line
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size:,} bytes; a configuration has at most {MAX_BYTES:,}.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}") from error
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path} holds {found}; sections such as model: and data: are needed.")
    return values


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not plain YAML: {' '.join(str(error).split())}") from error


def _explained(error: ValidationError, values: Any) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("tuple[", "literal[", "function-"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        meant = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(known)}."
        return f"Unknown key {key!r}. {meant}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing. {_sentence(path)}".strip()
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{message}."
    return f"{key} is {first['input']!r}, but: {message}. {_sentence(path)}".strip()


def _section(path: list[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model


def _known_keys(path: list[str]) -> list[str]:
    model = _section(path)
    return list(model.model_fields) if model else []


def _sentence(path: list[str]) -> str:
    """The field's own description, to end an error with what the key is for."""
    model = _section(path[:-1])
    field = model.model_fields.get(path[-1]) if model and path else None
    return f"({field.description})" if field is not None and field.description else ""
