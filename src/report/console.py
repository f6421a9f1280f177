"""The console that people read: wide enough, nothing in a text is an instruction to it."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from src.errors import printable

WIDTH = 120  # what the widest table needs


def make_console(width: int = WIDTH) -> Console:
    """One for a report, at least so wide; names and texts from outside cannot move its cursor or colour its lines."""
    console = Console(width=max(width, Console().width), markup=False, emoji=False, highlight=False)
    console.push_render_hook(_Printable())
    return console


class _Printable(RenderHook):
    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [_Cleaned(one) for one in renderables]


class _Cleaned:
    def __init__(self, renderable: ConsoleRenderable):
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
