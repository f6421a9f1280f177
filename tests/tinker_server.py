"""A stand-in for Tinker on 127.0.0.1, enough for the real SDK: models, a training client, external weights."""

import contextlib
import datetime
import http.server
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "meta-llama/Llama-3.1-8B"
RUN = "s1:train:0"
CHECKPOINT = f"tinker://{RUN}/external_weights/final"
EXPORT = "tinker://s1:train:1/external_weights/download-0"


@dataclass
class Service:
    """What the stand-in serves and what it saw.

    Attributes:
        folder: files of the checkpoint.
        status: route ending -> HTTP status to fail with.
        cut: how many bytes of a file are sent, although all are promised.
        hold: where it is given, the weights stop after `cut` bytes until it is set.
        expires: seconds that a signed address is said to live.
        seen: (method, path without query, has a key) of every request.
        bodies: what was posted.
    """

    folder: Path
    url: str = ""
    # The SDK shares connections between clients of one key for as long as the process lives.
    key: str = field(default_factory=lambda: f"tml-{uuid.uuid4().hex}")
    status: dict[str, int] = field(default_factory=dict)
    cut: int | None = None
    redirect: str | None = None
    recorded_model: str = MODEL
    saved: str = CHECKPOINT
    archive: str = "archive.tar"
    hold: threading.Event | None = None
    expires: float = 3600
    seen: list[tuple[str, str, bool]] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    bodies: dict[str, dict] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {"TINKER_BASE_URL": self.url, "TINKER_API_KEY": self.key, "TINKER_TELEMETRY": "0"}

    def asked(self, *endings: str) -> list[tuple[str, str]]:
        """(method, ending) of the requests whose paths end so, in order."""
        return [(method, end) for method, path, _ in self.seen for end in endings if path.endswith(end)]

    def _when(self) -> str:
        return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.expires)).isoformat()

    def answer(self, path: str, body: bytes) -> dict:
        routes: dict[str, Callable[[], dict]] = {
            "client/config": dict,
            "create_session": lambda: {"type": "create_session", "session_id": "s1", "info_message": None,
                                       "warning_message": None, "error_message": None},
            "session_heartbeat": lambda: {"type": "session_heartbeat"},
            "get_server_capabilities": lambda: {"supported_models": [{"model_name": MODEL}, {"model_name": None}]},
            "create_model": lambda: {"request_id": "model", "model_id": RUN},
            "get_info": lambda: {"type": "get_info", "model_id": RUN, "is_lora": True, "lora_rank": 4,
                                 "model_name": MODEL,
                                 "model_data": {"arch": "llama", "model_name": MODEL, "tokenizer_id": MODEL}},
            "save_weights_external": lambda: {"request_id": "save"},
            "load_weights": lambda: {"request_id": "load"},
            "retrieve_future": lambda: {
                "model": {"type": "create_model", "model_id": RUN},
                "save": {"type": "save_weights_external", "path": self.saved},
                "load": {"type": "load_weights", "path": CHECKPOINT},
            }[json.loads(body)["request_id"]],
            "weights_info": lambda: {"base_model": self.recorded_model, "is_lora": True, "lora_rank": 4},
            "external_weights_urls": lambda: {
                "urls": {p.name: f"{self.url}/files/{p.name}?signature=secret" for p in self.folder.iterdir()},
                "expires": self._when()},
            "/archive": lambda: {"url": f"{self.url}/files/{self.archive}?signature=secret", "expires": self._when()},
        }  # fmt: skip
        return next((make() for ending, make in routes.items() if path.endswith(ending)), {})


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Service]:
    """Serve until the block ends."""
    service = Service(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            service.seen.append((self.command, path, "X-API-Key" in self.headers))
            with contextlib.suppress(ValueError):  # some bodies are protobuf
                service.bodies[path.rsplit("/", 1)[1]] = json.loads(body)
            status = next((code for ending, code in service.status.items() if path.endswith(ending)), 200)
            if status != 200:
                return self._send(status, b"{}")
            if path.startswith("/files/"):
                return self._send_file(service.folder / path.rsplit("/", 1)[1])
            return self._send(200, json.dumps(service.answer(path, body)).encode())

        do_POST = do_DELETE = do_PUT = do_PATCH = do_GET

        def _send_file(self, path: Path):
            if service.redirect:
                return self._send(302, b"", Location=service.redirect)
            data = path.read_bytes()
            asked = self.headers.get("Range")
            service.ranges.append(asked)
            start = int(asked[6:].split("-")[0]) if asked else 0
            if asked and start >= len(data):
                return self._send(416, b"")
            piece = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
            held = service.hold is not None and path.suffix == ".safetensors"
            body = data[start : service.cut] if held or service.hold is None else data[start:]
            self._send(206 if start else 200, body, promised=len(data) - start, ETag=f'"{len(data)}"', **piece)
            if held and service.hold is not None:
                self.wfile.flush()
                service.hold.wait(60)

        def _send(self, status: int, data: bytes, *, promised: int | None = None, **headers: str):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data) if promised is None else promised))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is part of the tests
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
