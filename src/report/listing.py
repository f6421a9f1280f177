"""Plans, findings and cache contexts as people read them on the terminal."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.machine import in_words, time_in_words
from src.report.console import make_console

_STATES = {
    "new": "new",
    "unfinished": "holds this run, unfinished: it goes on",
    "finished": "holds this run, finished: it is evaluated again, from the cache where there is one",
    "replaced": "holds a run, which is replaced",
}
_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def print_plan(facts: Mapping[str, Any], *, console: Console | None = None) -> None:
    """What a run would do (`Plan.facts`)."""
    memory = facts["free_memory"]
    rows = {
        "model": f"{facts['model']}, {facts['parameters'] / 1e6:,.2f} M parameters, {in_words(facts['weight_bytes'])}",
        "adapter": _adapters(facts["adapters"]),
        "questions": _asked(facts),
        **{
            f"also, {number}": f"{_asked(one)}; {one['passes_in_words']}"
            for number, one in enumerate(facts["transfer"], 1)
        },
        "hidden states": f"{', '.join(facts['layers'])}: {in_words(facts['state_bytes'])}",
        "to do": facts["passes_in_words"] + (f" For each of {facts['models']} models." if facts["models"] > 1 else ""),
        **_work(facts.get("work")),
        "cache": facts["cache_dir"] or "none: nothing is kept",
        "free memory": "not known" if memory is None else in_words(memory),
        "folder": f"{facts['folder']} ({_STATES[facts['folder_state']]})",
    }
    table = _table()
    for name, text in rows.items():
        table.add_row(name, text)
    console = console or make_console()
    console.print(table)
    for note in facts["notes"]:
        console.print(f"Note: {note}", highlight=False)
    if work := facts.get("work"):
        console.print(work["counted"])
    measured = (work or {}).get("speed_from", "as given") not in (None, "as given")
    console.print(f"Nothing was {'' if measured else 'computed or '}written (--dry-run).")


def _work(work: Mapping[str, Any] | None) -> dict[str, str]:
    """All that goes through the models, and how long that takes where a speed is known."""
    if work is None:
        return {}
    answers = f", of them at most {work['answered']:,} in answers in words" if work["answered"] else ""
    rows = {"in all": f"{work['tokens']:,} tokens{answers}; {work['operations'] / 1e12:.3g} TFLOP"}
    if work["hours_per_worker"] is not None:
        workers = "1 worker" if work["workers"] == 1 else f"each of {work['workers']} workers"
        speed = f"{work['tokens_per_second']:,.0f} tokens a second, {work['speed_from']}"
        passes = time_in_words(3600 * work["hours_per_worker"])
        rows["time"] = f"{passes} of passes for {workers} ({speed}); probes and metrics come on top"
    if work["cost"] is not None:
        cost = f"{work['cost']:,.2f}" if work["cost"] >= 0.01 else "less than 0.01"
        rows["cost"] = f"{cost}, at {work['price_per_hour']:g} for an hour of a worker, as given"
    return rows


def _adapters(named: Mapping[str, str]) -> str:
    """One by its folder, several by their names."""
    if len(named) > 1:
        return f"{len(named)} on one base: {', '.join(named)}"
    return next(iter(named.values()), "none: the base model only")


def _asked(facts: Mapping[str, Any]) -> str:
    split = ", ".join(f"{name} {n:,}" for name, n in facts["splits"].items())
    return f"{facts['questions']:,} of {facts['data']}, {facts['answers']} ({split})"


def print_findings(findings: Sequence[Any], *, console: Console | None = None) -> None:
    """What `doctor` found (`src.doctor.Finding`)."""
    table = _table()
    for finding in findings:
        table.add_row(Text(finding.state, style=_COLOURS[finding.state]), finding.name, finding.text)
    (console or make_console()).print(table)


def print_contexts(contexts: Sequence[Any], *, console: Console | None = None) -> None:
    """What a cache holds (`src.models.extraction.maintenance.Context`)."""
    table = _table()
    for title in ("model", "what", "precision", "rows", "shards", "size", "written", "folder"):
        table.add_column(title, overflow="fold")
    table.show_header = True
    for one in contexts:
        written = datetime.datetime.fromtimestamp(one.last_written, datetime.UTC).strftime("%Y-%m-%d")
        adapter = " + adapter" if one.adapter else ""
        table.add_row(
            f"{one.model_name or '?'}{adapter}", one.kind, one.quantization or one.dtype, f"{one.rows:,}",
            f"{one.shards:,}", in_words(one.bytes), written, str(one.folder),
        )  # fmt: skip
    (console or make_console()).print(table)


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False)
