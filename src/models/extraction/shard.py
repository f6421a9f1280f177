"""One shard as bytes: a safetensors file whose name is the hash of all of it. Written and read without copies."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from src import files, storage

FORMAT = "confprobe-states-1"
KEYS = "keys"
SUFFIX = ".safetensors"
_ALIGNED = 8
_BEGINNING = 1 << 16  # holds the header, and the keys of some two thousand rows
_MOST_HEADER = 100 << 20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write_shard(folder: Path, keys: Sequence[bytes], rows: Mapping[str, Sequence[Tensor]]) -> Path:
    """Write one shard, whole or not at all.

    Args:
        folder: where to.
        keys: 32 bytes for each row.
        rows: quantity -> its parts, (n, width) each, len(keys) rows in all, on the CPU.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    packed = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), 32)
    # Keys first: who looks whether a shard is of use reads its beginning only.
    pieces = _pieces({KEYS: [packed]} | {name: rows[name] for name in sorted(rows)})
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    path = folder / f"{digest.hexdigest()}{SUFFIX}"
    files.write_pieces(path, pieces)
    return path


def _pieces(tensors: Mapping[str, Sequence[Tensor]]) -> list[memoryview]:
    """The file's bytes in their order: length of the header, header, every part of every tensor."""
    header: dict[str, object] = {"__metadata__": {"format": FORMAT}}
    offset = 0
    for name, parts in tensors.items():
        end = offset + sum(part.nbytes for part in parts)
        shape = [sum(map(len, parts)), *parts[0].shape[1:]]
        header[name] = {"dtype": _NAMES[parts[0].dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    flat = [part.contiguous().view(torch.uint8).reshape(-1) for parts in tensors.values() for part in parts]
    return [memoryview(len(text).to_bytes(8, "little") + text), *(part.numpy().data for part in flat)]


def read_header(path: Path) -> tuple[frozenset[str], tuple[bytes, ...], frozenset[tuple[str, str]]] | None:
    """A shard's quantities, keys, and the dtype of each quantity; its rows are not read.

    Returns:
        None for a safetensors file of another format.

    Raises:
        ValueError: no safetensors file, or a torn one.
        OSError: it is gone, or cannot be read.
    """
    start = storage.read(path, _BEGINNING)
    begin = 8 + int.from_bytes(start[:8], "little")
    if begin > _MOST_HEADER:
        raise ValueError("the header has no end")
    start = start if begin <= len(start) else storage.read(path, begin)
    try:
        header = files.strict_json(start[8:begin].decode())
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if not isinstance(header, dict) or not isinstance(about := header.pop("__metadata__", {}), dict):
        raise ValueError("the header is none")
    if about.get("format") != FORMAT:
        return None
    try:
        dtypes = {name: str(one["dtype"]) for name, one in header.items()}
        first, end = header[KEYS]["data_offsets"]
        size = begin + max(one["data_offsets"][1] for one in header.values())
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("the header lacks a tensor's place") from error
    if first != 0 or size != path.stat().st_size:
        raise ValueError("the file is longer or shorter than its header says")
    start = start if begin + end <= len(start) else storage.read(path, begin + end)
    keys = tuple(start[i : i + 32] for i in range(begin, begin + end, 32))
    del dtypes[KEYS]
    return frozenset(dtypes), keys, frozenset(dtypes.items())


class ShardReader:
    """Reads shards one after the other into the same memory: what one call returned is gone after the next."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, dtype=np.uint8)

    def verified(self, path: Path) -> dict[str, Tensor] | None:
        """The tensors of a shard; None where its bytes do not match its name. Raises OSError."""
        if not storage.is_local(path):
            data = np.frombuffer(bytearray(storage.read(path)), dtype=np.uint8)
            return _verified(path, data)
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            if size > len(self._buffer):
                self._buffer = np.empty(size + size // 4, dtype=np.uint8)
            data = self._buffer[:size]
            read = 0
            while read < size and (count := file.readinto(data.data[read:])):
                read += count
        return _verified(path, data[:read])


def _verified(path: Path, data: np.ndarray) -> dict[str, Tensor] | None:
    if xxhash.xxh3_128_hexdigest(data.data) != path.stem:
        return None
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:begin].tobytes())
    return {
        name: _tensor(data[begin:], one["dtype"], one["shape"], *one["data_offsets"])
        for name, one in header.items()
        if name != "__metadata__"
    }


def expect(path: Path) -> None:
    """Tell the system that this file will be read soon, where it listens."""
    if not storage.is_local(path):
        return
    with contextlib.suppress(OSError, AttributeError):  # gone meanwhile; not Linux
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _tensor(data: np.ndarray, dtype: str, shape: Sequence[int], start: int, end: int) -> Tensor:
    return torch.from_numpy(data[start:end]).view(_DTYPES[dtype]).reshape(tuple(shape))
