"""The results as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.words import SHORT, figure, percent_interval, place, subjects, with_interval

MOST_SUBJECTS = 8
WIDTH = 120  # what the widest table needs


def print_report(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print data, scores per model, what changed, and the verdict."""
    console = console or Console(width=max(WIDTH, Console().width), markup=False, emoji=False)
    data = results["data"]
    split = ", ".join(f"{name} {n:,}" for name, n in data["splits"].items())
    console.print()
    console.print(results["name"], style="bold", end="")
    console.print(f": {data['n']:,} questions ({split}), model {results['model']['name']}")
    for name, variant in results["variants"].items():
        _print_notes(console, name, variant)
        console.print(_scores_table(name, variant))
    if any(variant["tags"] for variant in results["variants"].values()):
        console.print(_tags_table(results["variants"]))
    console.print("Verdict", style="bold")
    for sentence in results["verdict"]:
        console.print(f"  • {sentence}", highlight=False)
    seconds = results.get("seconds", {})
    if seconds:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        peak = results.get("peak_memory_mb")
        memory = f"; peak memory {peak / 1024:.2f} GB" if peak else ""
        console.print(f"Seconds: {parts}{memory}.", style="dim", highlight=False)


def _print_notes(console: Console, name: str, variant: Mapping[str, Any]) -> None:
    if variant["truncated"]:
        console.print(f"  {name}: prompts that were cut to the model's context: {variant['truncated']:,}.")
    for position, count in variant["elsewhere"].items():
        console.print(f"  {name}: {count:,} answers have no token at {position}: their last token was read.")
    for scorer, count in variant["unsaid"].items():
        console.print(f"  {name}: {count:,} times it said nothing of the kind ({SHORT[scorer]}).")
    if set(variant["status"]) != {"answered"}:
        counts = ", ".join(f"{n:,} {status}" for status, n in variant["status"].items())
        console.print(f"  {name}: answers: {counts}.")


def _scores_table(name: str, variant: Mapping[str, Any]) -> Table:
    accuracy = percent_interval(variant["accuracy"]["all"])
    chosen = f", probe on {place(variant)}" if variant["selected"] else ""
    table = Table(title=f"{name}: accuracy {accuracy} on test{chosen}", title_justify="left", box=None, pad_edge=False)
    for column in ("questions", "scorer", "AUROC [95 %]", "Brier", "NLL", "ECE [95 %]", "if calibrated"):
        table.add_column(column, justify="left" if column in ("questions", "scorer") else "right", no_wrap=True)
    scores = variant["scores"]
    parts = list(scores["own_probability"])
    shown = parts if len(parts) <= MOST_SUBJECTS else parts[:1]
    for part in shown:
        for row, scorer in enumerate(s for s in SHORT if part in scores.get(s, {})):
            table.add_row(part if not row else "", SHORT[scorer], *_cells(scores[scorer][part]))
    if len(shown) < len(parts):
        table.caption = f"({len(subjects(parts))} subjects: see report.html)"
        table.caption_justify = "left"
    return table


def _cells(score: Mapping[str, Any]) -> list[str]:
    auroc = with_interval(score["auroc"]) if score["auroc"]["value"] is not None else "undefined"
    if "ece" not in score:
        return [auroc, "", "", "", ""]
    null = f"{figure(score['ece']['calibrated_mean'])} (≤ {figure(score['ece']['calibrated_q95'])})"
    return [
        auroc,
        figure(score["brier"]["value"]),
        figure(score["nll"]["value"]),
        with_interval(score["ece"]),
        null,
    ]


def _tags_table(variants: Mapping[str, Any]) -> Table:
    table = Table(title="by tag, on test", title_justify="left", box=None, pad_edge=False)
    table.add_column("tag")
    table.add_column("n", justify="right")
    for name in variants:
        table.add_column(f"{name} accuracy", justify="right")
        table.add_column(f"{name} own prob.", justify="right")
    tags = next(iter(variants.values()))["tags"]
    for tag, first in tags.items():
        cells = []
        for variant in variants.values():
            entry = variant["tags"][tag]
            cells += [percent_interval(entry["accuracy"]), figure(entry["mean_own_probability"])]
        table.add_row(tag, str(first["n"]), *cells)
    return table
