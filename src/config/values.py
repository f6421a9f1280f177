"""What a value in the configuration may be: paths, layers, positions, and a section without unknown keys."""

import os
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from src import storage


def _with_home(path: str) -> str:
    """`~` expanded: the shell has not done it in a YAML file."""
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    if expanded.startswith("~"):
        raise ValueError("there is no such user's home folder")
    return expanded


def _output_folder(path: str) -> str:
    if storage.is_url(path):
        return path
    if not path.strip() or "\0" in path:
        raise ValueError("the path of a folder is needed")
    if re.search(r"\$\w|\$\{|%\w+%", path):
        raise ValueError("environment variables are not filled in here: write the path out, or use --set in a shell")
    return _with_home(path)


def _layers(value: Any) -> Any:
    """Block numbers stay whole numbers: lax typing would read `true` as 1 and 1.0 as 1."""
    if value == "all":
        return value
    allowed = "a list of block numbers such as [8, 16, -1], embeddings and final_norm, or all, is needed"
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise ValueError(allowed)
    for item in items:
        if item not in ("embeddings", "final_norm") and (isinstance(item, bool) or not isinstance(item, int)):
            raise ValueError(f"{item!r} is no layer: {allowed}")
    for item in items:
        if items.count(item) > 1:
            raise ValueError(f"the layer {item!r} is named twice")
    return items


InputPath = Annotated[str, AfterValidator(_with_home)]
OutputFolder = Annotated[str, AfterValidator(_output_folder)]


def _one_or_several(value: Any, allowed: tuple[str, ...], what: str) -> Any:
    """One is a list of one."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise ValueError(f"a {what} or a list of them is needed: {', '.join(allowed)}")
    for item in items:
        if item not in allowed:
            raise ValueError(f"{item!r} is no {what}: allowed are {', '.join(allowed)}")
        if items.count(item) > 1:
            raise ValueError(f"the {what} {item!r} is named twice")
    return items


def positions(value: Any) -> Any:
    """One position or several, none twice."""
    return _one_or_several(value, get_args(Position), "position")


def families(value: Any) -> Any:
    """One family of probes or several, none twice."""
    return _one_or_several(value, get_args(Family), "family")


Position = Literal[
    "last_prompt", "mean_prompt", "answer_letter", "end_of_thinking", "chunk_ends", "first_answer", "last_answer",
    "mean_answer", "attention_answer", "before_exact_answer", "exact_answer_first", "exact_answer_last",
    "after_exact_answer",
]  # fmt: skip
Family = Literal["logistic", "mean_difference", "mlp"]
Share = Annotated[float, Field(gt=0, lt=1)]
Layers = Annotated[tuple[int | str, ...] | Literal["all"], BeforeValidator(_layers)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
