"""One request's hidden states, as vLLM or vllm-lens has them, in a safetensors file that is read as if from an enemy.

vLLM's `extract_hidden_states` connector writes `hidden_states` (tokens, layers, d) and `token_ids` (tokens,).
vllm-lens hands out `residual_stream` (layers, tokens, d) and writes no file: its user saves it under this name, with
`token_ids` beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.adapters.tensor_file import Entry, TensorFile, TensorReader, check_floating, open_tensors
from src.errors import AdapterError, DataError

Tool = Literal["vllm", "vllm-lens"]
TOKENS = "token_ids"
STATES: dict[Tool, str] = {"vllm": "hidden_states", "vllm-lens": "residual_stream"}
_WHOLE = {"I64": "<i8", "I32": "<i4"}
_MOST_TOKENS = 1 << 24
_MOST_ID = 1 << 31


@dataclass(frozen=True)
class StatesFile:
    """A file whose header and tokens were read and found sound; its states stay on the disk.

    Attributes:
        tool: whose layout it has.
        tokens: the token ids as `as_key` writes them.
        layers: how many layers it has.
        width: d.
        dtype: of the states, as safetensors calls it.
        content: where the tensors lie.
    """

    tool: Tool
    tokens: bytes
    layers: int
    width: int
    dtype: str
    content: TensorFile

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.content.path

    @property
    def token_ids(self) -> list[int]:
        """The token ids."""
        return np.frombuffer(self.tokens, dtype=">u4").tolist()

    def read(self, first: int, last: int, columns: Sequence[int]) -> Tensor:
        """(last - first + 1, len(columns), d) float32: the states of these tokens, `last` included, and layers.

        Raises:
            DataError: NaN or infinity, with the token and the layer; the file has become shorter.
        """
        try:
            with TensorReader(self.content) as reader:
                states = self._rows(reader, first, last, columns)
        except AdapterError as error:
            raise DataError(str(error)) from error
        bad = (~states.isfinite().all(-1)).nonzero().tolist()
        if bad:
            token, place = bad[0]
            more = f", and so do {len(bad) - 1} others that were read" if len(bad) > 1 else ""
            raise DataError(
                f"{self.path}: the state of token {first + token} in layer number {columns[place]} of the file holds "
                f"NaN or infinity{more}. Extract it again (float16 overflows: store bfloat16 or float32)."
            )
        return states

    def _rows(self, reader: TensorReader, first: int, last: int, columns: Sequence[int]) -> Tensor:
        name = STATES[self.tool]
        # Whatever is read next overwrites what the reader gave: indexing by a list copies, a slice does not.
        if self.tool == "vllm":
            rows = [reader.read(name, token)[list(columns)].float() for token in range(first, last + 1)]
            return torch.stack(rows)
        return torch.stack([reader.read(name, layer)[first : last + 1].float().clone() for layer in columns], dim=1)


def as_key(token_ids: Sequence[int]) -> bytes:
    """Four bytes a token, the highest first: keys are in the order of the ids, and a beginning stays a beginning."""
    return np.asarray(token_ids, dtype=">u4").tobytes()


def read_states_file(path: Path) -> StatesFile:
    """Read and check the header and the tokens.

    Raises:
        DataError: not a safetensors file of one of the two layouts, or as many states as tokens are not there.
    """
    try:
        content = open_tensors(path)
        tool = _tool(content)
        entry = content.entries[STATES[tool]]
        check_floating(STATES[tool], entry)
    except AdapterError as error:
        raise DataError(f"{error} ({path})" if str(path) not in str(error) else str(error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(entry.shape) != 3 or 0 in entry.shape:
        axes = "(tokens, layers, d)" if tool == "vllm" else "(layers, tokens, d)"
        raise DataError(f"{path}: {STATES[tool]} has shape {entry.shape}; {axes}, none of them 0, is needed.")
    states, layers = entry.shape[:2] if tool == "vllm" else entry.shape[1::-1]
    ids = _token_ids(path, content.entries[TOKENS])
    if len(ids) != states:
        raise DataError(_as_many(path, tool, states, len(ids)))
    return StatesFile(tool, as_key(ids), layers, entry.shape[2], entry.dtype, content)


def _tool(content: TensorFile) -> Tool:
    names = set(content.entries)
    for tool, states in STATES.items():
        if names == {states, TOKENS}:
            return tool
    found = ", ".join(f"{name!r:.60}" for name in sorted(names)[:6]) or "nothing"
    raise AdapterError(
        f"{content.path} holds {found}. Of vLLM, hidden_states and token_ids are needed; of vllm-lens, "
        "residual_stream and token_ids: see docs/states.md."
    )


def _token_ids(path: Path, entry: Entry) -> Any:
    if entry.dtype not in _WHOLE or len(entry.shape) != 1 or entry.shape[0] > _MOST_TOKENS:
        raise DataError(f"{path}: {TOKENS} is {entry.dtype:.20} {entry.shape}; int64 or int32 (tokens,) is needed.")
    with path.open("rb") as file:
        file.seek(entry.start)
        data = file.read(entry.size)
    if len(data) < entry.size:
        raise DataError(f"{path} ends within {TOKENS}: it is torn. Extract it again.")
    ids = np.frombuffer(data, dtype=_WHOLE[entry.dtype])
    if ids.size and not 0 <= ids.min() <= ids.max() < _MOST_ID:
        raise DataError(f"{path}: {TOKENS} holds {ids.min()} to {ids.max()}, which no vocabulary has.")
    return ids


def _as_many(path: Path, tool: Tool, states: int, tokens: int) -> str:
    found = f"{path} has {states:,} states for {tokens:,} tokens, so it is not known which state is whose."
    if tool == "vllm":
        return (
            f"{found} vLLM writes such files where the beginning of a prompt was in its cache: turn prefix caching and "
            "chunked prefill off (--no-enable-prefix-caching --no-enable-chunked-prefill) and extract it again."
        )
    return (
        f"{found} The last token that was generated never goes through the model: save the ids of the prompt and of "
        "all generated tokens but the last, and turn prefix caching off."
    )
