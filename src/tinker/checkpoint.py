"""What is written about a conversion: a marker inside the adapter's folder, written last, and checkpoint_info.json.

Both hold the same when they are made. The marker says that the folder is complete and ours; the other file is the
user's to change.
"""

import datetime
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import __version__, files
from src.adapters import CONFIG_NAME, MARKER, WEIGHTS_NAME
from src.errors import IntegrityError, StorageError
from src.storage import is_url, local
from src.tinker.convert import Conversion
from src.tinker.sources import Source

ADAPTER_FOLDER = "peft_adapter"
INFO_NAME = "checkpoint_info.json"


@dataclass(frozen=True)
class Origin:
    """What a conversion is made of: two with the same origin give the same adapter."""

    source: Source
    base_model: str
    lora_alpha: float | None = None

    def recorded(self) -> dict[str, Any]:
        """As it stands in the marker."""
        return {
            "tinker_path": self.source.shown,
            "base_model": self.base_model,
            "source_sha256": self.source.fingerprint(),
        }


def adapter_folder(output_dir: str | Path) -> Path:
    """Where the adapter of an output folder lies. Raises StorageError for an address: adapters lie on this machine."""
    if is_url(str(output_dir)):
        raise StorageError(f"{output_dir} is an address, and an adapter's folder lies on this machine. Name a folder.")
    return local(output_dir) / ADAPTER_FOLDER


def is_complete(folder: Path, origin: Origin) -> bool:
    """Whether `folder` holds the adapter that was made of this, undamaged. No network is used.

    Raises:
        IntegrityError: the folder holds something that this library did not make.
    """
    marker = folder / MARKER
    if folder.is_symlink() or not marker.is_file():
        if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise IntegrityError(f"{folder} exists and was not made by this library. Choose another output_dir.")
        return False
    made = _read_marker(marker)
    asked = origin.recorded()
    # What was asked for is not always what the configuration says: fused modules have a multiple of it.
    same_alpha = origin.lora_alpha in (None, made.get("alpha"), made.get("lora_alpha_asked"))
    weights = folder / WEIGHTS_NAME
    same = all(made.get(key) == value for key, value in asked.items() if value is not None)
    return (
        same and same_alpha and weights.is_file() and made["files"].get(WEIGHTS_NAME) == files.sha256_of_file(weights)
    )


def describe(
    conversion: Conversion, folder: Path, staging: Path, origin: Origin, sources: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that is known of a conversion; no address keeps its query.

    Args:
        conversion: what was made.
        folder: where it will lie.
        staging: where it lies now.
        origin: what it was made of.
        sources: name -> SHA-256 of the files that came.
    """
    config = conversion.adapter.config
    return {
        **origin.recorded(),
        "training_dataset": None,
        "training_date": None,
        "local_path": str(folder),
        "source": origin.source.shown,
        "source_kind": origin.source.kind,
        "run": origin.source.run,
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "alpha_source": conversion.alpha_source,
        "lora_alpha_asked": origin.lora_alpha,
        "tensors": len(conversion.adapter.shapes),
        "files": {name: files.sha256_of_file(staging / name) for name in (CONFIG_NAME, WEIGHTS_NAME)},
        "source_files": dict(sources),
        "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": __version__,
        "versions": {name: version for name in ("tinker", "safetensors") if (version := _version(name))},
    }


def write_info(folder: Path) -> None:
    """Put the marker's content where the user finds it, unless a file of his is there."""
    info = folder.parent / INFO_NAME
    if not info.exists():
        files.write_text(info, (folder / MARKER).read_text(encoding="utf-8"))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
