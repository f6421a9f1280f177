"""A configuration from a file, a dictionary or another configuration, with settings changed on the way."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from src import storage
from src.config.explaining import explain
from src.config.reading import parse_yaml, read_yaml
from src.config.schema import Config
from src.errors import ConfigError, holds_secret

_SECRET_KEYS = re.compile(r"(.*_)?(api_?key|token|secret|password|credentials?)", re.IGNORECASE)


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration.

    Args:
        source: a YAML file, a dictionary of the same shape, or a `Config`.
        overrides: {"a.b": value}, applied last.

    Raises:
        ConfigError: no such file, not plain YAML, a key or value that is not allowed, or a secret.
    """
    if isinstance(source, Config):
        values: Any = source.model_dump(mode="json")
    elif isinstance(source, Mapping):
        values = _copied(source)
    else:
        values = read_yaml(storage.place(source))
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    _refuse_secrets(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _copied(value: Any) -> Any:
    """Sections and lists of one's own: what is overridden here stays as it is for the caller."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def parse_override(text: str) -> tuple[str, Any]:
    """Split "a.b=c" into ("a.b", c), with c read as YAML. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form a.b=value, such as data.limit=100.")
    try:
        return key.strip(), parse_yaml(value, f"--set {key}")
    except ConfigError as error:
        hint = " A text with : { or % in it needs quotes of its own, inside those of the shell: --set 'a.b=\"...\"'."
        raise ConfigError(f"{error}{hint}") from error


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {section!r} is a value, not a section.")
    values[last] = value


def _refuse_secrets(values: Mapping[str, Any]) -> None:
    """A file is shared and the run's folder keeps a copy; the value itself is never repeated."""
    for path, value in _leaves(values, ()):
        if _SECRET_KEYS.fullmatch(path[-1]) and value is not None:
            raise ConfigError(
                f"{'.'.join(path)} is a secret, and secrets do not belong in a file. Set it in the environment: "
                "TINKER_API_KEY for Tinker, HF_TOKEN for the Hugging Face hub."
            )
        if isinstance(value, str) and holds_secret(value):
            raise ConfigError(
                f"The value of {'.'.join(path)} looks like a key or a signed address, which do not belong in a file. "
                "Set keys in the environment (TINKER_API_KEY, HF_TOKEN); name a checkpoint by its tinker:// path."
            )


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, path)
    elif path:
        yield path, value
