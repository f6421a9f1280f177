"""Adapters: brought home and verified."""

from typing import Annotated, Literal

import typer

from src.cli.ending import DIFFERENT, interruptible
from src.cli.shared import Json, print_json, quieten_other_libraries


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

    with interruptible():
        folder = download_and_convert_weights(
            checkpoint,
            base_model,
            output_dir,
            lora_alpha=lora_alpha,
            allow_export=allow_export,
            check_base_model=check_base_model,
        )
    if as_json:
        print_json({"peft_adapter": folder})
    else:
        typer.echo(folder)


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
    quieten_other_libraries()
    from src.pipeline import verify_adapter

    found = verify_adapter(
        adapter, model, checkpoint=checkpoint, quantization=quantization, dtype=dtype, offline=offline
    )
    if as_json:
        print_json(found.as_plain())
    else:
        from src.report import print_verification

        print_verification(found.as_plain())
    if found.verdict == "different":
        raise typer.Exit(DIFFERENT)
