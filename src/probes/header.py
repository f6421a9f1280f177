"""probe.json: what stands beside a probe's arrays, written strictly and read as if it came from an enemy."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from src import files, storage
from src.errors import IntegrityError, MissingFileError, ScoringError
from src.evaluation.recalibration import Recalibration, recalibration_from
from src.evaluation.selective import Promise
from src.probes.origin import Hash, Name, Origin, Share

FORMAT = "confprobe-probe-2"
_OLDER = ("confprobe-probe-1",)  # knew no family: its probes are logistic, as where none is named
MOST_BYTES = 16 << 20
_Count = Annotated[int, Field(ge=0)]
_Bounded = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class PlainPromise:
    """A `Promise`; its threshold is None where nothing can be promised."""

    threshold: Share | None
    risk: _Bounded
    certainty: _Bounded
    coverage: Share
    answered: _Count
    wrong: _Count

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Header:
    """Everything in probe.json.

    Attributes:
        format: of the whole folder.
        library: name and version of what wrote it.
        input_dim: the width of the states.
        sha256: of probe.safetensors.
        origin: model, layer, position, how the model was asked.
        recalibration: see `recalibration_from`; None for none.
        promises: thresholds with a guarantee.
    """

    format: Name
    library: Name
    input_dim: Annotated[int, Field(ge=1, le=1 << 20)]
    sha256: Hash
    origin: Origin
    recalibration: dict[str, Any] | None
    promises: tuple[PlainPromise, ...]

    __pydantic_config__ = ConfigDict(extra="forbid")

    def as_plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def plain_promises(promises: tuple[Promise, ...]) -> tuple[PlainPromise, ...]:
    """As they are written."""
    every: list[dict[str, Any]] = [asdict(one) | ({} if one.kept else {"threshold": None}) for one in promises]
    return tuple(PlainPromise(**one) for one in every)


def promises_of(header: Header) -> tuple[Promise, ...]:
    """As they are used."""
    every: list[dict[str, Any]] = [
        asdict(one) | ({"threshold": math.inf} if one.threshold is None else {}) for one in header.promises
    ]
    return tuple(Promise(**one) for one in every)


def check_promises(header: Header, path: Path) -> None:
    """Raises IntegrityError for more wrong answers than answers, which no calibration split has."""
    for one in header.promises:
        if one.wrong > one.answered:
            raise broken(path, f"a promise on {one.answered} answers, {one.wrong} of them wrong")


def check_header(header: Header) -> None:
    """Raises ScoringError, naming it, for a value that would not be read again."""
    try:
        TypeAdapter(Header).validate_json(json.dumps(header.as_plain()), strict=True)
    except (ValidationError, TypeError) as error:
        raise ScoringError(f"This probe cannot be saved: {_first(error)}.") from error


def _first(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where!r:.200}: {first['msg']:.200} ({first['input']!r:.80})"


def recalibration_of(header: Header, path: Path) -> Recalibration | None:
    """As it is used. Raises IntegrityError where there is no such one."""
    try:
        return None if header.recalibration is None else recalibration_from(header.recalibration)
    except ScoringError as error:
        raise broken(path, str(error)) from error


def read_header(path: Path) -> Header:
    """Read and check one.

    Raises:
        MissingFileError: there is no such file.
        IntegrityError: another format, not JSON, a key that is missing or unknown, or a value that none has.
    """
    data = bounded(path, MOST_BYTES)
    try:
        plain = files.strict_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(path, str(error)) from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if version not in (FORMAT, *_OLDER):
        raise IntegrityError(f"{path} has format {version!r:.80}, and this version reads {FORMAT}. Save it again.")
    try:
        # As JSON: strict, and yet a list may become a tuple.
        return TypeAdapter(Header).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        raise broken(path, _first(error)) from error


def bounded(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes. Raises MissingFileError or IntegrityError."""
    if not storage.is_file(path):
        raise MissingFileError(f"There is no {path.name} in {path.parent}: give the folder of a saved probe.")
    if (size := path.stat().st_size) > most:
        raise IntegrityError(f"{path} has {size:,} bytes; a probe's has at most {most:,}. Save or download it again.")
    return storage.read(path)


def broken(path: Path, reason: str) -> IntegrityError:
    """The error for a file that is none of a saved probe."""
    return IntegrityError(f"{path} is not what a saved probe has there: {reason:.500}. Save or download it again.")
