"""Whether states from outside are what they are said to be, as people read it on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.console import make_console


def print_states(found: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print a line for each layer and what was compared (`StatesCheck.as_plain`)."""
    console = console or make_console(100)
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "verdict", "largest relative error"):
        table.add_column(column, justify="right" if "error" in column else "left")
    for one in found["layers"]:
        table.add_row(one["layer"], one["verdict"], f"{one['error']:.2g}")
    console.print(table)
    for one in found["layers"]:
        if one["verdict"] != "holds":
            console.print(f"  • {one['sentence']}")
    console.print(found["sentences"][-1])
    console.print("The states hold." if found["holds"] else "These are not the states of this model.", style="bold")
