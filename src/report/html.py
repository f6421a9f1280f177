"""The report of a run: one HTML file, from the content of its results.json and nothing else."""

from collections.abc import Mapping
from typing import Any

import yaml

from src.report.adapters import are_several, measures, rows
from src.report.cards import four_cards
from src.report.drawings import drawings, drawn_models
from src.report.elsewhere import tables
from src.report.pages import render_page
from src.report.words import METRIC_NAMES, SHORT, SMALL_N, subjects

_SECTIONS = {
    "answer": "The answer in full",
    "adapters": "Over the adapters",
    "knows": "Where it knows, and how well",
    "trust": "Can its confidence be believed?",
    "sure": "Answering only when sure",
    "adds": "What the probe adds",
    "elsewhere": "Where the probe was not trained",
    "change": "Tuned against base",
    "subjects": "By subject",
    "examples": "Confident and wrong, unsure and right",
    "numbers": "All numbers",
    "made": "How this was made",
}
_IN_TABLE = ("n", "auroc", "brier", "nll", "ece", "ece_mass")  # of "All numbers"; the others get a table of their own


def render_html(results: Mapping[str, Any]) -> str:
    """The report of one run from the content of its results.json (schema 4); equal results give equal bytes."""
    variants, comparisons = results["variants"], results["comparisons"]
    names = subjects(next(iter(variants.values()))["accuracy"])
    advantages = _advantages(variants)
    gains = _gains(variants)
    elsewhere = tables(variants)
    absent = {
        "adapters": not are_several(results),
        "adds": not (gains or advantages or any(one["disagreement"]["n"] for one in comparisons.values())),
        "elsewhere": not (elsewhere["kinds"] or elsewhere["unknown"]),
        "change": not comparisons,
        "subjects": not names,
    }
    return render_page(
        "report.html",
        r=results,
        four=four_cards(results),
        sections={key: title for key, title in _titles(results).items() if not absent.get(key)},
        drawn=drawings(results),
        shown=drawn_models(results),
        subjects=names,
        gains=_by_part(gains, names, at=1),
        advantages=_by_part(advantages, names, at=2),
        elsewhere=elsewhere,
        over=_over_adapters(results) if are_several(results) else {},
        changes={name: _changes(comparison, names) for name, comparison in comparisons.items()},
        per_subject=_per_subject(variants, names),
        examples=_examples(variants),
        wholes={name: _whole(variant) for name, variant in variants.items()},
        config=yaml.safe_dump(dict(results["config"]), sort_keys=False, allow_unicode=True),
    )


def _titles(results: Mapping[str, Any]) -> dict[str, str]:
    """Of several adapters what is counted by their steps is called checkpoints."""
    if not are_several(results):
        return _SECTIONS
    over = "Over the adapters" if results["model"]["steps_from"] == "place" else "Over the checkpoints"
    return _SECTIONS | {"adapters": over, "change": "Each adapter against base"}


def _over_adapters(results: Mapping[str, Any]) -> dict[str, Any]:
    known = measures(results)
    columns = [title for one in known for title in (one.title, "minus base")]
    return {"columns": columns, "shares": [one.is_share for one in known], "rows": rows(results)}


def _by_part(found: list[Any], names: list[str], *, at: int) -> dict[str, list[Any]]:
    """Rows about the whole apart from those about a subject; `at` is where a row names its questions."""
    return {
        "whole": [row for row in found if row[at] not in names],
        "subjects": [row for row in found if row[at] in names],
    }


def _gains(variants: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(model, questions, gain)."""
    return [(name, part, gain) for name, v in variants.items() for part, gain in v["gain"].items()]


def _advantages(variants: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """(model, the other scorer, questions, difference)."""
    return [
        (name, against.removeprefix("probe_over_"), part, difference)
        for name, variant in variants.items()
        for against, parts in variant["advantages"].items()
        for part, difference in parts.items()
    ]


def _changes(comparison: Mapping[str, Any], names: list[str]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """(metric, scorer, questions, difference) but for subjects; accuracy is the model's and stands there once."""
    rows = [
        (metric, scorer, part, change)
        for scorer in SHORT
        for part, found in comparison["scores"].get(scorer, {}).items()
        for metric in METRIC_NAMES
        if part not in names and (change := found.get(metric))
    ]
    accuracy = [row for row in rows if row[:2] == ("accuracy", "own_probability")]
    return accuracy + [row for row in rows if row[0] != "accuracy"]


def _per_subject(variants: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Columns and rows of the table of subjects: AUROC of each scorer, and drawn to all subjects."""
    scorers = [s for s in SHORT if any(names and names[0] in v["scores"].get(s, {}) for v in variants.values())]
    rows = []
    for subject in names:
        for name, variant in variants.items():
            accuracy = variant["accuracy"][subject]
            found = [variant["scores"].get(s, {}).get(subject, {}).get("auroc") for s in scorers]
            numbers = [number for auroc in found for number in (auroc, (auroc or {}).get("shrunk"))]
            rows.append({"subject": subject, "model": name, "n": accuracy["n"], "accuracy": accuracy,
                         "scores": numbers})  # fmt: skip
    columns = [title for s in scorers for title in (f"AUROC, {SHORT[s]}", "drawn to all")]
    return {"columns": columns, "rows": rows, "small": SMALL_N}


def _examples(variants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of examples, the last model's first: that is the one a reader wants to know about."""
    titles = {"wrong": "the most confident wrong answers", "right": "the least confident right answers"}
    return [
        {"title": f"{name}, by {'the ' * (scorer == 'probe')}{SHORT[scorer]}: {title}", "rows": rows}
        for name, variant in reversed(list(variants.items()))
        for scorer, kinds in variant["examples"].items()
        for kind, title in titles.items()
        if (rows := kinds[kind])
    ]


def _whole(variant: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that only the main scorers have, one row each."""
    scores = {s: variant["scores"][s]["all"] for s in SHORT if "all" in variant["scores"].get(s, {})}
    metrics = [m for m in METRIC_NAMES if m not in _IN_TABLE and any(m in found for found in scores.values())]
    scorers = [s for s, found in scores.items() if any(metric in found for metric in metrics)]
    return {
        "columns": [SHORT[s] for s in scorers],
        "rows": [(METRIC_NAMES[metric], [scores[s].get(metric) for s in scorers]) for metric in metrics],
    }
