"""Stage 5, of two: one scorer against another on the same labels, and adapters against base on the same questions."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np

from src.evaluation.comparison import Difference, difference, flips
from src.evaluation.delong import delong_test
from src.evaluation.gain import likelihood_losses
from src.evaluation.intervals import Estimate, interval, score
from src.evaluation.resampling import METRICS
from src.pipeline.judging import ALL, ANSWERED, Judge, Judged
from src.pipeline.numbers import beyond_floors, honest, number, with_p_values
from src.pipeline.probing import OWN, PROBE, RECALIBRATED, TEXT

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

    # Recalibrated, the own probability ranks as before.
    others = [scorer for scorer in scored if scorer not in (PROBE, RECALIBRATED)]
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


def compare(judge: Judge, base: Judged, adapters: Mapping[str, Judged]) -> dict[str, Any]:
    """Each adapter minus the base model, paired by question, each model judged by its own labels: name -> numbers."""
    scores: dict[str, dict[str, Any]] = {name: {} for name in adapters}
    for scorer in base.scored:
        having = {name: one for name, one in adapters.items() if scorer in one.scored}
        for name, parts in _changes(judge, base, having, scorer).items():
            scores[name][scorer] = parts
    return {
        name: {
            "flips": asdict(flips(base.correct, one.correct)),
            "scores": scores[name],
            "disagreement": disagreement(
                {"base": base.correct, "tuned": one.correct},
                {"base": base.probed.test, "tuned": one.probed.test},
                judge.weights,
            ),
        }
        for name, one in adapters.items()
    }


def _changes(judge: Judge, base: Judged, adapters: Mapping[str, Judged], scorer: str) -> dict[str, dict[str, Any]]:
    """Adapter -> part -> metric: corrected for the number of adapters, and of metrics or, of subjects, for theirs."""
    families: dict[str, dict[tuple[str, str, str], Difference]] = {}
    result: dict[str, dict[str, Any]] = {name: {part: {} for part in base.scored[scorer]} for name in adapters}
    for name, part, metric in product(adapters, base.scored[scorer], METRICS):
        one, rows = adapters[name], judge.parts[part]
        found = difference(base.scored[scorer][part], one.scored[scorer][part], metric)
        if metric == "accuracy":
            found = replace(found, p=flips(base.correct[rows], one.correct[rows]).p_value)
        counted = part if part in (ALL, ANSWERED) else f"subjects, {metric}"
        families.setdefault(counted, {})[name, part, metric] = found
    for family in families.values():
        for (name, part, metric), change in with_p_values(family).items():
            sides = (judged.numbers["scores"][scorer][part].get(metric, {}) for judged in (base, adapters[name]))
            result[name][part][metric] = beyond_floors(change, *sides) if metric in ("ece", "ece_mass") else change
    return result


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
