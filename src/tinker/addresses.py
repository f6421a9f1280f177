"""Signed addresses: one for each file of a checkpoint, valid for minutes, and signed again when they run out.

A signed address is as good as the file: it is never shown, kept, or sent to anybody else.
"""

import datetime
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from src.errors import DownloadError, IntegrityError

MARGIN_SECONDS = 300  # the margin of Tinker's own command line
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a checkpoint: its name, its signed address and the moment that expires, and what is known of it."""

    name: str
    url: str = field(repr=False)
    expires: datetime.datetime | None = None
    size: int | None = None
    sha256: str | None = None


class Addresses:
    """The files of one checkpoint under addresses that are valid now.

    Args:
        files: as they were signed first.
        renew: signs them again; None where nobody can.
        clock: seconds since 1970.
    """

    def __init__(
        self, files: Sequence[RemoteFile], renew: Callable[[], Sequence[RemoteFile]] | None, clock: Callable[[], float]
    ):
        self._files = {file.name: file for file in files}
        self._renew, self._clock = renew, clock

    def __repr__(self) -> str:
        return f"Addresses({', '.join(self._files)})"

    def valid(self, name: str) -> RemoteFile:
        """The file under an address with five minutes left, or as many as a new signing gives.

        Raises:
            IntegrityError: as `sign_again`.
        """
        if self._seconds_left(name) < MARGIN_SECONDS:
            self.sign_again()
        return self._files[name]

    def sign_again(self) -> bool:
        """Ask for new addresses; False where nobody can give them.

        Raises:
            IntegrityError: the new list has other files than the first, or other sizes or hashes of them.
        """
        if self._renew is None:
            return False
        again = {file.name: file for file in self._renew()}
        if {name: (file.size, file.sha256) for name, file in again.items()} != {
            name: (file.size, file.sha256) for name, file in self._files.items()
        }:
            raise IntegrityError(
                f"The checkpoint changed while it was downloaded: it had {_listed(self._files)}, and now it has "
                f"{_listed(again)}. Call again once it is complete."
            )
        self._files = again
        return True

    def _seconds_left(self, name: str) -> float:
        expires = self._files[name].expires
        if expires is None:
            return float("inf")
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=datetime.UTC)
        return expires.timestamp() - self._clock()


def _listed(files: dict[str, RemoteFile]) -> str:
    named = [f"{name!r:.60}" + ("" if file.size is None else f" ({file.size:,} bytes)") for name, file in files.items()]
    return ", ".join(sorted(named)[:6]) or "no files"


def check_address(url: str, name: str, *, came_from: str | None = None) -> None:
    """Only https is followed, or http on this machine; never from another machine to this one.

    Raises:
        DownloadError: another scheme, or no address. It is not repeated.
    """
    try:
        scheme, here = urllib.parse.urlsplit(url).scheme, _is_here(url)
    except ValueError:
        raise DownloadError(f"The address of {name} is none: brackets belong to IPv6 addresses only.") from None
    if scheme == "https" or (scheme == "http" and here and (came_from is None or _is_here(came_from))):
        return
    raise DownloadError(f"The address of {name} begins with {scheme[:20]}:, and only https: is followed.")


def _is_here(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in _LOOPBACK
