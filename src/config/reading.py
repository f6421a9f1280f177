"""Plain values from YAML text, which may be hostile, or mean something else than its writer thinks.

YAML 1.1, as PyYAML reads it, turns `no` into false, `010` into 8, `12:30` into 750 and leaves `1e-3` a text.
Here true, false, null and decimal numbers mean themselves and everything else is text (the core schema of
YAML 1.2, less octal and hexadecimal numbers).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from src import storage
from src.errors import ConfigError

MAX_BYTES = 1 << 20
_RESOLVERS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
}


class _StrictLoader(yaml.SafeLoader):
    """No aliases (a few lines of them can fill the memory), no tags (code, dates), no key twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's way to start without its own)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.events.AliasEvent):
            raise ConfigError(f"Line {line}: YAML aliases (*name) are not allowed here. Write the value out.")
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"Line {line}: the YAML tag {event.tag!r} is not allowed here. Quote a text instead.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"Line {line}: a key must be a text. Quote it if it is meant as one.")
            if key in lines:
                raise ConfigError(
                    f"The key {key!r} stands on line {lines[key]} and again on line {line}. Keep one of them."
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


for _tag, (_pattern, _first) in _RESOLVERS.items():
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever another reader of YAML, or the one above, would take for something else than text."""


for _tag, (_pattern, _first) in _RESOLVERS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def write_yaml(values: Any) -> str:
    """YAML text that `read_yaml` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file. Raises ConfigError naming the line where it can."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size:,} bytes; a configuration has at most {MAX_BYTES:,}.")
        text = storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start:,}). Save it as UTF-8.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"The configuration {path} cannot be read: {error}. Check the path.") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path} holds {found} (line 1); sections such as model: and data: are needed.")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value a YAML text means; `where` names it in errors."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where} is not plain YAML: line {line}: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not plain YAML: {' '.join(str(error).split())}.") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise ConfigError(f"{where}: {error}") from None
        raise ConfigError(f"{where} holds a value that is none: {error}. Quote it if it is text.") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply for a configuration.") from error
