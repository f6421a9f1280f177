"""A saved probe and another model: does it still hold?"""

from typing import Annotated, Literal

import typer

from src.cli.ending import interruptible
from src.cli.shared import Json, print_json, quieten_other_libraries


def check(
    probe: Annotated[str, typer.Argument(help="A saved probe: a folder such as RUN/probes/base, or a hub id.")],
    model: Annotated[str, typer.Option(help="The model it is checked on: a hub id or a folder.")],
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter folder to load with it.")] = None,
    quantization: Annotated[Literal["8bit", "4bit"] | None, typer.Option(help="How it is loaded.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, typer.Option(help="Default: the probe's.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="RUN/config.yaml", help="Its questions. Default: the run that it lies in.")
    ] = None,
    from_model: Annotated[
        str | None, typer.Option(help="The model it was fitted on. Default: as the configuration says.")
    ] = None,
    from_adapter: Annotated[str | None, typer.Option(help="Its adapter folder, likewise.")] = None,
    margin_auroc: Annotated[float, typer.Option(help="What may be lost to a refit, in AUROC.")] = 0.02,
    margin_nll: Annotated[float, typer.Option(help="And in nats a question.")] = 0.02,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Look at no label: say only what the states say.")
    ] = False,
    save: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Gets the probe for this model, as the verdict says.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Does this probe still hold on that model? Says keep, realign, label so many, or that it cannot be told.

    The states of the same questions are read in both models, through the cache. On the test questions the probe as it
    is, brought to the new states without labels, and fitted anew are compared, with intervals: see docs/check.md.
    """
    quieten_other_libraries()
    from src.pipeline.check_plan import Named, plan_check
    from src.pipeline.checking import run_check
    from src.pipeline.holding import Margins
    from src.report import print_check, print_check_plan

    own = Named(from_model, from_adapter) if from_model or from_adapter else None
    with interruptible():
        margins = Margins(margin_auroc, margin_nll)
        plan = plan_check(probe, Named(model, adapter, quantization, dtype), own=own, config=config)
        if dry_run:
            found, show = plan.facts(), print_check_plan
        else:
            found = run_check(plan, margins=margins, labelled=not unlabelled, save=save).as_plain()
            show = print_check
    if as_json:
        print_json(found)
    else:
        show(found)
