"""Unpack a checkpoint archive as if it came from an enemy.

Python's own "data" filter lets links inside the folder and sparse members through and limits neither size nor count,
and a header that claims a name of 3 GiB ends in MemoryError before any filter is asked. So the policy is ours: the
headers are walked through first without believing them (`_walk`), then only regular files of four known names are
copied, below fixed limits, with modes of our own; the filter stays as a second line.
"""

import errno
import gzip
import io
import re
import shutil
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from src.errors import DownloadError, IntegrityError, ProbingError, UnsafeArchiveError
from src.tinker.contents import MAX_FILE_BYTES, MAX_TOTAL_BYTES, WANTED, check_names, most_bytes

MAX_MEMBERS = 64
MAX_DEPTH = 32
MAX_GZIP_RATIO = 20
_MAX_EXTENDED_BYTES = 64 << 10
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# Headers that describe another member: a long name, and pax in three dialects.
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_PAX_SIZE = re.compile(rb"\d+ (size|GNU\.sparse[\w.]*)=")
_BLOCK = 512
_Stream = gzip.GzipFile | io.BufferedReader
_KINDS = {
    b"pk\x03\x04": "a zip file", b"\x80\x02": "a pickle", b"bzh": "bzip2, not gzip", b"\xfd7zxz": "xz, not gzip",
    b"<!do": "an HTML page", b"<htm": "an HTML page", b"<?xml": "an XML page, perhaps an error", b"{": "JSON",
}  # fmt: skip


def unpack(archive: Path, destination: Path) -> None:
    """Copy the files of an adapter from a tar (plain or gzip) into the existing, empty folder `destination`.

    One nested top folder is flattened. Other files are left out; links, devices, sparse members, names that leave
    the folder, duplicates, and sizes over the limits are refused before anything is written. Files get mode 0644.

    Raises:
        DownloadError: no such file, or no space to unpack it.
        IntegrityError: not a complete tar, or one without an adapter.
        UnsafeArchiveError: a member that no adapter needs, or a destination that is not an empty folder.
        AdapterError: the weights are there as a pickle only.
    """
    if destination.is_symlink() or not destination.is_dir() or any(destination.iterdir()):
        raise UnsafeArchiveError(f"{destination} is not an empty folder: nothing is unpacked there.")
    try:
        with _opened(archive) as stream:
            _walk(stream, archive)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for name, member in _checked_members(tar, archive).items():
                    _copy(tar, member, destination / name)
    except ProbingError:
        raise
    except FileNotFoundError as error:
        raise DownloadError(f"There is no archive {archive}. Check the path.") from error
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"{archive} cannot be unpacked into {destination}: {error.strerror}.") from error
        raise IntegrityError(f"{archive} cannot be read as a tar archive: {_what_it_is(archive)} ({error}).") from error


def _opened(archive: Path) -> _Stream:
    """The tar itself. What a gzip holds is read no further than its ratio allows."""
    with archive.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return _Limited(archive) if is_gzip else archive.open("rb")


class _Limited(gzip.GzipFile):
    """A gzip that refuses to become more than twenty times as large as it is, or larger than any adapter."""

    def __init__(self, archive: Path):
        super().__init__(archive, "rb")
        self.archive = archive
        # A small archive of few bytes compresses well because a tar is padded with zeros.
        self.most = min(MAX_TOTAL_BYTES, MAX_GZIP_RATIO * archive.stat().st_size + (64 << 10))

    def read(self, size: int | None = -1) -> bytes:
        # In steps, so that one call for 16 GiB of zeros is refused before they are in memory.
        pieces, left = [], self.most + 1 if size is None or size < 0 else size
        while left and (piece := super().read(min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
            if self.tell() > self.most:
                raise UnsafeArchiveError(
                    f"{self.archive} grows beyond {self.most:,} bytes when it is unpacked, over {MAX_GZIP_RATIO} times "
                    "its size. Weights hardly compress: this is no adapter."
                )
        return b"".join(pieces)


def _walk(stream: _Stream, archive: Path) -> None:
    """Every header before tarfile acts on one: it allocates what a header claims, and stops in silence at a torn one.

    What lets two readers disagree where the next header lies is refused: links with a size, sparse files, a size in
    a pax header.
    """
    total = 0
    for count, header in enumerate(_headers(stream, archive), start=1):
        if count > 2 * MAX_MEMBERS:
            raise UnsafeArchiveError(f"{archive} has over {MAX_MEMBERS} members; an adapter has three or four.")
        taken = 0
        if header.type in _EXTENDED:
            taken = _check_extended(stream, header, archive)
        elif header.isdir():
            continue  # tarfile, too, takes no bytes after a folder's header
        elif header.type not in _PLAIN:
            raise UnsafeArchiveError(f"{header.name!r:.100} is no regular file: links and devices are refused.")
        total += header.size
        if header.size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise UnsafeArchiveError(f"{header.name!r:.100} brings the archive to {total:,} bytes, over the limit.")
        _skip(stream, -(-header.size // _BLOCK) * _BLOCK - taken, archive)
    while stream.read(1 << 20):  # to the end, where a gzip has its checksum
        pass


def _headers(stream: _Stream, archive: Path) -> Iterator[tarfile.TarInfo]:
    """Each header up to the block of zeros that ends an archive."""
    while (block := stream.read(_BLOCK)).strip(b"\0"):
        if len(block) < _BLOCK:
            break
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.size < 0:
            raise UnsafeArchiveError(f"{header.name!r:.100} claims to have {header.size:,} bytes.")
        yield header
    if len(block) < _BLOCK:
        raise IntegrityError(f"{archive} is torn or no tar: {_what_it_is(archive)}, and it lacks the mark of its end.")


def _check_extended(stream: _Stream, header: tarfile.TarInfo, archive: Path) -> int:
    """Read what describes another member; how many bytes that were."""
    if header.size > _MAX_EXTENDED_BYTES:
        raise UnsafeArchiveError(
            f"{archive} has a header of {header.size:,} bytes that describes one file; {_MAX_EXTENDED_BYTES:,} are "
            "allowed."
        )
    content = stream.read(header.size)
    if header.type != tarfile.GNUTYPE_LONGNAME and (found := _PAX_SIZE.search(content)):
        raise UnsafeArchiveError(f"{archive} sets {found[1].decode()!r} in an extended header, which no adapter needs.")
    return len(content)


def _skip(stream: _Stream, size: int, archive: Path) -> None:
    """Reads a gzip, so that it is counted; a plain file can be sought in for ever beyond its end."""
    if isinstance(stream, gzip.GzipFile):
        while size and (block := stream.read(min(size, 1 << 20))):
            size -= len(block)
    elif stream.tell() + size <= archive.stat().st_size:
        stream.seek(size, 1)
        size = 0
    if size:
        raise IntegrityError(f"{archive} is torn: it ends inside a file.")


def _checked_members(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """Name in the destination -> member, for what is wanted."""
    wanted: dict[str, tarfile.TarInfo] = {}
    seen: set[str] = set()
    names = []
    total = 0
    for count, member in enumerate(tar, start=1):
        if count > MAX_MEMBERS:
            raise UnsafeArchiveError(f"{archive} has over {MAX_MEMBERS} members; an adapter has three or four.")
        if member.isdir() and member.name in ("", ".", "./"):
            continue  # a real server writes such a root entry
        parts = _safe_parts(member)
        folded = unicodedata.normalize("NFC", "/".join(parts)).casefold()
        if folded in seen:
            raise UnsafeArchiveError(f"{member.name!r:.100} occurs twice, perhaps in other letters.")
        seen.add(folded)
        if member.isdir():
            continue
        total += member.size
        if member.size > most_bytes(parts[-1]) or total > MAX_TOTAL_BYTES:
            raise UnsafeArchiveError(f"{member.name!r:.100} brings the archive to {total:,} bytes, over the limit.")
        names.append(parts[-1])
        if len(parts) <= 2 and parts[-1] in WANTED:
            if parts[-1] in wanted:
                raise UnsafeArchiveError(f"{parts[-1]!r} occurs in two folders: which one is meant is not clear.")
            wanted[parts[-1]] = member
    if not seen:
        raise IntegrityError(f"{archive} is an empty archive, or none: {_what_it_is(archive)}.")
    check_names([*wanted, *(name for name in names if name not in WANTED)], str(archive))
    return wanted


def _safe_parts(member: tarfile.TarInfo) -> list[str]:
    name = member.name
    parts = list(PurePosixPath(name).parts)
    unsafe = (
        not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name
        or ":" in parts[0] or len(parts) > MAX_DEPTH
        or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts)
    )  # fmt: skip
    if unsafe:
        raise UnsafeArchiveError(f"The member name {name!r:.100} could lead out of the folder.")
    return parts


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4
        tarfile.data_filter(member, str(target.parent))
    source = tar.extractfile(member)
    if source is None:
        raise UnsafeArchiveError(f"{member.name!r} is no regular file.")
    # Opened here and not extracted: mode, owner and time are this process's own.
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    target.chmod(0o644)
    if target.stat().st_size != member.size:
        raise IntegrityError(f"{member.name!r} ends early: {target.stat().st_size:,} of {member.size:,} bytes.")


def _what_it_is(archive: Path) -> str:
    if archive.is_dir():
        return "it is a folder"
    with archive.open("rb") as file:
        start = file.read(8).lstrip().lower()
    if not start:
        return "the file is empty"
    named = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "")
    return f"it is {named}" if named else "it is torn or no tar"
