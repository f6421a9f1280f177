"""Numbers and names as people read them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

SCORERS = {
    "probe": "Probe of the hidden states",
    "own_probability": "The model's own probability",
    "own_recalibrated": "The same, recalibrated on validation",
    "text_only": "The question's text alone",
    "surface": "Letter, length and subject alone",
    "subject_mean": "The subject's mean accuracy",
    "entropy": "Entropy of the choices",
    "margin": "Margin over the second choice",
    "choice_mass": "Probability of all choices together",
    "least_log_probability": "The answer's least likely token",
    "perplexity": "The answer's perplexity",
    "p_true": "Asked whether its answer is true",
    "stated": "Asked how likely its answer is right",
    "self_consistency": "Agreement of sampled answers",
    "shuffled_labels": "Control: shuffled labels",
}
SHORT = {
    "probe": "probe",
    "own_probability": "own probability",
    "own_recalibrated": "own, recalibrated",
    "text_only": "text only",
    "surface": "letter, length, subject",
    "subject_mean": "subject mean",
    "entropy": "choice entropy",
    "margin": "choice margin",
    "choice_mass": "choice mass",
    "least_log_probability": "least likely token",
    "perplexity": "perplexity",
    "p_true": "P(True)",
    "stated": "stated confidence",
    "self_consistency": "self-consistency",
    "shuffled_labels": "shuffled labels",
}
FAMILIES = {
    "logistic": "logistic regression",
    "mean_difference": "difference of means",
    "mlp": "small network",
    "attention": "attention",
}
# On questions that only one of two models got right.
DISAGREEING = {
    "probe": "Probe of its own hidden states",
    "other_probe": "Probe of the other model's hidden states",
    "own_probability": "The model's own probability",
    "text_only": "The question's text alone",
}
METRICS = {"auroc": "AUROC", "brier": "Brier", "nll": "NLL", "ece": "ECE"}
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "auroc": "Telling right from wrong (AUROC)",
    "brier": "Brier score",
    "nll": "Log loss (NLL, nats)",
    "ece": "Calibration error (ECE, equal width)",
    "ece_mass": "Calibration error (ECE, equal mass)",
    "smooth_ece": "Smooth calibration error",
    "ks": "Largest cumulative error (KS)",
    "mcb": "Miscalibration (MCB of Brier)",
    "dsc": "Discrimination (DSC of Brier)",
    "auroc_within": "AUROC within subjects",
    "aurc": "Area under risk-coverage (AURC)",
    "e_aurc": "AURC above the ideal order (E-AURC)",
    "prr": "Rejection ratio (PRR)",
    "accuracy_at_50": "Accuracy of the surest 50 %",
    "accuracy_at_80": "Accuracy of the surest 80 %",
    "accuracy_at_90": "Accuracy of the surest 90 %",
}
# Which direction is good, for colouring a difference.
HIGHER_IS_BETTER = {"accuracy": True, "auroc": True, "brier": False, "nll": False, "ece": False, "ece_mass": False}
SMALL_N = 100  # of fewer test questions, a number is mostly chance

LEVEL = 0.05  # of p-values
Number = Mapping[str, Any]


def figure(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """.953, 1.234, +.021 or "undefined"."""
    if value is None:
        return "undefined"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and round(abs(value), digits) < 1 else text


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share as 55.2%."""
    if value is None:
        return "undefined"
    return f"{100 * value:+.1f}%" if signed else f"{100 * value:.1f}%"


def bounds(number: Number, *, share: bool = False, signed: bool = False) -> str:
    """The interval alone: [.940, .966], of a share [53.0, 57.4]; "" where there is none."""
    if number["value"] is None or number["low"] is None:
        return ""
    if share:
        low, high = (f"{100 * number[end]:+.1f}" if signed else f"{100 * number[end]:.1f}" for end in ("low", "high"))
    else:
        low, high = (figure(number[end], signed=signed) for end in ("low", "high"))
    return f"[{low}, {high}]"


def with_interval(number: Number, *, signed: bool = False) -> str:
    """.953 [.940, .966], or "undefined" with the reason."""
    if number["value"] is None:
        return f"undefined ({number['reason']})" if number.get("reason") else "undefined"
    return f"{figure(number['value'], signed=signed)} {bounds(number, signed=signed)}".rstrip()


def percent_interval(number: Number, *, signed: bool = False) -> str:
    """A share with its interval: 55.2% [53.0, 57.4]."""
    if number["value"] is None:
        return with_interval(number)
    return f"{percent(number['value'], signed=signed)} {bounds(number, share=True, signed=signed)}".rstrip()


def excludes_zero(number: Number) -> bool:
    """Whether a difference is clear: its interval lies on one side of zero, and its p-value, if any, is below .05.

    Of errors of calibration, the interval of what goes beyond that of perfect models.
    """
    bounds = number.get("excess", number)
    if bounds["low"] is None or (number.get("p", 0.0) is None or number.get("p", 0.0) >= LEVEL):
        return False
    return bounds["low"] > 0 or bounds["high"] < 0


def clear(difference: Number, up: str, down: str, same: str) -> str:
    """The words for a difference: one of the first two only where its interval excludes zero."""
    if not excludes_zero(difference):
        return same
    return up if difference.get("excess", difference)["value"] > 0 else down


def contains(number: Number, value: float) -> bool:
    """Whether the interval holds `value`."""
    return number["low"] is not None and number["low"] <= value <= number["high"]


def short_name(name: str, longest: int = 28) -> str:
    """Cut in the middle where it is longer: names of models and runs differ at their ends."""
    head = longest // 3
    return name if len(name) <= longest else f"{name[:head]}…{name[1 + head - longest :]}"


def p_value(value: float | None) -> str:
    """.031, < .001 or "undefined"."""
    return "< .001" if value is not None and value < 0.001 else figure(value)


def floor(number: Number | None) -> str:
    """Beside an ECE-like number, what perfect calibration would score: .019 (≤ .027); "" for others."""
    if not number or number.get("calibrated_mean") is None:
        return ""
    return f"{figure(number['calibrated_mean'])} (≤ {figure(number['calibrated_q95'])})"


def training(number: Number | None) -> str:
    """The spread over trainings of the probe: ± .008; "" for what is not trained."""
    return f"± {figure(number['training_sd'])}" if number and number.get("training_sd") is not None else ""


def place(variant: Mapping[str, Any]) -> str:
    """Where a model's probe reads: block.3, or block.3 at last_answer where that is not the usual one or was chosen."""
    chosen = variant["selected"]
    tried = {result["position"] for result in variant["layers"]}
    return chosen["layer"] + (f" at {chosen['position']}" if tried != {"last_prompt"} else "")


def family(candidate: Mapping[str, Any]) -> str:
    """Of a probe, in words; "" in results from before there were several."""
    return FAMILIES.get(candidate.get("family", ""), "")


def candidates(variant: Mapping[str, Any]) -> str:
    """Among how many the probe was chosen: 21 candidates (7 layers x 1 position x 3 families)."""
    every = variant["layers"]
    counts = {
        (one, more): len({result.get(key) for result in every})
        for key, one, more in (
            ("layer", "layer", "layers"),
            ("position", "position", "positions"),
            ("family", "family", "families"),
        )
    }
    # A position may have a family of its own.
    by = " x " if math.prod(counts.values()) == len(every) else ", "
    kinds = by.join(f"{count} {one if count == 1 else more}" for (one, more), count in counts.items())
    return f"{len(every):,} candidate{'s' * (len(every) != 1)} ({kinds})"


def how_chosen(variant: Mapping[str, Any]) -> str:
    """The probe in a sentence: what it is, and among how many it was chosen on what."""
    chosen = variant["selected"]
    what = ", ".join(part for part in (family(chosen), C(chosen)) if part)
    by = "by cross-validation" if chosen.get("chosen_by") == "cross-validation" else "on validation"
    return f"probe on {place(variant)}{what and f' ({what})'}: chosen of {candidates(variant)} {by}."


def is_chosen(variant: Mapping[str, Any], candidate: Mapping[str, Any]) -> bool:
    """Whether this is the candidate that became the probe."""
    return all(variant["selected"].get(key) == candidate.get(key) for key in ("position", "layer", "family"))


def C(candidate: Mapping[str, Any]) -> str:
    """C = 0.01, or "" for a family that has none."""
    return "" if candidate["C"] is None else f"C = {candidate['C']:.3g}"


def decisions(variant: Mapping[str, Any]) -> list[str]:
    """How the probe was chosen, what can be promised where it answers only when sure, and what the probe adds."""
    lines = [how_chosen(variant)] if variant["selected"] else []
    for scorer, promises in variant["selective"].items():
        kept = [
            f"{100 * one['risk']:g}% from {figure(one['threshold'])} up "
            f"({percent(one['test']['coverage']['value'])} answered)"
            for one in promises
            if one["threshold"] is not None
        ]
        said = f"wrong at most {', '.join(kept)}" if kept else "nothing can be promised"
        lines += [f"{SHORT[scorer]}: {said}."] if promises else []
    gain = variant["gain"].get("all")
    if gain:
        lines.append(
            f"Beside the own probability the probe adds {with_interval(gain['gain'], signed=True)} nats a question."
        )
    return lines


def subjects(parts: Iterable[str]) -> list[str]:
    """The parts that are subjects, not the whole."""
    return [part for part in parts if part not in ("all", "answered")]


def layer_label(name: str) -> str:
    """The axis label of a layer: 3 for block.3."""
    return {"embeddings": "emb", "final_norm": "norm"}.get(name, name.removeprefix("block."))
