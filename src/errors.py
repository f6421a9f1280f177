"""Every error this library raises on purpose, as one tree.

Each is also the stdlib type a caller would catch. A message says what happened, with the value, and
what to do next. To add one: derive from `ProbingError` (or a child) and the stdlib type, give it one
positional message (so that it stays picklable), and map it to an exit code in `src.cli.ending` if it needs one.
"""

import re

# Whatever moves a terminal's cursor, colours its lines or turns the direction of its text.
_NOT_PRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Each pattern takes a time that grows with the text's length and no faster: texts come from anybody. A path made of an
# address has one "/" left.
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{1,31}:/{1,2}(\S+)", re.IGNORECASE)
_PASSWORD = re.compile(r"[^\s/@:]*:(?!\d+(?:/|$))[^\s@]*@")  # which may hold "/", and is no port
_SIGNED = re.compile(
    r"[?&;][^?&;=\s]*(?:signature|sig|token|password|secret|api_?key|access_?key)=", re.IGNORECASE
)  # fmt: skip
_KEY = re.compile(r"(?<![\w-])(?:tml-[\w-]{12,}|hf_[A-Za-z0-9]{30,}|sk-[\w-]{32,}|eyJ[\w-]{8,}\.[\w-]{8,})")


def printable(text: str) -> str:
    """The text as a terminal may be given it.

    Control characters, but for line ends and tabs, are replaced. Keys, and addresses with a password or a signature,
    are left out.
    """
    clean = _ADDRESS.sub(_without_secret, _NOT_PRINTED.sub("\N{REPLACEMENT CHARACTER}", text))
    return _KEY.sub("(a key)", clean)


def holds_secret(text: str) -> bool:
    """Whether a key stands in the text, or an address with a password or a signature."""
    return bool(_KEY.search(text)) or any(map(_is_private, _ADDRESS.finditer(text)))


def _without_secret(address: re.Match[str]) -> str:
    return "(an address with a secret)" if _is_private(address) else address[0]


def _is_private(address: re.Match[str]) -> bool:
    return bool(_PASSWORD.match(address[1]) or _SIGNED.search(address[1]))


class ProbingError(Exception):
    """Base of every error raised on purpose by this library."""


class ConfigError(ProbingError, ValueError):
    """A setting that is unknown, of the wrong type, or in conflict with another."""


class CredentialsError(ProbingError, RuntimeError):
    """No usable credentials for a service."""


class DownloadError(ProbingError, OSError):
    """Something remote or local could not be fetched."""


class MissingFileError(DownloadError, FileNotFoundError):
    """A local file or folder that was named and is not there."""


class IntegrityError(DownloadError):
    """A file that is not what it should be: torn, of another format, or with another hash."""


class UnsafeArchiveError(IntegrityError):
    """An archive that asks for something an adapter never needs."""


class AdapterError(ProbingError, ValueError):
    """An adapter that would load but not do what its training did."""


class ModelError(ProbingError, ValueError):
    """A model that cannot be loaded, or does not have what was asked of it (a layer, a tokenizer)."""


class DataError(ProbingError, ValueError):
    """A data set, a question or a text that cannot be used as it is."""


class CacheError(ProbingError, OSError):
    """A cache folder that cannot be used."""


class StorageError(ProbingError, OSError):
    """A folder or disk that results cannot be written to."""


class WorkersError(ProbingError, RuntimeError):
    """The cluster of workers could not be reached, or gave up."""


class ScoringError(ProbingError, ValueError):
    """Labels, confidences or features from which no metric or probe can be computed."""


class MissingExtraError(ProbingError, ImportError):
    """An optional package that this call needs is not installed."""
