"""What this machine has, memory (a container's limit respected) and disk space, and what it says when it is full."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from src import storage
from src.errors import ProbingError, StorageError

# The limit of a container: version 2 and version 1 of Linux control groups.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_USED = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
_STATISTICS = Path("/sys/fs/cgroup/memory.stat")
_MEMINFO = Path("/proc/meminfo")


def free_memory() -> int | None:
    """Bytes that can still be used before the machine or its container is full; None where it does not say."""
    system = _meminfo("MemAvailable")
    limit, used = _first_number(_LIMITS), _first_number(_USED)
    # What the container counts as used holds files that were read and can be dropped at any moment.
    contained = limit - used + _droppable() if limit is not None and used is not None else None
    known = [value for value in (system, contained) if value is not None]
    return min(known) if known else None


def free_disk(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet. Raises OSError, also where it is on no disk here."""
    if not storage.is_local(path):
        raise OSError(f"{path} does not say how much room it has")
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def writing(folder: Path, *, setting: str) -> Iterator[None]:
    """Turn a failed write into a StorageError: one sentence with the free space and the setting to change."""
    try:
        with storage.as_os_error():
            yield
    except OSError as error:
        if isinstance(error, ProbingError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{folder.absolute()} cannot be used: {str(error.strerror or error).rstrip('.')}{_room(folder)}. Choose "
            f"another {setting}{', or make room' if full else ''}."
        ) from error


def _room(folder: Path) -> str:
    try:
        return f" ({in_words(free_disk(folder))} are free there)"
    except OSError:
        return ""


def time_in_words(seconds: float) -> str:
    """90 s, 45 minutes or 6.7 hours."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}" if seconds < 1000 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.3g} s"


def in_words(n_bytes: int) -> str:
    """1.5 GB."""
    size, unit = float(n_bytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, bigger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _droppable() -> int:
    try:
        lines = _STATISTICS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _meminfo(key: str) -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    found = next((line.split()[1] for line in lines if line.startswith(f"{key}:")), None)
    return int(found) * 1024 if found else None


def _first_number(paths: tuple[Path, ...]) -> int | None:
    for path in paths:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None  # "max": no limit
    return None
