"""Rows of a user's own file, whatever it is: JSONL, CSV, parquet, or a data set of the hub."""

import csv
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from src import storage
from src.data.jsonl import read_jsonl, row_error
from src.errors import DataError

KINDS = (".jsonl", ".json", ".csv", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Rows = Iterator[tuple[int, dict[str, Any]]]


def read_rows(source: str | Path, *, split: str | None = None) -> Rows:
    """(row number from 1, fields) of every row.

    Args:
        source: a file, by its ending: .jsonl or .json (one object a line), .csv (with a line of names;
            a list is a cell of JSON), .parquet; or a folder or name of a data set as the hub has them.
        split: of such a data set; None: test.

    Raises:
        DataError: no such file, an ending that is not known, or a row that cannot be read (with its number).
        DownloadError: the hub does not give the data set.
    """
    path = storage.local(source)
    if path.is_dir() or (not path.exists() and not path.suffix and _HUB_NAME.fullmatch(str(source))):
        from src.data.hub import load_rows

        return enumerate(load_rows(str(source), None, split or "test"), 1)
    if not path.is_file():
        raise DataError(f"There is no file {path}. Give a file of questions ({', '.join(KINDS)}) as data.path.")
    if split:
        raise DataError(f"{path.name} is one file and has no split {split!r}: leave data.split out.")
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path.name} ends in none of {', '.join(KINDS)}: save the questions as one of these.")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    return readers.get(path.suffix.lower(), read_jsonl)(path)


def is_text(value: Any) -> bool:
    """Whether a cell holds a text, or a number that can be written as one (true and false are none)."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int | Decimal) and not isinstance(value, bool)


def read_subject(path: Path, number: int, value: Any) -> str:
    """A row's subject as text, "" where it has none. Raises DataError for what is no text or number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not is_text(value):
        raise row_error(path, number, f"the subject {value!r:.80} is no text")
    return str(value)


def _read_csv(path: Path) -> Rows:
    # The csv module and not pandas: read_csv turns the answer text "None" into a missing value.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            if len(set(names)) < len(names):
                raise DataError(f"{path.name}: two columns have the same name ({', '.join(names)}).")
            for number, row in enumerate(reader, 1):
                if None in row or None in row.values():
                    raise row_error(path, number, f"it has another number of cells than the {len(names)} names")
                yield number, dict(row)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path.name} is not CSV: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # text that is not UTF-8, a time too far
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
    yield from enumerate(rows, 1)
