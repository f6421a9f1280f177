"""Unpack a checkpoint archive as if it came from an enemy.

Python's own "data" filter lets links inside the folder and sparse members through and limits neither size
nor count, so the policy is ours: regular files only, of four known names, below fixed limits.
"""

import errno
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from src.errors import DownloadError, IntegrityError, UnsafeArchiveError

WANTED = ("adapter_config.json", "adapter_model.safetensors", "README.md", "checkpoint_complete")
MAX_MEMBERS = 64
MAX_FILE_BYTES = 16 << 30
MAX_TOTAL_BYTES = 64 << 30
MAX_DEPTH = 32
_KINDS = {
    b"PK\x03\x04": "a zip file",
    b"<!DO": "an HTML page",
    b"<htm": "an HTML page",
    b"<HTM": "an HTML page",
}


def unpack(archive: Path, destination: Path) -> None:
    """Copy the files of an adapter from a tar (plain or gzip) into the existing folder `destination`.

    One nested top folder is flattened. Other files are left out; links, devices, sparse members, names that
    leave the folder, duplicates, and sizes over the limits are refused before anything is written.

    Raises:
        DownloadError: no such file.
        IntegrityError: not a complete tar, or one without an adapter.
        UnsafeArchiveError: a member that no adapter needs.
    """
    try:
        with tarfile.open(archive, "r:*") as tar:
            members = _checked_members(tar)
            for name, member in members.items():
                _copy(tar, member, destination / name)
    except FileNotFoundError as error:
        raise DownloadError(f"There is no archive {archive}. Check the path.") from error
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, DownloadError):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"{archive} cannot be unpacked into {destination}: {error.strerror}.") from error
        raise IntegrityError(f"{archive} cannot be read as a tar archive: {_what_it_is(archive)} ({error}).") from error
    if not (destination / "adapter_model.safetensors").exists():
        raise IntegrityError(
            f"{archive} holds no adapter_model.safetensors, so it is no adapter checkpoint. Save one with "
            "save_weights_external (Tinker) or give a PEFT folder."
        )


def _checked_members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    wanted: dict[str, tarfile.TarInfo] = {}
    seen: set[str] = set()
    total = count = 0
    for count, member in enumerate(tar, start=1):
        if count > MAX_MEMBERS:
            raise UnsafeArchiveError(f"{tar.name} has over {MAX_MEMBERS} members; an adapter has three or four.")
        if member.isdir() and member.name in ("", ".", "./"):
            continue  # a real server writes such a root entry
        parts = _safe_parts(member)
        if member.isdir():
            continue
        if not member.isreg() or member.sparse is not None:
            raise UnsafeArchiveError(f"{member.name!r} is no regular file: links and devices are refused.")
        total += member.size
        if member.size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise UnsafeArchiveError(f"{member.name!r} brings the archive to {total:,} bytes, over the limit.")
        folded = "/".join(parts).casefold()
        if folded in seen:
            raise UnsafeArchiveError(f"{member.name!r} occurs twice.")
        seen.add(folded)
        if len(parts) <= 2 and parts[-1] in WANTED:
            if parts[-1] in wanted:
                raise UnsafeArchiveError(f"{parts[-1]!r} occurs in two folders: which one is meant is not clear.")
            wanted[parts[-1]] = member
    if not count:
        raise IntegrityError(f"{tar.name} is an empty archive.")
    return wanted


def _safe_parts(member: tarfile.TarInfo) -> list[str]:
    name = member.name
    parts = list(PurePosixPath(name).parts)
    unsafe = (
        not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name
        or ":" in parts[0] or len(parts) > MAX_DEPTH or any(len(p.encode()) > 255 for p in parts)
    )  # fmt: skip
    if unsafe:
        raise UnsafeArchiveError(f"The member name {name!r:.100} could lead out of the folder.")
    return parts


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise UnsafeArchiveError(f"{member.name!r} is no regular file.")
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if target.stat().st_size != member.size:
        raise IntegrityError(f"{member.name!r} ends early: {target.stat().st_size:,} of {member.size:,} bytes.")


def _what_it_is(archive: Path) -> str:
    if archive.is_dir():
        return "it is a folder"
    with archive.open("rb") as file:
        start = file.read(4)
    if not start:
        return "the file is empty"
    return next((f"it is {kind}" for magic, kind in _KINDS.items() if start.startswith(magic)), "it is torn or no tar")
