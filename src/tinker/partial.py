"""Half a download on disk, named by what it is half of.

A part's name holds the strong ETag and the full size of its file, so whatever is under that name is the beginning of
exactly those bytes: a killed download goes on from there, and two processes that write the same part write the same
bytes at the same places. No lock and no note beside it can be wrong. A file without a strong ETag gets a private name
and is never gone on with.
"""

import os
import re
import time
import urllib.parse
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from src import files
from src.errors import DownloadError, IntegrityError

FORGOTTEN_SECONDS = 7 * 24 * 3600
_LONGEST_ETAG = 120  # a file name has at most 255 bytes
_NAME = re.compile(r"(?P<file>.+)@(?P<etag>[\w.%~-]+)@(?P<total>\d{1,19})\.part")


@dataclass(frozen=True)
class Part:
    """The beginning of a file.

    Attributes:
        path: where it lies.
        name: the file it is the beginning of.
        etag: the strong ETag of the whole; None where the server gives none, and then nothing goes on from here.
        total: bytes of the whole; None where the server does not say.
    """

    path: Path
    name: str
    etag: str | None
    total: int | None

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def opened(self, start: int) -> BinaryIO:
        """To write from byte `start` on. From 0, the file is a new one: another process may still hold the old."""
        if start == 0:
            self.path.unlink(missing_ok=True)
            return self.path.open("xb")
        handle = self.path.open("r+b")
        handle.seek(start)
        return handle

    def move_to(self, destination: Path) -> None:
        """Make the part, which is whole, the file at `destination`.

        Raises:
            IntegrityError: another process has taken it or begun it again.
        """
        size = self.size
        try:
            self.path.replace(destination)
        except FileNotFoundError:
            size = -1
        # Counted after the move: only what is moved counts, whoever wrote it.
        if size < 0 or destination.stat().st_size != (size if self.total is None else self.total):
            raise IntegrityError(
                f"{self.name} was taken by another process that downloads the same checkpoint. Call again when that "
                "has ended."
            )


def new_part(folder: Path, name: str, etag: str | None, total: int | None) -> Part:
    """The part to write, in place of those of earlier contents of the same file."""
    for other in _parts(folder, name):
        if (other.etag, other.total) != (etag, total):
            other.path.unlink(missing_ok=True)
    quoted = urllib.parse.quote((etag or "")[1:-1], safe="")
    if not 0 < len(quoted) <= _LONGEST_ETAG or total is None:
        return Part(folder / f".{name}.{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp", name, None, total)
    return Part(folder / f"{name}@{quoted}@{total}.part", name, etag, total)


def left_over(folder: Path, name: str) -> Part | None:
    """What an earlier download of this file left, to go on from; None where there is nothing."""
    return max((part for part in _parts(folder, name) if part.size), key=lambda part: part.size, default=None)


def sweep_forgotten(folder: Path, prefix: str) -> None:
    """Remove the stale temporaries in `folder`, and folders of parts that nobody went on with for a week."""
    if not folder.is_dir():
        return
    files.sweep_temporaries(folder)
    for parts in folder.glob(f"{prefix}*"):
        if parts.is_symlink() or not parts.is_dir():
            continue
        files.sweep_temporaries(parts)
        newest = max((path.stat().st_mtime for path in (parts, *parts.iterdir())), default=0.0)
        if time.time() - newest > FORGOTTEN_SECONDS:
            remove_parts(parts)


def remove_parts(folder: Path) -> None:
    """Remove a folder of parts; what is not a part of ours stays, and so does the folder then."""
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) or files.is_temporary(path.name):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def make_folder(folder: Path) -> None:
    """A folder of ours for parts.

    Raises:
        DownloadError: something else is there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DownloadError(f"{folder} is where a download is kept until it is whole, but it is no folder. Remove it.")
    folder.mkdir(parents=True, exist_ok=True)


def _parts(folder: Path, name: str) -> list[Part]:
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        parsed = _NAME.fullmatch(path.name)
        if parsed and parsed["file"] == name and path.is_file() and not path.is_symlink():
            etag = f'"{urllib.parse.unquote(parsed["etag"])}"'
            found.append(Part(path, name, etag, int(parsed["total"])))
    return found
