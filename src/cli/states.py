"""Hidden states that another program read: are they what they are said to be?"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from src.cli.ending import DIFFERENT, interruptible
from src.cli.shared import Json, print_json, quieten_other_libraries


def verify_states(
    folder: Annotated[str, typer.Argument(help="The folder that vLLM, or you with vllm-lens, wrote states into.")],
    model: Annotated[str | None, typer.Option(help="The model: a hub id or a folder. Default: --config's.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter folder that the states were read with.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG.yaml", help="Take model, adapter and layer ids from there.")
    ] = None,
    layer_ids: Annotated[
        str | None,
        typer.Option(metavar="8,16,24", help="What the tool was asked for, by its numbers. Default: layer_ids.json."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="So many requests are read again.")] = 8,
    quantization: Annotated[Literal["8bit", "4bit"] | None, typer.Option(help="How the model is loaded.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, typer.Option(help="Default: as saved.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do these states hold what they are said to hold? Reads a few requests again, and names what is off.

    Found are: another layer, the final norm, a missing residual stream, another token, swapped requests, a scale. See
    docs/states.md. Exit code 5 where the states are not those of this model.
    """
    quieten_other_libraries()
    from src.pipeline.outside import check_states

    ids = None if layer_ids is None else list(map(_layer_id, layer_ids.split(",")))
    with interruptible():
        found = check_states(
            folder, model, adapter=adapter, config=config, layer_ids=ids, rows=rows, quantization=quantization,
            dtype=dtype,
        )  # fmt: skip
    if as_json:
        print_json(found.as_plain())
    else:
        from src.report import print_states

        print_states(found.as_plain())
    if not found.holds:
        raise typer.Exit(DIFFERENT)


def _layer_id(text: str) -> int | str:
    """What is no number, or none that a layer has, stays the text that it is, and is refused as such."""
    return int(text) if text.isdecimal() and len(text) < 9 else text
