"""A checkpoint's tensors -> the LoRA updates of the base model's modules: planned from shapes, then read one by one.

    updates = plan_updates(tensors.entries)              # names and shapes only
    for update in updates: read_half(tensors, update.a)  # one tensor in memory at a time

A module of the base model has one update, `alpha / r · B @ A` with A (r, in) and B (out, r). Two kinds of tensors of a
checkpoint are not one module's and are taken apart or put together here:

- experts: A (1 or E, r, in) and B (E or 1, out, r); where one half is shared, every expert gets it;
- q, k and v of a linear attention that the base model holds as one matrix: [Bq Aq; Bk Ak; Bv Av] is the product of
  B = block diagonal of (Bq, Bk, Bv) and A = (Aq, Ak, Av) one below the other, of three times the rank.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.adapters.folder import PREFIX, check_one_rank
from src.adapters.tensor_file import Entry, TensorFile, TensorReader
from src.errors import AdapterError
from src.tinker.names import Meaning, understood

Pair = dict[str, str]  # "A" and "B" -> tensor name


@dataclass(frozen=True)
class Half:
    """One half of an update, and the tensors of the checkpoint it is read from.

    Attributes:
        sources: tensor names: one, or the three that are fused.
        shape: (r, in) of an A, (out, r) of a B.
        dtype: as safetensors calls it.
        row: the expert, where the source is 3-D.
    """

    sources: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    row: int | None = None


@dataclass(frozen=True)
class Update:
    """The update of one module of the base model, and the checkpoint's modules it was made from."""

    module: str
    origins: tuple[str, ...]
    a: Half
    b: Half

    @property
    def rank(self) -> int:
        """Columns of A's output: three times the trained rank where three updates were fused."""
        return self.a.shape[0]


def plan_updates(entries: Mapping[str, Entry]) -> list[Update]:
    """The updates that a checkpoint's tensors mean, every tensor in exactly one kind of update.

    Raises:
        AdapterError: a tensor that is not understood, a half without its partner, shapes that do not fit together, or
            two updates of one module. The message names the tensor.
    """
    pairs = _paired(entries)
    updates: list[Update] = []
    thirds: dict[str, dict[str, tuple[str, Pair]]] = {}
    for origin, (meaning, pair) in pairs.items():
        a, b = (entries[pair[half]] for half in "AB")
        check_one_rank(origin, a.shape, b.shape)
        if meaning.kind == "split":
            thirds.setdefault(meaning.module, {})[meaning.leaf] = (origin, pair)
        elif meaning.kind == "experts":
            updates += _experts(meaning, origin, pair, entries)
        else:
            halves = (Half((pair[half],), _matrix(entries[pair[half]]), entries[pair[half]].dtype) for half in "AB")
            updates.append(Update(meaning.module, (origin,), *halves))
    updates += [_fused(module, parts, entries) for module, parts in thirds.items()]
    _check_once(updates)
    return updates


def _paired(entries: Mapping[str, Entry]) -> dict[str, tuple[Meaning, Pair]]:
    pairs: dict[str, tuple[Meaning, Pair]] = {}
    taken: dict[tuple[Meaning, str], str] = {}
    for name, entry in entries.items():
        module, half, meaning = understood(name, entry.shape)
        if (meaning, half) in taken:
            raise AdapterError(f"Two tensors would both change {meaning.module!r}: {taken[meaning, half]} and {name}.")
        taken[meaning, half] = name
        pairs.setdefault(module, (meaning, {}))[1][half] = name
    for _, pair in pairs.values():
        if len(pair) < 2:
            name = next(iter(pair.values()))
            partner = name.replace(*(".lora_A.", ".lora_B.") if "A" in pair else (".lora_B.", ".lora_A."))
            raise AdapterError(f"{name} is there but {partner} is missing: half an update is none.")
    return pairs


def _matrix(entry: Entry) -> tuple[int, int]:
    return entry.shape[-2], entry.shape[-1]


def _experts(meaning: Meaning, origin: str, pair: Pair, entries: Mapping[str, Entry]) -> Iterator[Update]:
    a, b = entries[pair["A"]], entries[pair["B"]]
    leading = (a.shape[0], b.shape[0])
    experts = max(leading)
    if experts < 2 or any(size not in (1, experts) for size in leading):
        raise AdapterError(
            f"{pair['A']} has shape {a.shape} and {pair['B']} {b.shape}: which belongs to which expert is not clear. "
            "The first sizes must be the number of experts, or 1 in one of the two for a half that all share."
        )
    for number in range(experts):
        halves = (
            Half((pair[half],), _matrix(entry), entry.dtype, row=number if entry.shape[0] > 1 else 0)
            for half, entry in (("A", a), ("B", b))
        )
        yield Update(f"{meaning.module}.{number}.{meaning.leaf}", (origin,), *halves)


def _fused(module: str, parts: Mapping[str, tuple[str, Pair]], entries: Mapping[str, Entry]) -> Update:
    names = [name for _, pair in parts.values() for name in pair.values()]
    if missing := sorted({"q", "k", "v"} - set(parts)):
        raise AdapterError(
            f"{names[0]} is there, but no in_proj_{missing[0]} beside it: the base model holds q, k and v as one "
            "matrix, and where the parts lie in it follows from all three."
        )
    origins = tuple(parts[leaf][0] for leaf in "qkv")
    a, b = ([entries[parts[leaf][1][half]] for leaf in "qkv"] for half in "AB")
    if len({part.shape for part in a}) > 1 or len({part.dtype for part in (*a, *b)}) > 1:
        raise AdapterError(
            f"{names[0]} and the other parts of {module} differ in rank, width or dtype: "
            f"{', '.join(f'{part.dtype} {part.shape}' for part in (*a, *b))}. They cannot be fused."
        )
    rank, width = sum(part.shape[0] for part in a), a[0].shape[1]
    sources = (tuple(parts[leaf][1][half] for leaf in "qkv") for half in "AB")
    shapes = ((rank, width), (sum(part.shape[0] for part in b), rank))
    return Update(
        module, origins, *(Half(names, shape, a[0].dtype) for names, shape in zip(sources, shapes, strict=True))
    )


def _check_once(updates: list[Update]) -> None:
    seen: dict[str, Update] = {}
    for update in updates:
        if update.module in seen:
            raise AdapterError(
                f"Two tensors would both change {update.module!r}: {seen[update.module].a.sources[0]} and "
                f"{update.a.sources[0]}."
            )
        seen[update.module] = update


def peft_names(updates: list[Update]) -> dict[str, Half]:
    """The tensors of the PEFT file in their order: all A of a block's projection, then all B.

    A half that all experts share is then read once and not once for every expert.
    """
    by_origin: dict[tuple[str, ...], list[Update]] = {}
    for update in updates:
        by_origin.setdefault(update.origins, []).append(update)
    return {
        f"{PREFIX}{update.module}.lora_{half}.weight": update.a if half == "A" else update.b
        for group in by_origin.values()
        for half in "AB"
        for update in group
    }


def read_halves(tensors: TensorFile, halves: Mapping[str, Half], check: Callable[[str, Any], object]) -> Iterator[Any]:
    """The tensors of `peft_names`, in order, each good until the next; `check(name, tensor)` sees each first."""
    import torch

    before: tuple[Half, Any] | None = None
    with TensorReader(tensors) as reader:
        for name, half in halves.items():
            if before is None or before[0] != half:
                parts = [reader.read(source, half.row, slot=slot) for slot, source in enumerate(half.sources)]
                for source, part in zip(half.sources, parts, strict=True):
                    check(source, part)
                fused = torch.cat if ".lora_A." in name else lambda blocks: torch.block_diag(*blocks)
                before = half, parts[0] if len(parts) == 1 else fused(parts)
            yield before[1]
