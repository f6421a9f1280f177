"""What all figures share: colours, markers, and names from outside made harmless."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.report.words import short_name

# Okabe and Ito's hues, the blue darkened so that the two also differ in grey; markers and line styles differ too.
COLORS = {"base": "#004c7f", "tuned": "#d55e00"}
MARKERS = {"base": "o", "tuned": "s"}
# Of further adapters, in turn: Okabe and Ito's other hues.
_HUES = (COLORS["tuned"], "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DISTINCT = len(_HUES)  # adapters that no other looks like
_SHAPES = (MARKERS["tuned"], "^", "D", "v", "P")
RIGHT, WRONG = "#009e73", "#cc79a7"
INK, SOFT = "#000000", "#808080"
SMALL = 8
LONGEST_NAME, LONGEST_TITLE = 28, 48
_BESIDE = 24  # characters of a label, two of which fit beside each other
_ROWS, _ROW = 2, 0.16  # of a legend: as many as a figure has room for, and what each further one takes, in inches

Number = Mapping[str, Any]


def looks(models: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Model -> colour and marker; the first model is the base, and from the sixth adapter on they come again."""
    base, *adapters = models
    cycle = itertools.cycle(zip(_HUES, _SHAPES, strict=True))
    return {base: (COLORS["base"], MARKERS["base"])} | dict(zip(adapters, cycle, strict=False))


def axes(ax: Axes | None, size: tuple[float, float] = (3.9, 3.2)) -> Axes:
    """The axes given, or those of a new figure of this size in inches that no window knows."""
    return ax if ax is not None else Figure(figsize=size, layout="constrained").subplots()


def plain(text: str, *, longest: int = LONGEST_NAME) -> str:
    """A name from outside as one short line: no control characters, and no dollar sign that starts a formula."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    shown = short_name(shown, longest)
    # matplotlib leaves a label that begins with "_" out of a legend.
    shown = f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown
    return shown.replace("$", r"\$")


def has_value(number: Number | None) -> bool:
    """Whether a number can be drawn with its interval."""
    return bool(number) and number["value"] is not None and number["low"] is not None


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first on top."""
    ax.set_yticks(range(len(names)), [plain(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", alpha=0.25)


def finish(ax: Axes, title: str) -> Axes:
    """The title, small tick labels, and no frame above and at the right."""
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=SMALL)
    ax.xaxis.label.set_fontsize(SMALL)
    ax.yaxis.label.set_fontsize(SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Axes) -> None:
    """A legend below a figure of our own, where it hides nothing; inside axes that were given."""
    handles, labels = ax.get_legend_handles_labels()
    figure = ax.get_figure(root=True)
    if not handles or figure is None:
        return
    if figure.axes == [ax] and figure.get_constrained_layout():
        columns = 2 if max(map(len, labels)) <= _BESIDE else 1
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + _ROW * max(0, rows - _ROWS))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)
    else:
        ax.legend(frameon=False, fontsize=SMALL)
