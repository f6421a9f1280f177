"""What a probe of one group of questions knows of another."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from src.report.plots.style import COLORS, INK, SMALL, axes, finish, plain
from src.report.words import figure

_FAINTEST, _STRONGEST = 0.04, 0.6  # of the tint: text stays readable on it


def transfer_map(found: Mapping[str, Any], *, label: str, color: str = COLORS["base"], ax: Axes | None = None) -> Axes:
    """AUROC on test, trained on the group of the row and tested on that of the column: the stronger the tint, the more.

    Each cell holds its number, so that nothing is told by colour alone. Framed: trained where it is tested.

    Args:
        found: `variants.<model>.held_out.<kind>` with a matrix.
        label: the model's name.
        color: of the tint.
        ax: where to draw; None: a new figure.
    """
    names = [plain(group["name"]) for group in found["groups"]]
    cells = [(x, y, cell["value"]) for y, row in enumerate(found["matrix"]["auroc"]) for x, cell in enumerate(row)]
    size = len(names)
    ax = axes(ax, (3.9, 1.7 + 0.34 * size))
    x, y, values = zip(*cells, strict=True)
    ax.bar(x, [1.0] * len(cells), width=1.0, bottom=[place - 0.5 for place in y], linewidth=0,
           color=[(color, _tint(value)) for value in values])  # fmt: skip
    for column, row, value in cells:
        shown = "–" if value is None else figure(value, digits=2)
        ax.text(column, row, shown, ha="center", va="center", fontsize=SMALL if size <= 6 else SMALL - 1)
    places = list(range(size))
    ax.bar(places, [0.94] * size, width=0.94, bottom=[place - 0.47 for place in places], facecolor="none",
           edgecolor=INK, linewidth=1.2)  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.set_xticklabels(names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, names)
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="tested on", ylabel="trained on")
    return finish(ax, f"{plain(label)}: AUROC on test\n(framed: trained where tested)")


def _tint(value: float | None) -> float:
    """Of .5, and of what is below or unknown, hardly any."""
    above = 0.0 if value is None else max(0.0, 2 * value - 1)
    return _FAINTEST + (_STRONGEST - _FAINTEST) * above
