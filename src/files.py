"""Files and folders that are either absent or complete.

Everything is written to a private temporary beside its destination, flushed to the disk and then
renamed. All system calls go through `_sys`, so that a test can make each of them fail in turn.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from src import storage

_sys = SimpleNamespace(
    open=os.open, write=os.write, fsync=os.fsync, close=os.close, replace=os.replace, unlink=os.unlink
)


_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{12}\.tmp")


def _temporary_beside(path: Path) -> Path:
    """A name no other process or thread uses: locks succeed silently on some network file systems."""
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one of ours that a killed process left behind."""
    return _TEMPORARY.fullmatch(name) is not None


def is_stale(path: Path) -> bool:
    """Whether a path is a temporary of ours that no living process can still be writing (over an hour old)."""
    if not is_temporary(path.name):
        return False
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > 3600
    return False


def sweep_temporaries(folder: Path) -> None:
    """Remove the stale temporaries in `folder`."""
    for path in folder.iterdir() if storage.is_local(folder) else ():
        if is_stale(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` holds the old or the new content, never a part. Raises OSError.

    Beyond this machine (`storage.place`) that is what the storage promises: S3 and memory do, sftp does not.
    """
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, of several pieces one after the other."""
    if not storage.is_local(path):
        storage.put(path, b"".join(pieces))
        return
    temporary = _temporary_beside(path)
    handle = _sys.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[_sys.write(handle, view) :]
            _sys.fsync(handle)
        finally:
            _sys.close(handle)
        _sys.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # still there only where something failed


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (NaN and infinity are errors) atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def scratch_directory(beside: Path) -> Iterator[Path]:
    """Yield a private new folder beside a path; it is gone when the block ends."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    scratch = _temporary_beside(beside)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """Yield a private sibling folder that becomes `destination` when the block ends without an error.

    A folder that already stands at `destination` is replaced; on any error it is left as it was and
    the staging folder is removed. Object stores have no folders to exchange: there files go straight to their place,
    and a reader must be able to tell when one of them is of another time.
    """
    if not storage.is_local(destination):
        yield destination
        return
    with scratch_directory(destination) as staging:
        yield staging
        _replace_directory(staging, destination)


def _replace_directory(staging: Path, destination: Path) -> None:
    """Folders cannot be exchanged in one call on every system: the old one steps aside first."""
    if not destination.exists():
        _sys.replace(staging, destination)
        return
    aside = _temporary_beside(destination)
    _sys.replace(destination, aside)
    try:
        _sys.replace(staging, destination)
    except OSError:
        _sys.replace(aside, destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def strict_json(text: str) -> Any:
    """The value of a JSON text without NaN, infinity or a key that occurs twice.

    Raises:
        ValueError: it is not one.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number that JSON knows")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {duplicate!r:.200} occurs twice")
    return unique


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value` (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
