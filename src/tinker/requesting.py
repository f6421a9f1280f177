"""One GET of one address, without credentials: what came back, or that nothing did.

The standard library's client is used: a download must work without the SDK and what it brings. It ends `read` early
and without an error where a connection breaks (measured), so whoever reads counts.
"""

import contextlib
import datetime
import email.utils
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from src.errors import DownloadError, ProbingError
from src.tinker.addresses import check_address

STALL_SECONDS = 60
_BLOCK = 1 << 18
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,80}"')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class ConnectionLost(Exception):
    """The network failed in a way that may pass; the text is safe to show."""


class Reply:
    """The answer to a request: its status, the headers that matter here, and its body in blocks."""

    def __init__(self, response: Any):
        self._response = response
        self.status: int = response.status

    @property
    def encoding(self) -> str:
        """How the body was changed on its way; "identity" where it was not."""
        return self._response.headers.get("Content-Encoding", "identity").strip().lower() or "identity"

    @property
    def length(self) -> int | None:
        """Bytes the body should have, where that is said."""
        text = (self._response.headers.get("Content-Length") or "").strip()
        return int(text) if text.isdecimal() and len(text) < 20 else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body says by itself where it ends."""
        return (self._response.headers.get("Transfer-Encoding") or "").strip().lower() == "chunked"

    @property
    def etag(self) -> str | None:
        """The strong ETag: equal tags mean equal bytes. A weak one does not, and counts as none."""
        text = (self._response.headers.get("ETag") or "").strip()
        return text if _STRONG_ETAG.fullmatch(text) else None

    @property
    def content_range(self) -> tuple[int, int, int] | None:
        """(first, last, total) of the bytes that came, where that can be read."""
        found = _CONTENT_RANGE.fullmatch((self._response.headers.get("Content-Range") or "").strip())
        return (int(found[1]), int(found[2]), int(found[3])) if found else None

    def retry_after(self, now: float) -> float | None:
        """Seconds the server asks to wait, given as a number or as a date."""
        text = (self._response.headers.get("Retry-After") or "").strip()
        if text.isdecimal() and len(text) < 10:
            return float(text)
        with contextlib.suppress(ValueError):
            date = email.utils.parsedate_to_datetime(text)
            return max(0.0, date.replace(tzinfo=date.tzinfo or datetime.UTC).timestamp() - now)
        return None

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes. Raises ConnectionLost."""
        while True:
            try:
                block = self._response.read1(_BLOCK)
            except (OSError, HTTPException) as error:
                raise ConnectionLost(_reason(error)) from None
            if not block:
                return
            yield block


@contextlib.contextmanager
def asked(url: str, name: str, *, start: int = 0, etag: str | None = None) -> Iterator[Reply]:
    """Request an address, from byte `start` on if its ETag is still this one.

    Args:
        url: followed only if it is https, or http on this machine; so are redirects.
        name: what to call it in messages.
        start: the first byte asked for; needs `etag`.
        etag: of the bytes that are here already.

    Raises:
        ConnectionLost: nothing came, or nothing for 60 seconds.
        DownloadError: an address or redirect that is not followed, or a certificate that is not trusted.
    """
    check_address(url, name)
    headers = {"Accept-Encoding": "identity"}
    if etag is not None:
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    opener = urllib.request.build_opener(_SafeRedirects(name), _EveryStatus())
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (checked above)
    # Nothing is chained from here on: what these errors carry may repeat the address.
    try:
        response = opener.open(request, timeout=STALL_SECONDS)
    except ProbingError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{name} could not be downloaded: it is redirected (HTTP {error.code}) in vain.") from None
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise DownloadError(f"{name} could not be downloaded: its server's certificate is not trusted.") from None
        raise ConnectionLost(_reason(error)) from None
    except ValueError as error:
        raise DownloadError(
            f"{name} could not be downloaded: its address is malformed ({type(error).__name__})."
        ) from None
    with contextlib.closing(response):
        yield Reply(response)


def _reason(error: Exception) -> str:
    """What the network says; other messages may repeat the address."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"no bytes for {STALL_SECONDS} seconds"
    return str(getattr(reason, "strerror", None) or type(reason).__name__)


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """Hands every status back but redirects: what to do about one is decided where the file is known."""

    def http_response(self, request: Any, response: Any) -> Any:
        return super().http_response(request, response) if response.status in (301, 302, 303, 307, 308) else response

    https_response = http_response


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, name: str):
        self.name = name

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            check_address(newurl, self.name, came_from=req.full_url)
        except DownloadError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
