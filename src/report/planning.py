"""What so many labels show, as people read it on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.console import make_console
from src.report.words import figure, percent

_NAMES = {"accuracy": "accuracy", "auroc": "AUROC", "brier": "Brier score", "ece": "ECE"}

Plain = Mapping[str, Any]


def print_labels(plan: Plain, *, console: Console | None = None) -> None:
    """A table and what it says (`LabelPlan.as_plain`)."""
    console = console or make_console(100)
    console.print(_assumed(plan))
    table = Table(box=None, pad_edge=False)
    table.add_column("of the own probability")
    for title in ("base", "tuned", "difference", "labels", "of these, test"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in plan["metrics"].items():
        table.add_row(_NAMES[name], *_cells(name, one))
    console.print(table)
    for sentence in label_sentences(plan):
        console.print(sentence)


def label_sentences(plan: Plain) -> list[str]:
    """What is shown, and what is not."""
    shown = [(name, one) for name, one in plan["metrics"].items() if one["after"] is not None]
    missed = [(name, one) for name, one in plan["metrics"].items() if one["after"] is None]
    by_labels = plan["labels"] is not None
    sentences = []
    if shown and by_labels:
        n = shown[0][1]["test_questions"]
        sentences.append(
            f"With {plan['labels']:,} labels ({n:,} test questions), a change of at least "
            f"{', '.join(f'{_size(name, one)} in {_NAMES[name]}' for name, one in shown)} is shown with a probability "
            f"of {100 * plan['power']:g}%."
        )
    elif shown:
        needed = ", ".join(f"{one['labels']:,} for {_NAMES[name]}" for name, one in shown)
        sentences.append(
            f"To show a change of {figure(plan['difference'])} with a probability of {100 * plan['power']:g}%, this "
            f"many labels are needed: {needed}."
        )
    if (floor := plan["metrics"].get("ece", {}).get("floor")) is not None:
        n = plan["metrics"]["ece"]["test_questions"]
        sentences.append(f"A perfectly calibrated model would score an ECE of {figure(floor)} on {n:,} test questions.")
    return sentences + [_missed(name, one, plan) for name, one in missed]


def _missed(name: str, one: Plain, plan: Plain) -> str:
    largest = _size(name, {"difference": one["largest"]})
    if plan["labels"] is not None:
        return f"No {_way(name)} in {_NAMES[name]} is shown: even the largest there can be ({largest}) is too small."
    if plan["difference"] > one["largest"]:
        return f"{_NAMES[name]} cannot {_way(name)} by {_size(name, plan)} here: {largest} is the most there can be."
    return f"For {_NAMES[name]}, even 10 million labels are too few."


def _assumed(plan: Plain) -> str:
    assumed = plan["assumed"]
    return (
        f"{'From ' + plan['run'] if plan['run'] else 'Assumed'}: the base model is right in "
        f"{percent(assumed['accuracy'])} of the questions; its confidence has AUROC {figure(assumed['auroc'])} and ECE "
        f"{figure(assumed['ece'])}; {percent(assumed['changed'])} of the questions are right in only one of base and "
        f"tuned. {percent(plan['test_share'])} of the labels are test questions."
    )


def _cells(name: str, one: Plain) -> list[str]:
    show = percent if name == "accuracy" else figure
    counts = ["none" if one[key] is None else f"{one[key]:,}" for key in ("labels", "test_questions")]
    if one["after"] is None:
        return [show(one["before"]), "none", "none", *counts]
    change = one["after"] - one["before"]
    return [show(one["before"]), show(one["after"]), show(change, signed=True), *counts]


def _way(name: str) -> str:
    return "fall" if name == "brier" else "rise"


def _size(name: str, one: Plain) -> str:
    return f"{100 * one['difference']:.1f} points" if name == "accuracy" else figure(one["difference"])
