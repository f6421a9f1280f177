"""What answering only when sure costs and gains."""

from collections.abc import Collection, Mapping
from typing import Any

from matplotlib.axes import Axes

from src.report.plots.style import SMALL, SOFT, axes, finish, has_value, legend, looks, plain
from src.report.words import SHORT

_LINES = {"probe": "-", "own_probability": "--"}


def risk_coverage(variants: Mapping[str, Mapping[str, Any]], scorers: Collection[str] = tuple(_LINES), *,
                  ax: Axes | None = None) -> Axes:  # fmt: skip
    """The share wrong among the answers given, when only the most confident share of the questions is answered.

    Markers show what the promised thresholds do on the test questions; a dotted line each promised risk. At the right
    end, where everything is answered, a curve shows how often the model is wrong.

    Args:
        variants: `variants` of results.json.
        scorers: whose confidence: "probe", "own_probability" or both.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax)
    risks = set()
    for name, variant in variants.items():
        color, marker = looks(variants)[name]
        for scorer, curve in variant["risk_coverage"].items():
            if scorer not in scorers:
                continue
            ax.plot(curve["coverage"], curve["risk"], _LINES[scorer], color=color, linewidth=1.4,
                    label=f"{plain(name)}: {SHORT[scorer]}")  # fmt: skip
            for promise in variant["selective"].get(scorer, []):
                risks.add(promise["risk"])
                found = promise["test"]
                if found and has_value(found["risk"]):
                    ax.plot([found["coverage"]["value"]], [found["risk"]["value"]], marker, color=color,
                            markersize=6, markerfacecolor="white" if scorer == "own_probability" else None)  # fmt: skip
    for risk in sorted(risks):
        ax.axhline(risk, color=SOFT, linestyle=":", linewidth=1)
        ax.text(1.01, risk, f"promised: at most {100 * risk:g}%", fontsize=SMALL - 1, va="bottom", ha="right")
    ax.set(xlim=(0, 1.02), xlabel="share of the questions answered, the surest first", ylabel="share wrong among them")
    ax.set_ylim(bottom=0)
    legend(ax)
    return finish(ax, "Answering only when sure\n(markers: the promised thresholds, on test)")
