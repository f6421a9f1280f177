"""What can be known before anything is asked: how many labels are needed."""

from typing import Annotated, Literal

import typer

from src.cli.shared import Json, print_json


def plan(
    labels: Annotated[int | None, typer.Option(metavar="N", help="So many marked questions.")] = None,
    difference: Annotated[float | None, typer.Option(metavar="D", help="Or a difference, such as .03.")] = None,
    metric: Annotated[Literal["accuracy", "auroc", "brier", "ece", "all"], typer.Option(help="Of what.")] = "all",
    accuracy: Annotated[float | None, typer.Option(help="Of the base model. Default: .6.")] = None,
    auroc: Annotated[
        float | None, typer.Option(help="How well its confidence tells right from wrong. Default: .75.")
    ] = None,
    ece: Annotated[float | None, typer.Option(help="The calibration error of its confidence. Default: .05.")] = None,
    changed: Annotated[
        float | None,
        typer.Option(help="The share of questions that only one of base and tuned gets right. Default: .15."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Take these four from a finished run's results.")
    ] = None,
    power: Annotated[float, typer.Option(help="The probability with which the difference is to be shown.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    as_json: Json = False,
) -> None:
    """How many labels are needed to see what a fine-tuning changed? Asked before anybody pays for a GPU.

    The smallest difference between base and tuned that N labels show, or the labels that a difference needs, for
    the tests that the report makes (two-sided, 5 %). Simulated: see docs/planning.md.
    """
    from src.evaluation.planning import METRICS
    from src.pipeline import plan_labels

    given = {"accuracy": accuracy, "auroc": auroc, "ece": ece, "changed": changed}
    found = plan_labels(
        labels=labels,
        difference=difference,
        metrics=METRICS if metric == "all" else (metric,),
        run=run,
        assume={name: value for name, value in given.items() if value is not None},
        power=power,
        seed=seed,
    ).as_plain()
    if as_json:
        print_json(found)
        return
    from src.report import print_labels

    print_labels(found)
