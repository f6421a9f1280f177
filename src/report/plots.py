"""Figures, each drawn on an Axes given or made: `(..., ax=None) -> Axes`."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.report.words import SCORERS, figure, layer_label, subjects

# Okabe and Ito's palette: told apart by the colour-blind; markers differ too, for print in grey.
COLORS = {"base": "#0072B2", "tuned": "#D55E00"}
MARKERS = {"base": "o", "tuned": "s"}
_SHADES = {
    "probe": "#009E73",
    "own_probability": "#56B4E9",
    "text_only": "#E69F00",
    "shuffled_labels": "#999999",
}


def _axes(ax: Axes | None, size: tuple[float, float] = (4.2, 3.4)) -> Axes:
    return ax if ax is not None else Figure(figsize=size, layout="constrained").subplots()


def reliability_diagram(bins: Sequence[Mapping[str, Any]], ece: Mapping[str, Any], *, label: str, color: str,
                        ax: Axes | None = None) -> Axes:  # fmt: skip
    """Accuracy against confidence per bin; the area of a dot grows with its count; the ECE in the title."""
    ax = _axes(ax)
    total = sum(b["n"] for b in bins)
    ax.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, zorder=1)
    ax.vlines([b["confidence"] for b in bins], [b["confidence"] for b in bins], [b["accuracy"] for b in bins],
              color=color, alpha=0.5, linewidth=2, zorder=2)  # fmt: skip
    ax.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins],
               s=[12 + 600 * b["n"] / total for b in bins], color=color, alpha=0.85, zorder=3)  # fmt: skip
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="share right")
    ax.set_title(f"{label}\nECE {figure(ece['value'])} (calibrated: {figure(ece['calibrated_mean'])})", fontsize=9)
    return ax


def layer_curve(variants: Mapping[str, Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Validation AUROC of the probe of each layer, base and tuned on one axis, a line for each position.

    The chosen place is ringed.
    """
    ax = _axes(ax)
    for name, variant in variants.items():
        chosen = variant["selected"]
        positions = list(dict.fromkeys(result["position"] for result in variant["layers"]))
        for position, style in zip(positions, itertools.cycle(("-", "--", ":", "-."))):
            results = [result for result in variant["layers"] if result["position"] == position]
            y = [result["val_auroc"] for result in results]
            label = name if len(positions) == 1 else f"{name}, {position}"
            ax.plot(range(len(y)), y, style, color=COLORS[name], marker=MARKERS[name], markersize=4, label=label)
            for x, result in enumerate(results):
                if (position, result["layer"]) == (chosen["position"], chosen["layer"]):
                    ax.plot([x], [y[x]], "o", markersize=12, markerfacecolor="none", color=COLORS[name])
            ax.set_xticks(range(len(y)), [layer_label(result["layer"]) for result in results])
    ax.axhline(0.5, color="#888888", linestyle="--", linewidth=1)
    ax.set(xlabel="layer", ylabel="AUROC on validation")
    ax.set_title("Where the model knows (ring: chosen by validation loss)", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return ax


def base_against_tuned(variants: Mapping[str, Mapping[str, Any]], metric: str, title: str, *,
                       ax: Axes | None = None) -> Axes:  # fmt: skip
    """One metric of the main scorers with its interval, base and tuned side by side."""
    ax = _axes(ax)
    names = {"probe": "probe", "own_probability": "own\nprobability", "text_only": "text\nonly",
             "shuffled_labels": "shuffled\nlabels"}  # fmt: skip
    scorers = [s for s in names if any(metric in v["scores"].get(s, {}).get("all", {}) for v in variants.values())]
    for offset, (name, variant) in enumerate(variants.items()):
        for place, scorer in enumerate(scorers):
            number = variant["scores"].get(scorer, {}).get("all", {}).get(metric)
            if number is None or number["value"] is None or number["low"] is None:
                continue
            x = place + (offset - (len(variants) - 1) / 2) * 0.24
            ax.plot([x, x], [number["low"], number["high"]], color=COLORS[name], linewidth=2)
            ax.plot([x], [number["value"]], MARKERS[name], color=COLORS[name], label=name if not place else None)
    ax.set_ylim(*((min(0.4, ax.get_ylim()[0]), 1) if metric == "auroc" else (0, None)))
    if metric == "auroc":
        ax.axhline(0.5, color="#888888", linestyle="--", linewidth=1)
    ax.set_xticks(range(len(scorers)), [names[s] for s in scorers])
    ax.set_title(title, fontsize=9)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def subject_dots(variants: Mapping[str, Mapping[str, Any]], scorer: str, *, ax: Axes | None = None) -> Axes:
    """AUROC of one scorer per subject, with intervals, base and tuned."""
    names = subjects(next(iter(variants.values()))["scores"].get(scorer, {}))
    ax = _axes(ax, (4.2, 1.2 + 0.24 * len(names)))
    for offset, (name, variant) in enumerate(variants.items()):
        for place, subject in enumerate(names):
            number = variant["scores"].get(scorer, {}).get(subject, {}).get("auroc", {})
            if number.get("value") is None or number["low"] is None:
                continue
            y = place + (offset - (len(variants) - 1) / 2) * 0.24
            ax.plot([number["low"], number["high"]], [y, y], color=COLORS[name], linewidth=2)
            ax.plot([number["value"]], [y], MARKERS[name], color=COLORS[name], label=name if not place else None)
    ax.axvline(0.5, color="#888888", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="AUROC on test")
    ax.set_title(SCORERS[scorer], fontsize=9)
    return ax
