"""Ray's workers give what one process gives, whoever is killed."""

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from pandas import read_parquet

from src.config import load_config
from src.errors import ConfigError
from src.pipeline import make_plan, read_results, run
from tests.test_pipeline import choices, config  # noqa: F401 (choices is a fixture)


def alone_in_its_network(*command):
    """Ray listens on all interfaces, so tests give it a network that has none but loopback."""
    spaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]  # nothing of it is left behind
    return ["unshare", *spaces, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


@pytest.fixture(scope="module")
def ray_alone():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    if subprocess.run(alone_in_its_network("true"), capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network namespace")


def spread(settings, *moments):
    """Run with two workers in a process of its own, killing a worker at each moment."""
    job = uuid.uuid4().hex
    done = subprocess.run(
        alone_in_its_network(
            sys.executable, "-m", "tests.ray_job", json.dumps(settings), settings["extraction"]["cache_dir"],
            *map(str, moments),
        ),
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[1],
        env=os.environ | {"CONFPROBE_JOB": job, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def values(tree, path=""):
    """Every "value" in a tree of results, by its path."""
    if isinstance(tree, dict | list):
        children = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: leaf for key, child in children for name, leaf in values(child, f"{path}/{key}").items()}
    return {path: tree} if path.endswith("/value") and tree is not None else {}


def assert_same_results(one, other):
    """Labels equal, metrics within 1e-5 (ends of intervals of what is counted in bins jump: they are left out)."""
    ours, theirs = (
        read_parquet(folder / "answers.parquet")[["model", "id", "correct", "split"]] for folder in (one, other)
    )
    assert ours.equals(theirs)
    left, right = (values(read_results(folder)["variants"]) for folder in (one, other))
    assert len(left) > 50
    assert right == pytest.approx(left, abs=1e-5)


def test_workers_need_ray_and_a_cache(tmp_path, model_folder, choices, monkeypatch):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    with pytest.raises(ConfigError, match=r"run\.workers is 2, and the local engine has one"):
        load_config(settings, {"run.workers": 2})
    spreading = load_config(settings, {"run.workers": 2, "run.engine": "ray"})
    with pytest.raises(ConfigError, match=r"set extraction\.cache_dir to a folder or a URL"):
        make_plan(load_config(spreading, {"extraction.cache_dir": None}))
    with pytest.raises(ConfigError, match=r"memory://c lives in one process"):
        make_plan(load_config(spreading, {"extraction.cache_dir": "memory://c"}))
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else there(name))
    with pytest.raises(ConfigError, match=r"run\.engine is ray, which is not installed: pip install"):
        make_plan(spreading)


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(
    ray_alone,
    tmp_path,
    model_folder,
    adapter_folder,
    choices,  # noqa: F811
):
    model = {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}
    alone = run(config(tmp_path, model_folder, choices, model=model)).folder
    there = tmp_path / "there"
    settings = config(there, model_folder, choices, model=model)
    settings["run"] |= {"engine": "ray", "workers": 2}
    spread(settings)
    assert_same_results(there / "run", alone)
    assert "workers" in read_results(there / "run")["seconds"]


def among_workers(scene):
    """What a scene of ray_scenes.py prints last."""
    done = subprocess.run(
        alone_in_its_network(sys.executable, "-m", "tests.ray_scenes", scene),
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_portion_that_ends_every_worker_ends_the_run_with_a_sentence(ray_alone):
    said = among_workers("a portion that kills")
    assert said["error"] == "WorkersError"
    assert re.match(
        r"(?s)Ray's workers ended with Actor\w+Error: .* the same command goes on from there\.$", said["message"]
    )
    assert said["begun"].count(2) == 4  # once, and three times more; what waited behind it may never begin
    assert said["begun again"] == [0, 1, 2, 3]


@pytest.mark.slow
def test_workers_do_not_wait_for_gpus_that_will_never_come(ray_alone):
    said = among_workers("gpus that are not there")
    assert said["error"] == "WorkersError"
    assert "2 workers of 3 GPUs each (run.worker_gpus) need 6; 0 are there" in said["message"].replace(", and 0", "; 0")
    assert said["left out"] == 0


@pytest.mark.slow
def test_a_stranger_without_the_token_is_refused_by_our_cluster(ray_alone):
    said = among_workers("a stranger")
    assert said["with the token"] == "let in"
    assert "uthentication" in said["without"]


@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_left_alone(ray_alone):
    said = among_workers("a cluster of others")
    assert said["asked"] == list(range(5))
    assert said["gpus"] == {"each": 1, "2": 2, "0": 0}
    assert said["still there"]


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_error_of_the_run(ray_alone, tmp_path, model_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    settings["run"] |= {"engine": "ray"}
    settings["data"] |= {
        "template": "{{ question }} " * 40 + "{% for letter, text in choices %}{{ letter }}. {{ text }}\n{% endfor %}"
    }
    done = subprocess.run(
        alone_in_its_network(sys.executable, "-m", "confprobe", "run", "/dev/stdin"), input=json.dumps(settings),
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "exceed the model's" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_real_questions_with_workers_killed_at_random_moments(ray_alone, shared, tmp_path):
    changes = {
        "model.name": str(shared / "models" / "stories260K"), "data.path": str(shared / "data" / "mmlu"),
        "data.limit": 240, "extraction.layers": [2, 4], "evaluation.bootstrap": 100,
        "extraction.cache_dir": str(tmp_path / "alone" / "cache"), "run.dir": str(tmp_path / "alone" / "run"),
    }  # fmt: skip
    settings = load_config(Path(__file__).parents[1] / "configs" / "mmlu.yaml", changes).model_dump(mode="json")
    alone = run(settings).folder
    rng = random.Random(0)
    moments = [[], *([rng.uniform(0, 4)] for _ in range(3))]
    killed = 0
    for number, when in enumerate(moments):
        folder = tmp_path / f"spread-{number}"
        settings["extraction"]["cache_dir"] = str(folder / "cache")
        settings["run"] = {"dir": str(folder / "run"), "engine": "ray", "workers": 2}
        killed += len(spread(settings, *when)["killed"])
        assert_same_results(folder / "run", alone)
    assert killed >= 2
