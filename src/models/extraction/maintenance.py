"""What lies in cache folders: seen, checked and thrown away, without loading a model."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src import files, storage
from src.errors import CacheError
from src.models.extraction.cache import BUDGET_NAME, CONTEXT_NAME, DAMAGED, peek, set_aside, shards
from src.models.extraction.shard import FORMAT, KEYS, ShardReader, write_shard

# Big enough that opening a shard costs nothing beside reading it, small enough to be read whole.
COMPACT_BYTES = 256 << 20
_SHARD = re.compile(r"[0-9a-f]{32}\.(safetensors|corrupt)")


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
    found = [_context(path) for path in _context_folders(storage.place(folder))]
    return sorted(found, key=lambda context: -context.bytes)


def contexts_like(folder: str | Path, context: Mapping[str, Any], *, model_name: str) -> list[Path]:
    """A context's folder below `folder`; of a model without weights, all those of models of this name and kind."""
    known = dict(context)
    if context["weights"] is None:
        known = {key: context[key] for key in context.keys() - {"weights", "adapter", "config"}}
        known["model_name"] = model_name
    paths = sorted(path.parent for path in storage.place(folder).glob(f"*/{CONTEXT_NAME}"))
    return [path for path in paths if known.items() <= _about(path / CONTEXT_NAME).items()]


def verify(folder: str | Path) -> tuple[int, list[Path]]:
    """Check every shard against its name. Returns how many there are, and the damaged ones, now set aside."""
    found = [path for context in _context_folders(storage.place(folder)) for path in shards(context)]
    damaged = [path for path in found if _damaged(path)]
    for path in damaged:
        set_aside(path)
    return len(found), damaged


def _damaged(path: Path) -> bool:
    state = peek(path).state
    with contextlib.suppress(FileNotFoundError):
        return state == "broken" or (state == "ok" and ShardReader().verified(path) is None)
    return False


def prune(folder: str | Path, *, older_than_days: float | None = None, dry_run: bool = False) -> tuple[int, int]:
    """Remove damaged shards and torn temporaries, and whole contexts that were not written for so many days.

    Only files with our names are touched.

    Args:
        folder: the cache folder.
        older_than_days: contexts whose newest file is older go as a whole; None: no context goes.
        dry_run: count only.

    Returns:
        (files, bytes) removed.

    Raises:
        CacheError: no such folder, or a file that cannot be removed.
    """
    count = size = 0
    for context in _context_folders(storage.place(folder)):
        old = older_than_days is not None and (time.time() - _last_written(context)) / 86_400 > older_than_days
        for path in [path for path in context.iterdir() if _goes(path, whole=old)]:
            count, size = count + 1, size + path.stat().st_size
            if not dry_run:
                _remove(path)
        if old and not dry_run and storage.is_local(context) and not any(context.iterdir()):
            context.rmdir()
    return count, size


def compact(folder: str | Path, *, most_bytes: int = COMPACT_BYTES) -> tuple[int, int]:
    """Merge the small shards of every context into ones of about `most_bytes`; no row is lost at any moment.

    A merged shard is complete before those it was made of go, so a reader, a writer, a kill or a full disk find every
    row. Shards that are damaged or of another format are left as they are.

    Returns:
        (shards before, shards after).

    Raises:
        CacheError: no such folder, or one that cannot be written.
    """
    before = after = 0
    for context in _context_folders(storage.place(folder)):
        alike: dict[frozenset[tuple[str, str]], list[Path]] = {}
        for path in shards(context):
            before += 1
            header = peek(path)
            if header.state == "ok" and _size(path) < most_bytes // 2:
                alike.setdefault(header.dtypes, []).append(path)
            else:
                after += 1
        for paths in alike.values():
            for group in _groups(paths, most_bytes):
                after += _merged(context, group)
    return before, after


def _groups(paths: list[Path], most_bytes: int) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for path in paths:
        if group and size + _size(path) > most_bytes:
            yield group
            group, size = [], 0
        group.append(path)
        size += _size(path)
    if group:
        yield group


def _merged(context: Path, paths: list[Path]) -> int:
    """Make one shard of several; returns how many there are afterwards."""
    sound = {path: shard for path in paths if (shard := _sound(path)) is not None}
    if len(sound) < 2:
        return len(paths)
    packed = torch.cat([shard.pop(KEYS) for shard in sound.values()]).numpy().tobytes()
    keys = [packed[i : i + 32] for i in range(0, len(packed), 32)]
    # Two processes may have computed the same row: the one that readers find first stays.
    first = list({key: place for place, key in reversed(list(enumerate(keys)))}.values())[::-1]
    quantities = next(iter(sound.values())).keys()
    whole = {name: [torch.cat([shard[name] for shard in sound.values()])[first]] for name in quantities}
    try:
        made = write_shard(context, [keys[place] for place in first], whole)
    except OSError as error:
        raise CacheError(f"{context} cannot be written: {error.strerror}. Nothing was lost.") from error
    for path in sound:
        if path != made:
            _remove(path)
    return 1 + len(paths) - len(sound)


def _sound(path: Path) -> dict[str, torch.Tensor] | None:
    """A shard's tensors; None where it is damaged, or gone because somebody else merged it."""
    with contextlib.suppress(FileNotFoundError):
        return ShardReader().verified(path)
    return None


def _goes(path: Path, *, whole: bool) -> bool:
    shard = _SHARD.fullmatch(path.name)
    damaged = shard is not None and path.suffix == DAMAGED
    ours = shard is not None or path.name in (CONTEXT_NAME, BUDGET_NAME)
    return path.is_file() and (damaged or files.is_stale(path) or (whole and ours))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{path} cannot be removed: {error.strerror}.") from error


def _context_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CacheError(f"There is no cache folder {folder}. Give the folder that extraction.cache_dir names.")
    return sorted(path.parent for path in folder.rglob(CONTEXT_NAME) if _about(path).get("format") == FORMAT)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(storage.read(path))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _context(folder: Path) -> Context:
    about = _about(folder / CONTEXT_NAME)
    sizes = {path: _size(path) for path in shards(folder)}
    return Context(
        folder=folder,
        model_name=str(about.get("model_name", "")),
        kind=str(about.get("position", "answers")),
        adapter=about.get("adapter") is not None,
        dtype=str(about.get("dtype", "")),
        quantization=about.get("quantization"),
        shards=len(sizes),
        rows=sum(len(peek(path).keys) for path in sizes),
        bytes=sum(sizes.values()),
        damaged=len(list(folder.glob(f"*{DAMAGED}"))),
        last_written=_last_written(folder),
    )


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # pruned or set aside meanwhile
        return path.stat().st_size
    return 0


def _last_written(folder: Path) -> float:
    times = [0.0]
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)
