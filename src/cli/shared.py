"""What all commands share."""

import json
import logging
import os
import sys
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else.")]


def print_json(value: Any) -> None:
    """For scripts; paths become text."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def quieten_other_libraries() -> None:
    """Their own loading bars belong to a terminal only."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
