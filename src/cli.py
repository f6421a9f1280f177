"""The command `confprobe`: parses and calls, holds no logic."""

import io
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from src.errors import CredentialsError, DownloadError, IntegrityError, ProbingError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Does a language model know when it is wrong, and did fine-tuning make that better or worse?",
    epilog="Exit codes: 0 done, 2 usage or configuration, 3 credentials, 4 network, 5 integrity, 130 interrupted.",
)  # fmt: skip
cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after kept hidden states and answers.")
app.add_typer(cache, name="cache")

_EXIT_CODES = ((IntegrityError, 5), (DownloadError, 4), (CredentialsError, 3), (ProbingError, 2))

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else.")]
CacheFolder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A cache folder, or one that holds several.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    # What is going on is for a person who waits; a file or a script gets warnings only.
    logging.getLogger("src").setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)
    if debug:
        os.environ["CONFPROBE_DEBUG"] = "1"


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/quickstart.yaml or RUN/config.yaml.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Ask, mark, probe, evaluate and report, as a configuration says.

    A run that was interrupted goes on from where it was with the same command. Where the run's folder holds a run
    with other settings, nothing is touched (see run.if_exists).
    """
    from src.config import load_config, parse_override

    settings = load_config(config, dict(parse_override(text) for text in set_ or []))
    _quieten_other_libraries()
    try:
        if dry_run:
            _dry_run(settings, as_json=as_json)
        else:
            _run(settings, as_json=as_json)
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    """Everything of ours is closed by now; threads of torch and others, torn down halfway, abort now and then."""
    typer.echo("Interrupted. The same command goes on from here.", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _run(settings: Any, *, as_json: bool) -> None:
    from src.pipeline import run as run_pipeline

    result = run_pipeline(settings)
    if as_json:
        _print_json(result.results)
        return
    from src.report import print_report

    print_report(result.results)
    typer.echo(f"Report: {result.report}\nResults: {result.folder}")


def _dry_run(settings: Any, *, as_json: bool) -> None:
    from src.pipeline import make_plan

    facts = make_plan(settings).facts(settings)
    if as_json:
        _print_json(facts)
        return
    from src.report import print_plan

    print_plan(facts)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")], as_json: Json = False
) -> None:
    """Write report.html of a finished run again and print its table."""
    from src.pipeline import read_results, write_report

    results = read_results(folder)
    if as_json:
        _print_json(results)
        return
    from src.report import print_report

    page = write_report(folder, results)
    print_report(results)
    typer.echo(f"Report: {page}")


@app.command()
def download(
    checkpoint: Annotated[str, typer.Argument(help="A tinker:// path, an https:// tar, a local tar, or a folder.")],
    base_model: Annotated[str, typer.Argument(help="The model it was trained on: a hub id or a folder.")],
    output_dir: Annotated[str, typer.Argument(help="Gets peft_adapter/ and checkpoint_info.json.")],
    lora_alpha: Annotated[
        float | None, typer.Option(help="The value used in training, if the checkpoint has none.")
    ] = None,
    allow_export: Annotated[
        bool, typer.Option("--allow-export", help="Let Tinker export a training checkpoint, which it charges for.")
    ] = False,
    check_base_model: Annotated[
        bool, typer.Option(help="Refuse a checkpoint that was trained on another base model.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Convert a Tinker checkpoint to a PEFT adapter folder. Called again it returns at once.

    A download that was interrupted goes on where it was with the same command.
    """
    from src.tinker import download_and_convert_weights

    try:
        folder = download_and_convert_weights(
            checkpoint,
            base_model,
            output_dir,
            lora_alpha=lora_alpha,
            allow_export=allow_export,
            check_base_model=check_base_model,
        )
    except KeyboardInterrupt:
        _interrupted()
    if as_json:
        _print_json({"peft_adapter": folder})
    else:
        typer.echo(folder)


@app.command()
def verify(
    adapter: Annotated[str, typer.Argument(help="A PEFT adapter folder, or the OUTPUT_DIR of `confprobe download`.")],
    model: Annotated[
        str | None, typer.Option(help="The base model: a hub id or a folder. Default: as recorded with the adapter.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="The tinker:// path to compare with. Default: as recorded with the adapter.")
    ] = None,
    quantization: Annotated[Literal["8bit", "4bit"] | None, typer.Option(help="How the base model is loaded.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Tinker, even with a key.")] = False,
    as_json: Json = False,
) -> None:
    """Is this adapter what was trained? Compares its log-probabilities with Tinker's, base model against base model.

    The certificate goes into checkpoint_info.json. Without a key: the adapter is loaded with all checks, and its
    update is described in numbers. Exit code 5 where the adapter differs from what Tinker computes.
    """
    _quieten_other_libraries()
    from src.pipeline import verify_adapter

    found = verify_adapter(
        adapter, model, checkpoint=checkpoint, quantization=quantization, dtype=dtype, offline=offline
    )
    if as_json:
        _print_json(found.as_plain())
    else:
        from src.report import print_verification

        print_verification(found.as_plain())
    if found.verdict == "different":
        raise typer.Exit(5)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this installation, without a network.

    Packages, which `src` Python finds here, credentials, memory and disk.
    """
    from src.doctor import examine

    findings = examine()
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        from src.report import print_findings

        print_findings(findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(2)


@cache.command("ls")
def cache_ls(folder: CacheFolder = Path("cache"), as_json: Json = False) -> None:
    """One line for each model, adapter, precision and position that something is kept of."""
    from src.models.extraction.maintenance import contexts

    found = contexts(folder)
    if as_json:
        _print_json([asdict(context) for context in found])
        return
    from src.report import print_contexts

    print_contexts(found)


@cache.command("stat")
def cache_stat(folder: CacheFolder = Path("cache"), as_json: Json = False) -> None:
    """How much there is in all, and how much room is left."""
    from src import machine
    from src.models.extraction.maintenance import contexts

    found = contexts(folder)
    totals = {
        "contexts": len(found),
        "shards": sum(context.shards for context in found),
        "rows": sum(context.rows for context in found),
        "bytes": sum(context.bytes for context in found),
        "damaged": sum(context.damaged for context in found),
        "free_bytes": machine.free_disk(folder),
    }
    if as_json:
        _print_json(totals)
        return
    typer.echo(
        f"{totals['rows']:,} rows in {totals['shards']:,} shards of {totals['contexts']} contexts, "
        f"{machine.in_words(totals['bytes'])}; {totals['damaged']} damaged shards set aside; "
        f"{machine.in_words(totals['free_bytes'])} free."
    )


@cache.command("verify")
def cache_verify(folder: CacheFolder = Path("cache"), as_json: Json = False) -> None:
    """Compare every shard with its checksum; a damaged one is set aside and computed again when it is wanted."""
    from src.models.extraction.maintenance import verify

    count, damaged = verify(folder)
    if as_json:
        _print_json({"shards": count, "damaged": [str(path) for path in damaged]})
    else:
        names = ": " + ", ".join(path.name for path in damaged) + ", set aside" if damaged else ""
        typer.echo(f"{count:,} shards checked, {len(damaged)} damaged{names}.")
    if damaged:
        raise typer.Exit(5)


@cache.command("compact")
def cache_compact(folder: CacheFolder = Path("cache"), as_json: Json = False) -> None:
    """Merge small shards into large ones, which are read faster. Runs may go on meanwhile."""
    from src.models.extraction.maintenance import compact

    before, after = compact(folder)
    if as_json:
        _print_json({"shards_before": before, "shards_after": after})
    else:
        typer.echo(f"{before:,} shards became {after:,}.")


@cache.command("prune")
def cache_prune(
    folder: CacheFolder = Path("cache"),
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
        _print_json({"files": count, "bytes": size, "dry_run": dry_run})
    else:
        typer.echo(f"{count:,} files, {machine.in_words(size)} {'would be ' if dry_run else ''}removed.")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _quieten_other_libraries() -> None:
    """Their own loading bars belong to a terminal only."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def main() -> None:
    """Run the command; an error on purpose is one sentence and an exit code, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe may know fewer characters than the table has
    try:
        app()
    except ProbingError as error:
        if os.environ.get("CONFPROBE_DEBUG"):
            raise
        typer.echo(f"confprobe: {error}", err=True)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
    except OSError as error:  # what is printed goes nowhere: a full disk behind a redirection
        if os.environ.get("CONFPROBE_DEBUG"):
            raise
        sys.exit(f"confprobe: {error.strerror or error}.")
