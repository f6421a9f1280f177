"""What pydantic found, as one sentence: key, value, what is allowed, and what the key is for."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from src.config.schema import Config

_ALLOWED = {
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "bool_type": "true or false is needed",
    "string_type": "a text is needed (quote it to make it one)",
    "string_too_short": "it must not be empty",
    "tuple_type": "a list is needed, such as [a]",
    "model_type": "a section is needed: keys below it, indented",
}


def explain(error: ValidationError) -> str:
    """The most telling of the errors; an unknown key comes first, since it often explains a missing one."""
    found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")[0]
    path = _within_fields([str(part) for part in found["loc"]])
    key, about = ".".join(path), _description(path)
    if found["type"] == "extra_forbidden":
        return f"Unknown key {key!r}. {_meant(path)}"
    if found["type"] == "missing":
        return f"The key {key!r} is missing. {about}".strip()
    allowed = _allowed(found)
    return f"{key} is {_shown(found['input'])}, but {allowed}. {about}".strip() if key else f"{allowed}."


def _shown(value: Any) -> str:
    """The value as one would write it in the file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text:.80}…"


def _allowed(found: Any) -> str:
    context = found.get("ctx") or {}
    if found["type"] == "literal_error":
        return f"allowed is {context['expected']}"
    if "ge" in context:
        return f"at least {context['ge']} is needed"
    if "gt" in context:
        return f"more than {context['gt']} is needed"
    if "le" in context:
        return f"at most {context['le']} is possible"
    if found["type"] == "too_long":
        return f"at most {context['max_length']} is possible"
    message: str = found["msg"].removeprefix("Value error, ")
    return _ALLOWED.get(str(found["type"]), message)


def _meant(path: list[str]) -> str:
    """The nearest key beside the unknown one, or the same key in another section."""
    *sections, leaf = path
    known = list(_section(sections).model_fields)
    elsewhere = [key for key in _all_keys() if key.rsplit(".", 1)[-1] == leaf]
    close = difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {'.'.join([*sections, close[0]])!r}?"
    if elsewhere:
        return f"Did you mean {elsewhere[0]!r}?"
    return f"Known here: {', '.join(known)}."


def _all_keys() -> Iterator[str]:
    for name in Config.model_fields:
        for leaf in _section([name]).model_fields:
            yield f"{name}.{leaf}"


def _within_fields(path: list[str]) -> list[str]:
    """Without what pydantic adds below a setting: the type that it tried of several."""
    model: type[BaseModel] | None = Config
    for place, part in enumerate(path):
        if part.isdecimal():  # of a list, which one
            continue
        if model is None:
            return path[:place]
        field = model.model_fields.get(part)
        model = _below(field.annotation) if field is not None else None
    return path


def _section(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for part in path:
        if not part.isdecimal():
            model = _below(model.model_fields[part].annotation) or model
    return model


def _below(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _description(path: list[str]) -> str:
    """The field's own sentence; of a list, the list's."""
    while path and path[-1].isdecimal():
        path = path[:-1]
    if not path:
        return ""
    field = _section(path[:-1]).model_fields.get(path[-1])
    return f"({field.description})" if field is not None and field.description else ""
