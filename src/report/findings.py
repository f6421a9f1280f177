"""What one model's probe and controls show, in sentences."""

from collections.abc import Mapping
from typing import Any

from src.report.elsewhere import sentences
from src.report.words import (
    LEVEL,
    SHORT,
    SMALL_N,
    clear,
    contains,
    excludes_zero,
    figure,
    percent,
    place,
    subjects,
    with_interval,
)  # fmt: skip

Variant = Mapping[str, Any]
NO_SIGNALS = ("own_probability", "text_only", "surface", "subject_mean")


def about_probe(variant: Variant, name: str) -> list[str]:
    """Against the own probability, what it adds to that, and whether something simpler beats both."""
    if variant["missing"]:
        return [f"There is no probe of the {name} model ({variant['missing']})."]
    against = _against_own(variant, name)
    return against + sentences(variant) + _gain(variant) + _beaten(variant) if against else []


def about_scale(variant: Variant) -> list[str]:
    """How much of the own probability's miscalibration two numbers take away; nothing where there is hardly any."""
    own, scaled = (
        variant["scores"].get(name, {}).get("all") for name in ("own_probability", "own_recalibrated")
    )  # fmt: skip
    few = variant["splits"]["val"] < SMALL_N
    if not scaled or few or own["ece"]["value"] <= own["ece"]["calibrated_q95"]:
        return []
    ranking, ranking_left = own["auroc"]["value"], scaled["auroc"]["value"]
    if ranking_left == 0.5 and ranking != ranking_left:  # slope 0: all are equal
        return [
            "Recalibrated on validation questions (Platt scaling), its own probability becomes the share of right "
            "answers for every question: there, wrong answers have the higher ones, so no scale can mend it."
        ]
    left = scaled["ece"]["value"] > scaled["ece"]["calibrated_q95"]
    return [
        f"Recalibrated on {variant['splits']['val']:,} validation questions (Platt scaling), its own probability has "
        f"an ECE of {figure(scaled['ece']['value'])} in place of {figure(own['ece']['value'])} (perfect calibration: "
        f"{figure(scaled['ece']['calibrated_mean'])}), and a log loss of {figure(scaled['nll']['value'])} in place of "
        f"{figure(own['nll']['value'])}: "
        + ("that is not a matter of scale alone." if left else "it is a matter of scale.")
    ]


def text_and_control(variant: Variant) -> list[str]:
    """What the text alone tells, and the shuffled labels."""
    return _text_only(variant) + _control(variant)


def _gain(variant: Variant) -> list[str]:
    if not variant["gain"]:
        return []
    gain = variant["gain"]["all"]["gain"]
    shown = f"{with_interval(gain, signed=True)} nats a question"
    if excludes_zero(gain) and gain["value"] > 0:
        return [f"Beside the own probability the probe still adds something: {shown}."]
    return [f"Beside the own probability the probe adds nothing clear: {shown}."]


def _beaten(variant: Variant) -> list[str]:
    """The best number of the answer, where it is clearly better than the probe and at least as good as the own one."""
    own = variant["scores"]["own_probability"]["all"]["auroc"]["value"]
    better = {}
    for advantage, parts in variant["advantages"].items():
        scorer, over = advantage.removeprefix("probe_over_"), parts["all"]
        auroc = variant["scores"][scorer]["all"]["auroc"]["value"]
        beats_probe = auroc is not None and over["value"] < 0 and (over["p_holm"] or 1.0) < LEVEL
        if scorer not in NO_SIGNALS and beats_probe and auroc > own:
            better[scorer] = auroc
    if not better:
        return []
    best = max(better, key=lambda scorer: better[scorer])
    return [
        f"A single number of the answer is better than the probe, and at least as good as its own probability: "
        f"{SHORT[best]}, AUROC {figure(better[best])}."
    ]


def promised(variant: Variant) -> list[str]:
    """The strictest promise that can be made, by the scorer that answers most."""
    kept = [
        (entry["risk"], -entry["coverage"], scorer, entry)
        for scorer, entries in variant["selective"].items()
        for entry in entries
        if entry["threshold"] is not None
    ]
    if not kept:
        risks = [entry["risk"] for entries in variant["selective"].values() for entry in entries]
        return [f"No threshold can promise that at most {percent(max(risks))} are wrong."] if risks else []
    _, _, scorer, entry = min(kept, key=lambda one: one[:2])
    risk = entry["test"]["risk"]["value"]
    seen = "no test question is above it" if risk is None else f"{percent(risk)} of those on test are"
    return [
        f"Answering only where the {SHORT[scorer]} is at least {figure(entry['threshold'])}, which it is for "
        f"{percent(entry['test']['coverage']['value'])} of the questions, at most {percent(entry['risk'])} are wrong, "
        f"with probability {percent(entry['certainty'])} (of each such promise by itself); {seen}."
    ]


def _against_own(variant: Mapping[str, Any], name: str) -> list[str]:
    gain = variant["advantages"]["probe_over_own_probability"]["all"]
    if gain["value"] is None:
        return []
    winner = clear(
        gain, "better than its own probability does", "less well than its own probability does",
        "neither clearly better nor worse than its own probability does",
    )  # fmt: skip
    probe = variant["scores"]["probe"]["all"]
    return [
        f"A probe of the {name} model's hidden states ({place(variant)}) tells right from wrong "
        f"{winner}: AUROC {figure(probe['auroc']['value'])}, difference {with_interval(gain, signed=True)}; its ECE is "
        f"{figure(probe['ece']['value'])} (perfect calibration: {figure(probe['ece']['calibrated_mean'])})."
    ]


def _text_only(variant: Mapping[str, Any]) -> list[str]:
    scores = variant["scores"].get("text_only")
    if not scores:
        return []
    ahead = variant["advantages"]["probe_over_text_only"]
    sentence = f"The question's text alone reaches AUROC {with_interval(scores['all']['auroc'])}"
    if (lead := ahead["all"])["value"] is not None and excludes_zero(lead) and (lead["p_holm"] or 1.0) < LEVEL:
        than = "less" if lead["value"] > 0 else "more"
        sentence += f", clearly {than} than the probe's {figure(variant['scores']['probe']['all']['auroc']['value'])}"
    blind = [
        name for name in subjects(scores)
        if contains(scores[name]["auroc"], 0.5) and ahead[name]["value"] > 0 and (ahead[name]["p_holm"] or 1.0) < LEVEL
    ]  # fmt: skip
    if blind and len(scores) <= 9:
        shown = ", ".join(
            f"{name} (text {figure(scores[name]['auroc']['value'])}, probe "
            f"{figure(variant['scores']['probe'][name]['auroc']['value'])})"
            for name in blind
        )
        return [
            f"{sentence}; where it is at chance and the probe clearly better, the probe reads knowledge, not "
            f"difficulty: {shown}."
        ]
    if blind:
        return [
            f"{sentence}; in {len(blind)} of {len(subjects(scores))} subjects it is at chance and the probe clearly "
            "better."
        ]
    return [f"{sentence}."]


def _control(variant: Mapping[str, Any]) -> list[str]:
    scores = variant["scores"].get("shuffled_labels")
    if not scores:
        return []
    known = {name: part["auroc"] for name, part in scores.items() if part["auroc"]["low"] is not None}
    if not known:
        return []
    off = [name for name, auroc in known.items() if not contains(auroc, 0.5)]
    if off:
        return [f"Warning: probes trained on shuffled labels differ from .5 on {', '.join(off)}: look for a leak."]
    return ["Probes trained on shuffled labels score .5 within their interval everywhere, as they must."]
