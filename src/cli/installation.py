"""This installation: what it is and whether it is well."""

from dataclasses import asdict

import typer

from src import __version__
from src.cli.ending import WRONG
from src.cli.shared import Json, print_json


def print_version(wanted: bool) -> None:
    """Print the version and end, where it is asked for."""
    if wanted:
        typer.echo(f"confprobe {__version__}")
        raise typer.Exit


def doctor(as_json: Json = False) -> None:
    """Look at this installation, without a network.

    Packages, which `src` Python finds here, credentials, memory and disk.
    """
    from src.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        from src.report import print_findings

        print_findings(findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(WRONG)
