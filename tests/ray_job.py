"""What test_spreading.py starts in a network of its own: a run, whose workers are killed at the given moments."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest


def worker_processes() -> list[int]:
    """The worker processes of the cluster that this process started (no other is visible to its actors' name)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
            mine = f"CONFPROBE_JOB={os.environ['CONFPROBE_JOB']}".encode() in (path.parent / "environ").read_bytes()
        except OSError:
            continue
        if mine and name.startswith(b"ray::") and b"Worker" in name:
            found.append(int(path.parent.name))
    return sorted(found)


def kill_one_after(seconds: float, killed: list[int]) -> None:
    """SIGKILL one worker so long after the first shard is there."""
    cache = Path(sys.argv[2])
    while not list(cache.rglob("*.safetensors")):
        time.sleep(0.05)
    time.sleep(seconds)
    for process in worker_processes()[:1]:
        os.kill(process, signal.SIGKILL)
        killed.append(process)


def no_forward(*_: object, **__: object) -> None:
    raise AssertionError("the driver computed what its workers had")


if __name__ == "__main__":
    from src.pipeline import run

    killed: list[int] = []
    moments = [float(moment) for moment in sys.argv[3:]]
    threads = [threading.Thread(target=kill_one_after, args=(moment, killed), daemon=True) for moment in moments]
    for thread in threads:
        thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for room in ("capture", "packed"):  # of this process: its workers have their own
            patch.setattr(f"src.models.extraction.{room}.forward", no_forward)
        result = run(json.loads(sys.argv[1]))
    print(json.dumps({"folder": str(result.folder), "killed": killed, "seconds": result.results["seconds"]}))
