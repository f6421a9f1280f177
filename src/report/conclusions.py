"""The answer in words, from the numbers and nothing else: what is clear, and what is not."""

from collections.abc import Mapping
from typing import Any

from src.report.words import (
    contains,
    excludes_zero,
    figure,
    percent,
    percent_interval,
    place,
    subjects,
    with_interval,
)  # fmt: skip

Results = Mapping[str, Any]


def verdict(results: Results) -> list[str]:
    """Sentences, the most important first."""
    variants = results["variants"]
    last = variants.get("tuned", variants["base"])
    inconclusive = _inconclusive(results)
    if len(inconclusive) == len(variants):
        return inconclusive + _unreadable(results) + _trained_on(results)
    sentences = []
    if results["comparison"]:
        sentences += _fine_tuning(results)
    else:
        sentences.append(_knows(last, "The model"))
    sentences += inconclusive + _unreadable(results) + _trained_on(results)
    sentences += _probe_against_own(last, "tuned" if results["comparison"] else "base")
    sentences += _text_only(last)
    sentences += _control(last)
    return sentences


def _inconclusive(results: Results) -> list[str]:
    """One sentence for each model that is at chance, or always right, or always wrong."""
    chance = results["data"]["chance"]
    found = []
    for name, variant in results["variants"].items():
        accuracy, auroc = variant["accuracy"]["all"], variant["scores"]["own_probability"]["all"]["auroc"]
        if auroc["value"] is None:
            found.append(
                f"The {name} model's accuracy is {percent(accuracy['value'])}: whether it knows when it is wrong is "
                f"undefined ({auroc['reason']})."
            )
        elif chance and accuracy["low"] <= chance:
            found.append(
                f"The {name} model's accuracy, {percent_interval(accuracy)}, is not above chance ({percent(chance)}): "
                "nothing can be concluded about whether it knows when it is wrong."
            )
    return found


def _unreadable(results: Results) -> list[str]:
    """How many answers could not be read, and what was done with them."""
    n = results["data"]["n"]
    counts = {name: variant["unreadable"] for name, variant in results["variants"].items() if variant["unreadable"]}
    if not counts:
        return []
    found = " and ".join(f"{count:,} of {n:,} answers of the {name} model" for name, count in counts.items())
    if results["config"]["data"]["unparsed"] == "wrong":
        return [f"In {found} nothing was found to mark: they count as wrong."]
    judged = next(iter(results["variants"].values()))["scores"]["own_probability"]["all"]["n"]
    return [
        f"In {found} nothing was found to mark: they are left out, so all numbers are about the {judged:,} of "
        f"{results['data']['splits']['test']:,} test questions that could be read, which are no fair sample."
    ]


def _trained_on(results: Results) -> list[str]:
    count = results["data"]["trained_on"]
    return [f"{count:,} questions were in the adapter's fine-tuning: there, the numbers show memory."] if count else []


def _fine_tuning(results: Results) -> list[str]:
    change = results["comparison"]["scores"]["own_probability"]["all"]
    base, tuned = (results["variants"][name]["scores"]["own_probability"]["all"] for name in ("base", "tuned"))
    accuracy = {name: results["variants"][name]["accuracy"]["all"]["value"] for name in ("base", "tuned")}
    flips = results["comparison"]["flips"]
    headline = "; ".join([
        _clear(change["accuracy"], "Fine-tuning made the model more accurate",
               "Fine-tuning made the model less accurate", "Fine-tuning did not clearly change accuracy"),
        _clear(change["auroc"], "it now knows better when it is wrong", "it now knows less well when it is wrong",
               "how well it knows when it is wrong did not clearly change"),
        _clear(change["ece"], "its stated confidence is less trustworthy",
               "its stated confidence is more trustworthy", "its calibration did not clearly change"),
    ])  # fmt: skip
    return [
        f"{headline}.",
        f"Accuracy {percent(accuracy['base'])} → {percent(accuracy['tuned'])} "
        f"({percent_interval(change['accuracy'], signed=True)}): {flips['gained']} test questions gained, "
        f"{flips['lost']} lost.",
        f"The model's own probability tells right from wrong with AUROC {figure(base['auroc']['value'])} → "
        f"{figure(tuned['auroc']['value'])} ({with_interval(change['auroc'], signed=True)}); its ECE is "
        f"{figure(base['ece']['value'])} → {figure(tuned['ece']['value'])} "
        f"({with_interval(change['ece'], signed=True)}), where perfect calibration would score "
        f"{figure(base['ece']['calibrated_mean'])} and {figure(tuned['ece']['calibrated_mean'])}.",
    ]


def _clear(difference: Mapping[str, Any], up: str, down: str, same: str) -> str:
    """The words for a difference: one of the first two only where its interval excludes zero."""
    if not excludes_zero(difference):
        return same
    return up if difference["value"] > 0 else down


def _knows(variant: Mapping[str, Any], who: str) -> str:
    own = variant["scores"]["own_probability"]["all"]
    return (
        f"{who} is right in {percent_interval(variant['accuracy']['all'])} of the questions; its own probability "
        f"tells right from wrong with AUROC {with_interval(own['auroc'])} and has an ECE of "
        f"{figure(own['ece']['value'])}, where perfect calibration would score {figure(own['ece']['calibrated_mean'])}."
    )


def _probe_against_own(variant: Mapping[str, Any], name: str) -> list[str]:
    if variant["missing"]:
        return [f"There is no probe of the {name} model ({variant['missing']})."]
    gain = variant["advantages"]["probe_over_own_probability"]["all"]
    winner = _clear(
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
    sentence = f"The question's text alone reaches AUROC {with_interval(scores['all']['auroc'])}"
    blind = [
        name for name, part in scores.items()
        if name in subjects(scores) and contains(part["auroc"], 0.5)
        and (variant["scores"]["probe"][name]["auroc"]["low"] or 0) > 0.5
    ]  # fmt: skip
    if blind and len(scores) <= 9:
        shown = ", ".join(
            f"{name} (text {figure(scores[name]['auroc']['value'])}, probe "
            f"{figure(variant['scores']['probe'][name]['auroc']['value'])})"
            for name in blind
        )
        return [
            f"{sentence}; where it is blind and the probe is not, the probe reads knowledge, not difficulty: {shown}."
        ]
    if blind:
        return [f"{sentence}; in {len(blind)} of {len(subjects(scores))} subjects it is blind and the probe is not."]
    return [f"{sentence}."]


def _control(variant: Mapping[str, Any]) -> list[str]:
    scores = variant["scores"].get("shuffled_labels")
    if not scores:
        return []
    off = [
        name for name, part in scores.items() if part["auroc"]["low"] is not None and not contains(part["auroc"], 0.5)
    ]
    if off:
        return [f"Warning: probes trained on shuffled labels differ from .5 on {', '.join(off)}: look for a leak."]
    return ["Probes trained on shuffled labels score .5 within their interval everywhere, as they must."]
