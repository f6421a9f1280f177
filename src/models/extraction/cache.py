"""Rows on disk: immutable safetensors shards, named by the hash of their own bytes; no index, no lock.

A folder holds one sub-folder per context (everything that determines a row besides its tokens, readable in
its context.json). A shard holds the keys of its rows and one tensor per quantity. The set of complete shards
is the state: writers never wait for each other, and a killed run leaves whole shards only.
"""

import errno
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from src import files, storage
from src.errors import CacheError
from src.models.extraction.shard import FORMAT, SUFFIX, ShardReader, expect, read_header, write_shard
from src.models.extraction.table import Table

log = logging.getLogger(__name__)

CONTEXT_NAME = "context.json"
DAMAGED = ".corrupt"
BUDGET_NAME = "budget.json"
_FULL_OR_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_SHARD_NAME = re.compile(r"[0-9a-f]{32}")


def row_key(token_ids: Sequence[int], start: int | None = None) -> bytes:
    """32 bytes that name a sequence of tokens. Ids, not text: template, BOS and truncation are in them.

    A mean is also named by the token it starts at; None, and the last token, name the last token's own state.
    """
    digest = hashlib.sha256(np.asarray(token_ids, dtype=np.int64).tobytes())
    if start is not None and start != len(token_ids) - 1:
        digest.update(f"mean from {start}".encode())
    return digest.digest()


class ActivationCache:
    """The rows of one context.

    Args:
        folder: the cache folder; made if needed.
        context: what determines a row besides its tokens, as JSON values.
        model_name: written beside it for people to read; not part of what names a context.
        required: a folder that is read-only or full is an error; otherwise one warning is given and nothing more is
            stored.

    Raises:
        CacheError: the folder cannot be one, such as a path below a file, or is required and cannot be written.
    """

    def __init__(self, folder: str | Path, context: Mapping[str, Any], *, model_name: str = "", required: bool = False):
        self.folder = storage.place(folder) / files.sha256_of_json(dict(context))[:16]
        self._writable = True
        self._required = required
        about = self.folder / CONTEXT_NAME
        try:
            with storage.as_os_error():
                storage.make_folder(self.folder)
                if not about.exists():
                    files.write_json(about, {"format": FORMAT, "model_name": model_name} | dict(context))
        except OSError as error:
            if error.errno not in _FULL_OR_READ_ONLY and not isinstance(error, PermissionError):
                reason = str(error).rstrip(".")
                raise CacheError(f"The cache folder {folder} cannot be used: {reason}. Choose another.") from error
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        reason = error.strerror or str(error)
        if self._required:
            raise CacheError(
                f"The cache {self.folder} cannot be written ({reason}), and it is required. Make room, choose another "
                "folder, or set extraction.cache: optional."
            ) from error
        log.warning("The cache %s cannot be written (%s): going on without it.", self.folder, reason)

    def token_budget(self, choose: Callable[[], int]) -> int:
        """The budget recorded here; where there is none, the chosen one, which is recorded.

        Passes depend on it, so a call that goes on later, or on another machine, must use the same.
        """
        if recorded := self.recorded_budget(self.folder):
            return recorded
        chosen = choose()
        if self._writable:
            try:
                files.write_json(self.folder / BUDGET_NAME, {"token_budget": chosen})
            except OSError as error:
                self._give_up(error)
        return chosen

    @staticmethod
    def recorded_budget(folder: Path) -> int | None:
        """The budget recorded in a context's folder; None where there is none that makes sense."""
        try:
            recorded = json.loads(storage.read(folder / BUDGET_NAME))["token_budget"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return recorded if isinstance(recorded, int) and recorded > 0 else None

    def fill(self, table: Table) -> None:
        """Put what is kept here into the table, verified.

        A shard whose bytes do not match its name is set aside as *.corrupt, reported once, and not used.
        """
        seen: set[Path] = set()
        reader = ShardReader()
        while paths := [path for path in shards(self.folder) if path not in seen]:
            seen.update(paths)
            gone = 0
            for path, upcoming in itertools.zip_longest(paths, paths[1:]):
                if upcoming is not None:
                    expect(upcoming)
                gone += not _read_shard(reader, path, table)
            if not gone:
                return
            # Those were merged into others by `cache compact`: look again.

    def write(self, keys: Sequence[bytes], rows: Mapping[str, Sequence[Tensor]]) -> None:
        """Store one shard; arguments as in `write_shard`."""
        if not self._writable:
            return
        try:
            write_shard(self.folder, keys, rows)
        except OSError as error:
            self._give_up(error)


def shards(folder: Path) -> list[Path]:
    """The files of a context's folder that have the name of a shard, in order; all others are somebody else's."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if _SHARD_NAME.fullmatch(path.stem))


def _read_shard(reader: ShardReader, path: Path, table: Table) -> bool:
    """Put a shard's rows into the table; False where it is gone."""
    header = peek(path)
    if header.state == "broken":
        set_aside(path)
    places = table.places(header.keys)
    if not any(header.quantities.intersection(names) for names, _ in table.lacking(places)):
        return header.state != "unreadable" or path.exists()
    try:
        shard = reader.verified(path)
    except FileNotFoundError:
        return False
    if shard is None:
        set_aside(path)
    else:
        table.add(places, shard)
    return True


@dataclass(frozen=True)
class Header:
    """What a shard says of itself: "ok", "foreign" (another or a newer format), "broken" or "unreadable"."""

    state: str
    quantities: frozenset[str] = frozenset()
    keys: tuple[bytes, ...] = ()
    dtypes: frozenset[tuple[str, str]] = frozenset()


def peek(path: Path) -> Header:
    """Read a shard's names and keys, not its rows. Nothing is changed."""
    try:
        found = read_header(path)
    except ValueError:
        return Header("broken")
    except OSError:  # gone meanwhile, or not ours to read: no reason to call it damaged
        return Header("unreadable")
    return Header("foreign") if found is None else Header("ok", *found)


def set_aside(path: Path) -> None:
    """Rename a damaged shard so that it is not used again; its rows are computed again when they are wanted."""
    log.warning("The cache shard %s is damaged: set aside, its rows are computed again.", path.name)
    try:
        path.rename(path.with_suffix(DAMAGED))
    except OSError as error:
        log.warning("It could not be renamed: %s", error)
