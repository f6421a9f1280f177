"""Several adapters on one base model: which is best on what, and where it got worse."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.report.words import HIGHER_IS_BETTER, LEVEL, excludes_zero, figure, percent, percent_interval, with_interval

Results = Mapping[str, Any]
OWN, PROBE = "own_probability", "probe"


@dataclass(frozen=True)
class Measure:
    """What adapters are compared in.

    Attributes:
        metric, scorer: where it stands in results.json.
        title: for tables and sentences.
        best, none: what the headline says of the best adapter, and where none is clearly better; "" where it says
            nothing.
    """

    metric: str
    scorer: str
    title: str
    best: str = ""
    none: str = ""

    @property
    def is_share(self) -> bool:
        """Whether people read it in per cent."""
        return self.metric == "accuracy"


MEASURES = (
    Measure("accuracy", OWN, "Accuracy", "is the most accurate", "none is clearly more accurate than the base model"),
    Measure(
        "auroc", OWN, "AUROC, own probability", "knows best when it is wrong",
        "none clearly knows better than the base model when it is wrong",
    ),
    Measure(
        "ece", OWN, "ECE, own probability", "is the best calibrated",
        "none is clearly better calibrated than the base model",
    ),
    Measure("nll", OWN, "NLL, own probability"),
    Measure("auroc", PROBE, "AUROC, probe"),
    Measure("ece", PROBE, "ECE, probe"),
    Measure("nll", PROBE, "NLL, probe"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One model: its numbers and what changed against the base, in the order of the measures, None where there is none.

    Attributes:
        name: of the model.
        step: how far it is; None of the base model.
        cells: number and change of each measure.
    """

    name: str
    step: int | None
    cells: tuple[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None], ...]


def are_several(results: Results) -> bool:
    """Whether there is something to say over adapters."""
    return len(results["comparisons"]) > 1


def measures(results: Results) -> list[Measure]:
    """Those that the base model has a number of."""
    return [one for one in MEASURES if value_of(results, "base", one) is not None]


def rows(results: Results) -> list[Row]:
    """The base model, then the adapters by their steps."""
    known = measures(results)
    return [
        Row(name, step, tuple((value_of(results, name, one), change_of(results, name, one)) for one in known))
        for name, step in (("base", None), *by_step(results))
    ]


def by_step(results: Results) -> list[tuple[str, int]]:
    """Name and step of each adapter, the earliest first."""
    found = {name: one["step"] for name, one in results["model"]["adapters"].items()}
    return sorted(found.items(), key=lambda item: item[1])


def value_of(results: Results, name: str, measure: Measure) -> Mapping[str, Any] | None:
    """A model's number, on all test questions."""
    variant = results["variants"][name]
    if measure.is_share:
        return variant["accuracy"]["all"]
    return variant["scores"].get(measure.scorer, {}).get("all", {}).get(measure.metric)


def change_of(results: Results, name: str, measure: Measure) -> Mapping[str, Any] | None:
    """Adapter minus base; None of the base itself."""
    scores = results["comparisons"].get(name, {}).get("scores", {})
    return scores.get(measure.scorer, {}).get("all", {}).get(measure.metric)


def clearly(results: Results, measure: Measure) -> tuple[list[str], list[str]]:
    """Those that are clearly better than the base, after correction for their number, and those clearly worse."""
    better, worse = [], []
    for name, _ in by_step(results):
        change = change_of(results, name, measure)
        if change and excludes_zero(change) and change["p_holm"] < LEVEL:
            up = change.get("excess", change)["value"] > 0
            (better if up == HIGHER_IS_BETTER[measure.metric] else worse).append(name)
    return better, worse


def verdict_over_adapters(results: Results) -> list[str]:
    """A headline, and a sentence for each measure."""
    known, count = measures(results), len(results["comparisons"])
    last = by_step(results)[-1][0]
    how = (
        f"What is clear is so after Holm's correction for {count} adapters and all measures of a confidence, which "
        "asks for more than an interval without zero; each is compared with the base model, not with the others. What "
        f"follows is about {last}, the last of them."
    )
    if not any(side for one in known for side in clearly(results, one)):
        return [
            f"None of the {count} adapters can be told apart from the base model: not in accuracy, not in how well it "
            "knows when it is wrong, and not in calibration.",
            *(_in_full(results, one) for one in known if one.best),
            how,
        ]
    clauses = "; ".join(_clause(results, one) for one in known if one.best)
    return [
        f"Of {count} adapters, {clauses}.",
        *(_in_full(results, one) for one in known if one.best or any(clearly(results, one))),
        *_the_others([one for one in known if not one.best and not any(clearly(results, one))]),
        how,
    ]


def _clause(results: Results, measure: Measure) -> str:
    better, worse = clearly(results, measure)
    if better:
        first, *equal = _best(results, better, measure)
        said = f"{first}{f', like {_listed(equal)},' if equal else ''} {measure.best}"
    else:
        said = measure.none
    against = " than the base model" if better else ""
    return said + (f", and {_listed(worse)} {_is(worse)} clearly worse{against}" if worse else "")


def _in_full(results: Results, measure: Measure) -> str:
    show, between = (percent, percent_interval) if measure.is_share else (figure, with_interval)
    base, names = value_of(results, "base", measure), [name for name, _ in by_step(results)]
    known = [name for name in names if (value_of(results, name, measure) or {"value": None})["value"] is not None]
    if not known or base is None:
        return f"{measure.title}: undefined."
    best = _best(results, known, measure)
    number, change = value_of(results, best[0], measure), change_of(results, best[0], measure)
    by = f" ({between(change, signed=True)})" if change and change["value"] is not None else ""
    better, worse = clearly(results, measure)
    said = [f"clearly {word}: {_listed(side)}" for word, side in (("better", better), ("worse", worse)) if side]
    value = show((number or base)["value"])
    return (
        f"{measure.title}: base model {show(base['value'])}, best {_listed(best)} with {value}{by}; "
        f"{'; '.join(said) or 'none is clearly different from the base model'}."
    )


def _the_others(unclear: list[Measure]) -> list[str]:
    titles = "; ".join(one.title for one in unclear)
    return [f"None is clearly different from the base model in: {titles}."] if unclear else []


def _best(results: Results, names: list[str], measure: Measure) -> list[str]:
    """The best one, and those that equal it."""
    values = {name: (value_of(results, name, measure) or {"value": 0.0})["value"] for name in names}
    best = (max if HIGHER_IS_BETTER[measure.metric] else min)(values.values())
    return [name for name, value in values.items() if value == best]


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
