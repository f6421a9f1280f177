"""A probe that outlives its process: a few arrays, where they come from, and how its confidences are recalibrated.

A saved probe is a folder of three files:
- `probe.safetensors`: weight, bias, mean and scale, and of attention the query; of a small network into, offset and out
  in place of weight; float64;
- `probe.json`: format, what `Origin` says, recalibration, promises, the arrays' SHA-256, the library's version;
- `README.md`: the same for people (a model card of the Hugging Face hub).

Nothing in it names a module of this library, and nothing in it is run. It is read as if it came from an enemy.
"""

import hashlib
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from src import __version__, files, machine, storage
from src.errors import IntegrityError, ModelError, ScoringError, StorageError
from src.evaluation.inputs import as_probabilities
from src.evaluation.recalibration import Method, Recalibration, fit_recalibration
from src.evaluation.selective import Promise
from src.models.extraction.layers import anatomy, layer_names
from src.probes.attention import ATTENTION, AttentionProbe, AttentionWeights
from src.probes.card import model_card
from src.probes.header import (
    FORMAT,
    Header,
    bounded,
    broken,
    check_header,
    check_promises,
    plain_promises,
    promises_of,
    read_header,
    recalibration_of,
)
from src.probes.linear import LinearProbe, ProbeWeights
from src.probes.mlp import HIDDEN, MLPProbe, MLPWeights
from src.probes.origin import ModelIdentity, Origin

Weights = ProbeWeights | AttentionWeights | MLPWeights
ARRAYS, HEADER, CARD = "probe.safetensors", "probe.json", "README.md"
_LARGEST = 1e60


@dataclass(frozen=True)
class SavedProbe:
    """A frozen probe and what is known of it.

    Attributes:
        weights: the four arrays of a linear probe, the five of one with attention, which reads `TokenStates`, or the
            six of a small network.
        origin: model, layer, position, how it was asked.
        recalibration: of its confidences; None: they are as they were fitted.
        promises: thresholds with a guarantee, from calibration rows, on the confidences before recalibration (which
            may make neighbours equal, so that a threshold would let more through).
    """

    weights: Weights
    origin: Origin
    recalibration: Recalibration | None = None
    promises: tuple[Promise, ...] = ()

    @property
    def input_dim(self) -> int:
        """The width d of the states."""
        return int(self.weights.mean.size)

    @property
    def fitted(self) -> LinearProbe | AttentionProbe | MLPProbe:
        """The same probe as one that was fitted here, before recalibration."""
        kinds = {AttentionWeights: AttentionProbe, MLPWeights: MLPProbe}
        probe = kinds.get(type(self.weights), LinearProbe)(self.input_dim)
        probe.weights_, probe.fitted = self.weights, True
        return probe

    def decision_function(self, X: Any) -> np.ndarray:
        """(n, d) or (n, 1, d) states -> (n,) float64 log-odds, before recalibration. Raises ScoringError."""
        return self.fitted.decision_function(X)

    def predict(self, X: Any) -> np.ndarray:
        """(n, d) or (n, 1, d) states -> (n,) float64 P(the answer is right), recalibrated. Raises ScoringError."""
        p = self.fitted.predict(X)
        return p if self.recalibration is None else self.recalibration(p)

    def calibrated(self, p_or_states: Any, y: Any, *, method: Method = "temperature") -> "SavedProbe":
        """This probe with confidences recalibrated on validation rows: see `LinearProbe.calibrated`."""
        p = as_probabilities(p_or_states) if np.ndim(p_or_states) == 1 else self.fitted.predict(p_or_states)
        return replace(self, recalibration=fit_recalibration(p, y, method=method))

    def promise(self, risk: float) -> Promise:
        """The threshold for this risk. Raises ScoringError where the probe has none for it."""
        found = next((one for one in self.promises if one.risk == risk), None)
        if found is None:
            known = ", ".join(f"{one.risk:g}" for one in self.promises) or "none at all"
            raise ScoringError(f"This probe has no threshold for risk {risk:g}; it has {known}. Choose one of these.")
        return found

    def check_fits(self, model: Any) -> None:
        """Raise ModelError, naming both, where the probe was not fitted on states of this very model.

        The width and the layers are looked at first; then all tensors of the model are read once and hashed.
        """
        self.check_shape(model)
        identity = ModelIdentity.of(model)
        if differences := self.origin.model.differences(identity):
            raise ModelError(
                f"{self._reads}, and this model is {identity} ({'; '.join(differences)}). Load the model that the "
                "probe was fitted on, or find out whether it still holds: confprobe check."
            )

    def check_shape(self, model: Any) -> None:
        """Raise ModelError, naming both, where a model (with or without weights) has no such states."""
        parts = anatomy(model)
        name = str(model.config._name_or_path)
        if parts.hidden_dim != self.input_dim:
            raise ModelError(
                f"{self._reads}, whose states have {self.input_dim} numbers; those of {name} have {parts.hidden_dim}. "
                "Load the model that the probe was fitted on."
            )
        try:
            layer_names([self.origin.layer], len(parts.blocks))
        except ModelError as error:
            raise ModelError(
                f"{self._reads}, and {name} has blocks 0 to {len(parts.blocks) - 1}. Load the model that the probe was "
                "fitted on."
            ) from error

    @property
    def _reads(self) -> str:
        return f"This probe reads {self.origin.layer} of {self.origin.model}"

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the three files, all or none; a probe that was there is replaced.

        Returns:
            the folder.

        Raises:
            StorageError: it cannot be written, or holds files that are not of a probe.
            ScoringError: NaN or infinity in the weights, or an origin that says what none can, such as layer=4.
        """
        folder = check_folder(folder)
        arrays = _as_bytes(self.weights)
        header = _header(self, arrays)
        check_header(header)
        if mismatch := _mismatch(self.origin):
            raise ScoringError(f"This probe cannot be saved: it is {mismatch}.")
        with machine.writing(folder, setting="folder"), files.staged_directory(folder) as staging:
            files.write_bytes(staging / ARRAYS, arrays)
            files.write_text(staging / CARD, model_card(header))
            files.write_json(staging / HEADER, header.as_plain())  # last: it names the arrays
        return folder

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> "SavedProbe":
        """Read a probe: bit-equal to the one that was saved.

        Args:
            source: a folder, or the id of a hub repository such as "user/probe".
            revision: of the hub repository: a branch, tag or commit.

        Raises:
            MissingFileError: no such folder, or a file is missing in it.
            DownloadError, CredentialsError: the hub does not give it.
            IntegrityError: not a probe of this format, torn, or with values that no probe has.
        """
        place = storage.place(source)
        if storage.is_url(str(source)) or place.is_dir():
            return read_probe(place)
        from src.probes.hub import fetch

        return read_probe(fetch(str(source), revision, [ARRAYS, HEADER]))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Save into a repository of the Hugging Face hub, which is made where there is none.

        Args:
            repo_id: such as "user/probe".
            private: of a new repository.
            token: None: the one of `hf auth login`, or HF_TOKEN.

        Returns:
            the address of the commit.

        Raises:
            DownloadError, CredentialsError: the hub does not take it.
        """
        from src.probes.hub import upload

        return upload(self, repo_id, private=private, token=token)


def _mismatch(origin: Origin) -> str:
    """A probe that attends reads every token of an answer, and no other does; "" where that is so."""
    if (origin.family == "attention") == (origin.position == ATTENTION):
        return ""
    return f"a probe of {origin.family} that reads {origin.position}"


def read_probe(folder: Path) -> SavedProbe:
    """Read and check the folder of a saved probe. Raises as `SavedProbe.from_pretrained`."""
    header = read_header(folder / HEADER)
    check_promises(header, folder / HEADER)
    if mismatch := _mismatch(header.origin):
        raise broken(folder / HEADER, mismatch)
    return SavedProbe(
        weights=_read_arrays(folder / ARRAYS, header),
        origin=header.origin,
        recalibration=recalibration_of(header, folder / HEADER),
        promises=promises_of(header),
    )


def _header(probe: SavedProbe, arrays: bytes) -> Header:
    return Header(
        format=FORMAT,
        library=f"llm-confidence-probing {__version__}",
        input_dim=probe.input_dim,
        sha256=hashlib.sha256(arrays).hexdigest(),
        origin=probe.origin,
        recalibration=None if probe.recalibration is None else probe.recalibration.as_plain(),
        promises=plain_promises(probe.promises),
    )


def _as_bytes(weights: Weights) -> bytes:
    from safetensors.numpy import save

    arrays = {name: np.atleast_1d(array) for name, array in vars(weights).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ScoringError(f"The probe's {name} holds NaN or infinity: fit it again, on sound states.")
    return save({name: np.ascontiguousarray(array, dtype="<f8") for name, array in arrays.items()})


def _read_arrays(path: Path, header: Header) -> Weights:
    from safetensors import SafetensorError, deserialize

    kind, shapes = _form(header)
    data = bounded(path, 8 * sum(map(math.prod, shapes.values())) + 4096)
    if hashlib.sha256(data).hexdigest() != header.sha256:
        raise IntegrityError(f"{path} is torn, or not the file that {HEADER} belongs to. Save or download it again.")
    try:
        found: dict[str, Any] = dict(deserialize(data))
    except SafetensorError as error:
        raise broken(path, str(error)) from error
    described = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in found.items()}
    if described != {name: ("F64", shape) for name, shape in shapes.items()}:
        names = " and ".join((", ".join(list(shapes)[:-1]), list(shapes)[-1]))
        raise broken(path, f"{names} of {header.input_dim} numbers in F64 are needed, not {described!r:.200}")
    arrays = {
        name: np.frombuffer(bytes(entry["data"]), dtype="<f8").reshape(shapes[name]) for name, entry in found.items()
    }
    for name, array in arrays.items():
        # Far beyond what any fit gives, and products of a few such numbers still do not overflow.
        if not (np.abs(array) <= _LARGEST).all() or (name == "scale" and (array < 1 / _LARGEST).any()):
            raise broken(
                path, f"{name} holds NaN, infinity, a number that no fit gives, or a scale that is not above 0"
            )
    return kind(**arrays | {"bias": float(arrays["bias"][0])})


def _form(header: Header) -> tuple[type[Weights], dict[str, tuple[int, ...]]]:
    """What the arrays of its family are, and their shapes."""
    width, family = header.input_dim, header.origin.family
    if family == "mlp":
        units = {"into": (width, HIDDEN), "offset": (HIDDEN,), "out": (HIDDEN,)}
        return MLPWeights, units | {"bias": (1,), "mean": (width,), "scale": (width,)}
    kind = AttentionWeights if family == "attention" else ProbeWeights
    return kind, {field.name: (1,) if field.name == "bias" else (width,) for field in fields(kind)}


def check_folder(folder: str | Path) -> Path:
    """The place of a probe's folder, which is replaced as a whole. Raises StorageError where it holds anything else."""
    place = storage.place(folder).absolute()
    with machine.writing(place, setting="folder"):
        strangers = sorted({path.name for path in place.iterdir()} - {ARRAYS, HEADER, CARD}) if place.exists() else []
    if strangers:
        raise StorageError(f"{place} holds {strangers[0]!r:.80}, so it is not the folder of a probe. Choose another.")
    return place
