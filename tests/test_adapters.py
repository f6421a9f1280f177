"""What an adapter's files say is checked byte by byte, against the base model's files, and in the loaded model."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from src.adapters import (
    base_modules,
    check_against_base,
    check_finite,
    parse_config,
    read_adapter,
    read_tensors,
)
from src.adapters.tensor_file import open_tensors, write_tensors
from src.errors import AdapterError, IntegrityError
from src.models import ModelLoader
from src.models.adapters_in_force import attach_adapter, check_in_force, linear_shapes
from src.tinker.convert import convert_adapter
from tests.conftest import lora_tensors, random_llama, write_adapter
from tests.tiny_models import PREFIX, halves, moe_checkpoint, qwen3_5, qwen3_moe

Q = "model.layers.0.self_attn.q_proj"
NAME = f"{PREFIX}{Q}.lora_A.weight"


def entry(start, end, *, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def stored(header, data=b"\0" * 16, *, length=None):
    """The bytes of a safetensors file with this header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 7, b"\xff" * 64, stored({}, length=1 << 62), stored({}, length=200 << 20), stored(b"[]"),
        stored(b"\xff\xfe{}"), stored(b"{" * 100_000), stored(b'{"a": {"dtype": NaN}}'), stored({"a": 3}),
        stored({"a": entry(0, 8), "b": entry(4, 16)}),                       # overlapping
        stored({"a": entry(0, 8), "b": entry(4, 12)}),                       # overlapping, and bytes nobody claims
        stored({"a": entry(0, 8), "b": entry(12, 16)}),                      # a hole
        stored({"a": entry(4, 16)}), stored({"a": entry(0, 12)}), stored({"a": entry(0, 20)}),
        stored({"a": entry(16, 0)}), stored({"a": entry(0, 16, shape=[5])}), stored({"a": entry(0, 16, shape=[-4])}),
        stored({"a": entry(0, 16, shape=[1 << 40, 1 << 40])}), stored({"a": entry(0, 16, shape=[2.0, 2])}),
        stored({"a": entry(0, 16, shape=[True] * 4)}), stored({"a": entry(0, 16, shape=[1] * 100)}),
        stored({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}),
        stored(b'{"a": ' + json.dumps(entry(0, 8)).encode() + b', "a": ' + json.dumps(entry(8, 16)).encode() + b"}"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_true_is_an_adapter_error(tmp_path, content):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=re.escape(str(path))):
        open_tensors(path)


def test_what_safetensors_wrote_is_read_and_what_is_written_safetensors_reads(tmp_path):
    tensors = {
        "a": torch.randn(3, 5), "b": torch.randn(2, 4, 4).bfloat16(), "c": torch.randn(7).half(),
        "d": torch.randn(2, 2).double(), "e": torch.zeros(0, 3),
    }  # fmt: skip
    save_file(tensors, tmp_path / "theirs")
    found = read_tensors(tmp_path / "theirs")
    opened = open_tensors(tmp_path / "theirs")
    assert torch.equal(opened.read("b", 1), tensors["b"][1])
    write_tensors(tmp_path / "ours", {n: (opened.entries[n].dtype, tuple(t.shape)) for n, t in found.items()},
                  iter(found.values()))  # fmt: skip
    again = load_file(tmp_path / "ours")
    for name, tensor in tensors.items():
        for other in (found[name], again[name]):
            assert other.dtype == tensor.dtype
            assert torch.equal(other, tensor)


def test_a_dtype_that_nobody_knows_is_named(tmp_path):
    write_adapter(tmp_path, halves(Q, 2, 2))
    pair = {name: {"dtype": "Z9", "shape": [2, 2], "data_offsets": [8 * n, 8 * n + 8]}
            for n, name in enumerate(halves(Q, 2, 2))}  # fmt: skip
    (tmp_path / "adapter_model.safetensors").write_bytes(stored(pair))
    for read in (lambda: read_adapter(tmp_path), lambda: convert_adapter(tmp_path, tmp_path, "base")):
        with pytest.raises(AdapterError, match=r"q_proj\S+ has dtype 'Z9'"):
            read()


def test_a_file_that_ends_early_after_its_header_was_read_is_noticed(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "file")
    opened = open_tensors(tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-1])
    with pytest.raises(AdapterError, match="ends within a: it is torn"):
        opened.read("a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_number_that_is_none_is_found_wherever_it_stands(dtype, value, place):
    tensor = torch.ones(1000, dtype=dtype)
    assert check_finite("x", tensor)
    assert not check_finite("x", tensor * 0)
    tensor[place] = value
    with pytest.raises(AdapterError, match="x holds NaN or infinity"):
        check_finite("x", tensor)


HOSTILE = {
    "a million settings": lambda: json.dumps({f"k{n}": 1 for n in range(120_000)}),
    "10 MB": lambda: '{"r": 4, "x": "' + "a" * 10_000_000 + '"}',
    "depth 10,000": lambda: '{"a":' * 10_000 + "1" + "}" * 10_000,
    "NaN": lambda: '{"lora_alpha": NaN}',
    "duplicate keys": lambda: '{"r": 4, "r": 8}',
    "a list": lambda: "[]",
    "an endless number": lambda: '{"r": ' + "9" * 100_000 + "}",
    "a pattern of lists": lambda: '{"rank_pattern": {"q_proj": [4]}}',
    "a pattern that is a list": lambda: '{"alpha_pattern": ["q_proj"]}',
    "an alpha beyond every float": lambda: '{"alpha_pattern": {"q_proj": 1e999}}',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_configuration_is_an_adapter_error_in_a_text_and_in_a_file(tmp_path, kind):
    text = HOSTILE[kind]()
    with pytest.raises(AdapterError):
        parse_config(text)
    save_file(halves(Q, 32, 32), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError):
        read_adapter(tmp_path)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_would_run_for_ever_is_compared_as_a_name(tmp_path, key):
    write_adapter(tmp_path, halves(Q, 32, 32), **{key: {"(.*.*.*.*.*.*.*.*.*)+x": 4}})
    with pytest.raises(AdapterError, match=rf"{key} in adapter_config\.json names .* letter by letter"):
        read_adapter(tmp_path)


def test_peft_never_sees_a_pattern_from_the_file(tmp_path, tokenizer):
    model = random_llama(len(tokenizer))
    write_adapter(tmp_path, lora_tensors(model), target_modules="(.*.*.*.*.*.*.*.*.*.*)+x", task_type="SEQ_CLS")
    tuned = attach_adapter(model, read_adapter(tmp_path))
    settings = tuned.peft_config["default"]
    assert settings.task_type == "CAUSAL_LM"
    assert not any("*" in target for target in settings.target_modules)


def test_a_rank_and_an_alpha_of_one_module_hold_for_it_and_no_other(tmp_path, tokenizer):
    model = random_llama(len(tokenizer))
    first, second = (f"model.layers.{n}.self_attn.q_proj" for n in (0, 1))
    tensors = halves(first, 32, 32, rank=4) | halves(second, 32, 32, rank=2)
    write_adapter(tmp_path, tensors, rank_pattern={second: 2}, alpha_pattern={"layers.1.self_attn.q_proj": 10})
    adapter = read_adapter(tmp_path)
    assert adapter.alphas == {first: 32, second: 10}
    tuned = attach_adapter(model, adapter)
    assert tuned.get_submodule(PREFIX + first).scaling["default"] == 32 / 4
    assert tuned.get_submodule(PREFIX + second).scaling["default"] == 10 / 2


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("make", [qwen3_moe, qwen3_5, lambda: random_llama(100), lambda: gpt2(n_layer=2),
                                  lambda: random_llama(100, tie_word_embeddings=True)])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}])
def test_the_headers_say_of_every_linear_layer_what_the_loaded_model_says(tmp_path, make, options):
    model = make()
    found = base_modules(saved(model, tmp_path, **options))
    linear = linear_shapes(model)
    assert found is not None
    assert linear
    assert {name: found.get(name) for name in linear} == linear


def gpt2(**changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_head=2, **changes))


def test_a_base_model_that_is_not_here_or_not_complete_cannot_be_compared(tmp_path, tokenizer):
    assert base_modules("somebody/a-model-that-is-not-here") is None
    assert base_modules(tmp_path) is None
    assert base_modules("../up") is None
    saved(random_llama(len(tokenizer)), tmp_path, max_shard_size="20KB")
    next(tmp_path.glob("model-00002*")).unlink()
    assert base_modules(tmp_path) is None


def test_a_model_in_the_hubs_cache_is_found_by_its_name(tmp_path, tokenizer, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    folder = tmp_path / "models--somebody--model"
    saved(random_llama(len(tokenizer)), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = base_modules("somebody/model")
    assert found is not None
    assert found[Q] == (32, 32)


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path, tokenizer):
    saved(random_llama(len(tokenizer)), tmp_path / "base", max_shard_size="20KB")
    index = tmp_path / "base" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(AdapterError, match="does not name safetensors files of its folder"):
        base_modules(tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, r"down_proj: the adapter was made for 48 -> 32 features, the base model has 48 -> 64"),
        ({"num_hidden_layers": 2}, r"no module 'model\.layers\.2\.mlp\.down_proj'"),
        ({"vocab_size": 90}, r"lm_head: the adapter was made for 32 -> 337 features, the base model has 32 -> 90"),
        ({"vocab_size": 90, "tie_word_embeddings": True}, r"lm_head: the adapter was made for 32 -> 337 features"),
    ],
)
def test_another_base_model_is_found_before_anything_is_written(tmp_path, tokenizer, changes, message):
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    made.mkdir()
    write_adapter(source, lora_tensors(random_llama(len(tokenizer)), head="model.unembed_tokens"))
    saved(random_llama(len(tokenizer), **changes), tmp_path / "base")
    with pytest.raises(AdapterError, match=message):
        convert_adapter(source, made, str(tmp_path / "base"))
    assert not list(made.iterdir())


def test_experts_for_another_number_of_experts_are_refused_from_the_headers(tmp_path):
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    made.mkdir()
    write_adapter(source, moe_checkpoint(qwen3_moe()))
    saved(qwen3_moe(num_experts=6), tmp_path / "base")
    with pytest.raises(AdapterError, match=r"a part of the experts \S+, but not \S+experts\.4\."):
        convert_adapter(source, made, str(tmp_path / "base"))
    assert not list(made.iterdir())


@pytest.fixture
def moe_adapter(tmp_path):
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    made.mkdir()
    write_adapter(source, moe_checkpoint(qwen3_moe()))
    return convert_adapter(source, made, "base").adapter


def test_experts_without_their_gate_have_no_place_in_the_model(tmp_path):
    tensors = {name: t for name, t in moe_checkpoint(qwen3_moe()).items() if ".w1." not in name}
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    made.mkdir()
    write_adapter(source, tensors)
    adapter = convert_adapter(source, made, "base").adapter
    with pytest.raises(AdapterError, match=r"but not \S+experts\.0\.gate_proj'.*together"):
        attach_adapter(qwen3_moe(), adapter)


def experts_of(tuned):
    return tuned.get_submodule(f"{PREFIX}model.layers.1.mlp.experts")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: experts_of(m).lora_B["default"].weight.data[3, 5].add_(1e-3), r"mlp\.experts\.lora_B\S+ differs"),
        (lambda m: experts_of(m).base_layer.lora_A["default"].weight.data.copy_(
            experts_of(m).base_layer.lora_A["default"].weight.data.flip(0)), r"base_layer\.lora_A\S+ differs"),
        (lambda m: experts_of(m).scaling.update(default=16.0), r"is scaled by 16\.0; lora_alpha / r is 8\.0"),
        (lambda m: m.get_submodule(PREFIX + Q).scaling.update(default=1.0), r"q_proj is scaled by 1\.0"),
        (lambda m: m.get_submodule(PREFIX + Q).lora_A["default"].weight.data.mul_(2), r"q_proj\.lora_A\S+ differs"),
        (lambda m: m.get_submodule(PREFIX + Q).lora_B.pop("default"), r"differ in 1 tensors, the first \S+q_proj"),
        (lambda m: m.base_model.disable_adapter_layers(), "the logits did not change"),
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_in_force_as_the_file_says_is_found(moe_adapter, damage, message):
    tuned = attach_adapter(qwen3_moe(), moe_adapter)
    check_in_force(tuned, moe_adapter)
    with torch.no_grad():
        damage(tuned)
    with pytest.raises(AdapterError, match=message):
        check_in_force(tuned, moe_adapter)


def test_the_loader_takes_a_mixture_of_experts_from_folders(tmp_path, tokenizer, moe_adapter):
    saved(qwen3_moe(), tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tuned, _ = ModelLoader(str(tmp_path / "base"), moe_adapter.folder).load()
    check_in_force(tuned, moe_adapter)


def test_an_adapter_changed_after_its_conversion_is_damaged(tmp_path):
    from src.adapters import MARKER

    write_adapter(tmp_path, halves(Q, 32, 32))
    (tmp_path / MARKER).write_text(json.dumps({"files": {"adapter_model.safetensors": "0" * 64}}))
    with pytest.raises(IntegrityError, match="is not what was converted"):
        read_adapter(tmp_path)


def test_encrypted_and_pickled_weights_are_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 32}))
    for name, message in (("adapter_model.safetensors.age", "is encrypted"), ("adapter_model.bin", "is a pickle")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(AdapterError, match=message):
            read_adapter(tmp_path)
        (tmp_path / name).unlink()


def test_a_tied_head_is_changed_with_a_warning_not_to_merge_it(tmp_path, tokenizer, caplog):
    model = random_llama(len(tokenizer), tie_word_embeddings=True)
    write_adapter(tmp_path, halves("lm_head", 32, len(tokenizer)))
    adapter = read_adapter(tmp_path)
    check_against_base(adapter, linear_shapes(model))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        states = model.model(ids).last_hidden_state
        weight = model.lm_head.weight + 32 / 4 * torch.mm(*(load_file(tmp_path / "adapter_model.safetensors")[
            f"{PREFIX}lm_head.lora_{half}.weight"] for half in "BA"))  # fmt: skip
        tuned = attach_adapter(model, adapter)
        torch.testing.assert_close(tuned(ids).logits, states @ weight.T, atol=1e-4, rtol=1e-4)
        assert torch.equal(tuned.get_base_model().model(ids).last_hidden_state, states)
    assert "never merge it" in caplog.text


def test_reading_back_gives_the_same_bytes(tmp_path):
    content = save(halves(Q, 32, 32))
    (tmp_path / "x").write_bytes(content)
    assert all(torch.equal(tensor, halves(Q, 32, 32)[name]) for name, tensor in read_tensors(tmp_path / "x").items())
