"""Whether an adapter is what was trained, and its update in numbers, as people read it on the terminal."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.console import make_console


def print_verification(found: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the table of updates, the verdict and its reasons (`Verification.as_plain`)."""
    console = console or make_console(100)
    console.print(_updates(found["modules"]))
    console.print(f"The biggest change: {found['biggest']}.")
    console.print(found["verdict"].capitalize(), style="bold")
    for sentence in found["sentences"]:
        console.print(f"  • {sentence}")
    if found["kept_in"]:
        console.print(f"Certificate: {found['kept_in']}", soft_wrap=True)


def _updates(modules: list[Mapping[str, Any]]) -> Table:
    """One row for each kind of layer: q_proj, up_proj, lm_head and so on."""
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for module in modules:
        kinds[module["module"].rsplit(".", 1)[-1]].append(module)
    known = all(module["relative"] is not None for module in modules)
    measure, title = ("relative", "of its weight's norm") if known else ("norm", "Frobenius norm")
    table = Table(title="updates", title_justify="left", box=None, pad_edge=False)
    for column in ("layer", "number", title, "largest", "effective rank", "of"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for kind, updates in kinds.items():
        sizes = [update[measure] for update in updates]
        ranks = [update["effective_rank"] for update in updates]
        table.add_row(
            kind, str(len(updates)), f"{median(sizes):.3g}", f"{max(sizes):.3g}", f"{median(ranks):.1f}",
            str(max(update["rank"] for update in updates)),
        )  # fmt: skip
    return table
