"""Folders on this machine, and, named by a URL, in the storage that fsspec knows (S3, Google's, memory, ...)."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from src.errors import StorageError


def place(where: str | Path) -> Path:
    """The folder or file of this name: a path of this machine, or for a URL something with the methods of one.

    No file is looked at yet; some storage (sftp, for one) is connected to.

    Raises:
        StorageError: a URL of no kind of storage that can be used from here.
    """
    url = str(where)
    if not is_url(url):
        return Path(where).expanduser()
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    from upath import UPath

    try:
        # A listing that was true a moment ago hides what another worker has written since.
        found = UPath(url, use_listings_cache=False)
        found.fs  # noqa: B018 (made now: it may lack a package)
    except (ImportError, ValueError, OSError) as error:
        raise StorageError(f"{url} is in no storage that can be used from here: {error}.") from error
    return cast(Path, found)


def is_url(where: str) -> bool:
    """Whether a name is that of a place beyond this machine's file system (or of file://)."""
    return "://" in where


def is_local(path: Path) -> bool:
    """Whether a path lies on this machine's file system."""
    return isinstance(path, Path)


def make_folder(path: Path) -> None:
    """Make a folder of this machine, with its parents; object stores have none. Raises OSError."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Any) -> None:
    """Remove a folder with all that is in it; nothing where there is none."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        with as_os_error():
            path.fs.rm(path.path, recursive=True)


def put(path: Any, data: bytes) -> None:
    """Write a file beyond this machine: object stores show it when all of it is there. Raises OSError."""
    with as_os_error():
        path.fs.pipe_file(path.path, data)


def read(path: Any, size: int | None = None) -> bytes:
    """A file's bytes, or the first so many of them, fewer where it is shorter. Raises OSError."""
    if is_local(path):
        with path.open("rb", buffering=0) as file:
            return file.read(size)
    with as_os_error():
        # Not every store takes a range that goes beyond the end.
        if size is None or size >= path.fs.size(path.path):
            return path.fs.cat_file(path.path)
        return path.fs.cat_file(path.path, start=0, end=size)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """What botocore raises before S3 has answered (no credentials, no connection) is no OSError by itself."""
    try:
        yield
    except _unanswered() as error:
        raise OSError(str(error)) from error


def _unanswered() -> tuple[type[Exception], ...]:
    botocore = sys.modules.get("botocore.exceptions")
    return (botocore.BotoCoreError,) if botocore else ()
