"""A real Tinker-compatible server on 127.0.0.1 (SkyRL, see ../shared/tinker/server): `make test-tinker`.

It needs environments of its own and minutes, so the ordinary suite does not look in here.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[3] / "shared" / "tinker" / "server"

collect_ignore_glob = [] if "TINKER_SERVER_VENV" in os.environ else ["test_*.py"]


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, and the base model that it serves, here and by its name there."""

    url: str
    base_model: str
    folder: Path


@pytest.fixture(scope="session")
def base_models(tmp_path_factory):
    """Tiny random models with a tokenizer, the same on every machine."""
    if not SERVER.is_dir():
        pytest.skip(f"needs {SERVER}, the real server: it is not a part of this repository")
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, SERVER / "make_tiny_models.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-qwen3"])
def server(request, base_models, tmp_path_factory):
    """Started for each model in turn, and ended with it; the SDK is told where it is."""
    folder = base_models / request.param
    environment = os.environ | {
        "TINKER_SERVER_RUN": str(tmp_path_factory.mktemp("server")),
        "TINKER_SERVER_ADAPTERS": "8",
    }
    port = _free_port()
    subprocess.run([SERVER / "start.sh", folder, str(port)], check=True, env=environment, timeout=900)
    url = f"http://127.0.0.1:{port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TINKER_BASE_URL", url)
            # The SDK shares connections between clients of one key for as long as the process lives.
            patch.setenv("TINKER_API_KEY", f"tml-{request.param}")
            patch.setenv("TINKER_TELEMETRY", "0")
            yield Server(url, request.param, folder)
    finally:
        subprocess.run([SERVER / "stop.sh"], check=True, env=environment, timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
