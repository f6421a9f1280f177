"""The list of all commands, and `main`, which runs one."""

import io
import logging
import os
import sys
from typing import Annotated

import typer

from src.cli.adapters import download, verify
from src.cli.caches import cache
from src.cli.checking import check
from src.cli.ending import CODES, DEBUG, plain_errors
from src.cli.installation import doctor, print_version
from src.cli.planning import plan
from src.cli.runs import report, run
from src.cli.states import verify_states

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Does a language model know when it is wrong, and did fine-tuning make that better or worse?", epilog=CODES,
)  # fmt: skip
for command in (run, report, plan, check, download, verify, verify_states, doctor):
    app.command()(command)
app.add_typer(cache, name="cache")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    # What is going on is for a person who waits; a file or a script gets warnings only.
    logging.getLogger("src").setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command that the arguments name; see `plain_errors` for how it ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe may know fewer characters than the table has
    with plain_errors("confprobe"):
        app()
