"""The four numbers of a report's first screen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.report import words
from src.report.elsewhere import ONE, held_out
from src.report.words import Number


@dataclass(frozen=True)
class Side:
    """One model's value on a card."""

    name: str
    value: str
    bounds: str


@dataclass(frozen=True)
class Card:
    """One number of each model.

    Attributes:
        title: what it is.
        sides: one for each model.
        change: tuned minus base with its interval, or "".
        mood: better, worse, or no clear change; "" without a change.
        notes: what must be known to read it.
    """

    title: str
    sides: list[Side]
    change: str
    mood: str
    notes: list[str]


def four_cards(results: Mapping[str, Any]) -> list[Card]:
    """Accuracy, AUROC and ECE of the own probability, AUROC of the probe; the last only where there are probes."""
    variants, comparison = results["variants"], results["comparison"]
    changes = comparison["scores"] if comparison else {}

    def scored(scorer: str, metric: str, title: str) -> Card:
        numbers = {
            name: v["scores"][scorer]["all"][metric] for name, v in variants.items() if scorer in v["scores"]
        }  # fmt: skip
        change = changes.get(scorer, {}).get("all", {}).get(metric)
        return _card(title, metric, numbers, change)

    accuracy = {name: variant["accuracy"]["all"] for name, variant in variants.items()}
    cards = [
        _card("Right answers", "accuracy", accuracy, changes.get("own_probability", {}).get("all", {}).get("accuracy")),
        scored("own_probability", "auroc", "Knows when it is wrong: AUROC of its own probability"),
        scored("own_probability", "ece", "Miscalibration of its own probability: ECE"),
    ]
    if any("probe" in variant["scores"] for variant in variants.values()):
        card = scored("probe", "auroc", "Knows when it is wrong: AUROC of a probe of its hidden states")
        cards.append(replace(card, notes=card.notes + _elsewhere(variants)))
    return cards


def _elsewhere(variants: Mapping[str, Any]) -> list[str]:
    """AUROC where the probe was not trained, and over the same pairs where it was."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for variant in variants.values():
        for one in held_out(variant):
            found.setdefault(one["by"], []).append(one["all"]["scores"])
    return [
        f"not trained on the {ONE[by]}: {' → '.join(words.with_interval(one['held_out']['auroc']) for one in scores)}; "
        f"trained on it too: {' → '.join(words.figure(one['probe']['auroc']['value']) for one in scores)} "
        f"(over pairs of one {ONE[by]})"
        for by, scores in found.items()
    ]


def _card(title: str, metric: str, numbers: Mapping[str, Number], change: Number | None) -> Card:
    share = metric == "accuracy"
    show = words.percent if share else words.figure
    sides = [Side(name, show(n["value"]), words.bounds(n, share=share)) for name, n in numbers.items()]
    notes = list(dict.fromkeys(n["reason"] for n in numbers.values() if n["value"] is None and n.get("reason")))
    floors = [n["calibrated_mean"] for n in numbers.values() if n.get("calibrated_mean") is not None]
    if floors:
        notes.append(f"perfect calibration would score {' → '.join(map(words.figure, floors))}")
    if not change or change["value"] is None:
        return Card(title, sides, "", "", notes)
    mood = "no clear change"
    if words.excludes_zero(change):
        mood = "better" if (change["value"] > 0) == words.HIGHER_IS_BETTER[metric] else "worse"
    with_interval = words.percent_interval if share else words.with_interval
    return Card(title, sides, with_interval(change, signed=True), mood, notes)
