"""What lies in cache folders: seen, checked and thrown away, without loading a model."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import files
from src.errors import CacheError
from src.models.extraction.cache import CONTEXT_NAME, FORMAT, peek, verified

DAMAGED = ".corrupt"


@dataclass(frozen=True)
class Context:
    """Everything kept for one model, adapter, precision and position.

    Attributes:
        folder: where it lies.
        model_name: the model's name or folder when it was first written.
        kind: the position whose hidden states these are, or "answers".
        adapter: whether an adapter was in force.
        dtype, quantization: of the model.
        shards, rows, bytes: complete shards, the rows they hold (a text may occur in several), and their size.
        damaged: shards that were set aside.
        last_written: seconds since 1970.
    """

    folder: Path
    model_name: str
    kind: str
    adapter: bool
    dtype: str
    quantization: str | None
    shards: int
    rows: int
    bytes: int
    damaged: int
    last_written: float


def contexts(folder: str | Path) -> list[Context]:
    """All contexts at any depth below `folder`, the largest first.

    Raises:
        CacheError: there is no such folder.
    """
    found = [_context(path) for path in _context_folders(Path(folder).expanduser())]
    return sorted(found, key=lambda context: -context.bytes)


def verify(folder: str | Path) -> tuple[int, list[Path]]:
    """Check every shard against its name. Returns how many there are, and the damaged ones, now set aside."""
    shards = [path for context in _context_folders(Path(folder).expanduser()) for path in _shards(context)]
    damaged = [path for path in shards if not _foreign(path) and (not path.exists() or verified(path) is None)]
    return len(shards), damaged


def prune(folder: str | Path, *, older_than_days: float | None = None, dry_run: bool = False) -> tuple[int, int]:
    """Remove damaged shards and torn temporaries, and whole contexts that were not written for so many days.

    Only files of ours are touched.

    Args:
        folder: the cache folder.
        older_than_days: contexts whose newest file is older go as a whole; None: no context goes.
        dry_run: count only.

    Returns:
        (files, bytes) removed.
    """
    count = size = 0
    for context in _context_folders(Path(folder).expanduser()):
        old = older_than_days is not None and _age_in_days(context) > older_than_days
        for path in [path for path in context.iterdir() if _goes(path, whole=old)]:
            count, size = count + 1, size + path.stat().st_size
            if not dry_run:
                path.unlink(missing_ok=True)
        if old and not dry_run and not any(context.iterdir()):
            context.rmdir()
    return count, size


def _goes(path: Path, *, whole: bool) -> bool:
    torn = files.is_temporary(path.name) and time.time() - path.stat().st_mtime > 3600
    ours = path.suffix == ".safetensors" or path.name == CONTEXT_NAME
    return path.suffix == DAMAGED or torn or (whole and ours)


def _context_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CacheError(f"There is no cache folder {folder}. Give the folder that extraction.cache_dir names.")
    return sorted(path.parent for path in folder.rglob(CONTEXT_NAME) if _about(path).get("format") == FORMAT)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _context(folder: Path) -> Context:
    about, shards = _about(folder / CONTEXT_NAME), list(_shards(folder))
    return Context(
        folder=folder,
        model_name=str(about.get("model_name", "")),
        kind=str(about.get("position", "answers")),
        adapter=about.get("adapter") is not None,
        dtype=str(about.get("dtype", "")),
        quantization=about.get("quantization"),
        shards=len(shards),
        rows=sum(len(peek(path)[1]) for path in shards),
        bytes=sum(path.stat().st_size for path in shards),
        damaged=len(list(folder.glob(f"*{DAMAGED}"))),
        last_written=max((path.stat().st_mtime for path in folder.iterdir()), default=0.0),
    )


def _shards(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))


def _foreign(path: Path) -> bool:
    """A shard of another format is left alone; one that cannot be read at all is set aside by the look at it."""
    names, _ = peek(path)
    return not names and path.exists()


def _age_in_days(folder: Path) -> float:
    return (time.time() - max(path.stat().st_mtime for path in folder.iterdir())) / 86_400
