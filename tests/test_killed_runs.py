"""A run that is killed at any moment goes on with the same command, and ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import get_context

import pytest
import yaml

from src.models.extraction.maintenance import verify
from src.pipeline.folder import ANSWERS, CONFIG, PROBES, QUESTIONS, REPORT, RESULTS
from src.probes.artifact import SavedProbe
from tests.test_data import write_lines
from tests.test_pipeline import without_times

ROUNDS = 20
pytestmark = pytest.mark.slow


def job(config):
    """What the killed process does."""
    import torch

    from src.pipeline import run

    torch.set_num_threads(1)
    run(config)


def questions(folder, n=1200):
    """Half of the rounds choose, half answer freely: so both kinds of answer are interrupted."""
    rng = random.Random(0)
    choices = [
        {"question": f"Which is number {i}?", "choices": ["x", "y", "z"], "answer": rng.choice("ABC")} for i in range(n)
    ]
    free = [{"question": f"Say {i}", "answer": str(rng.randrange(10))} for i in range(n // 3)]
    return [write_lines(folder / "choices.jsonl", *choices), write_lines(folder / "free.jsonl", *free)]


def config(folder, data, model_folder, adapter_folder):
    return {
        "model": {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)},
        "data": {"name": "custom", "path": str(data)},
        "extraction": {"layers": "all", "cache_dir": str(folder / "cache")},
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(folder / "run")},
    }


def outcome(folder):
    """What a run leaves, but for times and the folders, which differ between the rounds."""
    results = without_times(json.loads((folder / "run" / RESULTS).read_text()))
    results["config"].pop("run")
    results["config"]["extraction"].pop("cache_dir")
    tables = [*sorted((folder / "run" / PROBES).rglob("probe.*")), folder / "run" / QUESTIONS]
    return results, {path.relative_to(folder): path.read_bytes() for path in tables}


def test_twenty_kills_change_nothing(tmp_path, model_folder, adapter_folder):
    context = get_context("forkserver")
    context.set_forkserver_preload(["src.pipeline.job", "src.models.loader", "transformers", "peft", "src.report.html"])
    data = questions(tmp_path)
    expected, seconds = [], []
    for number, path in enumerate(data):
        folder = tmp_path / f"undisturbed-{number}"
        for measured in (False, True):  # the first start also loads the preloaded modules
            process = context.Process(
                target=job, args=(config(folder / str(measured), path, model_folder, adapter_folder),)
            )
            start = time.perf_counter()
            process.start()
            process.join()
            assert process.exitcode == 0
        seconds.append(time.perf_counter() - start)
        expected.append(outcome(folder / "True"))
    rng, interrupted, kept = random.Random(1), 0, 0
    for number in range(ROUNDS):
        kind = number % 2
        folder = tmp_path / f"killed-{number}"
        settings = config(folder, data[kind], model_folder, adapter_folder)
        process = context.Process(target=job, args=(settings,))
        process.start()
        process.join(rng.uniform(0.05, seconds[kind]))
        if process.exitcode is None:
            interrupted += 1
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        before = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.safetensors")}
        kept += bool(before)
        left = {path.name for path in (folder / "run").glob("*")}
        whole = {name for name in left if not name.endswith(".tmp")}
        assert whole <= {CONFIG, RESULTS, QUESTIONS, ANSWERS, REPORT, PROBES}
        for saved in (folder / "run" / PROBES).glob("[!.]*"):
            assert saved.name.endswith(".tmp") or SavedProbe.from_pretrained(saved)
        if (folder / "run" / CONFIG).exists():
            yaml.safe_load((folder / "run" / CONFIG).read_text())
        assert not before or verify(folder / "cache")[1] == []
        again = context.Process(target=job, args=(settings,))
        again.start()
        again.join()
        assert again.exitcode == 0
        assert outcome(folder) == expected[kind]
        assert {path: path.stat().st_mtime_ns for path in before} == before  # what was kept is used, not made again
    assert interrupted >= ROUNDS // 2
    assert kept >= ROUNDS // 4


def test_an_interrupted_run_says_so_in_one_line(tmp_path, model_folder, adapter_folder):
    data = questions(tmp_path, 4000)[0]
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config(tmp_path, data, model_folder, adapter_folder)))
    process = subprocess.Popen(
        [sys.executable, "-m", "confprobe", "run", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background job ignores it, and so would this process.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "Interrupted. The same command goes on from here."
    assert "Traceback" not in err
    assert out == ""
    assert verify(tmp_path / "cache")[1] == []
    assert [p.name for p in (tmp_path / "run").iterdir()] == [CONFIG]
