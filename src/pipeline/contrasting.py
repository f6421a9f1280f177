"""Stage 5, of two: one scorer against another on the same labels, and tuned against base on the same questions."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from src.evaluation.comparison import Difference, difference, flips
from src.evaluation.delong import delong_test
from src.evaluation.gain import likelihood_losses
from src.evaluation.intervals import Estimate, Scored, interval, score
from src.evaluation.resampling import METRICS
from src.pipeline.judging import ALL, ANSWERED, Judge, Judged
from src.pipeline.numbers import beyond_floors, honest, number, with_p_values
from src.pipeline.probing import OWN, PROBE, TEXT

OTHER_PROBE = "other_probe"


def advantages(judge: Judge, judged: Judged) -> dict[str, Any]:
    """AUROC of the probe minus that of each other scorer, paired: "probe_over_<scorer>" -> part -> number."""
    scored, p, y = judged.scored, judged.probed.test, judged.correct
    if PROBE not in scored:
        return {}

    def over(other: str, name: str) -> Difference:
        part = judge.parts[name]
        found = difference(scored[other][name], scored[PROBE][name], "auroc").estimate
        return Difference(found, delong_test(p[PROBE][part], p[other][part], y[part], judge.groups[part]))

    others = [scorer for scorer in scored if scorer != PROBE]
    found: dict[str, dict[str, Any]] = {f"{PROBE}_over_{other}": {} for other in others}
    for name in judge.parts:
        if name in (ALL, ANSWERED):  # corrected for the number of scorers
            beaten = with_p_values({other: over(other, name) for other in others if name in scored[other]})
            for other, result in beaten.items():
                found[f"{PROBE}_over_{other}"][name] = result
    for other in others:  # corrected for the number of subjects
        found[f"{PROBE}_over_{other}"] |= with_p_values(
            {name: over(other, name) for name in judge.subject_names if name in scored[other]}
        )
    return found


def gains(judge: Judge, judged: Judged) -> dict[str, Any]:
    """What the probe adds to the own probability, in nats a question, for each part."""
    probed, splits = judged.probed, judged.probed.splits
    if PROBE not in probed.test:
        return {}
    there = np.isfinite(probed.train_probe)
    labels = judged.correct_everywhere[splits.train]
    fitted_on = (probed.train_own[there], probed.train_probe[there], labels[there])
    losses = likelihood_losses(probed.test[OWN], probed.test[PROBE], judged.correct, fitted_on)
    if losses is None:
        return {}
    found = {}
    for name, part in judge.parts.items():
        own, both, weights = losses.own[part], losses.both[part], judge.weights[:, part].astype(np.float64)
        with np.errstate(invalid="ignore"):
            draws = weights @ (own - both) / weights.sum(axis=1)
        gain = Estimate(float((own - both).mean()), *interval(draws))
        found[name] = {"own_nll": float(own.mean()), "both_nll": float(both.mean()), "gain": number(honest(gain))}
    return found


def compare(judge: Judge, before: Judged, after: Judged) -> dict[str, Any]:
    """`after` minus `before`, paired by question, each model judged by its own labels."""
    shared = [scorer for scorer in before.scored if scorer in after.scored]
    p_accuracy = {name: flips(before.correct[part], after.correct[part]).p_value for name, part in judge.parts.items()}
    scores = {scorer: _changes(before.scored[scorer], after.scored[scorer], p_accuracy) for scorer in shared}
    for scorer, parts in scores.items():
        sides = [judged.numbers["scores"][scorer] for judged in (before, after)]
        for name, change in parts.items():
            for metric in ("ece", "ece_mass"):
                change[metric] = beyond_floors(change[metric], *(side[name][metric] for side in sides))
    return {
        "flips": asdict(flips(before.correct, after.correct)),
        "scores": scores,
        "disagreement": disagreement(
            {"base": before.correct, "tuned": after.correct},
            {"base": before.probed.test, "tuned": after.probed.test},
            judge.weights,
        ),
    }


def _changes(
    before: Mapping[str, Scored], after: Mapping[str, Scored], p_accuracy: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """`after` minus `before`, part -> metric: corrected for the number of metrics, for subjects for theirs."""
    found = {
        name: {metric: difference(scored, after[name], metric) for metric in METRICS} for name, scored in before.items()
    }
    for name, change in found.items():
        change["accuracy"] = replace(change["accuracy"], p=p_accuracy[name])
    result = {
        name: with_p_values({metric: found[name][metric] for metric in METRICS})
        for name in (ALL, ANSWERED)
        if name in found
    }
    subjects = [name for name in found if name not in result]
    by_metric = {metric: with_p_values({name: found[name][metric] for name in subjects}) for metric in METRICS}
    return result | {name: {metric: by_metric[metric][name] for metric in METRICS} for name in subjects}


def disagreement(
    correct: Mapping[str, np.ndarray], confidences: Mapping[str, Mapping[str, np.ndarray]], weights: np.ndarray
) -> dict[str, Any]:
    """The questions that only one of two models got right: who can tell there?

    Whatever is the same for both models, such as how hard a question is, says the opposite of each.

    Args:
        correct: model -> (n,) labels; two models.
        confidences: model -> scorer -> (n,).
        weights: (resamples, n).

    Returns:
        "n", and for each model the AUROC, by its own labels, of "own_probability", "text_only", "probe" and
        "other_probe" (of the other model's states) where there are such.
    """
    first, second = correct
    rows = correct[first] != correct[second]
    found: dict[str, Any] = {"n": int(rows.sum())}
    for model, other in ((first, second), (second, first)):
        said = {name: confidences[model][name] for name in (OWN, TEXT, PROBE) if name in confidences[model]}
        if PROBE in confidences[other]:
            said[OTHER_PROBE] = confidences[other][PROBE]
        found[model] = {
            name: number(_auroc(p[rows], correct[model][rows], weights[:, rows])) for name, p in said.items()
        }
    return found


def _auroc(p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Estimate:
    if not p.size:
        return Estimate(float("nan"), reason="both models are right about the same questions")
    return honest(score(p, y, weights).estimates()["auroc"])
