"""How far a confidence can be believed: accuracy at each confidence, and confidence by correctness."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from src.report.plots.style import COLORS, INK, LONGEST_TITLE, RIGHT, SOFT, WRONG, Number, axes, finish, legend, plain
from src.report.words import figure

_COUNTS_REACH = 0.22  # of the height of the reliability diagram


def reliability_diagram(bins: Sequence[Mapping[str, Any]], ece: Number, *, label: str, color: str = COLORS["base"],
                        ax: Axes | None = None) -> Axes:  # fmt: skip
    """The share right at each confidence with Wilson's interval; bars below show how many answers are there.

    Args:
        bins: `variants.<model>.reliability.<scorer>`.
        ece: `variants.<model>.scores.<scorer>.all.ece`; with the value under perfect calibration it makes the title.
        label: whose confidence it is.
        color: of the dots.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax)
    counts = [b["n"] for b in bins]
    most = max(counts, default=0)
    widths = [b["high"] - b["low"] for b in bins]
    ax.bar([b["low"] for b in bins], [_COUNTS_REACH * n / most for n in counts], widths, align="edge",
           color=SOFT, alpha=0.3, linewidth=0, zorder=1)  # fmt: skip
    ax.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1, zorder=2)
    x = [b["confidence"] for b in bins]
    ax.vlines(x, [b["accuracy_low"] for b in bins], [b["accuracy_high"] for b in bins], color=color, zorder=3)
    ax.plot(x, [b["accuracy"] for b in bins], "o-", color=color, linewidth=0.8, markersize=4, zorder=4)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"confidence (bars: answers, at most {most:,})",
           ylabel="share right")  # fmt: skip
    calibrated = figure(ece.get("calibrated_mean"))
    whose = plain(label, longest=LONGEST_TITLE)
    return finish(ax, f"{whose}\nECE {figure(ece['value'])} (perfectly calibrated: {calibrated})")


def confidence_by_correctness(histogram: Mapping[str, Any], *, label: str, ax: Axes | None = None) -> Axes:
    """How many right answers (upward) and wrong ones (downward, hatched) have each confidence.

    Args:
        histogram: `variants.<model>.histogram.<scorer>`.
        label: whose confidence it is.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax)
    edges = histogram["edges"]
    widths = [high - low for low, high in itertools.pairwise(edges)]
    right, wrong = histogram["right"], histogram["wrong"]
    ax.bar(edges[:-1], right, widths, align="edge", color=RIGHT, edgecolor=INK, linewidth=0.4,
           label=f"right ({sum(right):,})")  # fmt: skip
    ax.bar(edges[:-1], [-n for n in wrong], widths, align="edge", color=WRONG, edgecolor=INK, linewidth=0.4,
           hatch="////", label=f"wrong ({sum(wrong):,})")  # fmt: skip
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlim=(0, 1), xlabel="confidence", ylabel="answers")
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    legend(ax)
    return finish(ax, f"{plain(label, longest=LONGEST_TITLE)}: how sure it was\nwhen right and when wrong")
