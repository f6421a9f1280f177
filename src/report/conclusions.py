"""The answer in words, from the numbers and nothing else: what is clear, and what is not."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.report.adapters import are_several, by_step, verdict_over_adapters
from src.report.findings import about_probe, about_scale, promised, text_and_control
from src.report.words import LEVEL, SMALL_N, clear, excludes_zero, figure, percent, percent_interval, with_interval

Results = Mapping[str, Any]
FEWEST_TO_CHOOSE = 30
_A_PAIR = 2


def verdict(results: Results) -> list[str]:
    """Sentences, the most important first."""
    variants, comparisons = results["variants"], results["comparisons"]
    name = by_step(results)[-1][0] if comparisons else "base"
    last = variants[name]
    inconclusive = _inconclusive(results)
    if len(inconclusive) == len(variants):
        return inconclusive + _unreadable(results) + _trained_on(results)
    sentences = []
    if are_several(results):
        sentences += verdict_over_adapters(results)
    elif comparisons:
        sentences += _fine_tuning(results)
    else:
        sentences.append(_knows(last, "The model"))
    sentences += inconclusive + _unreadable(results) + _trained_on(results)
    sentences += about_scale(last) + about_probe(last, name)
    sentences += promised(last) + _told_apart(results) + text_and_control(last)
    return sentences + _too_few(results)


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
            place = "below" if accuracy["high"] < chance else "not above"
            found.append(
                f"The {name} model's accuracy, {percent_interval(accuracy)}, is {place} chance ({percent(chance)}): "
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
    if len(counts) > _A_PAIR:
        found = f"up to {max(counts.values()):,} of {n:,} answers of each of {len(counts)} models"
    if results["config"]["data"]["unparsed"] == "wrong":
        return [f"In {found} nothing was found to mark: they count as wrong."]
    judged = next(iter(results["variants"].values()))["splits"]["test"]
    return [
        f"In {found} nothing was found to mark: they are left out, so all numbers are about the {judged:,} of "
        f"{results['data']['splits']['test']:,} test questions that could be read, which are no fair sample."
    ]


def _trained_on(results: Results) -> list[str]:
    count = results["data"]["trained_on"]
    return [f"{count:,} questions were in the adapter's fine-tuning: there, the numbers show memory."] if count else []


def _fine_tuning(results: Results) -> list[str]:
    comparison = results["comparisons"]["tuned"]
    change = comparison["scores"]["own_probability"]["all"]
    base, tuned = (results["variants"][name]["scores"]["own_probability"]["all"] for name in ("base", "tuned"))
    accuracy = {name: results["variants"][name]["accuracy"]["all"]["value"] for name in ("base", "tuned")}
    flips = comparison["flips"]
    unknown = change["auroc"]["value"] is None
    by = "" if unknown else f" ({with_interval(change['auroc'], signed=True)})"
    same = "is undefined for one of the two" if unknown else "did not clearly change"
    headline = "; ".join([
        clear(change["accuracy"], "Fine-tuning made the model more accurate",
               "Fine-tuning made the model less accurate", "Fine-tuning did not clearly change accuracy"),
        clear(change["auroc"], "it now knows better when it is wrong", "it now knows less well when it is wrong",
               f"how well it knows when it is wrong {same}"),
        clear(change["ece"], "its confidence is less well calibrated",
               "its confidence is better calibrated", "its calibration did not clearly change"),
    ])  # fmt: skip
    return [
        f"{headline}.",
        f"Accuracy {percent(accuracy['base'])} → {percent(accuracy['tuned'])} "
        f"({percent_interval(change['accuracy'], signed=True)}): {flips['gained']} test questions gained, "
        f"{flips['lost']} lost.",
        f"The model's own probability tells right from wrong with AUROC {figure(base['auroc']['value'])} → "
        f"{figure(tuned['auroc']['value'])}{by}; its ECE is "
        f"{figure(base['ece']['value'])} → {figure(tuned['ece']['value'])} "
        f"({with_interval(change['ece'], signed=True)}), where perfect calibration would score "
        f"{figure(base['ece']['calibrated_mean'])} and {figure(tuned['ece']['calibrated_mean'])}.",
    ]


def _knows(variant: Mapping[str, Any], who: str) -> str:
    own = variant["scores"]["own_probability"]["all"]
    return (
        f"{who} is right in {percent_interval(variant['accuracy']['all'])} of the questions; its own probability "
        f"tells right from wrong with AUROC {with_interval(own['auroc'])} and has an ECE of "
        f"{figure(own['ece']['value'])}, where perfect calibration would score {figure(own['ece']['calibrated_mean'])}."
    )


def _told_apart(results: Results) -> list[str]:
    """Who can tell on the questions that only one of two models gets right."""
    found = results["comparisons"].get("tuned", {}).get("disagreement", {})
    aurocs = {name: number for name, number in found.get("tuned", {}).items() if number["value"] is not None}
    if "own_probability" not in aurocs:
        return []
    names = {"own_probability": "its own probability", "probe": "its probe", "text_only": "the text alone"}
    said = ", ".join(f"{text} {with_interval(aurocs[name])}" for name, text in names.items() if name in aurocs)
    return [
        f"On the {found['n']:,} test questions that only one of the two models gets right, where how hard a question "
        f"is for both is no help, the tuned model's AUROC is: {said}."
    ]


def _too_few(results: Results) -> list[str]:
    splits = next(iter(results["variants"].values()))["splits"]
    sentences = []
    if splits["test"] < SMALL_N:
        sentences.append(f"There are {splits['test']} test questions only: intervals are wide, and ECE says little.")
    selected = [variant["selected"] for variant in results["variants"].values() if variant["selected"]]
    crossed = any(one.get("chosen_by") == "cross-validation" for one in selected)
    held_out = splits["val"] + crossed * splits["train"]
    if selected and held_out < FEWEST_TO_CHOOSE:
        sentences.append(f"Layer and C were chosen on {held_out} questions only, so mostly by chance.")
    return sentences


def comparison_verdict(compared: Results) -> list[str]:
    """Sentences about several runs: what differs clearly from the first, after the correction for their number."""
    n, first = compared["shared"]["n"], compared["sides"][0]["label"]
    sentences = [_in_accuracy(compared["differences"], first)] if len(compared["differences"]) > 1 else []
    for change in compared["differences"]:
        own = change["scores"]["own_probability"]
        found = [
            f"{title} {show(own[metric], signed=True)}"
            for metric, title, show in (
                ("accuracy", "accuracy", percent_interval),
                ("auroc", "AUROC of its own probability", with_interval),
                ("brier", "Brier", with_interval),
                ("ece", "ECE", with_interval),
            )
            if excludes_zero(own[metric]) and own[metric]["p_holm"] < LEVEL
        ]
        what = "; ".join(found) if found else "no clear difference in accuracy, AUROC, Brier or ECE"
        sentences.append(f"{change['label']} against {first}: {what}.")
    for one in compared["same"]:
        sentences.append(f"{one['label']} says what {one['as']} says, and is compared once.")
    return [*sentences, f"All on the {n:,} test questions that they share."]


def _in_accuracy(differences: Sequence[Mapping[str, Any]], first: str) -> str:
    """Of several models, whose accuracy is clearly another than the first one's."""
    found = {one["label"]: one["scores"]["own_probability"]["accuracy"] for one in differences}
    clear_ones = {name: change for name, change in found.items() if excludes_zero(change) and change["p_holm"] < LEVEL}
    if not clear_ones:
        return f"None of {len(found)} models is clearly right more often, or less often, than {first}."
    shown = "; ".join(f"{name} {percent_interval(change, signed=True)}" for name, change in clear_ones.items())
    return f"Clearly another accuracy than {first}: {shown} (of {len(found)} models)."
