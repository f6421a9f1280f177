"""A file host on 127.0.0.1 that fails as it is told: a script of faults, one for each request."""

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BODY = bytes(range(256)) * 40


@dataclass
class Host:
    """What is served, what shall go wrong, and what was asked.

    Attributes:
        body: the file, under every path.
        etag: sent with it; None: no ETag.
        faults: one for each request, then none. A status; (status, headers); "cut" (1,000 bytes and a clean end),
            "reset" (1,000 bytes and a reset), "ignore-range", "wrong-range", "no-range", "long-range",
            "another-etag", "gzip", "no-length", "chunked", "short-length", "stall" (nothing until the next request).
        seen: the headers of every request.
    """

    body: bytes = BODY
    etag: str | None = '"v1"'
    faults: list[Any] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    asked_again: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> list[str | None]:
        """The ranges asked for."""
        return [headers.get("Range") for headers in self.seen]


class Handler(http.server.BaseHTTPRequestHandler):
    host: Host

    def do_GET(self):
        host = self.host
        host.seen.append(dict(self.headers))
        host.paths.append(self.path)
        fault = host.faults.pop(0) if host.faults else "ok"
        if isinstance(fault, int):
            fault = (fault, {})
        if isinstance(fault, tuple):
            return self._head(fault[0], fault[1] | {"Content-Length": "0"})
        if fault == "stall":
            self._head(200, {"Content-Length": str(len(host.body))})
            self.wfile.flush()
            host.asked_again.wait(20)
            return
        host.asked_again.set()
        etag = '"v2"' if fault == "another-etag" else host.etag
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if fault == "ignore-range" or self.headers.get("If-Range") not in (None, host.etag):
            start = 0
        if "Range" in self.headers and start >= len(host.body):
            return self._head(416, {"Content-Range": f"bytes */{len(host.body)}", "Content-Length": "0"})
        self._file(fault, start, etag)

    def _file(self, fault: str, start: int, etag: str | None):
        body = self.host.body
        length = len(body) - start - (100 if fault == "short-length" else 0)
        headers = {"ETag": etag, "Content-Length": str(length)}
        if start or fault == "no-range":
            first = start + 1 if fault == "wrong-range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body) + (fault == 'long-range')}"
        if fault == "gzip":
            headers["Content-Encoding"] = "gzip"
        if fault in ("no-length", "chunked"):
            headers["Content-Length"] = None
        if fault == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        self._head(206 if "Content-Range" in headers else 200, headers)
        if fault == "chunked":
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
            return
        self.wfile.write(body[start : start + 1000] if fault in ("cut", "reset") else body[start:])
        if fault == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _head(self, status: int, headers: dict[str, str | None]):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[Host]:
    """Serve until the block ends."""
    host = Host(**settings)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Handler,), {"host": host}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is part of the tests
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
