"""A safetensors file read and written one tensor at a time, its header checked as if it came from an enemy.

The format: 8 bytes with the header's length, a JSON header {name: dtype, shape, data_offsets}, the data. The tensors
must fill the data without holes or overlaps, so no byte is read twice and none is hidden.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from src import files
from src.adapters.settings import parse_object
from src.errors import AdapterError

_MAX_HEADER_BYTES = 100 << 20  # as safetensors itself
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_INFINITY = {"float64": 0x7FF << 52, "float32": 0xFF << 23, "float16": 0x1F << 10, "bfloat16": 0xFF << 7}  # its bits
_BLOCK = 1 << 18  # numbers looked at together: they stay in the processor's cache
_FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: dtype (safetensors' own name), shape, first byte in the file, number of bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class TensorFile:
    """A file whose header was read and found sound; the data stays on the disk."""

    path: Path
    entries: Mapping[str, Entry]

    def read(self, name: str, row: int | None = None) -> Any:
        """One tensor, or one row of it, as a torch tensor of its own memory. Raises as `TensorReader.read`."""
        with TensorReader(self) as reader:
            return reader.read(name, row)


class TensorReader:
    """Reads tensors one after the other from a file that stays open, into memory that is used again.

    Fresh memory for every tensor costs more than reading it: the system clears each page at its first use.
    """

    def __init__(self, tensors: TensorFile):
        self._tensors = tensors
        self._file = tensors.path.open("rb", buffering=0)
        self._buffers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, row: int | None = None, *, slot: int = 0) -> Any:
        """One tensor, or one row of it, as a torch tensor, which the next one read into the same slot overwrites.

        Raises:
            AdapterError: it is not floating point, or the file has become shorter.
        """
        import torch

        entry = self._tensors.entries[name]
        check_floating(name, entry)
        shape, start, size = entry.shape, entry.start, entry.size
        if row is not None:
            shape, size = shape[1:], size // shape[0]
            start += row * size
        data = self._buffer(slot, size)
        self._file.seek(start)
        # One read may bring less than was asked for: Linux stops at 2 GiB.
        filled = 0
        while filled < size and (got := self._file.readinto(data.data[filled:])):
            filled += got
        if filled < size:
            raise AdapterError(f"{self._tensors.path} ends within {name}: it is torn. Download it again.")
        dtype = getattr(torch, _FLOATING[entry.dtype])
        return torch.from_numpy(data).view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)

    def _buffer(self, slot: int, size: int) -> Any:
        import numpy as np

        if slot not in self._buffers or self._buffers[slot].size < size:
            self._buffers[slot] = np.empty(size, dtype=np.uint8)
        return self._buffers[slot][:size]


def check_floating(name: str, entry: Entry) -> None:
    """Raises AdapterError where a tensor is of no dtype that is read here."""
    if entry.dtype not in _FLOATING:
        raise AdapterError(f"{name} has dtype {entry.dtype!r:.20}; {', '.join(_FLOATING)} are read.")


def open_tensors(path: Path) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        AdapterError: it is none, or its header promises something else than the file holds.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise _unreadable(path, f"a header of {length:,} bytes in a file of {size:,}")
        text = file.read(length).decode("utf-8", errors="replace")
    header = parse_object(text, name=f"the header of {path}", limit=_MAX_HEADER_BYTES)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].size)):
        if entry.start != end:
            raise _unreadable(path, f"{name!r:.200} starts at byte {entry.start:,}, where {end:,} is next")
        end += entry.size
    if end != size:
        raise _unreadable(path, f"its tensors end at byte {end:,}, the file at {size:,}")
    return TensorFile(path, entries)


def _entry(path: Path, name: str, value: Any, data_start: int) -> Entry:
    value = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise _unreadable(path, f"{name!r:.200} is not described by dtype, shape and data_offsets")
    size = offsets[1] - offsets[0]
    promised = _ITEM_BYTES[dtype] * math.prod(shape) if dtype in _ITEM_BYTES else size
    if size < 0 or size != promised:
        raise _unreadable(path, f"{name!r:.200} has {size:,} bytes for {dtype:.20} {tuple(shape)!s:.100}")
    return Entry(dtype, tuple(shape), data_start + offsets[0], size)


def _whole(values: Any) -> bool:
    """Whether this is a short list of whole numbers that a file can hold."""
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    )


def _unreadable(path: Path, reason: str) -> AdapterError:
    return AdapterError(f"{path} is not a readable safetensors file: {reason}. Download or export it again.")


def read_tensors(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file, as torch tensors. Raises AdapterError where it is not one."""
    opened = open_tensors(path)
    return {name: opened.read(name) for name in opened.entries}


def check_finite(name: str, tensor: Any) -> bool:
    """Refuse a CPU tensor that holds NaN or infinity; returns whether any number differs from 0.

    Without their sign, the bits of floating-point numbers are ordered as the numbers are, and infinity and every NaN
    stand above all others: one maximum answers both questions. (torch's own test of bfloat16 is ten times slower.)

    Raises:
        AdapterError: such a number, or a tensor that is not floating point.
    """
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _INFINITY:
        raise AdapterError(f"{name} has dtype {dtype}; LoRA weights are floating point.")
    infinity, bits = _INFINITY[dtype], getattr(torch, f"int{8 * tensor.element_size()}")
    numbers, unsigned = tensor.contiguous().view(bits).reshape(-1).numpy(), torch.iinfo(bits).max
    pieces = (numbers[start : start + _BLOCK] for start in range(0, len(numbers), _BLOCK))
    largest = max((int((piece & unsigned).max()) for piece in pieces), default=0)
    if largest >= infinity:
        raise AdapterError(f"{name} holds NaN or infinity: the file is damaged or the training diverged.")
    return largest > 0


def write_tensors(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[Any]) -> None:
    """Write a safetensors file, whole or not at all, from tensors that need not be in memory together.

    Args:
        path: the file.
        shapes: name -> (dtype as safetensors calls it, shape), in the order of `tensors`.
        tensors: torch tensors of exactly these.
    """
    files.write_pieces(path, _pieces(shapes, tensors))


def _pieces(shapes: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[Any]) -> Iterator[bytes | memoryview]:
    import torch

    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + _ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}  # pyright: ignore
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors:
        yield memoryview(tensor.contiguous().view(torch.uint8).reshape(-1).numpy())
