"""Probes where they were not trained, in words: what the verdict, the first screen and the terminal say of them."""

from collections.abc import Mapping
from typing import Any

from src.report.words import clear, contains, figure, with_interval

Found = Mapping[str, Any]
ONE = {"subject": "subject", "category": "category of subjects", "deal": "group of subjects", "data": "data set"}
SEVERAL = {"subject": "subjects", "category": "categories of subjects", "deal": "subjects", "data": "data sets"}
_MOST_NAMED = 4


def held_out(variant: Mapping[str, Any]) -> list[Found]:
    """What was tried of one model's probes and could be judged: on other subjects, on other data sets."""
    return [found for found in variant.get("held_out", {}).values() if "all" in found and found["all"]["n"]]


def beside_the_headline(variant: Mapping[str, Any]) -> list[str]:
    """For each, AUROC without and with training there, over the same pairs."""
    lines = []
    for found in held_out(variant):
        scores, by = found["all"]["scores"], found["by"]
        lines.append(
            f"probe on {SEVERAL[by]} it was not trained on: AUROC {with_interval(scores['held_out']['auroc'])}; "
            f"trained there too: {with_interval(scores['probe']['auroc'])} (both over pairs of one {ONE[by]})."
        )
    return lines


def sentences(variant: Mapping[str, Any]) -> list[str]:
    """What is clear, what could not be tried, and whether what is learned of one group serves for another."""
    said = [
        sentence for found in held_out(variant) for sentence in (_loss(found), *_not_tried(found), *_carried(found))
    ]
    return said or _unknown(variant)


def tables(variants: Mapping[str, Any]) -> dict[str, Any]:
    """For the page: "kinds", each with its rows (group, model, numbers) and matrices, and "unknown", sentences."""
    by_kind: dict[str, dict[str, Found]] = {}
    for name, variant in variants.items():
        for found in held_out(variant):
            by_kind.setdefault(found["by"], {})[name] = found
    unknown = [sentence for variant in variants.values() for sentence in _unknown(variant)]
    return {"kinds": [_kind(by, models) for by, models in by_kind.items()], "unknown": list(dict.fromkeys(unknown))}


def _kind(by: str, models: Mapping[str, Found]) -> dict[str, Any]:
    first = next(iter(models.values()))
    names = [group["name"] for group in first["groups"]]
    rows = [("all", model, found["all"]) for model, found in models.items()]
    rows += [
        (name, model, found["groups"][place]) for place, name in enumerate(names) for model, found in models.items()
    ]
    return {
        "by": by,
        "one": ONE[by],
        "rows": rows,
        "holds": {group["name"]: group.get("subjects", []) for group in first["groups"]},
        "matrices": [(model, names, found["matrix"]) for model, found in models.items() if found["matrix"]],
    }


def _unknown(variant: Mapping[str, Any]) -> list[str]:
    """Why nothing is known, where there is a probe."""
    found = variant.get("held_out", {})
    if variant["missing"] or not found or held_out(variant):
        return []
    reasons = "; ".join(one["missing"] or one["groups"][0]["missing"] for one in found.values())
    return [f"How the probe does on questions of another kind is not known: {reasons}. (transfer.data asks others.)"]


def _loss(found: Found) -> str:
    """On all groups together, and those where nothing is left."""
    by, scores = found["by"], found["all"]["scores"]
    change = found["all"]["differences"]["probe"]["auroc"]
    how = clear(change, "better than", "less well than", "neither clearly better nor worse than")
    at_chance = [
        group["name"] for group in found["groups"] if group["n"] and contains(group["scores"]["held_out"]["auroc"], 0.5)
    ]
    chance = f"; at chance on {_named(at_chance)}" if at_chance else ""
    return (
        f"On {SEVERAL[by]} it was not trained on, a probe tells right from wrong {how} one that was: AUROC "
        f"{with_interval(scores['held_out']['auroc'])} against {figure(scores['probe']['auroc']['value'])} "
        f"over pairs of one {ONE[by]}, difference {with_interval(change, signed=True)}{chance}."
    )


def _not_tried(found: Found) -> list[str]:
    missing = [group for group in found["groups"] if not group["n"]]
    if not missing:
        return []
    reasons = "; ".join(f"{group['name']}: {group['missing']}" for group in missing[:_MOST_NAMED])
    return [f"{len(missing)} of {len(found['groups'])} {SEVERAL[found['by']]} could not be tried so ({reasons})."]


def _carried(found: Found) -> list[str]:
    """From the matrix: AUROC at home and elsewhere, and where a probe at home knows and one from elsewhere does not."""
    if not found["matrix"]:
        return []
    names, cells = [group["name"] for group in found["groups"]], found["matrix"]["auroc"]
    places = range(len(names))
    at_home = [cells[place][place]["value"] for place in places]
    away = {(a, b): cells[a][b] for a in places for b in places if a != b and cells[a][b]["value"] is not None}
    if not away or None in at_home:
        return []
    blind = [
        f"{names[a]} → {names[b]} {figure(cell['value'])}"
        for (a, b), cell in sorted(away.items(), key=lambda item: item[1]["value"])
        if cell["low"] is not None and cell["low"] <= 0.5 < (cells[b][b]["low"] or 0.0)
    ]
    values = [cell["value"] for cell in away.values()]
    nothing = f"; at chance, where one of its own knows, in {len(blind)} of {len(away)}: {_named(blind)}"
    return [
        f"Trained on one {ONE[found['by']]} alone, probes have AUROC {_range(at_home)} there and {_range(values)} on "
        f"others{nothing if blind else ''}."
    ]


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _range(values: list[float]) -> str:
    low, high = figure(min(values)), figure(max(values))
    return low if low == high else f"{low} to {high}"
