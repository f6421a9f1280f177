"""vLLM behind `answer_freely`: what is asked of it, and, where it is installed, that it says what transformers says."""

import copy
import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pandas import read_parquet

from src.config import load_config
from src.errors import AdapterError, ConfigError, MissingExtraError
from src.models import ModelLoader
from src.models.decoding import Sampling, generate
from src.models.generation import answer_freely, answer_with
from src.models.vllm_engine import _lora, _weighed, check_in_force, check_vllm, start_vllm
from src.pipeline import make_plan, run
from tests.conftest import lora_tensors, random_llama, write_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own

PROMPTS = [
    "What is the capital of France?",
    "12 345 6 7",
    "Answer:",
    "Question: Which of these? A. B. C.",
    "12 345 6 7",
]


@dataclass
class Noting:
    """A generator that has transformers answer, and notes what it was asked."""

    model: Any
    tokenizer: Any
    name: str = "noting 1"
    asked: list = field(default_factory=list)

    def generate(self, rows, room, stop, *, ends, width, sampling, adapter):
        self.asked.append(SimpleNamespace(rows=rows, ends=ends, adapter=adapter))
        return generate(self.model, self.tokenizer, rows, room, stop, width=width, sampling=sampling)


def noting_for(model, tokenizer):
    noting: Any = Noting(model, tokenizer)
    answer_with(model, noting)
    return noting


def assert_same(one, other, *, tolerance=0.0):
    assert (one.texts, one.prompt_ids, one.answer_ids) == (other.texts, other.prompt_ids, other.answer_ids)
    assert one.finished.tolist() == other.finished.tolist()
    np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.least_log_probabilities, other.least_log_probabilities, rtol=0, atol=tolerance)


def test_who_generates_changes_nothing_else(model, tokenizer, tmp_path):
    ours = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=9, cache_dir=tmp_path)
    noting = noting_for(model, tokenizer)
    assert_same(answer_freely(model, tokenizer, PROMPTS, max_new_tokens=9, cache_dir=tmp_path), ours, tolerance=1e-5)
    assert sum(len(one.rows) for one in noting.asked) == 4  # none from the cache of transformers' answers
    assert {token for one in noting.asked for token in one.ends} == {1}
    answer_freely(model, tokenizer, PROMPTS, max_new_tokens=9, cache_dir=tmp_path)
    assert sum(len(one.rows) for one in noting.asked) == 4  # all from its own


def test_a_stop_string_that_is_a_special_token_ends_an_answer_as_a_token(model, tokenizer):
    noting = noting_for(model, tokenizer)
    answer_freely(model, tokenizer, PROMPTS, stop=["<s>", "\n"], max_new_tokens=4)
    assert {token for one in noting.asked for token in one.ends} == {0, 1}


def test_the_generator_is_told_which_adapter_is_switched_on(model_folder, adapter_folder):
    model, tokenizer = ModelLoader(model_folder, adapter_folder).load()
    noting = noting_for(model, tokenizer)
    answer_freely(model, tokenizer, PROMPTS, max_new_tokens=2)
    with model.disable_adapter():
        answer_freely(model, tokenizer, PROMPTS, max_new_tokens=2)
    first, *_, last = noting.asked
    assert (first.adapter, last.adapter) == ("default", None)


def test_vllm_that_would_answer_otherwise_is_refused(model, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else there(name))
    with pytest.raises(MissingExtraError, match="vLLM library not installed"):
        check_vllm(model)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there("json" if name == "vllm" else name))
    check_vllm(model)
    model.generation_config.repetition_penalty = 1.1
    with pytest.raises(ConfigError, match="generation settings repetition_penalty are not passed on to vLLM"):
        check_vllm(model)
    model.is_loaded_in_8bit = True
    with pytest.raises(ConfigError, match="other weights than the 8bit ones"):
        check_vllm(model)


def test_a_plan_finds_what_vllm_would_not_serve(model, model_folder, adapter_folder, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there("json" if name == "vllm" else name))
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copytree(adapter_folder, tmp_path / "adapter")
    asked = settings(tmp_path, tmp_path / "model", generator="vllm")
    asked["model"]["tinker_lora_path"] = str(tmp_path / "adapter")
    make_plan(load_config(asked))
    spoilt = copy.deepcopy(model.generation_config)
    spoilt.repetition_penalty = 1.1
    spoilt.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="generation settings repetition_penalty are not passed on to vLLM"):
        make_plan(load_config(asked))
    model.generation_config.save_pretrained(tmp_path / "model")
    about = tmp_path / "adapter" / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"alpha_pattern": {"q_proj": 8}}))
    with pytest.raises(ConfigError, match="which vLLM does not take"):
        make_plan(load_config(asked))


def test_a_vllm_that_does_not_start_is_one_sentence(model, monkeypatch):
    def cannot(*_, **__):
        raise ValueError("To serve at least one request with the model's max seq len,\n16 GiB are needed.")

    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there("json" if name == "vllm" else name))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=cannot))
    with pytest.raises(ConfigError, match=r"vLLM does not start: To serve .* len, 16 GiB are needed\. Let transf"):
        start_vllm(model, "somewhere")


@pytest.mark.parametrize("changes", [{"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 8}}, {"r": 513}])
def test_an_adapter_that_vllm_would_scale_otherwise_is_refused(tmp_path, changes):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8} | changes))
    with pytest.raises(ConfigError, match="which vLLM does not take"):
        _lora([str(tmp_path)])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 9, "lora_alpha": 8, "rank_pattern": {}}))
    assert _lora([str(tmp_path)])["max_lora_rank"] == 16


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory):
    """A model whose heads are wide enough for vLLM's CPU kernels, and a LoRA for it."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM, which is no dependency")
    folder, adapter = tmp_path_factory.mktemp("wide"), tmp_path_factory.mktemp("wide-adapter")
    made = random_llama(len(tokenizer), hidden_size=128, intermediate_size=192)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_adapter(adapter, lora_tensors(made))
    model, _ = ModelLoader(folder, adapter).load()
    return model, start_vllm(model, str(folder), adapters={"default": str(adapter)})


@pytest.mark.slow
@pytest.mark.parametrize("stop", [(), ("\n", " A"), ("</s>", "B")])
def test_vllm_says_what_transformers_says(wide, tokenizer, stop):
    model, vllm = wide
    for switched in ("on", "off"):
        with torch.no_grad(), model.disable_adapter() if switched == "off" else torch.no_grad():
            model.__dict__.pop("_confprobe_generator", None)
            ours = answer_freely(model, tokenizer, PROMPTS, stop=stop, max_new_tokens=24)
            answer_with(model, vllm)
            assert_same(answer_freely(model, tokenizer, PROMPTS, stop=stop, max_new_tokens=24), ours, tolerance=1e-4)


@pytest.mark.slow
def test_sampled_answers_depend_on_seed_and_prompt_only(wide, tokenizer):
    model, vllm = wide
    answer_with(model, vllm)
    one, again, other = (
        answer_freely(model, tokenizer, prompts, max_new_tokens=12, sampling=Sampling(1.0, seed))
        for prompts, seed in ((PROMPTS, 1), (PROMPTS[::-1], 1), (PROMPTS, 2))
    )
    assert one.texts == again.texts[::-1]
    assert one.texts != other.texts


def settings(tmp_path, model, **run_settings):
    rows = [{"question": f"What is {n} and {n + 1}?", "answer": str(n % 7)} for n in range(40)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"name": str(model)},
        "data": {"name": "custom", "path": str(path), "max_new_tokens": 8},
        "extraction": {"layers": [1]},
        "evaluation": {"bootstrap": 100},
        "run": {"dir": str(tmp_path / "run")} | run_settings,
    }


def test_a_run_that_vllm_cannot_serve_is_refused_before_it_starts(tmp_path, model_folder, monkeypatch):
    asked = settings(tmp_path, model_folder, generator="vllm")
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else there(name))
    with pytest.raises(ConfigError, match=r"run\.generator is vllm, which is not installed"):
        make_plan(load_config(asked))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there("json" if name == "vllm" else name))
    make_plan(load_config(asked))
    with pytest.raises(ConfigError, match="other weights than the 8bit ones"):
        make_plan(load_config(asked, {"model.quantization": "8bit"}))
    del asked["data"]["max_new_tokens"]
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps({"question": f"Which, {n}?", "answer": "a", "choices": ["a", "b"]}) + "\n" for n in range(40)
        )
    )
    with pytest.raises(ConfigError, match="nothing here is answered in words"):
        make_plan(load_config(asked))


@pytest.mark.slow
def test_a_run_with_vllm_is_the_run_without(wide, tmp_path):
    _, vllm = wide
    folder = vllm.engine.llm_engine.model_config.model
    found = []
    for generator in ("transformers", "vllm"):
        there = tmp_path / generator
        there.mkdir()
        run(settings(there, folder, generator=generator))
        found.append(read_parquet(there / "run" / "answers.parquet")[["id", "answer", "correct", "split"]])
    assert found[0].equals(found[1])


@dataclass
class Weighing:
    """An engine that weighs texts as the model does with the adapter it is said to apply, and what it does with it."""

    model: Any
    adapters: dict
    applied: float = 1.0
    off: float = 0.0

    def weigh(self, ids, adapter):
        base = _weighed(self.model, ids, None)
        return base + self.off + (self.applied * (_weighed(self.model, ids, 0) - base) if adapter else 0.0)


@pytest.mark.parametrize("applied", [0.0, 0.4, -1.0, 2.0])
def test_an_adapter_that_vllm_does_not_apply_is_an_error(model_folder, adapter_folder, applied):
    model, _ = ModelLoader(model_folder, adapter_folder).load()
    adapters = {"default": (1, str(adapter_folder))}
    check_in_force(Weighing(model, adapters), model)
    with pytest.raises(
        AdapterError, match=r"vLLM does not apply the adapter .* off by .* nats, and the adapter changes"
    ):
        check_in_force(Weighing(model, adapters, applied), model)


def test_an_adapter_below_what_engines_differ_by_is_only_noted(model_folder, adapter_folder, caplog):
    model, _ = ModelLoader(model_folder, adapter_folder).load()
    check_in_force(Weighing(model, {"default": (1, str(adapter_folder))}, applied=0.0, off=50.0), model)
    assert "cannot be told" in caplog.text
