"""What test_spreading.py starts in a network of its own: workers that answer nothing, on clusters of Ray."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from src.errors import ProbingError
from src.pipeline import spreading

_KNOCK = "import os, ray; ray.init(address=os.environ['KNOCK'], log_to_driver=False); print('let in')"


@dataclass(frozen=True)
class Noted:
    """Where workers note what they begin, and the number that ends its worker."""

    folder: str
    kills: int | None


class Worker:
    def __init__(self, spec: Noted):
        self.spec = spec

    def __call__(self, portion: int) -> None:
        Path(self.spec.folder, f"{portion}-{time.time_ns()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        if portion == self.spec.kills:
            os._exit(1)


def begun(folder: str | Path) -> list[int]:
    return sorted(int(path.name.partition("-")[0]) for path in Path(folder).iterdir())


def gpus_seen(folder: str, portion: int = 0) -> int:
    """How many a worker had when it last began this portion (of the cluster's, which are there by name only)."""
    *_, last = sorted(Path(folder).glob(f"{portion}-*"))
    return len([device for device in last.read_text().split(",") if device])


def a_portion_that_kills(folder: str) -> dict:
    first, again = (Path(folder, name) for name in ("first", "again"))
    first.mkdir()
    again.mkdir()
    said = {}
    with spreading._cluster(2):
        try:
            spreading.spread(range(4), Worker, Noted(str(first), kills=2), workers=2)
        except ProbingError as error:
            said = {"error": type(error).__name__, "message": str(error)}
        spreading.spread(range(4), Worker, Noted(str(again), kills=None), workers=2)
    return said | {"begun": begun(first), "begun again": begun(again)}


def gpus_that_are_not_there(folder: str) -> dict:
    with spreading._cluster(1) as is_ours:
        try:
            spreading.gpus_of_each(2, 3, may_grow=not is_ours)
        except ProbingError as error:
            return {"error": type(error).__name__, "message": str(error), "left out": spreading.gpus_of_each(
                2, None, may_grow=not is_ours)}  # fmt: skip
    return {}


def knock(address: str, **environment: str) -> str:
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _KNOCK], env=without | environment | {"KNOCK": address}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


def listens(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


def a_stranger(folder: str) -> dict:
    with spreading._cluster(1):
        import ray

        address = ray.get_runtime_context().gcs_address
        ours = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        return {"without": knock(address), "with the token": knock(address, **ours)}


def a_cluster_of_others(folder: str) -> dict:
    start = ["ray", "start", "--head", "--block", "--port=6399", "--num-cpus=2", "--num-gpus=2",
             "--include-dashboard=false"]  # fmt: skip
    theirs = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= theirs
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # with it, Ray would have none to give
    there = subprocess.Popen([str(Path(sys.executable).parent / start[0]), *start[1:]], stdout=subprocess.DEVNULL)
    os.environ["RAY_ADDRESS"] = address = "127.0.0.1:6399"
    try:
        while not listens(6399):
            assert there.poll() is None
        with spreading._cluster(1):
            each = spreading.gpus_of_each(1, None, may_grow=True)
            spreading.spread(range(5), Worker, Noted(folder, kills=None), workers=1, gpus=each)
            asked, gpus = begun(folder), {"each": gpus_seen(folder)}
            for wanted in (2, 0):
                spreading.spread([5], Worker, Noted(folder, kills=None), workers=1, gpus=wanted)
                gpus[str(wanted)] = gpus_seen(folder, 5)
        return {"asked": asked, "gpus": gpus, "still there": "let in" in knock(address, **theirs)}
    finally:
        there.kill()  # the rest of it ends with its namespace


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(globals()[sys.argv[1].replace(" ", "_")](folder)))
