"""A figure as inline SVG that takes its colours from the page, so that one drawing serves light, dark and print."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup
from matplotlib.axes import Axes

from src.report.plots.style import COLORS, INK, SOFT

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# The variables are those of page/style.css.
_THEME = {INK: "currentColor", SOFT: "var(--soft)", "#ffffff": "var(--page)"} | {
    color: f"var(--{name})" for name, color in COLORS.items()
}
_COLOR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def svg(draw: Callable[[], Axes], key: str) -> Markup:
    """What `draw` draws, as an <svg> with its title as the text for those who cannot see it.

    Args:
        draw: makes the figure; called under the settings that are needed.
        key: starts every id; another for every figure of a page. Equal figures give equal bytes.
    """
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.family": "sans-serif",
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # The browser has glyphs for what matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        axes = draw()
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        axes.get_figure(root=True).savefig(buffer, format="svg", transparent=True, metadata=nothing)  # pyright: ignore[reportOptionalMemberAccess]
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (made by matplotlib)
    _own_ids(root, key)
    for element in root.iter():
        if style := element.get("style"):
            element.set("style", _COLOR.sub(lambda found: _THEME.get(found[0], found[0]), style))
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": axes.get_title().replace("\n", ", ").replace(r"\$", "$")}
    return Markup(_as_text(root))  # noqa: S704 (ElementTree escapes)


def _own_ids(root: ET.Element, key: str) -> None:
    """Keep the ids that something points to, and put `key` before them: several figures share a page."""
    href = f"{{{_XLINK}}}href"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}metadata":
                parent.remove(child)
    used = {element.attrib[href][1:] for element in root.iter() if href in element.attrib}
    used |= {name for element in root.iter() for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute == "id" and value not in used:
                del element.attrib[attribute]
            elif attribute == "id":
                element.set(attribute, f"{key}-{value}")
            elif attribute == href and value.startswith("#"):
                element.set(attribute, f"#{key}-{value[1:]}")
            else:
                element.set(attribute, _REFERENCE.sub(rf"url(#{key}-\1)", value))


def _as_text(root: ET.Element) -> str:
    """Without namespace prefixes, which HTML does not know; xlink:href is written as href."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for attribute in [name for name in element.attrib if name.startswith("{")]:
            element.set(attribute.rpartition("}")[2], element.attrib.pop(attribute))
    return ET.tostring(root, encoding="unicode")
