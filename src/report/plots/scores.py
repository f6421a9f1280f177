"""One metric of several scorers or subjects with its intervals, all models on one axis."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from src.report.plots.style import SOFT, Number, axes, finish, has_value, legend, looks, name_rows, plain
from src.report.words import METRIC_NAMES, SCORERS, SHORT, SMALL_N, subjects

_COMPARED = ("probe", "own_probability", "text_only", "p_true", "stated", "self_consistency", "shuffled_labels")
_APART, _ROW = 0.26, 0.8  # between models, and of all together, where 1 is a row

Find = Callable[[Mapping[str, Any], str], Number | None]


def base_against_tuned(variants: Mapping[str, Mapping[str, Any]], metric: str = "auroc", *,
                       ax: Axes | None = None) -> Axes:  # fmt: skip
    """One metric of the main scorers on all test questions, with intervals, all models on one axis.

    Args:
        variants: `variants` of results.json.
        metric: one that `scores.<scorer>.all` holds: auroc, brier, nll, ece and so on. Of ECE, a grey bar shows what
            perfect calibration would score.
        ax: where to draw; None: a new figure.
    """

    def find(variant: Mapping[str, Any], scorer: str) -> Number | None:
        return variant["scores"].get(scorer, {}).get("all", {}).get(metric)

    scorers = [s for s in _COMPARED if any(find(variant, s) for variant in variants.values())]
    ax = axes(ax, (3.9, 1.5 + 0.14 * max(3, len(variants)) * len(scorers)))
    for shift, _, variant in _shifted(variants):
        for place, scorer in enumerate(scorers):
            floor = (find(variant, scorer) or {}).get("calibrated_mean")
            if floor is not None:
                ax.plot([floor, floor], [place + shift - 0.11, place + shift + 0.11], color=SOFT, linewidth=3)
    _draw(ax, variants, scorers, find)
    name_rows(ax, [SHORT[scorer] for scorer in scorers])
    if metric == "auroc":
        ax.axvline(0.5, color=SOFT, linestyle="--", linewidth=1)
    note = "\n(grey: if perfectly calibrated)" if metric.startswith("ece") else ""
    legend(ax)
    return finish(ax, METRIC_NAMES[metric] + note)


def subject_dots(variants: Mapping[str, Mapping[str, Any]], scorer: str | None = None, *,
                 ax: Axes | None = None) -> Axes:  # fmt: skip
    """Each subject with its interval for every model, the highest first.

    Hollow where there are fewer than 100 questions; a small cross is the value drawn to all subjects.

    Args:
        variants: `variants` of results.json.
        scorer: whose AUROC is drawn; None: the accuracy.
        ax: where to draw; None: a new figure.
    """

    def part(variant: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
        return (variant["scores"].get(scorer, {}) if scorer else variant["accuracy"]).get(subject, {})

    def find(variant: Mapping[str, Any], subject: str) -> Number | None:
        found = part(variant, subject)
        return found.get("auroc") if scorer else found or None

    def is_small(variant: Mapping[str, Any], subject: str) -> bool:
        return part(variant, subject)["n"] < SMALL_N

    first = next(iter(variants.values()))
    names = sorted(subjects(first["accuracy"]), key=lambda subject: _height(find(first, subject)))
    ax = axes(ax, (3.9, 1.4 + (0.3 if len(names) < 20 else 0.2) * len(names)))
    _draw(ax, variants, names, find, is_small)
    for shift, name, variant in _shifted(variants):
        shrunk = [
            (place + shift, number["shrunk"]["value"])
            for place, subject in enumerate(names)
            if has_value(number := find(variant, subject) or {"value": None}) and has_value(number.get("shrunk"))
        ]
        if shrunk:
            y, x = zip(*shrunk, strict=True)
            ax.plot(x, y, "x", color=looks(variants)[name][0], markersize=4, markeredgewidth=0.9)
    name_rows(ax, names)
    if scorer:
        ax.axvline(0.5, color=SOFT, linestyle="--", linewidth=1)
    ax.set(xlabel="AUROC on test" if scorer else "accuracy on test")
    legend(ax)
    return finish(ax, SCORERS[scorer] if scorer else "Accuracy")


def _draw(ax: Axes, variants: Mapping[str, Mapping[str, Any]], rows: Sequence[str], find: Find,
          hollow: Callable[[Mapping[str, Any], str], bool] = lambda _variant, _row: False) -> None:  # fmt: skip
    """A dot and its interval in every row that has a value: one line collection and at most two sets of dots a model.

    Three artists a model and not two for each of 57 subjects: those would be most of the time of a report.
    """
    for shift, name, variant in _shifted(variants):
        color, marker = looks(variants)[name]
        drawn = [(place + shift, number, hollow(variant, row)) for place, row in enumerate(rows)
                 if (number := find(variant, row)) and has_value(number)]  # fmt: skip
        ax.hlines([y for y, *_ in drawn], [number["low"] for _, number, _ in drawn],
                  [number["high"] for _, number, _ in drawn], color=color, linewidth=1.3)  # fmt: skip
        label: str | None = plain(name)
        for is_hollow in (False, True):
            dots = [(number["value"], y) for y, number, small in drawn if small == is_hollow]
            if dots:
                ax.plot(*zip(*dots, strict=True), marker, color=color, markersize=4.5,
                        markerfacecolor="white" if is_hollow else None, label=label)  # fmt: skip
                label = None


def _shifted(variants: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, str, Mapping[str, Any]]]:
    middle, apart = (len(variants) - 1) / 2, min(_APART, _ROW / len(variants))
    return [((place - middle) * apart, name, variant) for place, (name, variant) in enumerate(variants.items())]


def _height(number: Number | None) -> float:
    """By which rows are sorted: the highest value first, those without one last."""
    return -number["value"] if number and number["value"] is not None else 2.0
