"""Downloading 170 MB from a server on this machine, against curl. Asked: within 1.3 times.

    python benchmarks/tinker_download.py [--megabytes 170] [--repetitions 7] [--folder .]

The server is a process of its own (http.server with threads, an ETag and Content-Length); both clients write to the
same disk, in turns, each file is removed again. Figures are medians of the ratios of neighbouring runs.
"""

import argparse
import contextlib
import http.server
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from src.tinker.addresses import RemoteFile
from src.tinker.transfer import fetch_all


class _Handler(http.server.BaseHTTPRequestHandler):
    path_of_file: Path

    def do_GET(self):
        self.send_response(200)
        self.send_header("ETag", '"benchmark"')
        self.send_header("Content-Length", str(self.path_of_file.stat().st_size))
        self.end_headers()
        with self.path_of_file.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def log_message(self, *_):
        pass


def serve(path: Path, port: Any) -> None:
    handler = type("Bound", (_Handler,), {"path_of_file": path})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    port.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def serving(path: Path) -> Iterator[str]:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(path, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{mine.recv()}/adapter_model.safetensors"
    finally:
        process.terminate()
        process.join()


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def with_curl(url: str, folder: Path) -> float:
    target = folder / "curl"
    seconds = timed(lambda: subprocess.run(["curl", "-s", "-f", "-o", target, url], check=True))  # noqa: S603, S607
    target.unlink()
    return seconds


def with_ours(url: str, folder: Path) -> float:
    came = folder / "came"
    came.mkdir()
    file = RemoteFile("adapter_model.safetensors", url)
    seconds = timed(lambda: fetch_all([file], folder / ".download-x", came))
    shutil.rmtree(came)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=170)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        served = folder / "served"
        with served.open("wb") as file:
            for _ in range(args.megabytes):
                file.write(os.urandom(1_000_000))
        with serving(served) as url:
            with_curl(url, folder), with_ours(url, folder)
            pairs = [(with_curl(url, folder), with_ours(url, folder)) for _ in range(args.repetitions)]
    curl, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(ours / curl for curl, ours in pairs)
    print(f"{platform.python_version()}, {os.cpu_count()} cores, {args.megabytes} MB, {args.repetitions} pairs")
    print(
        f"curl {curl:.3f} s ({args.megabytes / curl:,.0f} MB/s), ours {ours:.3f} s ({args.megabytes / ours:,.0f} MB/s)"
    )
    print(f"ours / curl: median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
