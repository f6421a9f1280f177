"""Folders on this machine, and, named by a URL, in the storage that fsspec knows (S3, Google's, memory, ...)."""

import contextlib
import os
import shutil
import sys
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from src.errors import StorageError, holds_secret, printable

ACCESS = "Credentials are read from where the storage's own tools have them (S3: AWS_PROFILE, AWS_ENDPOINT_URL)."


def place(where: str | Path) -> Path:
    """The folder or file of this name: a path of this machine, or for a URL something with the methods of one.

    No file is looked at yet; some storage (sftp, for one) is connected to.

    Raises:
        StorageError: a URL of no kind of storage that can be used from here, or of a file on another host.
    """
    url = str(where)
    if not is_url(url):
        return local(where)
    if holds_secret(url):
        raise StorageError(f"The place {printable(url)} cannot be used: addresses are printed and saved. {ACCESS}")
    if url.startswith("file://"):
        path = url.removeprefix("file://").removeprefix("localhost")
        if not path.startswith("/"):
            raise StorageError(f"{url} names a host, or no whole path. Write file:///path, or the path alone.")
        return Path(path)
    from upath import UPath

    try:
        # A listing that was true a moment ago hides what another worker has written since.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols that it takes for this machine's files
            found = UPath(url, use_listings_cache=False)
            found.fs  # noqa: B018 (made now: it may lack a package)
    except (
        ImportError, ValueError, TypeError, AttributeError, NotImplementedError, OSError, tarfile.TarError
    ) as error:  # fmt: skip
        raise StorageError(f"{url} is in no storage that can be used from here: {str(error).rstrip('.')}.") from error
    if is_local(cast(Path, found)) or not url.partition("://")[2].strip("/") or url.startswith("data:"):
        raise StorageError(f"{url} names no storage that files can be written to, or no place in it.")
    return cast(Path, found)


def local(path: str | Path) -> Path:
    """A path of this machine with `~` expanded; of a user who is not there it stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def is_url(where: str) -> bool:
    """Whether a name is that of a place beyond this machine's file system (or of file://)."""
    return "://" in where


def is_local(path: Path) -> bool:
    """Whether a path lies on this machine's file system."""
    return isinstance(path, Path)


def is_file(path: Any) -> bool:
    """Whether a file is there. Raises OSError where that cannot be found out."""
    if is_local(path):
        return path.is_file()
    with as_os_error():
        try:
            return path.fs.info(path.path)["type"] == "file"
        except FileNotFoundError:
            return False


def make_folder(path: Path) -> None:
    """Make a folder of this machine, with its parents; object stores have none. Raises OSError."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Any) -> None:
    """Remove a folder with all that is in it, of a link the link; nothing where there is none. Raises OSError."""
    if is_local(path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
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
    """What botocore (S3) and httpx (hf://) raise before a store has answered is no OSError by itself."""
    try:
        yield
    except unanswered() as error:
        raise OSError(f"{str(error).rstrip('.')}. {ACCESS}") from error


def unanswered() -> tuple[type[Exception], ...]:
    """What is raised by storage that is loaded here before it has answered, and is no OSError."""
    known = {"botocore.exceptions": "BotoCoreError", "httpx": "TransportError", "httpx2": "TransportError"}
    return tuple(getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules)
