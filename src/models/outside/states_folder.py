"""A folder of such files: what their layers are in our names, and which file holds the tokens that are asked for."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from src import files, storage
from src.errors import DataError, MissingFileError
from src.models.extraction.capture import Windows
from src.models.extraction.engine import last_tokens
from src.models.extraction.layers import EMBEDDINGS, FINAL_NORM
from src.models.extraction.tokens import leading_special, tokenize
from src.models.outside.states_file import StatesFile, Tool, as_key, read_states_file

LAYER_IDS = "layer_ids.json"
_MOST_LAYERS = 4096
# How far two right ways to compute a state may lie apart, as a share of its length: see verifying.py.
_ALIKE = 0.1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class StatesFolder:
    """Sound files of one tool, with the same layers.

    Attributes:
        path: the folder.
        layers: of each layer of the files our name for it, such as "block.15".
        files: by name.
    """

    path: Path
    layers: tuple[str, ...]
    files: tuple[StatesFile, ...]

    @property
    def width(self) -> int:
        """The d of the states."""
        return self.files[0].width

    @cached_property
    def _by_tokens(self) -> tuple[list[bytes], list[StatesFile]]:
        ordered = sorted(self.files, key=lambda file: (file.tokens, file.path.name))
        return [file.tokens for file in ordered], ordered

    def check_repeats(self) -> None:
        """Raises DataError where two files hold the same tokens and other states: which of them counts is not known."""
        keys, ordered = self._by_tokens
        every = range(len(self.layers))
        for place in range(len(keys) - 1):
            if keys[place] == keys[place + 1]:
                first, second = ordered[place : place + 2]
                last = len(keys[place]) // 4 - 1
                one, other = (file.read(last, last, every)[0] for file in (first, second))
                length = torch.maximum(one.norm(dim=-1), other.norm(dim=-1)).clamp_min(1e-30)
                if (apart := ((one - other).norm(dim=-1) / length).max()) > _ALIKE:
                    raise DataError(
                        f"{first.path} and {second.path.name} hold the same tokens, and states that differ by "
                        f"{apart:.2g} of their length. Keep the one that is right."
                    )

    def columns(self, layers: Sequence[str]) -> list[Any]:
        """Where these layers stand in the files.

        Raises:
            DataError: one is not there.
        """
        if missing := [name for name in layers if name not in self.layers]:
            raise DataError(
                f"{self.path} does not hold the states of {', '.join(missing)}: it has {', '.join(self.layers)}. "
                "Choose among these, or extract again."
            )
        return [self.layers.index(name) for name in layers]

    def read(
        self, sequences: Sequence[Sequence[int]], layers: Sequence[str], windows: Sequence[Windows] | None = None
    ) -> np.ndarray:
        """The states of token sequences, found by their ids: a file that begins with them holds them too.

        Args:
            sequences: token ids, none of them empty.
            layers: canonical names.
            windows: of each, the stretches of tokens (first, last) whose mean is wanted; None: the last token.

        Returns:
            (windows of all, layers, d) float32.

        Raises:
            DataError: a sequence that no file begins with, a layer that is not there, NaN or infinity.
        """
        columns = self.columns(layers)
        windows = last_tokens(sequences) if windows is None else windows
        found = self._found(
            [ids[: max(last for _, last in some) + 1] for ids, some in zip(sequences, windows, strict=True)]
        )
        states = np.empty((sum(map(len, windows)), len(columns), self.width), dtype=np.float32)
        wanted = [(file, window) for file, some in zip(found, windows, strict=True) for window in some]
        for row, (file, (first, last)) in enumerate(wanted):
            states[row] = file.read(first, last, columns).mean(0).numpy()
        return states

    def _found(self, beginnings: Sequence[Sequence[int]]) -> list[StatesFile]:
        keys, ordered = self._by_tokens
        found, missing = [], []
        for number, ids in enumerate(beginnings):
            key = as_key(ids)
            # Whatever begins with the key follows it in the order, before everything else.
            place = bisect_left(keys, key)
            if place < len(keys) and keys[place].startswith(key):
                found.append(ordered[place])
            else:
                missing.append((number, key, place))
        if missing:
            number, key, place = missing[0]
            alike = max((_common(key, other) for other in keys[max(place - 1, 0) : place + 1]), default=0)
            raise DataError(
                f"No file of {self.path} begins with the tokens of {len(missing):,} of {len(beginnings):,} texts. The "
                f"first is text {number}: of its {len(key) // 4} tokens the nearest file has the first {alike}. Was it "
                "extracted with this tokenizer, this template, and a leading special token as here?"
            )
        return found


def open_states(folder: str | Path, *, layer_ids: Sequence[int | str] | None = None) -> StatesFolder:
    """Read what files there are; the states stay on the disk.

    Args:
        folder: of .safetensors files, each with the states of one request: see `src.models.outside.states_file`.
        layer_ids: the layers that the tool was asked for, by its own numbers and in the order of the files. vLLM's
            number k is what goes into block k (0: the embeddings; the number of blocks: the last block's state before
            the final norm); vllm-lens' k is what comes out of block k. "final_norm" stands for a state after the final
            norm, which has no number. None: as the list in the folder's
            layer_ids.json says.

    Raises:
        MissingFileError: no such folder.
        DataError: no file, one that is not sound, files that differ in their layers, two of the same tokens with other
            states, or ids that do not fit.
    """
    path = storage.local(folder)
    if not path.is_dir():
        raise MissingFileError(f"There is no folder {path} of states. Give the one that the tool wrote its files into.")
    paths = sorted(one for one in path.iterdir() if one.suffix == ".safetensors" and one.is_file())
    if odd := next((one for one in paths if not one.name.isprintable()), None):
        raise DataError(f"{path} holds a file called {odd.name!r:.80}, which no tool writes. Rename or remove it.")
    if not paths:
        raise DataError(f"{path} holds no .safetensors file. Give the folder that the tool wrote its files into.")
    found = tuple(map(read_states_file, paths))
    first = found[0]
    for file in found[1:]:
        if (file.tool, file.layers, file.width, file.dtype) != (first.tool, first.layers, first.width, first.dtype):
            raise DataError(
                f"{file.path} has {file.layers} layers of width {file.width} in {file.dtype} ({file.tool}), and "
                f"{first.path.name} {first.layers} of width {first.width} in {first.dtype} ({first.tool}). Keep one "
                "extraction in a folder."
            )
    ids = _layer_ids(path, layer_ids)
    if len(ids) != first.layers:
        raise DataError(f"{first.path} has {first.layers} layers, and {len(ids)} layer ids are given: {ids}.")
    states = StatesFolder(path, tuple(our_name(layer, first.tool) for layer in ids), found)
    states.check_repeats()
    return states


def our_name(layer: int | str, tool: Tool) -> str:
    """What the library calls a layer that the tool has under this number."""
    if isinstance(layer, str):
        return layer
    block = layer - 1 if tool == "vllm" else layer
    return EMBEDDINGS if block < 0 else f"block.{block}"


def _layer_ids(folder: Path, given: Sequence[int | str] | None) -> list[Any]:
    path, ids = folder / LAYER_IDS, None if given is None else list(given)
    if path.is_file():
        kept = _kept_ids(path)
        if ids is not None and ids != kept:
            raise DataError(f"The layer ids are given as {ids}, and {path} says {kept}. Correct one of them.")
        ids = kept
    if ids is None:
        raise DataError(
            f"The files of {folder} do not say which layers they hold. Give the layer ids that the tool was asked for, "
            f"in its own numbers, or write them into {path} as a list such as [8, 16, 24]."
        )
    if not ids or len(ids) > _MOST_LAYERS or not all(map(_is_id, ids)):
        raise DataError(f"The layer ids {ids!r:.80} are not a list of whole numbers from 0, or {FINAL_NORM}.")
    if len(set(ids)) < len(ids):
        raise DataError(f"The layer ids {ids!r:.80} name a layer twice.")
    return ids


def _is_id(one: Any) -> bool:
    return one == FINAL_NORM or (type(one) is int and 0 <= one < _MOST_LAYERS)


def _kept_ids(path: Path) -> list[Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes. A list such as [8, 16, 24] is needed.")
    try:
        kept = files.strict_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. A list such as [8, 16, 24] is needed.") from error
    if not isinstance(kept, list):
        raise DataError(f"{path} holds a {type(kept).__name__}. A list such as [8, 16, 24] is needed.")
    return kept


def _common(one: bytes, other: bytes) -> int:
    """How many tokens two keys begin with alike."""
    most = min(len(one), len(other))
    return next((place for place in range(0, most, 4) if one[place : place + 4] != other[place : place + 4]), most) // 4


def load_states(
    folder: str | Path,
    texts: Sequence[str],
    layers: Sequence[int | str],
    *,
    tokenizer: Any,
    position: Literal["last_prompt", "mean_prompt"] = "last_prompt",
    layer_ids: Sequence[int | str] | None = None,
) -> np.ndarray:
    """What `HiddenStateExtractor.extract` returns, from files that another program wrote.

    Files are found by the token ids of the texts, never by their names or order. Nothing says that the states are
    right: `verify_states` looks.

    Args:
        folder, layer_ids: as in `open_states`.
        texts: as in `extract`.
        layers: block numbers from 0, "embeddings" or "final_norm".
        tokenizer: the model's.
        position: the last token, or the mean of all but leading special ones.

    Returns:
        (n_texts, n_layers, d) float32, in the order given.

    Raises:
        MissingFileError, DataError: as `open_states`, and for a text that no file begins with.
    """
    states = open_states(folder, layer_ids=layer_ids)
    names = [f"block.{layer}" if type(layer) is int else str(layer) for layer in layers]
    sequences = tokenize(tokenizer, texts, limit=None).ids
    if position == "last_prompt":
        return states.read(sequences, names)
    if position != "mean_prompt":
        raise DataError(f"position={position!r:.60}: choose last_prompt or mean_prompt.")
    return states.read(sequences, names, [((leading_special(tokenizer, ids), len(ids) - 1),) for ids in sequences])
