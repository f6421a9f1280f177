"""`download_and_convert_weights`: a checkpoint becomes a complete, checked PEFT folder, or nothing."""

import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

from src import __version__, files
from src.adapters import CONFIG_NAME, WEIGHTS_NAME
from src.errors import DownloadError, IntegrityError
from src.tinker.archive import unpack
from src.tinker.convert import Conversion, convert_adapter

ADAPTER_FOLDER = "peft_adapter"
MARKER = "confprobe.json"


def download_and_convert_weights(
    tinker_checkpoint: str | Path,
    base_model_name: str,
    output_dir: str | Path,
    cleanup_archive: bool = True,
    *,
    lora_alpha: float | None = None,
) -> str:
    """Turn a Tinker checkpoint into a PEFT adapter folder.

    Called again with the same checkpoint and base model it returns at once, without reading the archive.
    `adapter_config.json` in the result may be edited: it is kept.

    Args:
        tinker_checkpoint: a local checkpoint archive (tar or tar.gz).
        base_model_name: the model it was trained on: a hub id or a folder.
        output_dir: gets `peft_adapter/` and `checkpoint_info.json`.
        cleanup_archive: remove what was downloaded. An archive of yours is never deleted.
        lora_alpha: the value used in training, where the archive's configuration does not say.

    Returns:
        "<output_dir>/peft_adapter".

    Raises:
        DownloadError: no such archive, or a `tinker://` path (downloading is not part of this version).
        IntegrityError, UnsafeArchiveError: the archive is torn or hostile, or the output folder is not ours.
        AdapterError: the adapter is not sound, or not understood.
    """
    archive, folder = check_source(tinker_checkpoint), Path(output_dir) / ADAPTER_FOLDER
    origin = {"source": archive.name, "source_sha256": files.sha256_of_file(archive),
              "base_model": base_model_name}  # fmt: skip
    if not _is_complete(folder, origin):
        _convert(archive, folder, origin, lora_alpha)
    return str(folder)


def check_source(tinker_checkpoint: str | Path) -> Path:
    """The checkpoint's archive, which must be there. Raises DownloadError."""
    source = str(tinker_checkpoint)
    if "://" in source:
        raise DownloadError(
            f"{source.partition('?')[0]} is remote, and this version converts local archives only. Download it "
            "with `tinker checkpoint download`, pack the folder as a tar, and give that path."
        )
    if not Path(source).is_file():
        raise DownloadError(f"There is no checkpoint archive {source}. Check the path.")
    return Path(source)


def _is_complete(folder: Path, origin: dict[str, str]) -> bool:
    """Whether `folder` is what this call would make. The marker is written last."""
    marker = folder / MARKER
    if not marker.is_file():
        if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise IntegrityError(f"{folder} exists and was not made by this library. Choose another output_dir.")
        return False
    made = json.loads(marker.read_text(encoding="utf-8"))
    same = all(made.get(key) == value for key, value in origin.items())
    return same and made["files"][WEIGHTS_NAME] == files.sha256_of_file(folder / WEIGHTS_NAME)


def _convert(archive: Path, folder: Path, origin: dict[str, str], lora_alpha: float | None) -> None:
    with tempfile.TemporaryDirectory(prefix="confprobe-") as unpacked:
        unpack(archive, Path(unpacked))
        with files.staged_directory(folder) as staging:
            conversion = convert_adapter(Path(unpacked), staging, origin["base_model"], lora_alpha=lora_alpha)
            hashes = {name: files.sha256_of_file(staging / name) for name in (CONFIG_NAME, WEIGHTS_NAME)}
            files.write_json(staging / MARKER, origin | {"files": hashes})
    files.write_json(folder.parent / "checkpoint_info.json", _info(conversion, folder, origin, hashes))


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
        "source_sha256": origin["source_sha256"],
        "files": hashes,
        "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": __version__,
    }
