"""`download_and_convert_weights`: a checkpoint becomes a complete, checked PEFT folder, or nothing."""

import datetime
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from src import __version__, files, machine
from src.adapters import CONFIG_NAME, MARKER, WEIGHTS_NAME
from src.errors import ConfigError, DownloadError, IntegrityError
from src.tinker.archive import WANTED, unpack
from src.tinker.convert import Conversion, convert_adapter
from src.tinker.credentials import check_credentials

log = logging.getLogger(__name__)

ADAPTER_FOLDER = "peft_adapter"
TINKER_ALPHA = 32  # Tinker's documented constant, whatever the rank (tinker-cookbook's README)
_TINKER_PATH = re.compile(r"tinker://([^/\s?#]+)/(weights|sampler_weights|external_weights)/([^/\s?#]+)")


def download_and_convert_weights(
    tinker_checkpoint: str | Path,
    base_model_name: str,
    output_dir: str | Path,
    cleanup_archive: bool = True,
    *,
    lora_alpha: float | None = None,
) -> str:
    """Turn a Tinker checkpoint into a PEFT adapter folder.

    Called again with the same checkpoint and base model (and lora_alpha, if given) it returns at once, without a
    network and without converting again. `adapter_config.json` in the result may be edited: it is kept.

    Args:
        tinker_checkpoint: "tinker://RUN/external_weights/NAME" (as `save_weights_external` returns it), or a local
            checkpoint archive (tar or tar.gz).
        base_model_name: the model it was trained on: a hub id or a folder. A hub id is compared with what Tinker
            has recorded, before anything is downloaded.
        output_dir: gets `peft_adapter/` and `checkpoint_info.json`.
        cleanup_archive: False keeps the files that were downloaded, in a new folder `<output_dir>/downloaded`. An
            archive of yours is never deleted.
        lora_alpha: the value used in training, where the checkpoint's configuration does not say. Without it, 32 is
            assumed for a tinker:// path (Tinker's own constant), with a warning.

    Returns:
        "<output_dir>/peft_adapter".

    Raises:
        DownloadError: no such archive or checkpoint, or a kind of path that cannot be downloaded.
        CredentialsError, MissingExtraError: a tinker:// path without credentials or without the SDK.
        IntegrityError, UnsafeArchiveError: the checkpoint is torn or hostile, or the output folder is not ours.
        ConfigError: the checkpoint was trained on another base model.
        AdapterError: the adapter is not sound, or not understood.
        StorageError: output_dir cannot be written.
    """
    source, folder = str(tinker_checkpoint), _adapter_folder(output_dir)
    if not is_converted(source, base_model_name, output_dir, lora_alpha=lora_alpha):
        check_source(source)
        keep = folder.parent / "downloaded" if _is_remote(source) and not cleanup_archive else None
        if keep is not None and keep.exists():
            raise DownloadError(
                f"{keep} exists: what is downloaded would replace it. Move it, or choose another folder."
            )
        with tempfile.TemporaryDirectory(prefix="confprobe-") as unpacked:
            _obtain(source, base_model_name, Path(unpacked))
            with machine.writing(folder.parent, setting="output_dir"):
                _publish(Path(unpacked), folder, _origin(source, base_model_name), lora_alpha)
                if keep is not None:
                    with files.staged_directory(keep) as staging:
                        shutil.copytree(unpacked, staging, dirs_exist_ok=True)
    info = folder.parent / "checkpoint_info.json"
    if not info.exists():
        with machine.writing(folder.parent, setting="output_dir"):
            files.write_text(info, (folder / MARKER).read_text(encoding="utf-8"))
    return str(folder)


def is_converted(
    tinker_checkpoint: str | Path, base_model_name: str, output_dir: str | Path, *, lora_alpha: float | None = None
) -> bool:
    """Whether `download_and_convert_weights` has nothing left to do. The marker is written last.

    Raises:
        IntegrityError: the folder holds something that this library did not make.
    """
    folder = _adapter_folder(output_dir)
    marker = folder / MARKER
    if not marker.is_file():
        if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise IntegrityError(f"{folder} exists and was not made by this library. Choose another output_dir.")
        return False
    made = _read_marker(marker)
    asked = _origin(str(tinker_checkpoint), base_model_name) | ({} if lora_alpha is None else {"alpha": lora_alpha})
    weights = folder / WEIGHTS_NAME
    same = all(made.get(key) == value for key, value in asked.items() if value is not None)
    return same and weights.is_file() and made["files"].get(WEIGHTS_NAME) == files.sha256_of_file(weights)


def check_source(tinker_checkpoint: str | Path) -> None:
    """Whether a checkpoint can be had at all, as far as that can be seen without a network.

    Raises:
        DownloadError: no such archive, or a path that cannot be downloaded.
        CredentialsError: a tinker:// path, and no credentials.
    """
    source = str(tinker_checkpoint)
    if not _is_remote(source):
        if not _local(source).is_file():
            raise DownloadError(f"There is no checkpoint archive {source}. Check the path.")
        return
    parts = _TINKER_PATH.fullmatch(source)
    if parts is None:
        raise DownloadError(
            f"{source.partition('?')[0]} is no checkpoint: tinker://RUN/external_weights/NAME or a local archive is."
        )
    if parts[2] != "external_weights":
        raise DownloadError(
            f"{source} cannot be downloaded: today's Tinker gives external weights only. Save them with "
            "training_client.save_weights_external(name) and use the path that it returns."
        )
    check_credentials()


def _adapter_folder(output_dir: str | Path) -> Path:
    return _local(output_dir) / ADAPTER_FOLDER


def _local(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def _origin(source: str, base_model: str) -> dict[str, str | None]:
    """What names a conversion; the hash is None where the archive is remote or not there any more."""
    if _is_remote(source):
        return {"tinker_path": source, "base_model": base_model, "source_sha256": None}
    archive = _local(source)
    sha256 = files.sha256_of_file(archive) if archive.is_file() else None
    return {"tinker_path": archive.name, "base_model": base_model, "source_sha256": sha256}


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        made = json.loads(marker.read_text(encoding="utf-8"))
        if isinstance(made["files"], dict):
            return made
    except (ValueError, KeyError, TypeError):
        pass
    raise IntegrityError(
        f"{marker} is not what this library wrote. Remove {marker.parent}, or choose another output_dir."
    )


def _is_remote(source: str) -> bool:
    return "://" in source


def _obtain(source: str, base_model: str, destination: Path) -> None:
    """The checkpoint's own files, checked to be there, in `destination`."""
    if not _is_remote(source):
        unpack(_local(source), destination)
        return
    from src.tinker.client import TinkerClient
    from src.tinker.transfer import fetch

    client = TinkerClient()
    _check_base_model(client, source, base_model)
    remote = {file.name: file for file in client.list_files(source) if file.name in WANTED}
    if WEIGHTS_NAME not in remote:
        raise IntegrityError(f"{source} holds no {WEIGHTS_NAME}, so it is no adapter.")
    for name, file in remote.items():
        fetch(file, destination / name)


def _check_base_model(client: Any, source: str, base_model: str) -> None:
    if _local(base_model).is_dir():
        return  # a folder may hold any model; the shapes are compared when it is loaded
    try:
        trained_on = client.checkpoint_info(source)["base_model"]
    except DownloadError as error:
        log.warning("Which base model %s was trained on could not be asked (%s).", source, error)
        return
    if trained_on is None:
        log.warning("Tinker has not recorded which base model %s was trained on.", source)
    elif trained_on != base_model:
        raise ConfigError(
            f"{source} was trained on {trained_on!r}, not on {base_model!r}. Give that name as base_model_name, or the "
            "folder of the model."
        )


def _publish(unpacked: Path, folder: Path, origin: dict[str, str | None], lora_alpha: float | None) -> None:
    assumed = TINKER_ALPHA if origin["source_sha256"] is None else None
    with files.staged_directory(folder) as staging:
        conversion = convert_adapter(
            unpacked, staging, str(origin["base_model"]), lora_alpha=lora_alpha, assumed_alpha=assumed
        )
        hashes = {name: files.sha256_of_file(staging / name) for name in (CONFIG_NAME, WEIGHTS_NAME)}
        info = _info(conversion, folder, origin, hashes)
        files.write_json(staging / MARKER, info)
    files.write_json(folder.parent / "checkpoint_info.json", info)


def _info(
    conversion: Conversion, folder: Path, origin: dict[str, str | None], hashes: dict[str, str]
) -> dict[str, Any]:
    config = conversion.adapter.config
    return {
        **origin,
        "training_dataset": None,
        "training_date": None,
        "local_path": str(folder),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "alpha_source": conversion.alpha_source,
        "tensors": len(conversion.adapter.shapes),
        "files": hashes,
        "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": __version__,
    }
