"""Kept hidden states and answers: seen, checked, merged and removed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from src.cli.ending import DIFFERENT
from src.cli.shared import Json, print_json

cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after kept hidden states and answers.")

CacheFolder = Annotated[str, typer.Argument(metavar="[FOLDER]", help="A cache folder, or one that holds several.")]


@cache.command("ls")
def cache_ls(folder: CacheFolder = "cache", as_json: Json = False) -> None:
    """One line for each model, adapter, precision and position that something is kept of."""
    from src.models.extraction.maintenance import contexts

    found = contexts(folder)
    if as_json:
        print_json([asdict(context) for context in found])
        return
    from src.report import print_contexts

    print_contexts(found)


@cache.command("stat")
def cache_stat(folder: CacheFolder = "cache", as_json: Json = False) -> None:
    """How much there is in all, and how much room is left."""
    from src import machine, storage
    from src.models.extraction.maintenance import contexts

    found = contexts(folder)
    totals = {
        "contexts": len(found),
        "shards": sum(context.shards for context in found),
        "rows": sum(context.rows for context in found),
        "bytes": sum(context.bytes for context in found),
        "damaged": sum(context.damaged for context in found),
        "free_bytes": None if storage.is_url(folder) else machine.free_disk(Path(folder)),
    }
    if as_json:
        print_json(totals)
        return
    free = totals["free_bytes"]
    typer.echo(
        f"{totals['rows']:,} rows in {totals['shards']:,} shards of {totals['contexts']} contexts, "
        f"{machine.in_words(totals['bytes'])}; {totals['damaged']} damaged shards set aside"
        + ("." if free is None else f"; {machine.in_words(free)} free.")
    )


@cache.command("verify")
def cache_verify(folder: CacheFolder = "cache", as_json: Json = False) -> None:
    """Compare every shard with its checksum; a damaged one is set aside and computed again when it is wanted."""
    from src.models.extraction.maintenance import verify

    count, damaged = verify(folder)
    if as_json:
        print_json({"shards": count, "damaged": [str(path) for path in damaged]})
    else:
        names = ": " + ", ".join(path.name for path in damaged) + ", set aside" if damaged else ""
        typer.echo(f"{count:,} shards checked, {len(damaged)} damaged{names}.")
    if damaged:
        raise typer.Exit(DIFFERENT)


@cache.command("compact")
def cache_compact(folder: CacheFolder = "cache", as_json: Json = False) -> None:
    """Merge small shards into large ones, which are read faster. Runs may go on meanwhile."""
    from src.models.extraction.maintenance import compact

    before, after = compact(folder)
    if as_json:
        print_json({"shards_before": before, "shards_after": after})
    else:
        typer.echo(f"{before:,} shards became {after:,}.")


@cache.command("prune")
def cache_prune(
    folder: CacheFolder = "cache",
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Also what was not written for so many days.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove damaged shards and torn temporaries, and with --older-than what was not written for long."""
    from src import machine
    from src.models.extraction.maintenance import prune

    count, size = prune(folder, older_than_days=older_than, dry_run=dry_run)
    if as_json:
        print_json({"files": count, "bytes": size, "dry_run": dry_run})
    else:
        typer.echo(f"{count:,} files, {machine.in_words(size)} {'would be ' if dry_run else ''}removed.")
