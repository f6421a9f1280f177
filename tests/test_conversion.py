"""A checkpoint of each family becomes an adapter that does what its tensors say, or is refused by the tensor's name."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.adapters import read_adapter
from src.errors import AdapterError
from src.models.loader import attach_adapter
from src.tinker.convert import convert_adapter
from tests.tiny_models import (
    PREFIX,
    expert_halves,
    halves,
    log_probabilities,
    merge,
    moe_checkpoint,
    qwen3_5,
    qwen3_5_checkpoint,
    qwen3_moe,
)

CONFIG = {"r": 4, "lora_alpha": 32, "target_modules": "all-linear"}
Q, K, GATE = (f"model.layers.0.{leaf}" for leaf in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj"))


@pytest.fixture
def convert(tmp_path):
    """Tensors and settings -> the conversion, in a new folder."""

    def run(tensors, config=CONFIG, *, base="a-base-that-is-not-here", **options):
        source, made = tmp_path / "checkpoint", tmp_path / "adapter"
        source.mkdir()
        made.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source / "adapter_model.safetensors")
        if config is not None:
            (source / "adapter_config.json").write_text(json.dumps(config))
        return convert_adapter(source, made, str(base), **options)

    return run


def settings(conversion):
    return json.loads((conversion.adapter.folder / "adapter_config.json").read_text())


def same_as_by_hand(tuned, make, tensors, scale):
    """Whether an adapter in force equals W + scale · B A in every weight, and differs from the base model."""
    base, expected = (log_probabilities(model) for model in (make(), merge(make(), tensors, scale)))
    torch.testing.assert_close(log_probabilities(tuned), expected, atol=1e-5, rtol=0)
    assert float((expected - base).abs().max()) > 0.1
    with tuned.disable_adapter():
        torch.testing.assert_close(log_probabilities(tuned), base, atol=1e-6, rtol=0)
    return True


def test_experts_with_a_shared_half_do_what_a_merge_by_hand_does(convert):
    tensors = moe_checkpoint(qwen3_moe())
    tuned = attach_adapter(qwen3_moe(), convert(tensors).adapter)
    assert same_as_by_hand(tuned, qwen3_moe, tensors, 32 / 4)


def test_linear_attention_is_fused_to_what_a_merge_by_hand_does(convert):
    tensors = qwen3_5_checkpoint(qwen3_5())
    made = convert(tensors, CONFIG | {"lora_alpha": 8})
    assert same_as_by_hand(attach_adapter(qwen3_5(), made.adapter), qwen3_5, tensors, 8 / 4)
    assert settings(made)["rank_pattern"] == {"in_proj_qkv": 12}
    assert settings(made)["alpha_pattern"] == {"in_proj_qkv": 24}


@pytest.mark.parametrize("vision_in_the_file", [True, False])
def test_one_adapter_serves_the_class_with_vision_and_the_one_without(convert, tmp_path, vision_in_the_file):
    base = qwen3_5(vision=vision_in_the_file)
    base.save_pretrained(tmp_path / "base")
    tensors = qwen3_5_checkpoint(qwen3_5())
    made = convert(tensors, CONFIG | {"lora_alpha": 8}, base=tmp_path / "base")
    assert made.base_checked
    inside = any("model.language_model.layers" in module for module in made.adapter.modules)
    assert inside == vision_in_the_file  # as the base model's own files say
    for vision in (True, False):
        tuned = attach_adapter(qwen3_5(vision=vision), made.adapter)
        assert same_as_by_hand(tuned, lambda vision=vision: qwen3_5(vision=vision), tensors, 8 / 4)


def per_expert(tensors):
    """The same updates under Hugging Face's names: a pair for every expert."""
    leaves = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    named = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".experts.")
        if not rest:
            named[name.replace("model.unembed_tokens", "lm_head")] = tensor
            continue
        leaf, _, half = rest.partition(".")
        for expert in range(4):
            row = tensor[expert if len(tensor) > 1 else 0]
            named[f"{group}.experts.{expert}.{leaves[leaf]}.{half}"] = row.clone()
    return named


def test_tinkers_names_and_hugging_faces_give_the_same_files(convert, tmp_path):
    tensors = moe_checkpoint(qwen3_moe())
    first = convert(tensors)
    found = load_file(first.adapter.folder / "adapter_model.safetensors")
    expected = per_expert(tensors)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for folder in ("checkpoint", "adapter"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-of-tinker")
    second = convert(expected)
    again = load_file(second.adapter.folder / "adapter_model.safetensors")
    assert set(again) == set(found)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert settings(second) == settings(first)


def test_a_half_that_no_expert_shares_is_taken_apart_too(convert):
    group = "model.layers.0.mlp.experts"
    pair = expert_halves(group, "w2", 24, 32)
    own = {name: tensor.expand(4, -1, -1) * torch.arange(1, 5)[:, None, None] for name, tensor in pair.items()}
    made = load_file(convert(own).adapter.folder / "adapter_model.safetensors")
    for expert in range(4):
        for half in "AB":
            found = made[f"{PREFIX}{group}.{expert}.down_proj.lora_{half}.weight"]
            assert torch.equal(found, own[f"{PREFIX}{group}.w2.lora_{half}.weight"][expert])


def test_experts_of_another_rank_load_where_the_file_says_so(convert):
    tensors = moe_checkpoint(qwen3_moe(), expert_rank=2)
    made = convert(tensors, CONFIG | {"rank_pattern": {"w1": 2, "w2": 2, "w3": 2}})
    assert settings(made)["r"] == 2
    assert settings(made)["rank_pattern"] == dict.fromkeys(("k_proj", "lm_head", "o_proj", "q_proj", "v_proj"), 4)
    tuned = attach_adapter(qwen3_moe(), made.adapter)
    by_rank = merge(merge(qwen3_moe(), only(tensors, "experts"), 32 / 2), without(tensors, "experts"), 32 / 4)
    torch.testing.assert_close(log_probabilities(tuned), log_probabilities(by_rank), atol=2e-5, rtol=0)


def only(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if part in name}


def without(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def test_attention_of_gpt_oss_gets_its_name(convert):
    tensors = halves("model.layers.3.attn.q_proj", 32, 64)
    assert list(convert(tensors).adapter.modules) == ["model.layers.3.self_attn.q_proj"]


def test_dtype_and_bits_of_a_half_are_kept(convert):
    tensors = {name: tensor.bfloat16() for name, tensor in halves(Q, 32, 32).items()}
    made = load_file(convert(tensors).adapter.folder / "adapter_model.safetensors")
    assert all(made[name].dtype == torch.bfloat16 and torch.equal(made[name], tensors[name]) for name in tensors)


def expert(leaf, a, b):
    return {f"{PREFIX}model.layers.0.mlp.experts.{leaf}.lora_A.weight": torch.ones(a),
            f"{PREFIX}model.layers.0.mlp.experts.{leaf}.lora_B.weight": torch.ones(b)}  # fmt: skip


def split(*leaves, ranks=(4, 4, 4)):
    pairs = [halves(f"model.layers.0.linear_attn.in_proj_{leaf}", 32, 16, rank=r)
             for leaf, r in zip(leaves, ranks, strict=False)]  # fmt: skip
    return {name: tensor for pair in pairs for name, tensor in pair.items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (expert("w1", (1, 4, 32), (1, 24, 4)), r"w1\.lora_A\S+ has shape \(1, 4, 32\).*which expert is not clear"),
        (expert("w1", (2, 4, 32), (3, 24, 4)), r"w1\.lora_A\S+ has shape \(2, 4, 32\).*\(3, 24, 4\)"),
        (expert("w3", (1, 4, 0), (0, 0, 4)), r"w3\.lora_A\S+ has shape"),
        (expert("w1", (1, 4, 32), (4, 24, 5)), r"experts\.w1: .*ranks 4 and 5 differ"),
        (expert("w1", (4, 32), (24, 4)), r"experts\.w1\.lora_A\.weight' of shape \(4, 32\) is not understood"),
        (expert("w4", (1, 4, 32), (4, 24, 4)), r"experts\.w4\.lora_A\.weight' .* is not understood"),
        ({f"{PREFIX}{Q}.lora_A.weight": torch.ones(2, 4, 32)}, r"q_proj\.lora_A\.weight' of shape \(2, 4, 32\)"),
        (split("q", "v"), r"in_proj_q\.lora_A\.weight is there, but no in_proj_k"),
        (split("q", "k", "v", ranks=(4, 4, 2)), r"in_proj_\w\.\S+ and the other parts .* differ in rank"),
        (split("q", "k", "v") | halves("model.layers.0.linear_attn.in_proj_qkv", 32, 48), "would both change"),
        (halves("model.layers.0.self_attn.kv_b_proj", 32, 32), "kv_b_proj"),
        (halves("model.embed_tokens", 64, 32), "embed_tokens"),
        (halves("backbone.layers.0.mixer.gate_proj", 32, 32), "backbone"),
        ({f"{PREFIX}{Q}.lora_embedding_A.weight": torch.ones(4, 32)}, "lora_embedding_A"),
        ({f"{PREFIX}{Q}.lora_A.default.weight": torch.ones(4, 32)}, "Unexpected tensor .*default"),
        ({name.removeprefix(PREFIX): t for name, t in halves(Q, 32, 32).items()},
         r"'model\.layers\.0\S+' .*names such as base_model\.model\.model\.layers\.0"),
        (halves(Q, 32, 32) | {f"{PREFIX}{K}.lora_B.weight": torch.ones(32, 4)}, r"k_proj\.lora_A\.weight is missing"),
        ({name: torch.ones(4, 4, dtype=torch.int32) for name in halves(Q, 4, 4)}, "q_proj.* has dtype 'I32'"),
        ({name: torch.full_like(t, float("inf")) for name, t in halves(Q, 4, 4).items()}, r"q_proj\S+ holds NaN"),
        ({name: torch.ones(0, 0) for name in halves(Q, 4, 4)}, "ranks 0 and 0 differ"),
        ({}, "holds no tensors"),
        (halves("model.layers.0.attn.q_proj", 32, 32) | expert("w2", (4, 4, 24), (1, 32, 4)), "experts of gpt-oss"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_the_tensors_name(convert, tmp_path, tensors, message):
    with pytest.raises(AdapterError, match=message):
        convert(tensors)
    assert not list((tmp_path / "adapter").iterdir())


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3.1", "moonshotai/Kimi-K2-Thinking"])
def test_families_that_tinker_only_merges_are_refused(convert, name):
    with pytest.raises(AdapterError, match="only merge"):
        convert(halves(Q, 32, 32), base=name)


def test_a_llama_that_deepseek_distilled_is_a_llama(convert):
    assert convert(halves(Q, 32, 32), base="deepseek-ai/DeepSeek-R1-Distill-Llama-8B").adapter.effective


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8}, r"q_proj\S+: the tensors have rank 4, adapter_config\.json says 8"),
        ({"r": 4, "rank_pattern": {"q_proj": 8}}, r"q_proj\S+: the tensors have rank 4, adapter_config\.json says 8"),
        ({"r": "4"}, "r='4'"),
        ({"r": 4, "rank_pattern": {"(a+)+$": 4}}, r"rank_pattern .* names '\(a\+\)\+\$', which is no module"),
        ({"r": 4, "alpha_pattern": {".*q_proj": 16}}, r"alpha_pattern .* names '\.\*q_proj', which is no module"),
        ({"r": 4, "alpha_pattern": {"q_proj": -1}}, "numbers above 0"),
        ({"r": 4, "rank_pattern": {"q_proj": True}}, "numbers above 0"),
        ({"r": 4, "lora_alpha": 10**400}, "a number above 0 is needed"),
        ({"r": 4, "lora_alpha": "32"}, "a number above 0 is needed"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(convert, config, message):
    with pytest.raises(AdapterError, match=message):
        convert(halves(Q, 32, 32), {"lora_alpha": 32} | config)


def test_experts_of_an_unexplained_rank_are_refused_because_their_scale_is_not_known(convert):
    with pytest.raises(AdapterError, match=r"experts\.w1\.lora_A\.weight: the tensors have rank 2"):
        convert(moe_checkpoint(qwen3_moe(), expert_rank=2))


def test_ranks_that_differ_stand_in_the_pattern_by_name(convert):
    other = "model.layers.1.self_attn.q_proj"
    tensors = halves(Q, 32, 32) | halves(other, 32, 32, rank=2) | halves(K, 32, 16, rank=2)
    made = settings(convert(tensors))
    assert made["r"] == 4
    assert made["rank_pattern"] == {other: 2, "k_proj": 2}
    assert made["target_modules"] == ["k_proj", "q_proj"]


def test_ranks_that_differ_and_no_file_to_say_which_is_meant_are_refused(convert):
    with pytest.raises(AdapterError, match=r"the ranks \[2, 4\]"):
        convert(halves(Q, 32, 32) | halves(K, 32, 16, rank=2), None, lora_alpha=32)


def test_an_alpha_of_one_module_follows_it_to_its_new_name(convert):
    tensors = halves(Q, 32, 32) | halves("model.unembed_tokens", 32, 64)
    made = convert(tensors, CONFIG | {"alpha_pattern": {"unembed_tokens": 16}})
    assert made.adapter.alphas == {Q: 32, "lm_head": 16}
    assert settings(made)["alpha_pattern"] == {"lm_head": 16}


def test_parts_of_different_alpha_are_not_fused(convert):
    with pytest.raises(AdapterError, match=r"the parts of \S+in_proj_qkv different values, \[16, 32\]"):
        convert(split("q", "k", "v"), CONFIG | {"alpha_pattern": {"in_proj_k": 16}})


def test_an_alpha_that_is_missing_is_asked_for_given_or_assumed_aloud(convert, caplog, tmp_path):
    with pytest.raises(AdapterError, match=r"lora_alpha is not in adapter_config\.json.*Pass lora_alpha="):
        convert(halves(Q, 32, 32), {"r": 4})
    for options, source, alpha in (({"lora_alpha": 16}, "argument", 16), ({"assumed_alpha": 32}, "assumed", 32)):
        made = tmp_path / source
        made.mkdir()
        with caplog.at_level(logging.WARNING):
            converted = convert_adapter(tmp_path / "checkpoint", made, "a-base-that-is-not-here", **options)
        assert (converted.alpha_source, converted.adapter.config["lora_alpha"]) == (source, alpha)
        assert ("lora_alpha=32 is assumed" in caplog.text) == (source == "assumed")


def test_the_new_file_opens_with_safetensors_own_reader_and_says_its_origin(convert):
    made = convert(halves(Q, 32, 32))
    folder = made.adapter.folder
    assert set(load_file(folder / "adapter_model.safetensors")) == set(made.adapter.shapes)
    assert settings(made)["base_model_name_or_path"] == "a-base-that-is-not-here"
    assert read_adapter(folder).modules == {Q: (32, 32, 4)}
    assert not made.base_checked
