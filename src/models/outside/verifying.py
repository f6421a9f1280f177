"""Do states from outside hold what they are said to hold? A few requests are read again with the local model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from src.errors import DataError
from src.models.extraction.fingerprint import quantization_of
from src.models.extraction.layers import anatomy, layer_names
from src.models.extraction.tokens import context_length
from src.models.outside.hypotheses import (
    AS_MEANT,
    OTHER_REQUEST,
    Evidence,
    fitting,
    in_words,
    relative_errors,
    weigh,
)
from src.models.outside.states_file import StatesFile
from src.models.outside.states_folder import StatesFolder, open_states
from src.models.outside.truth import looked_at, truth_of

Verdict = Literal["holds", "undecided", "named", "unknown"]
# How far two right ways to compute a state lie apart, as a share of its length: both in float32, or one coarser
# (measured: bfloat16 against float32 up to .034, behind a long beginning .099).
_FINE, _COARSE = 1e-3, 0.1
# What storing alone changes at most, as a share of each number.
_STORED = {"BF16": 2**-8, "F16": 2**-11}


@dataclass(frozen=True)
class LayerFinding:
    """What one layer of the files turned out to be.

    Attributes:
        layer: our name of what it is said to hold.
        verdict: "holds"; "undecided": it holds what it says, or something that is the same in this model; "named":
            something else, which the sentence names; "unknown".
        sentence: what was found, for people.
        error: the largest relative error of a state as meant.
    """

    layer: str
    verdict: Verdict
    sentence: str
    error: float


@dataclass(frozen=True)
class StatesCheck:
    """What `verify_states` found.

    Attributes:
        folder: of the files.
        model: the local model's name.
        requests: the files that were read again.
        tokens: how many of their tokens were looked at.
        dtype: in which the files store states, as safetensors calls it.
        tolerance: the largest relative error that rounding explains.
        layers: layer by layer.
    """

    folder: str
    model: str
    requests: tuple[str, ...]
    tokens: int
    dtype: str
    tolerance: float
    layers: tuple[LayerFinding, ...]

    @property
    def holds(self) -> bool:
        """Whether the values of all layers are those of the local model, rounding aside."""
        return all(one.verdict in ("holds", "undecided") for one in self.layers)

    @property
    def sentences(self) -> list[str]:
        """What was found, for people."""
        stored = f"; storing {self.dtype} explains {_STORED[self.dtype]:.1g}" if self.dtype in _STORED else ""
        return [
            *(one.sentence for one in self.layers),
            f"Compared: {self.tokens:,} tokens of {len(self.requests)} requests with {self.model}. Rounding explains a "
            f"relative error of up to {self.tolerance:g}{stored}.",
        ]

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"holds": self.holds, "sentences": self.sentences}


@dataclass(frozen=True)
class _Request:
    """One file, read and computed: of each of its layers the states held and the true ones, (tokens, d) each."""

    file: StatesFile
    tokens: tuple[int, ...]
    held: dict[str, Tensor]
    true: dict[str, Tensor]
    evidence: dict[str, Evidence]

    def off_from(self, other: "_Request", layer: str) -> float:
        """How far its states lie from the true ones of another request of that many tokens."""
        return float(relative_errors(self.held[layer], other.true[layer]).max())


def verify_states(
    folder: str | Path | StatesFolder, model: Any, *, layer_ids: Sequence[int | str] | None = None, rows: int = 8
) -> StatesCheck:
    """Compare a few requests' states with the local model on the same tokens, and name what is off.

    Named are: another layer, the final norm applied or not, a state without the residual stream or without the
    feed-forward part, states one token off or all of one token, requests that were swapped, and a scale.

    Args:
        folder, layer_ids: as in `open_states`, or what it returned.
        model: the loaded model, its adapter switched as it was for the states.
        rows: how many requests are read again, neighbours of equal length where there are any.

    Raises:
        MissingFileError, DataError: as `open_states`; a request over the model's context or vocabulary; NaN.
        ModelError: a layer that the model does not have.
    """
    states = folder if isinstance(folder, StatesFolder) else open_states(folder, layer_ids=layer_ids)
    parts = anatomy(model)
    layer_names(states.layers, len(parts.blocks))
    if states.width != parts.hidden_dim:
        raise DataError(
            f"The states of {states.path} have width {states.width}, those of this model {parts.hidden_dim}: they are "
            "of another model."
        )
    requests = [_request(states, file, model) for file in _chosen(states.files, rows)]
    tolerance = _tolerance(requests[0].file.dtype, model)
    return StatesCheck(
        folder=str(states.path),
        model=model.config._name_or_path,
        requests=tuple(one.file.path.name for one in requests),
        tokens=sum(len(one.tokens) for one in requests),
        dtype=requests[0].file.dtype,
        tolerance=tolerance,
        layers=tuple(_finding(requests, layer, tolerance) for layer in states.layers),
    )


def _chosen(files: Sequence[StatesFile], rows: int) -> list[StatesFile]:
    """Evenly spread, each with the next one of the same length, so that two that were swapped are both there."""
    if rows < 1:
        raise DataError(f"rows is {rows}: at least one request must be read again.")
    step = max(len(files) * 2 // rows, 1)
    order: list[StatesFile] = []
    for place in range(0, len(files), step):
        twin = next((one for one in files[place + 1 :] if len(one.tokens) == len(files[place].tokens)), None)
        order += [files[place], *([twin] if twin else [])]
    order += files
    return list({file.path: file for file in order}.values())[:rows]


def _request(states: StatesFolder, file: StatesFile, model: Any) -> _Request:
    ids, limit, vocabulary = file.token_ids, context_length(model), model.get_input_embeddings().weight.shape[0]
    if limit is not None and len(ids) > limit:
        raise DataError(f"{file.path} has {len(ids):,} tokens; this model takes {limit:,}. Is it another model's?")
    if max(ids) >= vocabulary:
        raise DataError(f"{file.path} has a token {max(ids)}; this model knows {vocabulary:,}. Is it another model's?")
    truth = truth_of(model, ids)
    if missing := [name for name in states.layers if name not in truth.states]:
        raise DataError(f"This model does not show the state of {missing[0]}, so it cannot be compared.")
    held = torch.cat([file.read(some[0], some[-1], range(len(states.layers))) for some in looked_at(len(ids))])
    by_layer = {name: held[:, column] for column, name in enumerate(states.layers)}
    evidence = {name: weigh(some, truth, name) for name, some in by_layer.items()}
    return _Request(file, truth.tokens, by_layer, {name: truth.states[name] for name in by_layer}, evidence)


def _tolerance(dtype: str, model: Any) -> float:
    computed = str(model.get_input_embeddings().weight.dtype)
    exact = dtype in ("F32", "F64") and computed in ("torch.float32", "torch.float64")
    return _FINE if exact and not quantization_of(model) else _COARSE


def _finding(requests: Sequence[_Request], layer: str, tolerance: float) -> LayerFinding:
    evidence = [one.evidence[layer] for one in requests]
    error = max(one.errors[AS_MEANT] for one in evidence)
    guesses = fitting(evidence, tolerance)
    swapped = {} if guesses else _swapped(requests, layer, tolerance)
    if swapped:
        pairs = ", ".join(f"{held} has those of {of}" for held, of in list(swapped.items())[:3])
        return LayerFinding(layer, "named", f"{layer} {in_words(OTHER_REQUEST, layer, 1)}: {pairs}.", error)
    if not guesses:
        return LayerFinding(layer, "unknown", _where(requests, layer, tolerance, error), error)
    said = [in_words(guess, layer, evidence[0].factor) for guess in guesses]
    if guesses == (AS_MEANT,):
        return LayerFinding(layer, "holds", f"{layer} {said[0]}: largest relative error {error:.2g}.", error)
    verdict = "undecided" if AS_MEANT in guesses else "named" if len(guesses) == 1 else "unknown"
    if verdict == "named":
        return LayerFinding(layer, verdict, f"{layer} {said[0]}. As meant, it is off by {error:.2g}.", error)
    either = "; or it ".join(said)
    return LayerFinding(
        layer, verdict, f"{layer} {either}. In this model, on these tokens, they cannot be told apart.", error
    )


def _swapped(requests: Sequence[_Request], layer: str, tolerance: float) -> dict[str, str]:
    """File -> whose states it holds, where that explains all files that are off; else {}."""
    found: dict[str, str] = {}
    for one in requests:
        if one.evidence[layer].errors[AS_MEANT] <= tolerance:
            continue
        others = [other for other in requests if len(other.file.tokens) == len(one.file.tokens) and other is not one]
        best = min(others, key=lambda other: one.off_from(other, layer), default=None)
        if best is None or one.off_from(best, layer) > tolerance:
            return {}
        found[one.file.path.name] = best.file.path.name
    return found


def _where(requests: Sequence[_Request], layer: str, tolerance: float, error: float) -> str:
    off = [
        (one, token) for one in requests for token in (one.evidence[layer].rows > tolerance).nonzero()[:, 0].tolist()
    ]
    total = sum(len(one.tokens) for one in requests)
    one, place = off[0] if off else (requests[0], 0)
    return (
        f"{layer} is off in {len(off):,} of {total:,} tokens, by up to {error:.2g} of a state's length, and no known "
        f"fault explains it. The first is token {one.tokens[place]} of {one.file.path.name}. Is it the same "
        "model, adapter and precision?"
    )
