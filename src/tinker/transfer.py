"""One file over HTTP, whole or not at all.

A signed address is as good as the file: it is fetched without our credentials, and never shown or kept.
"""

import contextlib
import datetime
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from src.errors import DownloadError, IntegrityError

BLOCK = 1 << 20
MAX_BYTES = 16 << 30
STALL_SECONDS = 60
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a checkpoint: its name, and its signed address with the moment it expires."""

    name: str
    url: str = field(repr=False)
    expires: datetime.datetime | None = None


def fetch(file: RemoteFile, destination: Path) -> None:
    """Download into a new file.

    Raises:
        DownloadError: no connection, a refusal, no bytes for 60 seconds, or an address that is not https.
        IntegrityError: fewer or more bytes than promised.
    """
    opener = urllib.request.build_opener(_SafeRedirects(file.name))
    try:
        _check_address(file.url, file.name)
        request = urllib.request.Request(file.url, headers={"Accept-Encoding": "identity"})  # noqa: S310 (checked)
        with opener.open(request, timeout=STALL_SECONDS) as response:
            _copy(response, file.name, destination)
    except urllib.error.HTTPError as error:
        error.close()
        hint = " The signed address has expired: call again for a new one." if error.code == 403 else ""
        raise DownloadError(f"{file.name} could not be downloaded: HTTP status {error.code}.{hint}") from None
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, DownloadError):
            raise
        # Messages about an address repeat it: only what the network or the disk says is shown.
        reason = getattr(error, "reason", error) if isinstance(error, OSError) else type(error).__name__
        raise DownloadError(f"{file.name} could not be downloaded: {reason}. Call again.") from None


def _copy(response: Any, name: str, destination: Path) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise IntegrityError(f"{name} came compressed although it was asked for as it is.")
    promised = int(response.headers.get("Content-Length") or -1)
    if promised > MAX_BYTES:
        raise IntegrityError(f"{name} would have {promised:,} bytes; an adapter has at most {MAX_BYTES:,}.")
    received = 0
    with (
        destination.open("xb") as target,
        tqdm(total=promised if promised >= 0 else None, desc=name, unit="B", unit_scale=True, disable=None) as bar,
    ):
        # A connection that breaks ends `read` early and without an error (measured): hence the count.
        while block := response.read(BLOCK):
            received += len(block)
            if received > MAX_BYTES:
                raise IntegrityError(f"{name} has over {MAX_BYTES:,} bytes, more than an adapter has.")
            target.write(block)
            bar.update(len(block))
    if promised not in (-1, received):
        raise IntegrityError(f"{name} ended after {received:,} of {promised:,} bytes. Call again.")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, name: str):
        self.name = name

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        with contextlib.closing(fp) if not _is_safe(newurl) else contextlib.nullcontext():
            _check_address(newurl, self.name)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, name: str) -> None:
    if not _is_safe(url):
        scheme = urllib.parse.urlsplit(url).scheme
        raise DownloadError(f"The address of {name} begins with {scheme}:, and only https: is followed.")


def _is_safe(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
