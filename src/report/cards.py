"""The four numbers of a report's first screen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.report import words
from src.report.adapters import MEASURES, are_several, clearly
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
    variants, several = results["variants"], are_several(results)
    changes = {} if several else results["comparisons"].get("tuned", {}).get("scores", {})

    def scored(scorer: str, metric: str, title: str) -> Card:
        numbers = {
            name: v["scores"][scorer]["all"][metric] for name, v in variants.items() if scorer in v["scores"]
        }  # fmt: skip
        card = _card(title, metric, numbers, changes.get(scorer, {}).get("all", {}).get(metric))
        return replace(card, notes=_clear_ones(results, metric, scorer) + card.notes) if several else card

    accuracy = {name: variant["accuracy"]["all"] for name, variant in variants.items()}
    change = changes.get("own_probability", {}).get("all", {}).get("accuracy")
    right = _card("Right answers", "accuracy", accuracy, change)
    cards = [
        replace(right, notes=_clear_ones(results, "accuracy", "own_probability")) if several else right,
        scored("own_probability", "auroc", "Knows when it is wrong: AUROC of its own probability"),
        scored("own_probability", "ece", "Miscalibration of its own probability: ECE"),
    ]
    if any("probe" in variant["scores"] for variant in variants.values()):
        card = scored("probe", "auroc", "Knows when it is wrong: AUROC of a probe of its hidden states")
        cards.append(card if several else replace(card, notes=card.notes + _elsewhere(variants)))
    return cards


def _clear_ones(results: Mapping[str, Any], metric: str, scorer: str) -> list[str]:
    """Of several adapters, which differ clearly from the base model."""
    (measure,) = [one for one in MEASURES if (one.metric, one.scorer) == (metric, scorer)]
    sides = zip(("better", "worse"), clearly(results, measure), strict=True)
    found = [f"clearly {word} than base: {', '.join(names)}" for word, names in sides if names]
    return found or ["none is clearly different from base"]


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
        ends = " → ".join(map(words.figure, floors))
        if len(floors) > 2:
            ends = f"{words.figure(min(floors))} to {words.figure(max(floors))}"
        notes.append(f"perfect calibration would score {ends}")
    if not change or change["value"] is None:
        return Card(title, sides, "", "", notes)
    mood = "no clear change"
    if words.excludes_zero(change):
        mood = "better" if (change["value"] > 0) == words.HIGHER_IS_BETTER[metric] else "worse"
    with_interval = words.percent_interval if share else words.with_interval
    return Card(title, sides, with_interval(change, signed=True), mood, notes)
