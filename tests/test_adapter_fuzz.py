"""Thousands of damaged checkpoints end in the library's own errors, or in an adapter that is sound.

CONFPROBE_FUZZ_SECONDS says for how long (20).
"""

import contextlib
import json
import os
import random
import shutil
import struct
import time
import warnings

import pytest
from safetensors.torch import load_file, save

from src.adapters import base_modules, check_against_base, read_adapter
from src.errors import ProbingError
from src.tinker.convert import convert_adapter
from tests.conftest import lora_tensors, random_llama
from tests.tiny_models import moe_checkpoint, qwen3_5, qwen3_5_checkpoint, qwen3_moe

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 32, "target_modules": "all-linear", "rank_pattern": {"q_proj": 4},
          "alpha_pattern": {"unembed_tokens": 16}, "bias": "none", "modules_to_save": None}  # fmt: skip
ODD = [None, True, 0, -1, 1, 3, 1 << 31, 1 << 63, 10**400, 0.5, 1e308, "", "a" * 5000, "../../x", "/etc/passwd", "\0",
       "\ud800", [], [[]], [4], [4, 32], [1 << 40, 1 << 40], {}, {"q_proj": 8}, {"(a+)+$": 1}, "F32", "F64", "I8",
       "BF16", "LORA", "(.*)*x", ["q_proj"], float("nan"), float("inf")]  # fmt: skip


def damaged_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data) + 1)
        end = at + rng.choice([0, 1, 1, rng.randrange(40)])
        data[at:end] = rng.choice(
            [b"", rng.randbytes(1), rng.randbytes(5), b"{", b"[", b'"', b"NaN", b"1e999", b"[" * 3000]
        )
    return bytes(data)


def damaged_values(rng, value):
    """The JSON value with one thing in it replaced, removed, renamed or moved."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        changed = dict(value)
        kind = rng.randrange(4)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            name = rng.choice([*map(str, ODD[11:17]), key + "x", key[1:], key.replace("0", "1"), key.replace("A", "B")])
            changed[name] = changed.pop(key)
        else:
            changed[key] = damaged_values(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], damaged_values(rng, value[at]), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-4, -1, 1, 4])
    return rng.choice(ODD)


def damaged(rng, weights, config):
    """A checkpoint's two files, one or both damaged."""
    size = struct.unpack("<Q", weights[:8])[0]
    header, data = weights[8 : 8 + size], weights[8 + size :]
    kind = rng.randrange(5)
    if kind == 0:
        return damaged_bytes(rng, weights[: 8 + size]) + data, config
    if kind == 1:
        return weights[: rng.randrange(len(weights))], config
    if kind == 2:
        changed = json.dumps(damaged_values(rng, json.loads(header))).encode()
        return struct.pack("<Q", len(changed)) + changed + data, config
    if kind == 3:
        return weights, damaged_bytes(rng, config)
    return weights, json.dumps(damaged_values(rng, json.loads(config))).encode()


@pytest.mark.slow
def test_damaged_checkpoints_end_in_our_errors_and_touch_nothing_else(tmp_path):
    seconds = float(os.environ.get("CONFPROBE_FUZZ_SECONDS", "20"))
    rng = random.Random(0)
    base = tmp_path / "base"
    random_llama(40).save_pretrained(base)
    makers = [lora_tensors(random_llama(40), head="model.unembed_tokens"), moe_checkpoint(qwen3_moe()),
              qwen3_5_checkpoint(qwen3_5())]  # fmt: skip
    checkpoints = [save(tensors) for tensors in makers]
    source, made = tmp_path / "source", tmp_path / "made"
    end, outcomes = time.monotonic() + seconds, {"refused": 0, "made": 0}
    while time.monotonic() < end:
        which = rng.randrange(3)
        weights, config = damaged(rng, checkpoints[which], json.dumps(CONFIG).encode())
        for folder in (source, made):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (source / "adapter_model.safetensors").write_bytes(weights)
        (source / "adapter_config.json").write_bytes(config)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with contextlib.suppress(ProbingError):
                read_adapter(source)
            try:
                converted = convert_adapter(source, made, str(base) if which == 0 else "not-here", assumed_alpha=32)
            except ProbingError:
                outcomes["refused"] += 1
            else:
                assert set(load_file(made / "adapter_model.safetensors")) == set(converted.adapter.shapes)
                assert read_adapter(made) == converted.adapter
                if which == 0:
                    check_against_base(converted.adapter, base_modules(base) or {})
                outcomes["made"] += 1
        assert {path.name for path in tmp_path.iterdir()} == {"base", "source", "made"}
        assert {path.name for path in made.iterdir()} <= {"adapter_model.safetensors", "adapter_config.json"}
        assert len(list(source.iterdir())) == 2
    print(outcomes)
    assert min(outcomes.values()) > 0


@pytest.mark.slow
def test_damaged_base_models_end_in_our_errors(tmp_path):
    seconds = float(os.environ.get("CONFPROBE_FUZZ_SECONDS", "20")) / 4
    rng = random.Random(1)
    random_llama(40).save_pretrained(tmp_path, max_shard_size="20KB")
    texts = {name: (tmp_path / name).read_bytes() for name in ("config.json", "model.safetensors.index.json")}
    end, refused = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        name = rng.choice(list(texts))
        changed = json.dumps(damaged_values(rng, json.loads(texts[name]))).encode()
        (tmp_path / name).write_bytes(rng.choice([changed, damaged_bytes(rng, texts[name])]))
        try:
            base_modules(tmp_path)
        except ProbingError:
            refused += 1
        (tmp_path / name).write_bytes(texts[name])
    assert refused
