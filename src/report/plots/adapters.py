"""How a number goes over the adapters of one base model, such as the checkpoints of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from src.report.adapters import Measure, by_step, measures, value_of
from src.report.plots.style import COLORS, INK, SOFT, axes, finish, has_value, legend, plain
from src.report.words import METRIC_NAMES, SHORT

_LOOKS = {"own_probability": ("o", COLORS["base"], -0.006), "probe": ("s", COLORS["tuned"], 0.006)}
_FROM = {
    "name": "step (the number at the end of the adapter's name)",
    "checkpoint_info.json": "step (of the checkpoint that was converted)",
    "place": "adapters in the order given",
}
_MOST_TICKS = 8


def over_adapters(results: Mapping[str, Any], metric: str = "accuracy", *, ax: Axes | None = None) -> Axes:
    """One metric of every adapter with its interval, over its step; the base model is a dashed line with its band.

    Points are joined where the steps are numbers of a training, and stand alone where they are places in a list.

    Args:
        results: of a run with several adapters (docs/results.md).
        metric: accuracy, auroc, ece or nll. Of ECE, a grey bar shows what perfect calibration would score.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax)
    steps, source = by_step(results), results["model"]["steps_from"]
    for measure in measures(results):
        if measure.metric == metric:
            _draw(ax, results, measure, steps, joined=source != "place")
    places = [step for _, step in steps]
    if source == "place":
        ax.set_xticks(places, [plain(name) for name, _ in steps], rotation=30, ha="right", rotation_mode="anchor")
    elif len(places) <= _MOST_TICKS:
        ax.xaxis.set_major_locator(FixedLocator(places))
    ax.set_xlabel(_FROM[source])
    legend(ax)
    return finish(ax, METRIC_NAMES[metric] + ("\n(grey: if perfectly calibrated)" if metric == "ece" else ""))


def _draw(
    ax: Axes, results: Mapping[str, Any], measure: Measure, steps: Sequence[tuple[str, int]], *, joined: bool
) -> None:
    marker, color, shift = ("D", INK, 0.0) if measure.is_share else _LOOKS[measure.scorer]
    width = max(step for _, step in steps) - min(step for _, step in steps) or 1
    label = "" if measure.is_share else f", {SHORT[measure.scorer]}"
    base = value_of(results, "base", measure)
    if base and has_value(base):
        ax.axhline(base["value"], color=color, linestyle="--", linewidth=1, label=f"base{label}")
        ax.axhspan(base["low"], base["high"], color=color, alpha=0.08, linewidth=0)
    found = [(step + shift * width, number) for name, step in steps
             if (number := value_of(results, name, measure)) and has_value(number)]  # fmt: skip
    x = [place for place, _ in found]
    ax.vlines(x, [n["low"] for _, n in found], [n["high"] for _, n in found], color=color, linewidth=1.3)
    ax.plot(x, [n["value"] for _, n in found], marker, linestyle="-" if joined else "", color=color, markersize=4.5,
            linewidth=1.2, label=f"adapters{label}")  # fmt: skip
    floors = [(place, n["calibrated_mean"]) for place, n in found if n.get("calibrated_mean") is not None]
    if floors:
        left, right = ([place + side * width for place, _ in floors] for side in (-0.02, 0.02))
        ax.hlines([floor for _, floor in floors], left, right, color=SOFT, linewidth=2.5)
