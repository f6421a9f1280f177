"""A model that is spread over devices, kept on disk, or split over processes gives the states of the whole one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.errors import ConfigError
from src.models import HiddenStateExtractor, ModelLoader
from src.models.extraction.fingerprint import fingerprint

TEXTS = ["The capital of France is Paris", "A", "Which of these is the largest number? 12 345 6 7 8 9"]
MANY = [*TEXTS, *(f"{number} is the largest of these numbers" for number in range(60))]  # more than one pass holds


@pytest.fixture
def whole(model_folder):
    return ModelLoader(model_folder, dtype="float32").load()


def test_blocks_kept_on_disk_give_the_same_states_under_the_same_name(model_folder, whole, tmp_path):
    blocks = {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    model, tokenizer = ModelLoader(model_folder, dtype="float32", device_map=rest | blocks).load()
    assert any(parameter.is_meta for parameter in model.parameters())
    assert fingerprint(model) == fingerprint(whole[0])
    cache = tmp_path / "cache"
    states = HiddenStateExtractor(*whole).extract(TEXTS, "all", cache)
    assert np.array_equal(HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all"), states)
    assert np.array_equal(HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all", cache), states)
    assert len(list(cache.iterdir())) == 1


def test_where_a_model_goes_is_said_once_and_by_who_can(model_folder, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="tp_plan and device_map both say where the model goes"):
        ModelLoader(model_folder, tp_plan="auto", device_map="auto").load()
    with pytest.raises(ConfigError, match=r"this one is alone: start it with torchrun --nproc-per-node N"):
        ModelLoader(model_folder, tp_plan="auto").load()


def test_a_model_that_one_gpu_holds_lies_on_that_one_alone(model_folder, monkeypatch):
    loader = ModelLoader(model_folder, dtype="float32")
    size = sum(p.numel() * p.element_size() for p in loader.skeleton().parameters())
    free = [size, int(size * 1.4), int(size * 0.6)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(free))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[device], 4 * size))
    assert loader._placement(None) == {"device_map": {"": 1}}
    free[1] = int(size * 1.2)  # no room for reading
    assert loader._placement(None) == {"device_map": "auto"}
    assert loader._placement("4bit") == {"device_map": {"": 1}}


@pytest.mark.slow
@pytest.mark.enable_socket
def test_two_processes_that_share_a_model_read_the_states_of_the_whole(model_folder, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", str(port), "-m", "tests.parallel_job", str(model_folder), json.dumps(MANY),
            str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=200, check=False, cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    states = HiddenStateExtractor(*whole).extract(MANY, "all")
    for rank in range(2):
        found = np.load(tmp_path / f"out.{rank}.npz")
        assert found["split"] > 0
        assert np.abs(found["states"] - states).max() < 1e-4 * np.abs(states).max()
        assert str(found["weights"]) == fingerprint(whole[0])["weights"]
        assert "split over processes" in str(found["refused"])
