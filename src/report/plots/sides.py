"""Several models of several runs on one axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from src.report.plots.style import COLORS, INK, SOFT, axes, finish, has_value, legend, name_rows
from src.report.words import METRIC_NAMES, SHORT

_LOOKS = {"own_probability": ("o", COLORS["base"], -0.12), "probe": ("s", COLORS["tuned"], 0.12)}


def sides(compared: Sequence[Mapping[str, Any]], metric: str = "auroc", *, ax: Axes | None = None) -> Axes:
    """One metric of every model with its interval: of its own probability, and of its probe where there is one.

    Args:
        compared: `sides` of what `confprobe report RUN RUN... --json` prints.
        metric: accuracy, auroc, brier, nll or ece.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax, (3.9, 1.3 + 0.42 * len(compared)))
    if metric == "accuracy":
        _draw(ax, [(place, side["accuracy"]) for place, side in enumerate(compared)], "D", INK, None)
    else:
        for scorer, (marker, color, shift) in _LOOKS.items():
            found = [(place + shift, side["scores"][scorer][metric]) for place, side in enumerate(compared)
                     if scorer in side["scores"]]  # fmt: skip
            _draw(ax, found, marker, color, SHORT[scorer])
    if metric == "auroc":
        ax.axvline(0.5, color=SOFT, linestyle="--", linewidth=1)
    name_rows(ax, [side["label"] for side in compared])
    legend(ax)
    return finish(ax, METRIC_NAMES[metric])


def _draw(
    ax: Axes, rows: Sequence[tuple[float, Mapping[str, Any]]], marker: str, color: str, label: str | None
) -> None:
    drawn = [(y, number) for y, number in rows if has_value(number)]
    if drawn:
        y = [place for place, _ in drawn]
        ax.hlines(y, [n["low"] for _, n in drawn], [n["high"] for _, n in drawn], color=color, linewidth=1.3)
        ax.plot([n["value"] for _, n in drawn], y, marker, color=color, markersize=4.5, label=label)
