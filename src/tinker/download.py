"""`download_and_convert_weights`: a checkpoint becomes a complete, checked PEFT folder, or nothing."""

import datetime
import json
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from src import __version__, files
from src.adapters import CONFIG_NAME, WEIGHTS_NAME
from src.errors import ConfigError, DownloadError, IntegrityError, ProbingError
from src.tinker.archive import WANTED, unpack
from src.tinker.convert import Conversion, convert_adapter
from src.tinker.credentials import check_credentials

log = logging.getLogger(__name__)

ADAPTER_FOLDER = "peft_adapter"
MARKER = "confprobe.json"
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

    Called again with the same checkpoint and base model it returns at once, without a network and without
    reading the archive again. `adapter_config.json` in the result may be edited: it is kept.

    Args:
        tinker_checkpoint: "tinker://RUN/external_weights/NAME" (as `save_weights_external` returns it), or a local
            checkpoint archive (tar or tar.gz).
        base_model_name: the model it was trained on: a hub id or a folder. A hub id is compared with what Tinker
            has recorded, before anything is downloaded.
        output_dir: gets `peft_adapter/` and `checkpoint_info.json`.
        cleanup_archive: False keeps the files that were downloaded, in `<output_dir>/downloaded`. An archive of
            yours is never deleted.
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
    """
    source, folder = str(tinker_checkpoint), Path(output_dir).expanduser() / ADAPTER_FOLDER
    check_source(source)
    origin = {"source": source, "base_model": base_model_name}
    if not _is_remote(source):
        origin |= {"source": Path(source).name, "source_sha256": files.sha256_of_file(Path(source).expanduser())}
    if not _is_complete(folder, origin):
        with tempfile.TemporaryDirectory(prefix="confprobe-") as unpacked:
            _obtain(source, base_model_name, Path(unpacked))
            _publish(Path(unpacked), folder, origin, lora_alpha)
            if _is_remote(source) and not cleanup_archive:
                _keep(Path(unpacked), folder.parent / "downloaded")
    return str(folder)


def check_source(tinker_checkpoint: str | Path) -> None:
    """Whether a checkpoint can be had at all, as far as that can be seen without a network.

    Raises:
        DownloadError: no such archive, or a path that cannot be downloaded.
        CredentialsError: a tinker:// path, and no credentials.
    """
    source = str(tinker_checkpoint)
    if not _is_remote(source):
        if not Path(source).expanduser().is_file():
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


def _is_remote(source: str) -> bool:
    return "://" in source


def _is_complete(folder: Path, origin: dict[str, str]) -> bool:
    """Whether `folder` is what this call would make. The marker is written last."""
    marker = folder / MARKER
    if not marker.is_file():
        if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise IntegrityError(f"{folder} exists and was not made by this library. Choose another output_dir.")
        return False
    try:
        made = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{marker} is not what this library wrote. Remove {folder}, or choose another.") from error
    same = all(made.get(key) == value for key, value in origin.items())
    return same and made["files"][WEIGHTS_NAME] == files.sha256_of_file(folder / WEIGHTS_NAME)


def _obtain(source: str, base_model: str, destination: Path) -> None:
    """The checkpoint's own files, checked to be there, in `destination`."""
    if not _is_remote(source):
        unpack(Path(source).expanduser(), destination)
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
    if Path(base_model).is_dir():
        return  # a folder may hold any model; the shapes are compared when it is loaded
    try:
        trained_on = client.checkpoint_info(source)["base_model"]
    except DownloadError as error:
        log.warning("Which base model %s was trained on could not be asked (%s).", source, error)
        return
    if trained_on != base_model:
        raise ConfigError(
            f"{source} was trained on {trained_on!r}, not on {base_model!r}. Give that name as base_model_name, or the "
            "folder of the model."
        )


def _publish(unpacked: Path, folder: Path, origin: dict[str, str], lora_alpha: float | None) -> None:
    assumed = TINKER_ALPHA if _is_remote(origin["source"]) else None
    try:
        with files.staged_directory(folder) as staging:
            conversion = convert_adapter(
                unpacked, staging, origin["base_model"], lora_alpha=lora_alpha, assumed_alpha=assumed
            )
            hashes = {name: files.sha256_of_file(staging / name) for name in (CONFIG_NAME, WEIGHTS_NAME)}
            files.write_json(staging / MARKER, origin | {"files": hashes})
        files.write_json(folder.parent / "checkpoint_info.json", _info(conversion, folder, origin, hashes))
    except OSError as error:
        if isinstance(error, ProbingError):
            raise
        raise DownloadError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder.") from error


def _keep(downloaded: Path, folder: Path) -> None:
    with files.staged_directory(folder) as staging:
        for path in downloaded.iterdir():
            files.write_bytes(staging / path.name, path.read_bytes())


def _info(conversion: Conversion, folder: Path, origin: dict[str, str], hashes: dict[str, str]) -> dict[str, Any]:
    config = conversion.adapter.config
    return {
        "tinker_path": origin["source"],
        "base_model": origin["base_model"],
        "training_dataset": None,
        "training_date": None,
        "local_path": str(folder),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "alpha_source": conversion.alpha_source,
        "tensors": len(conversion.adapter.shapes),
        "source_sha256": origin.get("source_sha256"),
        "files": hashes,
        "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": __version__,
    }
