"""The results as a table on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.adapters import are_several, by_step, clearly, measures, value_of
from src.report.console import make_console
from src.report.elsewhere import beside_the_headline
from src.report.words import (
    DISAGREEING,
    SHORT,
    decisions,
    figure,
    percent_interval,
    short_name,
    subjects,
    with_interval,
)

MOST_SUBJECTS = 8


def print_report(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print data, scores per model, what changed, and the verdict."""
    console = console or make_console()
    data = results["data"]
    split = ", ".join(f"{name} {n:,}" for name, n in data["splits"].items())
    console.print()
    console.print(results["name"], style="bold", end="")
    console.print(f": {data['n']:,} questions ({split}), model {results['model']['name']}")
    if states := results.get("states_from"):
        verified = "compared with the model" if states["verified"] else "not compared with the model"
        console.print(f"  The hidden states are from {states['folder']}, {verified}.")
    shown = _in_full(results)
    for name, variant in results["variants"].items():
        _print_notes(console, name, variant)
        if name not in shown:
            continue
        console.print(_scores_table(name, variant))
        for line in beside_the_headline(variant) + decisions(variant):
            console.print(f"  {line}")
    if any(variant["tags"] for variant in results["variants"].values()):
        console.print(_tags_table({name: results["variants"][name] for name in shown}))
    if are_several(results):
        console.print(_adapters_table(results))
    elif results["comparisons"]:
        disagreement = results["comparisons"]["tuned"]["disagreement"]
        if disagreement["n"]:
            console.print(_disagreement_table(disagreement, base="base", tuned="tuned"))
    _print_verdict(console, results["verdict"])
    seconds = results.get("seconds", {})
    if seconds:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        peak = results.get("peak_memory_mb")
        memory = f"; peak memory {peak / 1024:.2f} GB" if peak else ""
        console.print(f"Seconds: {parts}{memory}.", style="dim")


def _in_full(results: Mapping[str, Any]) -> list[str]:
    """The models that are printed in full: of several adapters the last, beside the base model."""
    return ["base", by_step(results)[-1][0]] if are_several(results) else list(results["variants"])


def print_comparison(compared: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print several models side by side, each against the first, and the verdict (docs/results.md, "Runs compared")."""
    console = console or make_console()
    console.print(f"\nOn the {compared['shared']['n']:,} test questions that they share:")
    table = _table("", ("model", "accuracy", "AUROC own", "ECE own", "AUROC probe"))
    for side in compared["sides"]:
        own, probe = (side["scores"].get(scorer, {}) for scorer in ("own_probability", "probe"))
        shown = (with_interval(scores[metric]) if scores else "" for scores, metric in
                 ((own, "auroc"), (own, "ece"), (probe, "auroc")))  # fmt: skip
        table.add_row(side["label"], percent_interval(side["accuracy"]), *shown)
    console.print(table)
    table = _table("differences", ("model", "minus", "confidence", "accuracy", "AUROC", "ECE"), text=3)
    for one in compared["differences"]:
        for row, (scorer, found) in enumerate(one["scores"].items()):
            sides = (one["label"], one["against"]) if not row else ("", "")
            accuracy = percent_interval(found["accuracy"], signed=True) if not row else ""
            changes = (with_interval(found[metric], signed=True) for metric in ("auroc", "ece"))
            table.add_row(*sides, SHORT[scorer], accuracy, *changes)
    console.print(table)
    for one in compared["differences"]:
        if one["disagreement"]["n"]:
            between = f"{one['label']} and {one['against']}"
            names = {"first": one["against"], "second": one["label"]}
            console.print(_disagreement_table(one["disagreement"], between, **names))
    _print_verdict(console, compared["verdict"])


def _adapters_table(results: Mapping[str, Any]) -> Table:
    """The main numbers; * marks what is clearly another than the base model's."""
    known = [one for one in measures(results) if one.best or (one.metric, one.scorer) == ("auroc", "probe")]
    marked = [[*better, *worse] for better, worse in (clearly(results, one) for one in known)]
    table = _table("over the adapters (*: clearly another than base)", ("model", "step", *(one.title for one in known)))
    for name, step in (("base", ""), *by_step(results)):
        shown = (
            (percent_interval if one.is_share else with_interval)(number) + ("*" if name in names else "")
            if (number := value_of(results, name, one)) else ""
            for one, names in zip(known, marked, strict=True)
        )  # fmt: skip
        table.add_row(short_name(name), str(step), *shown)
    return table


def _print_verdict(console: Console, sentences: Sequence[str]) -> None:
    console.print("Verdict", style="bold")
    for sentence in sentences:
        console.print(f"  • {sentence}")


def _table(title: str, columns: Sequence[str], *, text: int = 1) -> Table:
    """`text`: how many of the columns, from the left, hold words."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text else "right")
    return table


def _disagreement_table(found: Mapping[str, Any], between: str = "the two", **models: str) -> Table:
    """`models`: the names of the two that `found` has numbers of, by its keys."""
    title = f"AUROC on the {found['n']:,} test questions that only one of {between} got right"
    table = _table(title, ("confidence", *models.values()))
    for scorer, name in DISAGREEING.items():
        if any(scorer in found[model] for model in models):
            cells = (with_interval(found[model][scorer]) if scorer in found[model] else "" for model in models)
            table.add_row(name, *cells)
    return table


def _print_notes(console: Console, name: str, variant: Mapping[str, Any]) -> None:
    if variant["truncated"]:
        console.print(f"  {name}: prompts that were cut to the model's context: {variant['truncated']:,}.")
    for scorer, count in variant.get("shortened", {}).items():
        console.print(f"  {name}: {count:,} times it was asked again without its prompt's beginning ({SHORT[scorer]}).")
    for position, count in variant["elsewhere"].items():
        console.print(f"  {name}: {count:,} answers have no token at {position}: their last token was read.")
    for scorer, count in variant["unsaid"].items():
        console.print(f"  {name}: {count:,} times it said nothing of the kind ({SHORT[scorer]}).")
    if set(variant["status"]) != {"answered"}:
        counts = ", ".join(f"{n:,} {status}" for status, n in variant["status"].items())
        console.print(f"  {name}: answers: {counts}.")


def _scores_table(name: str, variant: Mapping[str, Any]) -> Table:
    accuracy = percent_interval(variant["accuracy"]["all"])
    table = Table(title=f"{name}: accuracy {accuracy} on test", title_justify="left", box=None, pad_edge=False)
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
    columns = ((f"{short_name(name)} accuracy", f"{short_name(name)} own prob.") for name in variants)
    of_models = (column for both in columns for column in both)
    table = _table("by tag, on test", ("tag", "n", *of_models))
    tags = next(iter(variants.values()))["tags"]
    for tag, first in tags.items():
        cells = []
        for variant in variants.values():
            entry = variant["tags"][tag]
            cells += [percent_interval(entry["accuracy"]), figure(entry["mean_own_probability"])]
        table.add_row(tag, str(first["n"]), *cells)
    return table
