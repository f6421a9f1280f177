"""The command `confprobe`: parses and calls, holds no logic."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from src.errors import ConfigError, CredentialsError, DownloadError, IntegrityError, ProbingError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Does a language model know when it is wrong, and did fine-tuning make that better or worse?",
)  # fmt: skip

_EXIT_CODES = ((IntegrityError, 5), (DownloadError, 4), (CredentialsError, 3), (ProbingError, 2))


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("src").setLevel(logging.INFO)
    if debug:
        os.environ["CONFPROBE_DEBUG"] = "1"


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/quickstart.yaml.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting.")] = None,
) -> None:
    """Ask, mark, probe, evaluate and report, as a configuration says."""
    from src.config import load_config, parse_override

    settings = load_config(config, dict(parse_override(text) for text in set_ or []))
    _quieten_other_libraries()
    from src.pipeline import run as run_pipeline
    from src.report import print_report

    result = run_pipeline(settings)
    print_report(result.results)
    typer.echo(f"Report: {result.folder / 'report.html'}\nResults: {result.folder / 'results.json'}")


@app.command()
def download(
    checkpoint: Annotated[str, typer.Argument(help="A Tinker checkpoint archive (tar).")],
    base_model: Annotated[str, typer.Argument(help="The model it was trained on: a hub id or a folder.")],
    output_dir: Annotated[str, typer.Argument(help="Gets peft_adapter/ and checkpoint_info.json.")],
    lora_alpha: Annotated[float | None, typer.Option(help="Where the archive does not say.")] = None,
) -> None:
    """Convert a Tinker checkpoint to a PEFT adapter folder."""
    from src.tinker import download_and_convert_weights

    typer.echo(download_and_convert_weights(checkpoint, base_model, output_dir, lora_alpha=lora_alpha))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Write report.html of a finished run again and print its table."""
    import json

    from src import files
    from src.report import print_report, render_html

    path = folder / "results.json"
    if not path.is_file():
        raise ConfigError(f"{folder} holds no results.json: give the folder of a finished run.")
    results = json.loads(path.read_text(encoding="utf-8"))
    files.write_text(folder / "report.html", render_html(results))
    print_report(results)
    typer.echo(f"Report: {folder / 'report.html'}")


def _quieten_other_libraries() -> None:
    """Their own loading bars belong to a terminal only."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def main() -> None:
    """Run the command; an error on purpose is one sentence and an exit code, without a traceback."""
    try:
        app()
    except ProbingError as error:
        if os.environ.get("CONFPROBE_DEBUG"):
            raise
        typer.echo(f"confprobe: {error}", err=True)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
