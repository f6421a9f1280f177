"""The files of a checkpoint, from wherever it lies: each kind of source is one way to get them."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.adapters import CONFIG_NAME
from src.errors import ConfigError, DownloadError
from src.storage import local
from src.tinker.addresses import RemoteFile
from src.tinker.archive import unpack
from src.tinker.contents import WANTED, check_names
from src.tinker.sources import Source
from src.tinker.transfer import fetch_all

if TYPE_CHECKING:
    from src.tinker.client import TinkerClient

log = logging.getLogger(__name__)

ARCHIVE = "archive.tar"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Wishes:
    """What the caller wants of a download.

    Attributes:
        base_model: a hub id or a folder.
        check_base_model: whether what is recorded about the base model must agree with it.
        allow_export: whether a paid export may be made.
    """

    base_model: str
    check_base_model: bool = True
    allow_export: bool = False


@dataclass(frozen=True)
class Room:
    """Where a download works: `parts` survives a kill, `came` gets whole files, `unpacked` those of an archive."""

    parts: Path
    came: Path
    unpacked: Path


def obtain(source: Source, wishes: Wishes, room: Room) -> Path:
    """Get a checkpoint's files and return the folder that holds them: a local one is returned as it is.

    Raises:
        DownloadError, CredentialsError, MissingExtraError: it cannot be had.
        IntegrityError, UnsafeArchiveError: it is torn or hostile.
        ConfigError: it was trained on another base model.
        AdapterError: its weights are a pickle.
    """
    if source.kind == "folder":
        folder = source.path
    elif source.kind == "archive":
        unpack(source.path, room.unpacked)
        folder = room.unpacked
    elif source.kind == "address":
        folder = _fetched_archive(RemoteFile(ARCHIVE, source.text), None, room)
    else:
        folder = _from_tinker(source, wishes, room)
    _check_recorded(folder, source, wishes)
    return folder


def _from_tinker(source: Source, wishes: Wishes, room: Room) -> Path:
    from src.tinker.client import TinkerClient

    client, path = TinkerClient(), source.text
    _check_base_model(client, path, wishes)
    if source.kind == "external_weights":
        return _fetched_files(lambda: client.list_files(path), path, room)
    if wishes.allow_export and source.kind == "weights":
        with client.temporary_export(path) as sign:
            return _fetched_files(sign, path, room)

    def sign_archive() -> RemoteFile:
        return client.archive_file(path, ARCHIVE)

    return _fetched_archive(sign_archive(), lambda: [sign_archive()], room)


def _fetched_files(sign: Callable[[], list[RemoteFile]], path: str, room: Room) -> Path:
    """The files that are wanted of all that are there; other names never touch the disk."""

    def wanted(found: list[RemoteFile]) -> list[RemoteFile]:
        check_names([file.name for file in found], path)
        return [file for file in found if file.name in WANTED]

    fetch_all(wanted(sign()), room.parts, room.came, renew=lambda: wanted(sign()))
    return room.came


def _fetched_archive(file: RemoteFile, renew: Callable[[], list[RemoteFile]] | None, room: Room) -> Path:
    fetch_all([file], room.parts, room.came, renew=renew)
    unpack(room.came / file.name, room.unpacked)
    return room.unpacked


def _check_base_model(client: "TinkerClient", path: str, wishes: Wishes) -> None:
    """Before anything is downloaded: what Tinker has recorded."""
    if not _is_compared(wishes):
        return
    try:
        trained_on = client.checkpoint_info(path)["base_model"]
    except DownloadError as error:
        log.warning("Which base model %s was trained on could not be asked (%s).", path, error)
        return
    if trained_on is None:
        log.warning("Tinker has not recorded which base model %s was trained on.", path)
        return
    _compare(path, trained_on, wishes.base_model)


def _check_recorded(folder: Path, source: Source, wishes: Wishes) -> None:
    """Afterwards: what the checkpoint's own configuration says, where both are names of the hub."""
    if not _is_compared(wishes) or not _HUB_ID.fullmatch(wishes.base_model):
        return
    try:
        recorded = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # absent is usual; what is malformed the conversion refuses by name
    if isinstance(recorded, str) and _HUB_ID.fullmatch(recorded) and not local(recorded).is_dir():
        _compare(source.shown, recorded, wishes.base_model)


def _is_compared(wishes: Wishes) -> bool:
    # A folder may hold any model; shapes are compared when it is loaded.
    return wishes.check_base_model and not local(wishes.base_model).is_dir()


def _compare(shown: str, trained_on: str, base_model: str) -> None:
    if trained_on.casefold() != base_model.casefold():
        raise ConfigError(
            f"{shown} was trained on {trained_on!r:.200}, not on {base_model!r}. Give that name as base_model_name, or "
            "the folder of the model; check_base_model=False (--no-check-base-model) takes it all the same."
        )
