"""The figures of a run's report, section by section."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from src.report import plots
from src.report.adapters import are_several, by_step
from src.report.elsewhere import held_out
from src.report.plots.style import DISTINCT, looks
from src.report.svg import svg
from src.report.words import SHORT, subjects

MOST_SUBJECTS = 60  # that a figure can hold
MOST_GROUPS = 12  # that a matrix can
_CONFIDENCES = ("own_probability", "probe")
_A_PAIR = 2


def drawings(results: Mapping[str, Any]) -> dict[str, list[Markup]]:
    """Section of the report -> its figures; what a run does not have is left out."""
    every, variants = results["variants"], drawn_models(results)
    found = {
        "knows": [*_layers(variants), *(partial(plots.base_against_tuned, variants, m) for m in ("auroc", "ece"))],
        "trust": _trust(variants),
        "sure": _sure(variants),
        "adapters": _over_adapters(results),
        "subjects": _subjects(every),
        "elsewhere": _elsewhere(variants),
    }
    return {
        section: [svg(draw, f"{section}-{number}") for number, draw in enumerate(draws)]
        for section, draws in found.items()
    }


def drawn_models(results: Mapping[str, Any]) -> dict[str, Any]:
    """The models that figures show side by side: of many adapters five, from the first step to the last."""
    variants, names = results["variants"], [name for name, _ in by_step(results)]
    if len(names) > DISTINCT:
        names = [names[round(place * (len(names) - 1) / (DISTINCT - 1))] for place in range(DISTINCT)]
    return {name: variants[name] for name in variants if name in ("base", *names)}


def _layers(variants: Mapping[str, Any]) -> list[partial[Any]]:
    probed = {name: variant for name, variant in variants.items() if variant["layers"]}
    maps = [
        partial(plots.layer_map, variant, label=name)
        for name, variant in probed.items()
        if len({result["position"] for result in variant["layers"]}) > 1
    ]
    return ([partial(plots.layer_curve, probed)] if probed else []) + maps


def _trust(variants: Mapping[str, Any]) -> list[partial[Any]]:
    """Of each confidence the reliability of all models side by side, and of two below it the histograms."""
    draws = []
    for scorer in _CONFIDENCES:
        labels = {name: f"{name}: {SHORT[scorer]}" for name, v in variants.items() if scorer in v["reliability"]}
        for name, label in labels.items():
            bins, ece = variants[name]["reliability"][scorer], variants[name]["scores"][scorer]["all"]["ece"]
            draws.append(partial(plots.reliability_diagram, bins, ece, label=label, color=looks(variants)[name][0]))
        for name, label in labels.items() if len(labels) <= _A_PAIR else ():
            histogram = variants[name]["histogram"][scorer]
            draws.append(partial(plots.confidence_by_correctness, histogram, label=label))
    return draws


def _sure(variants: Mapping[str, Any]) -> list[partial[Any]]:
    """Of two models both confidences in one figure, of more a figure for each."""
    if len(variants) <= _A_PAIR:
        return [partial(plots.risk_coverage, variants)]
    return [partial(plots.risk_coverage, variants, (scorer,)) for scorer in _CONFIDENCES]


def _over_adapters(results: Mapping[str, Any]) -> list[partial[Any]]:
    metrics = ("accuracy", "auroc", "ece", "nll") if are_several(results) else ()
    return [partial(plots.over_adapters, results, metric) for metric in metrics]


def _subjects(variants: Mapping[str, Any]) -> list[partial[Any]]:
    names = subjects(next(iter(variants.values()))["accuracy"])
    if not 0 < len(names) <= MOST_SUBJECTS:
        return []
    scorers = [s for s in _CONFIDENCES if any(s in variant["scores"] for variant in variants.values())]
    if len(variants) > _A_PAIR:  # the base and the last; the table has all
        *_, last = variants
        variants = {name: variants[name] for name in ("base", last)}
    return [partial(plots.subject_dots, variants), *(partial(plots.subject_dots, variants, s) for s in scorers)]


def _elsewhere(variants: Mapping[str, Any]) -> list[partial[Any]]:
    return [
        partial(plots.transfer_map, found, label=name, color=looks(variants)[name][0])
        for name, variant in variants.items()
        for found in held_out(variant)
        if found["matrix"] and len(found["groups"]) <= MOST_GROUPS
    ]
