"""Write docs/configuration.md from the schema, so that the page and the program never differ (`make docs`)."""

import json
from pathlib import Path
from typing import Any

from src.config.schema import Config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRODUCTION = """\
# The configuration

A YAML file with the sections below; `configs/` holds examples. Only `model.name` must be given. Every setting can be
changed on the command line: `--set data.limit=100`. Unknown keys, wrong types, secrets, aliases and tags are errors.
Plain `true`, `false`, `null` and decimal numbers mean themselves; everything else (`no`, `010`, `2024-01-31`) is text.
This page is written by `make docs`.
"""


def page() -> str:
    schema = Config.model_json_schema()
    parts = [INTRODUCTION]
    for name, section in schema["properties"].items():
        definition = schema["$defs"][_reference(section)]
        parts += [f"\n## {name}\n", f"{definition['description']}\n"]
        parts += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        for key, field in definition["properties"].items():
            allowed = _allowed(field, schema)
            default = _default(field) if key not in definition.get("required", []) else "(needed)"
            parts.append(f"| `{key}` | {default} | {allowed} | {' '.join(field['description'].split())} |")
    return "\n".join(parts) + "\n"


def _reference(field: dict[str, Any]) -> str:
    options = [field, *field.get("anyOf", []), *field.get("allOf", [])]
    return next(option["$ref"] for option in options if "$ref" in option).rsplit("/", 1)[1]


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value == []:
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(field: dict[str, Any], schema: dict[str, Any]) -> str:
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(_one(option, schema) for option in options)


def _one(option: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in option:
        keys = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]["properties"]
        return "a section: " + ", ".join(f"`{key}`" for key in keys)
    if "enum" in option or "const" in option:
        return ", ".join(f"`{value}`" for value in option.get("enum", [option.get("const")]))
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "array": "list",
    }
    named = option.get("items", {}).get("enum")
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    limit = "".join(f" {word} {option[key]}" for key, word in limits.items() if key in option)
    return words[option["type"]] + limit + (f" of {', '.join(f'`{name}`' for name in named)}" if named else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
