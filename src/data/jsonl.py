"""JSONL files: one object a line, every fault named with its row."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src import files
from src.errors import DataError


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, object) of every line that is not blank.

    Raises:
        DataError: no such file, not UTF-8, or a line that is not a JSON object of whole characters.
    """
    try:
        # Not splitlines(), which also splits at characters that JSON allows inside a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _row(path, number, line)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = files.strict_json(line)
        json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise row_error(path, number, f"not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeEncodeError as error:
        raise row_error(path, number, "half of a surrogate pair (\\ud800 to \\udfff), which is no character") from error
    except ValueError as error:
        raise row_error(path, number, f"not JSON ({error})") from error
    except RecursionError as error:
        raise row_error(path, number, "nested too deeply") from error
    if not isinstance(row, dict):
        raise row_error(path, number, f"expected an object with the fields, found {type(row).__name__}")
    return row


def row_error(path: Path, number: int, what: str) -> DataError:
    """What is wrong with a row, beginning with where it stands."""
    return DataError(f"{path.name}, row {number}: {what}.")
