"""Runs and their reports."""

from pathlib import Path
from typing import Annotated, Any

import typer

from src import files, machine
from src.cli.ending import interruptible
from src.cli.shared import Json, print_json, quieten_other_libraries


def run(
    config: Annotated[
        str, typer.Argument(help="A YAML file (or its URL), such as configs/quickstart.yaml or RUN/config.yaml.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="--dry-run: load the model, ask it a little, and say how long all takes.")
    ] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(metavar="X", help="--dry-run: how long it takes where a worker is that fast.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(metavar="P", help="--dry-run: what it costs where an hour of a worker costs P.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask, mark, probe, evaluate and report, as a configuration says.

    A run that was interrupted goes on from where it was with the same command. Where the run's folder holds a run
    with other settings, nothing is touched (see run.if_exists).
    """
    from src.config import load_config, parse_override

    if not dry_run and (measure or tokens_per_second is not None or price_per_hour is not None):
        raise typer.BadParameter("--measure, --tokens-per-second and --price-per-hour belong to --dry-run.")
    if measure and tokens_per_second is not None:
        raise typer.BadParameter("--measure finds the speed that --tokens-per-second gives: choose one.")
    settings = load_config(config, dict(parse_override(text) for text in set_ or []))
    quieten_other_libraries()
    with interruptible():
        if dry_run:
            _dry_run(settings, measured=measure, speed=tokens_per_second, price=price_per_hour, as_json=as_json)
        else:
            _run(settings, as_json=as_json)


def _run(settings: Any, *, as_json: bool) -> None:
    from src.pipeline import run as run_pipeline

    result = run_pipeline(settings)
    if as_json:
        print_json(result.results)
        return
    from src.report import print_report

    print_report(result.results)
    typer.echo(f"Report: {result.report}\nResults: {result.folder}")


def _dry_run(settings: Any, *, measured: bool, speed: float | None, price: float | None, as_json: bool) -> None:
    from src.pipeline import make_plan
    from src.pipeline.throughput import Speed, estimate, measure

    plan = make_plan(settings)
    facts = plan.facts(settings)
    known = measure(plan, settings) if measured else None if speed is None else Speed(speed, "as given")
    facts["work"] = estimate(plan, settings, facts, speed=known, price=price)
    if as_json:
        print_json(facts)
        return
    from src.report import print_plan

    print_plan(facts)


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The folders of finished runs.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="Of several runs: where the page goes. Default: comparison.html here."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compare with this one, such as checkpoint-100; also of one run's models."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html of a finished run again and print its table; of several runs, compare them.

    Several are compared with the first (or --against), on the questions that all of them tested. Nothing is written
    into their folders.
    """
    if len(runs) > 1 or against is not None:
        _compare(runs, output, against=against, as_json=as_json)
    elif output is not None:
        raise typer.BadParameter("one run's report lies in its folder; give several runs to compare, or --against.")
    else:
        _report(runs[0], as_json=as_json)


def _report(folder: str, *, as_json: bool) -> None:
    from src.pipeline import read_results, write_report

    results = read_results(folder)
    if as_json:
        print_json(results)
        return
    from src.report import print_report

    page = write_report(folder, results)
    print_report(results)
    typer.echo(f"Report: {page}")


def _compare(runs: list[str], output: Path | None, *, against: str | None, as_json: bool) -> None:
    from src.pipeline import compare_runs

    compared = compare_runs(runs, against=against)
    if as_json:
        print_json(compared)
    if as_json and output is None:
        return
    from src.report import print_comparison, render_comparison

    page = output or Path("comparison.html")
    with machine.writing(page, setting="--output"):
        files.write_text(page, render_comparison(compared))
    if not as_json:
        print_comparison(compared)
        typer.echo(f"Report: {page}")
