"""`download_and_convert_weights`: a checkpoint becomes a complete, checked PEFT folder, or nothing."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from src import files, machine
from src.adapters import MARKER
from src.errors import DownloadError
from src.tinker.archive import WANTED
from src.tinker.checkpoint import INFO_NAME, Origin, adapter_folder, describe, is_complete, write_info
from src.tinker.convert import convert_adapter
from src.tinker.credentials import check_credentials
from src.tinker.obtain import Room, Wishes, obtain
from src.tinker.partial import sweep_forgotten
from src.tinker.sources import Source, check_local, parse_source

TINKER_ALPHA = 32  # Tinker's documented constant, whatever the rank (tinker-cookbook's README)
_PARTS = ".download-"


def download_and_convert_weights(
    tinker_checkpoint: str | Path,
    base_model_name: str,
    output_dir: str | Path,
    cleanup_archive: bool = True,
    *,
    lora_alpha: float | None = None,
    allow_export: bool = False,
    check_base_model: bool = True,
) -> str:
    """Turn a Tinker checkpoint into a PEFT adapter folder.

    Called again with the same checkpoint and base model (and lora_alpha, if given) it returns at once, without a
    network and without converting again. A download that was killed goes on where it was. `adapter_config.json` in
    the result may be edited: it is kept.

    Args:
        tinker_checkpoint: one of
            "tinker://RUN/external_weights/NAME" (as `save_weights_external` returns it);
            "tinker://RUN/weights/NAME" (as `save_state` returns it), with `allow_export`;
            "tinker://RUN/sampler_weights/NAME", with an SDK before 0.36 only;
            an https:// address of a tar or tar.gz; a local tar or tar.gz; a folder that was unpacked already.
        base_model_name: the model it was trained on: a hub id or a folder. A hub id is compared with what Tinker
            has recorded, before anything is downloaded, and with what the checkpoint itself says.
        output_dir: gets `peft_adapter/` and `checkpoint_info.json`.
        cleanup_archive: False keeps what was downloaded, in a new folder `<output_dir>/downloaded`. An archive or
            folder of yours is never deleted.
        lora_alpha: the value used in training, where the checkpoint's configuration does not say. Without it, 32 is
            assumed for a tinker:// path (Tinker's own constant), with a warning.
        allow_export: a training checkpoint can only be had through a training run that loads and exports it: Tinker
            charges for that. The export is deleted afterwards, and after an hour in any case.
        check_base_model: False takes a checkpoint that was trained on another base model.

    Returns:
        "<output_dir>/peft_adapter".

    Raises:
        DownloadError: no such checkpoint, or a kind of path that cannot be downloaded.
        CredentialsError, MissingExtraError: a tinker:// path without credentials or without the SDK.
        IntegrityError, UnsafeArchiveError: the checkpoint is torn or hostile, or the output folder is not ours.
        ConfigError: the checkpoint was trained on another base model.
        AdapterError: the adapter is not sound, or not understood.
        StorageError: output_dir cannot be written, or is full.
    """
    folder = adapter_folder(output_dir)
    origin = Origin(parse_source(tinker_checkpoint), base_model_name, lora_alpha)
    with contextlib.suppress(OSError):  # tidying up is no reason to fail
        sweep_forgotten(folder.parent, _PARTS)
    if not is_complete(folder, origin):
        check_source(tinker_checkpoint, allow_export=allow_export)
        keep = folder.parent / "downloaded" if not (cleanup_archive or origin.source.is_local) else None
        if keep is not None and keep.exists():
            raise DownloadError(
                f"{keep} exists: what is downloaded would replace it. Move it, or choose another folder."
            )
        wishes = Wishes(base_model_name, check_base_model=check_base_model, allow_export=allow_export)
        with machine.writing(folder.parent, setting="output_dir"), _room(folder.parent, origin.source) as room:
            came = obtain(origin.source, wishes, room)
            _publish(came, folder, origin)
            if keep is not None:
                with files.staged_directory(keep) as staging:
                    shutil.copytree(room.came, staging, dirs_exist_ok=True)
    with machine.writing(folder.parent, setting="output_dir"):
        write_info(folder)
    return str(folder)


def is_converted(
    tinker_checkpoint: str | Path, base_model_name: str, output_dir: str | Path, *, lora_alpha: float | None = None
) -> bool:
    """Whether `download_and_convert_weights` has nothing left to do. The marker is written last.

    Raises:
        IntegrityError: the folder holds something that this library did not make.
        DownloadError: a text that names no checkpoint.
    """
    origin = Origin(parse_source(tinker_checkpoint), base_model_name, lora_alpha)
    return is_complete(adapter_folder(output_dir), origin)


def check_source(tinker_checkpoint: str | Path, *, allow_export: bool = False) -> None:
    """Whether a checkpoint can be had at all, as far as that can be seen without a network.

    Raises:
        DownloadError: no such file, or a path that cannot be downloaded.
        CredentialsError: a tinker:// path, and no credentials.
        AdapterError: a folder whose weights are a pickle.
    """
    source = parse_source(tinker_checkpoint)
    if source.is_local:
        check_local(source)
    if not source.is_tinker:
        return
    if source.kind != "external_weights" and not (source.kind == "weights" and allow_export):
        from src.tinker.sdk import sdk_gives_archives

        if not sdk_gives_archives():
            raise DownloadError(_what_to_do_instead(source))
    check_credentials()


def _what_to_do_instead(source: Source) -> str:
    if source.kind == "sampler_weights":
        return (
            f"{source.shown} cannot be downloaded: Tinker gives sampler weights to nobody since SDK 0.36, so save the "
            "weights with training_client.save_weights_external(name) and use the path that it returns."
        )
    return (
        f"{source.shown} is a training checkpoint: to download it, Tinker starts a training run that loads and exports "
        "it, and charges for that. Allow it with allow_export=True (--allow-export), or save the weights with "
        "training_client.save_weights_external(name) next time."
    )


@contextlib.contextmanager
def _room(output_dir: Path, source: Source) -> Iterator[Room]:
    """Folders beside the result, so that moving there is renaming; gone at the end, but for an unfinished download."""
    made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    key = hashlib.sha256(source.shown.encode()).hexdigest()[:12]
    try:
        with files.scratch_directory(output_dir / "download") as scratch:
            room = Room(output_dir / f"{_PARTS}{key}", scratch / "came", scratch / "unpacked")
            room.came.mkdir()
            room.unpacked.mkdir()
            yield room
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _publish(came: Path, folder: Path, origin: Origin) -> None:
    assumed = TINKER_ALPHA if origin.source.is_tinker else None
    with files.staged_directory(folder) as staging:
        conversion = convert_adapter(
            came, staging, origin.base_model, lora_alpha=origin.lora_alpha, assumed_alpha=assumed
        )
        hashes = {name: files.sha256_of_file(came / name) for name in WANTED if (came / name).is_file()}
        info = describe(conversion, folder, staging, origin, hashes)
        files.write_json(staging / MARKER, info)
    files.write_json(folder.parent / INFO_NAME, info)
