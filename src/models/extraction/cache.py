"""Rows on disk: immutable safetensors shards, named by the hash of their own bytes; no index, no lock.

A folder holds one sub-folder per context (everything that determines a row besides its tokens, readable in
its context.json). A shard holds the keys of its rows and one tensor per quantity. The set of complete shards
is the state: writers never wait for each other, and a killed run leaves whole shards only.
"""

import errno
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from src import files
from src.errors import CacheError

log = logging.getLogger(__name__)

FORMAT = "confprobe-states-1"
CONTEXT_NAME = "context.json"
DAMAGED = ".corrupt"
_FULL_OR_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_KEYS = "keys"


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

    Where the folder is read-only or the disk is full, one warning is given and nothing more is stored.

    Raises:
        CacheError: the folder cannot be one, such as a path below a file.
    """

    def __init__(self, folder: str | Path, context: Mapping[str, Any], *, model_name: str = ""):
        self.folder = Path(folder).expanduser() / files.sha256_of_json(dict(context))[:16]
        self._writable = True
        about = self.folder / CONTEXT_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                files.write_json(about, {"format": FORMAT, "model_name": model_name} | dict(context))
        except OSError as error:
            if error.errno not in _FULL_OR_READ_ONLY:
                raise CacheError(f"The cache folder {folder} cannot be used: {error}. Choose another.") from error
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        log.warning("The cache %s cannot be written (%s): going on without it.", self.folder, error.strerror or error)

    def read(self, keys: Sequence[bytes], quantities: Sequence[str]) -> dict[bytes, dict[str, Tensor]]:
        """Rows found, verified: key -> {quantity: (width,)}. A row counts only where all quantities are there.

        A shard whose bytes do not match its name is set aside as *.corrupt, reported once, and not used.
        """
        wanted = set(keys)
        found: dict[bytes, dict[str, Tensor]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            header = peek(path)
            if header.state == "broken":
                set_aside(path)
            useful = [quantity for quantity in quantities if quantity in header.quantities]
            if not useful or wanted.isdisjoint(header.keys):
                continue
            shard = verified(path)
            if shard is None:
                set_aside(path)
                continue
            for row, key in enumerate(header.keys):
                if key in wanted:
                    found.setdefault(key, {}).update({q: shard[q][row] for q in useful})
        return {key: row for key, row in found.items() if len(row) == len(set(quantities))}

    def write(self, keys: Sequence[bytes], rows: Mapping[str, Tensor]) -> None:
        """Store one shard: `rows` maps a quantity to a tensor (len(keys), width)."""
        if not self._writable:
            return
        packed = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), 32)
        tensors = {name: tensor.contiguous() for name, tensor in rows.items()} | {_KEYS: packed}
        data = save(tensors, metadata={"format": FORMAT})
        try:
            files.write_bytes(self.folder / f"{xxhash.xxh3_128_hexdigest(data)}.safetensors", data)
        except OSError as error:
            self._give_up(error)


def keep_new(
    cache: ActivationCache | None, keys: Sequence[bytes], rows: Mapping[str, Tensor], found: dict[bytes, Any]
) -> None:
    """Add the rows that `found` does not hold to it, and to the cache: no row ever stands in two shards.

    A row that was there before a pass was repeated stays as it was, in this call and in every later one.
    """
    new = [place for place, key in enumerate(keys) if key not in found]
    if not new:
        return
    if cache is not None:
        cache.write([keys[place] for place in new], {name: values[new] for name, values in rows.items()})
    for place in new:
        found[keys[place]] = {name: values[place] for name, values in rows.items()}


@dataclass(frozen=True)
class Header:
    """What a shard says of itself: "ok", "foreign" (another or a newer format), "broken" or "unreadable"."""

    state: str
    quantities: frozenset[str] = frozenset()
    keys: tuple[bytes, ...] = ()


def peek(path: Path) -> Header:
    """Read a shard's names and keys, not its rows. Nothing is changed."""
    try:
        with safe_open(path, "pt") as shard:
            if (shard.metadata() or {}).get("format") != FORMAT:
                return Header("foreign")
            packed = shard.get_tensor(_KEYS).numpy().tobytes()
            keys = tuple(packed[i : i + 32] for i in range(0, len(packed), 32))
            return Header("ok", frozenset(shard.keys()) - {_KEYS}, keys)
    except SafetensorError:
        return Header("broken")
    except OSError:  # gone meanwhile, or not ours to read: no reason to call it damaged
        return Header("unreadable")


def verified(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a shard; None where its bytes do not match its name. Raises OSError."""
    data = path.read_bytes()
    return load(data) if xxhash.xxh3_128_hexdigest(data) == path.stem else None


def set_aside(path: Path) -> None:
    """Rename a damaged shard so that it is not used again; its rows are computed again when they are wanted."""
    log.warning("The cache shard %s is damaged: set aside, its rows are computed again.", path.name)
    try:
        path.rename(path.with_suffix(DAMAGED))
    except OSError as error:
        log.warning("It could not be renamed: %s", error)
