"""The page of several runs compared: from what `confprobe report RUN RUN... --json` prints, and nothing else."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from src.report import plots
from src.report.pages import render_page
from src.report.svg import svg
from src.report.words import METRIC_NAMES

_SECTIONS = {
    "answer": "The answer in full",
    "differences": "Each against the first",
    "disagreement": "Where only one of two is right",
    "models": "What is compared",
}


def render_comparison(compared: Mapping[str, Any]) -> str:
    """One page about several models, from "Runs compared" of docs/results.md; equal input gives equal bytes."""
    metrics = ("accuracy", "auroc", "ece")
    return render_page(
        "comparison.html",
        c=compared,
        sections=_SECTIONS,
        drawn=[svg(partial(plots.sides, compared["sides"], metric), f"sides-{metric}") for metric in metrics],
        changes=[_changes(one["scores"]) for one in compared["differences"]],
    )


def _changes(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(metric, scorer, difference); accuracy is the model's and stands there once, in front."""
    rows = [
        (metric, scorer, found[metric])
        for scorer, found in scores.items()
        for metric in METRIC_NAMES
        if metric in found
    ]
    return [row for row in rows if row[0] == "accuracy"][:1] + [row for row in rows if row[0] != "accuracy"]
