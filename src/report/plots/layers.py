"""Where in the model the probe can read whether the answer is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from src.report.plots.style import INK, SMALL, SOFT, axes, finish, legend, looks, plain
from src.report.words import figure, layer_label

_STYLES = ("-", "--", ":", "-.")
_SHADES = 32
_MOST_BANDS = 2  # that can be told apart
_MOST_LABELS = 12  # of layers that fit beside each other


def layer_curve(variants: Mapping[str, Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """AUROC on held-out rows of the probe of each layer: a line for each model and position, the chosen place ringed.

    Held-out rows are validation rows, or out of fold. Of several families each place shows the best, by the loss there.
    The band, DeLong's 95 % interval, is drawn at the chosen position only, and of two models at most.

    Args:
        variants: `variants` of results.json; models without a probe are left out.
        ax: where to draw; None: a new figure.
    """
    ax = axes(ax)
    probed = {name: variant for name, variant in variants.items() if variant["layers"]}
    for name, variant in probed.items():
        chosen, (color, marker) = variant["selected"], looks(variants)[name]
        positions = _positions(variant)
        for number, position in enumerate(positions):
            at = [result for result in _best_of_place(variant) if result["position"] == position]
            is_chosen = position == chosen["position"]
            x, y = range(len(at)), _numbers(at, "val_auroc")
            label = plain(name) if len(positions) == 1 else f"{plain(name)}, {position}"
            ax.plot(x, y, _STYLES[number % len(_STYLES)], color=color, marker=marker if is_chosen else "",
                    markersize=3, linewidth=1.5 if is_chosen else 0.9, label=label)  # fmt: skip
            if is_chosen:
                low, high = (_numbers(at, f"val_auroc_{end}") for end in ("low", "high"))
                if len(probed) <= _MOST_BANDS:
                    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
                best = [result["layer"] for result in at].index(chosen["layer"])
                ax.plot([best], [y[best]], "o", markersize=11, markerfacecolor="none", color=color)
            _name_layers(ax, [result["layer"] for result in at])
    ax.axhline(0.5, color=SOFT, linestyle="--", linewidth=1)
    ax.set(xlabel="layer", ylabel="AUROC on held-out rows")
    legend(ax)
    return finish(ax, "How well a probe of each layer knows\n(ring: chosen, by the loss there)")


def layer_map(variant: Mapping[str, Any], *, label: str, ax: Axes | None = None) -> Axes:
    """AUROC on held-out rows for each layer and position (of its best family) as a heat map, the chosen place framed.

    Args:
        variant: `variants.<model>` with a probe.
        label: the model's name.
        ax: where to draw; None: a new figure.
    """
    positions = _positions(variant)
    layers = list(dict.fromkeys(result["layer"] for result in variant["layers"]))
    grid = np.full((len(positions), len(layers)), np.nan)
    for result in _best_of_place(variant):
        grid[positions.index(result["position"]), layers.index(result["layer"])] = _numbers([result], "val_auroc")[0]
    ax = axes(ax, (3.9, 1.5 + 0.3 * len(positions)))
    # One hue from dark to light: read alike in grey.
    mesh = ax.pcolormesh(grid, cmap=matplotlib.colormaps["cividis"].resampled(_SHADES))
    chosen = variant["selected"]
    x, y = layers.index(chosen["layer"]), positions.index(chosen["position"])
    ax.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color="#ffffff", linewidth=3)
    ax.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color="#d55e00", linewidth=1.5)
    _name_layers(ax, layers, at=0.5)
    ax.set_yticks(np.arange(len(positions)) + 0.5, [plain(position) for position in positions])
    ax.invert_yaxis()
    ax.set_xlabel("layer")
    colorbar = ax.get_figure(root=True).colorbar(mesh, ax=ax, format=lambda value, _: figure(value, digits=2))  # pyright: ignore[reportOptionalMemberAccess]
    colorbar.ax.tick_params(labelsize=SMALL)
    colorbar.solids.set(rasterized=False, edgecolor="face")  # pyright: ignore[reportOptionalMemberAccess]
    colorbar.outline.set_edgecolor(INK)  # pyright: ignore[reportCallIssue]
    return finish(ax, f"{plain(label)}: AUROC on held-out rows\n(frame: chosen)")


def _numbers(results: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Null is NaN, which is not drawn."""
    return np.array([result[key] for result in results], dtype=np.float64)


def _best_of_place(variant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of each place the candidate with the lowest validation loss, in the places' order."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for result in variant["layers"]:
        key = result["position"], result["layer"]
        if key not in best or result["val_nll"] < best[key]["val_nll"]:
            best[key] = result
    return list(best.values())


def _positions(variant: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(result["position"] for result in variant["layers"]))


def _name_layers(ax: Axes, layers: list[str], *, at: float = 0.0) -> None:
    """Names below the layers, as many as fit."""
    step = -(-len(layers) // _MOST_LABELS)
    ax.xaxis.set_major_locator(FixedLocator([place + at for place in range(0, len(layers), step)]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda place, _: layer_label(layers[int(place)])))
