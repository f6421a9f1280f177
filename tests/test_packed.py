"""Packed passes equal one text at a time, for every family; what cannot be packed says why and is right as well."""

import copy
import itertools
import logging
import random

import numpy as np
import pytest
import torch

from src.models.extraction import passes
from src.models.extraction.engine import as_array, read_rows
from src.models.extraction.layers import anatomy, layer_names
from src.models.extraction.packing import LEAST_SAVED, plan_packs

SMALL = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 2048, "initializer_range": 0.3,
        "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
PACKED = {
    "Llama": SMALL, "Qwen2": SMALL, "Qwen3": SMALL | {"head_dim": 8}, "Mistral": SMALL | {"sliding_window": 24},
    "GPTNeoX": {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}, "GPT2": GPT2,
    "Qwen3Moe": SMALL | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "Phi3": SMALL, "OPT": None, "Olmo2": SMALL, "Gemma3": SMALL | {"head_dim": 8, "sliding_window": 24},
}  # fmt: skip
PADDED = {
    "Gemma2": (SMALL | {"head_dim": 8, "sliding_window": 512}, "softcap"),
    "GptOss": (SMALL | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, "s_aux"),
    "DeepseekV3": (
        SMALL | {"num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
                 "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 3},
        "its values are 8 wide, and its queries 12",
    ),
    "Mamba": ({"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}, "interface"),
}  # fmt: skip
LAYERS = ("embeddings", "block.0", "block.2", "final_norm")


def build(family, settings, dtype=torch.float32, *, seed=0):
    import transformers

    name = "Gemma3Text" if family == "Gemma3" else family
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**settings)
    head = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, head)(config).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases that are all alike hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts(n=24, seed=0, longest=60):
    """Token ids of mixed lengths, some of one length, one of a single token."""
    rng = random.Random(seed)
    sizes = [1, 5, 5, 5] + [rng.randint(2, longest) for _ in range(n - 4)]
    return list(dict.fromkeys(tuple(rng.randrange(3, 120) for _ in range(size)) for size in sizes))


def with_beginnings(seed=0):
    """Three groups that share long beginnings, one beginning inside another, and some texts of their own."""
    rng = random.Random(seed)
    outer, other = (tuple(rng.randrange(3, 120) for _ in range(size)) for size in (200, 300))
    inner = outer + tuple(rng.randrange(3, 120) for _ in range(150))
    groups = [beginning + own for beginning in (outer, other, inner) for own in texts(8, rng.random())]
    return [*groups, *texts(5, 9)]


def alone(model, sequences, layers, candidates):
    """The plainest way there is: transformers' own outputs, one text at a time."""
    blocks = anatomy(model).blocks
    rows, scores = [], []
    for ids in sequences:
        raw = []
        handles = [block.register_forward_hook(lambda _m, _i, out, raw=raw: raw.append(out)) for block in blocks]
        with torch.no_grad():
            output = model(input_ids=torch.tensor(ids)[None], output_hidden_states=True)
        for handle in handles:
            handle.remove()
        states = {"embeddings": output.hidden_states[0], "final_norm": output.hidden_states[-1]}
        states |= {f"block.{n}": out[0] if isinstance(out, tuple) else out for n, out in enumerate(raw)}
        rows.append(np.stack([states[layer][0, -1].float().numpy() for layer in layers]))
        scores.append(output.logits[0, -1].float().log_softmax(-1)[list(candidates)].numpy())
    return np.array(rows), np.array(scores)


def assert_same(found, expected, *, atol=5e-5):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=atol)
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (found, expected))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() >= 0.999999


@pytest.fixture(autouse=True)
def notices(caplog):
    caplog.set_level(logging.INFO, logger="src.models.extraction")
    return caplog


@pytest.mark.parametrize("family", [family for family in PACKED if PACKED[family]])
def test_packed_states_and_probabilities_equal_one_text_at_a_time(family, notices):
    model = build(family, PACKED[family])
    for sequences, layers, candidates in (
        (texts(), LAYERS, (5, 7)),
        (texts(), ("block.1",), ()),
        (texts(), ("embeddings",), ()),
        (with_beginnings(), LAYERS[1:3], ()),
        (with_beginnings(), ("block.0", "block.1"), (5, 7)),
    ):
        rows = read_rows(model, sequences, layers=layers, candidates=candidates, budget=300)
        expected, scores = alone(model, sequences, layers, candidates)
        assert_same(as_array(rows.states), expected)
        if candidates:
            np.testing.assert_allclose(rows.log_probabilities.numpy(), scores, rtol=1e-4, atol=1e-4)
    assert "padded path" not in notices.text


@pytest.mark.parametrize("family", list(PADDED))
def test_what_cannot_be_packed_says_why_once_and_is_right(family, notices):
    settings, reason = PADDED[family]
    model = build(family, settings)
    rows = read_rows(model, texts(), layers=("block.1", "block.2"), budget=300)
    assert_same(as_array(rows.states), alone(model, texts(), ("block.1", "block.2"), ())[0])
    assert notices.text.count("takes the padded path") == 1
    assert reason in notices.text


@pytest.mark.parametrize("family", [family for family in PACKED if PACKED[family]])
def test_an_adapter_is_packed_too_active_disabled_and_switched(family, notices):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        build(family, PACKED[family]),
        LoraConfig(r=4, lora_alpha=32, target_modules=r".*\.(q_proj|v_proj|o_proj|down_proj|query_key_value|dense|"
                   r"dense_h_to_4h|c_attn|c_fc|c_proj|qkv_proj)", fan_in_fan_out=family == "GPT2"),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)  # .2 makes rounding grow to 3e-4, one text at a time too
    sequences = with_beginnings()
    found = {}
    for state, context in (("on", None), ("off", model.disable_adapter)):
        with context() if context else torch.no_grad():
            rows = as_array(read_rows(model, sequences, layers=("block.1", "block.2"), budget=300).states)
            assert_same(rows, alone(model, sequences, ("block.1", "block.2"), ())[0])
            found[state] = rows
    assert np.abs(found["on"] - found["off"]).max() > 1
    assert "padded path" not in notices.text


def test_in_bfloat16_packing_changes_nothing_and_sharing_is_as_exact_as_one_text_at_a_time():
    model = build("Llama", SMALL | {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.06},
                  torch.bfloat16)  # fmt: skip
    exact = copy.deepcopy(model).float()

    def error(found, expected):
        return np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)

    found, single = packed_and_alone(model, texts())
    assert error(found, single).max() <= 2e-3
    found, single = packed_and_alone(model, with_beginnings())
    truth, _ = alone(exact, with_beginnings(), ("block.1",), ())
    assert np.median(error(found, truth)) <= 1.1 * np.median(error(single, truth))
    assert error(found, truth).max() <= 1.5 * error(single, truth).max()


@pytest.mark.parametrize("seed", range(6))
def test_in_bfloat16_texts_are_packed_where_next_tokens_are_wanted_too(seed, notices):
    """Log-probabilities are float32, and as coarse as the states that they come from."""
    model = build("Llama", SMALL | {"hidden_size": 256, "initializer_range": 0.06}, torch.bfloat16, seed=seed)
    read_rows(model, texts(seed=seed), layers=("block.1",), candidates=(5, 7, 9, 11), budget=300)
    assert "padded path" not in notices.text


def packed_and_alone(model, sequences):
    found = as_array(read_rows(model, sequences, layers=("block.1",), budget=300).states)
    return found, alone(model, sequences, ("block.1",), ())[0]


def test_the_model_is_left_as_it_was_even_after_an_error(monkeypatch):
    model = build("Llama", SMALL)
    before = model.config._attn_implementation
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    read_rows(model, texts(), layers=("block.1",))

    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("src.models.extraction.attention.scaled_dot_product_attention", broken)
    with pytest.raises(KeyboardInterrupt):
        read_rows(model, texts(), layers=("block.1",))
    assert model.config._attn_implementation == before
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_a_kernel_that_is_wrong_is_noticed_and_not_used(monkeypatch, notices):
    model = build("Llama", SMALL)
    real = passes.forward_packed
    monkeypatch.setattr(
        passes, "forward_packed", lambda *a, **k: {name: value + 1 for name, value in real(*a, **k).items()}
    )
    rows = read_rows(model, texts(), layers=("block.1",))
    assert_same(as_array(rows.states), alone(model, texts(), ("block.1",), ())[0])
    assert "packed and single states of block.1 differ" in notices.text


def varlen_as_documented(
    query, key, value, begins, ends, _most_q, _most_k, *, return_aux, scale, window_size, enable_gqa
):
    """What torch's documentation says of its GPU kernel: each text alone, causal ones aligned at their ends."""
    assert return_aux.lse
    assert enable_gqa == (key.shape[1] != query.shape[1])
    group = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    found, sums = [], []
    for (a, b), (c, d) in zip(itertools.pairwise(begins.tolist()), itertools.pairwise(ends.tolist()), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[a:b], key[c:d]) * (scale or query.shape[-1] ** -0.5)
        place = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        behind = place - torch.arange(d - c)[None]
        left, right = window_size
        seen = (behind >= (0 if right == 0 else -(10**6))) & (behind <= (left if left >= 0 else 10**6))
        scores = scores.masked_fill(~seen, -torch.inf)
        found.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[c:d]))
        sums.append(scores.logsumexp(-1))
    return torch.cat(found), torch.cat(sums, dim=1)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "GPT2", "Qwen3"])
def test_what_is_asked_of_the_gpu_kernel_is_what_is_wanted(family, monkeypatch, notices):
    """The kernel itself needs a GPU; what it is given and what is made of its answer does not."""
    from torch.nn.attention import varlen as kernel

    from src.models.extraction import varlen

    asked = []
    monkeypatch.setattr(varlen, "has_kernel", lambda _: asked.append(1) or True)
    monkeypatch.setattr(kernel, "varlen_attn", varlen_as_documented)
    model = build(family, PACKED[family])
    for sequences, layers, candidates in (
        (texts(), LAYERS, (5, 7)),
        (with_beginnings(), ("block.0", "block.1"), ()),
        (with_beginnings(), LAYERS, (5,)),
    ):
        rows = read_rows(model, sequences, layers=layers, candidates=candidates, budget=300)
        assert_same(as_array(rows.states), alone(model, sequences, layers, candidates)[0])
    assert asked
    assert "padded path" not in notices.text


@pytest.mark.filterwarnings("ignore")
def test_in_8_bit_a_state_does_not_depend_on_the_other_texts_even_with_outlier_channels(tmp_path, notices):
    """The kernel quantises a whole batch by its largest numbers: two loud channels move plain batches by per cents."""
    pytest.importorskip("bitsandbytes")
    from src.models import ModelLoader
    from tests.conftest import random_llama

    model = random_llama(120, hidden_size=128, intermediate_size=256, initializer_range=0.1)
    with torch.no_grad():
        for block in model.model.layers:
            block.input_layernorm.weight[:2] *= 12
    model.save_pretrained(tmp_path)
    loader = ModelLoader(str(tmp_path), quantization="8bit")
    loader.tokenizer = lambda: None
    small, _ = loader.load()
    sequences = texts(16)
    found = as_array(read_rows(small, sequences, layers=("block.1",)).states)[:, 0]
    single = alone(small, sequences, ("block.1",), ())[0][:, 0]
    np.testing.assert_array_equal(found, single)
    np.testing.assert_array_equal(as_array(read_rows(small, sequences[::-1][:5], layers=("block.1",)).states)[:, 0],
                                  single[::-1][:5])  # fmt: skip
    assert "8bit kernels let the texts of a pass influence each other" in notices.text


class TestPlan:
    def test_every_text_is_packed_once_within_the_budget_and_shares_what_is_said(self):
        for seed in range(20):
            sequences = list(dict.fromkeys(with_beginnings(seed)))
            random.Random(seed).shuffle(sequences)
            packs = plan_packs(sequences, 256)
            assert sorted(row for pack in packs for row in pack.rows) == list(range(len(sequences)))
            for pack in packs:
                own = [len(sequences[row]) - pack.shared for row in pack.rows]
                assert own == sorted(own)
                assert own[0] >= 1
                assert sum(own) <= 256 or len(own) == 1
                assert len({sequences[row][: pack.shared] for row in pack.rows}) == 1

    def test_fifty_seven_subjects_share_their_own_shots(self):
        rng = random.Random(0)
        shots = [tuple(rng.randrange(100) for _ in range(400)) for _ in range(57)]
        sequences = [shot + tuple(rng.randrange(100) for _ in range(rng.randint(30, 60)))
                     for shot in shots for _ in range(20)]  # fmt: skip
        packs = plan_packs(sequences, 4096)
        computed = sum(len(sequences[row]) - pack.shared for pack in packs for row in pack.rows)
        beginnings = {sequences[pack.rows[0]][: pack.shared] for pack in packs}
        assert len(beginnings) == 57
        assert computed + sum(map(len, beginnings)) < 0.2 * sum(map(len, sequences))

    def test_a_beginning_that_saves_little_is_not_worth_a_pass(self):
        few = [(1, 2, 3, 4, n) for n in range(10)]
        assert [pack.shared for pack in plan_packs(few, 4096)] == [0]
        many = [(1, 2, 3, 4, n) for n in range(LEAST_SAVED)]
        assert {pack.shared for pack in plan_packs(many, 4096)} == {4}

    def test_an_inner_beginning_is_taken_where_it_saves_more(self):
        outer = tuple(range(100))
        inner = [(*outer, *range(200, 1200), n) for n in range(5)]
        outside = [(*outer, 300 + n) for n in range(3)]
        shared = {pack.shared for pack in plan_packs([*inner, *outside], 4096)}
        assert shared == {1100, 0}

    def test_the_order_of_the_texts_does_not_matter(self):
        sequences = with_beginnings()
        packs = {frozenset(sequences[row] for row in pack.rows) for pack in plan_packs(sequences, 256)}
        mixed = sequences[::-1]
        assert {frozenset(mixed[row] for row in pack.rows) for pack in plan_packs(mixed, 256)} == packs


def test_layer_names_used_here_are_the_librarys():
    assert set(itertools.chain(layer_names("all", 3), ("embeddings", "final_norm"))) >= set(LAYERS)


def test_where_there_is_no_room_to_compare_the_padded_path_is_taken(monkeypatch, notices):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(passes, "shared_beginning", full)
    model = build("Llama", SMALL)
    rows = read_rows(model, texts(), layers=("block.1",), budget=300)
    assert_same(as_array(rows.states), alone(model, texts(), ("block.1",), ())[0])
    assert "memory is too full to compare" in notices.text
