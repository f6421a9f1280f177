"""Hidden states equal those of one text at a time, from the model and from the cache."""

import numpy as np
import pytest
import torch

from src.adapters import read_adapter
from src.errors import DataError, ModelError
from src.models import HiddenStateExtractor
from src.models.extraction import capture, engine, packed, passes
from src.models.extraction.fingerprint import fingerprint
from src.models.extraction.packing import plan_batches
from src.models.loader import attach_adapter
from tests.conftest import lora_tensors, random_llama, write_adapter

TEXTS = [
    "What is the capital of France?",
    "Answer:",
    "12 345 6",
    "a longer text " * 9,
    "Answer:",
    "é 🙂 שלום \0",
]


def one_by_one(model, tokenizer, texts):
    """(n, blocks + 2, d): embeddings, every block before the final norm, and the state after it."""
    rows = []
    for text in texts:
        last_block = []
        hook = model.get_submodule("model.layers.2").register_forward_hook(
            lambda _m, _a, out, keep=last_block: keep.append(out if isinstance(out, torch.Tensor) else out[0])
        )
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = list(model(input_ids=ids, output_hidden_states=True).hidden_states)
        hook.remove()
        rows.append(torch.stack([s[0, -1] for s in [*states[:-1], last_block[0], states[-1]]]))
    return torch.stack(rows).float().numpy()


def test_states_equal_one_text_at_a_time_for_every_layer(model, tokenizer):
    expected = one_by_one(model, tokenizer, TEXTS)
    layers = ["embeddings", 0, 1, 2, "final_norm"]
    got = HiddenStateExtractor(model, tokenizer).extract(TEXTS, layers)
    assert got.dtype == np.float32
    assert got.shape == (6, 5, 32)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    middle = HiddenStateExtractor(model, tokenizer).extract(TEXTS, [1, -3])
    np.testing.assert_allclose(middle, expected[:, [2, 1]], atol=2e-5)


def test_nothing_above_the_highest_wanted_layer_is_computed(model, tokenizer):
    ran = []
    model.model.layers[2].register_forward_pre_hook(lambda *_: ran.append("block 2"))
    model.lm_head.register_forward_pre_hook(lambda *_: ran.append("head"))
    HiddenStateExtractor(model, tokenizer).extract(TEXTS, [0, 1])
    assert ran == []


def test_the_models_own_hooks_and_modes_are_left_as_they_were(model, tokenizer):
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all")
    with pytest.raises(ModelError):
        HiddenStateExtractor(model, tokenizer).extract(TEXTS, [7])
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == before


@pytest.mark.parametrize("side", ["left", "right"])
def test_order_padding_side_and_budget_do_not_matter(model, tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    extractor = HiddenStateExtractor(model, tokenizer)
    straight = extractor.extract(TEXTS, "all")
    np.testing.assert_allclose(extractor.extract(TEXTS[::-1], "all")[::-1], straight, atol=2e-5)
    np.testing.assert_allclose(extractor.extract(TEXTS, "all", token_budget=1), straight, atol=2e-5)


def test_bfloat16_stays_close_to_one_text_at_a_time(tokenizer):
    model = random_llama(len(tokenizer)).to(torch.bfloat16)
    expected = one_by_one(model, tokenizer, TEXTS)[:, 1:4]
    got = HiddenStateExtractor(model, tokenizer).extract(TEXTS, [0, 1, 2])
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 2e-2


def test_a_second_call_and_another_layer_subset_need_no_forward_pass(model, tokenizer, tmp_path, monkeypatch):
    extractor = HiddenStateExtractor(model, tokenizer)
    first = extractor.extract(TEXTS, [0, 1, 2], tmp_path)

    def no_forward(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(capture, "forward", no_forward)
    monkeypatch.setattr(packed, "forward", no_forward)
    np.testing.assert_array_equal(extractor.extract(TEXTS, [0, 1, 2], tmp_path), first)
    np.testing.assert_array_equal(extractor.extract(TEXTS[2:4], [2, 0], tmp_path), first[2:4][:, [2, 0]])


def test_only_what_is_missing_is_computed(model, tokenizer, tmp_path):
    extractor = HiddenStateExtractor(model, tokenizer)
    extractor.extract(TEXTS[:3], [1], tmp_path)
    tokens = [tokenizer(text)["input_ids"] for text in TEXTS]
    rows = engine.read_rows(model, tokens, layers=["block.1"], cache_dir=tmp_path, budget=1)
    assert rows.computed == 2  # the fifth text equals the second
    np.testing.assert_allclose(engine.as_array(rows.states), extractor.extract(TEXTS, [1]), atol=2e-5)


def test_a_killed_run_that_is_resumed_gives_the_same_bits(model, tokenizer, tmp_path, monkeypatch):
    texts = [f"{'word ' * (n % 7)}{n}" for n in range(60)]
    extractor = HiddenStateExtractor(model, tokenizer)
    whole = extractor.extract(texts, "all", tmp_path / "whole", token_budget=64)
    real, calls = passes.forward_packed, []

    def die_at_eighth(*args, **options):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(passes, "forward_packed", die_at_eighth)
    with pytest.raises(KeyboardInterrupt):
        extractor.extract(texts, "all", tmp_path / "killed", token_budget=64)
    assert list((tmp_path / "killed").rglob("*.safetensors"))
    monkeypatch.setattr(passes, "forward_packed", real)
    np.testing.assert_array_equal(extractor.extract(texts, "all", tmp_path / "killed", token_budget=64), whole)


def test_one_flipped_bit_anywhere_never_reaches_a_result(model, tokenizer, tmp_path, caplog):
    extractor = HiddenStateExtractor(model, tokenizer)
    expected = extractor.extract(TEXTS, [0, 1], tmp_path)
    (shard,) = tmp_path.glob("*/*.safetensors")
    intact = shard.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(0, 300, 7), *rng.integers(300, len(intact), 60)]:
        data = bytearray(intact)
        data[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(data)
        np.testing.assert_array_equal(extractor.extract(TEXTS, [0, 1], tmp_path), expected)
        shard.write_bytes(intact)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"torn", b"\x80\x04pickle"])
def test_a_torn_shard_is_set_aside_once(model, tokenizer, tmp_path, content, caplog):
    extractor = HiddenStateExtractor(model, tokenizer)
    expected = extractor.extract(TEXTS, [0], tmp_path)
    folder = next(tmp_path.glob("*/context.json")).parent
    (folder / f"{'0' * 32}.safetensors").write_bytes(content)
    np.testing.assert_array_equal(extractor.extract(TEXTS, [0], tmp_path), expected)
    assert (folder / f"{'0' * 32}.corrupt").exists()
    assert caplog.text.count("damaged") == 1
    extractor.extract(TEXTS, [0], tmp_path)
    assert caplog.text.count("damaged") == 1


def test_a_shard_of_a_newer_format_is_ignored_and_kept(model, tokenizer, tmp_path):
    from safetensors.torch import save_file

    extractor = HiddenStateExtractor(model, tokenizer)
    extractor.extract(TEXTS, [0], tmp_path)
    newer = next(tmp_path.glob("*/context.json")).parent / "new.safetensors"
    save_file({"keys": torch.zeros(1)}, newer, metadata={"format": "confprobe-states-9"})
    before = newer.read_bytes()
    extractor.extract(TEXTS, [0], tmp_path)
    assert newer.read_bytes() == before


def test_a_full_disk_is_said_once_and_the_run_goes_on(model, tokenizer, tmp_path, monkeypatch, caplog):
    extractor = HiddenStateExtractor(model, tokenizer)
    expected = extractor.extract(TEXTS, [0], token_budget=8)

    def full(*_):
        raise OSError(28, "No space left on device")

    from src import files

    extractor.extract(TEXTS[:1], [0], tmp_path)  # the folder and its context.json are there already
    monkeypatch.setattr(files, "write_pieces", full)
    np.testing.assert_allclose(extractor.extract(TEXTS, [0], tmp_path, token_budget=8), expected, atol=2e-5)
    assert caplog.text.count("No space left") == 1


def test_any_changed_number_of_a_model_makes_another_context():
    model = random_llama(5000, hidden_size=256, num_attention_heads=4, intermediate_size=64)
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.get_input_embeddings().weight[4321, 17] += 1e-3
    assert fingerprint(model) != before


def test_a_stored_buffer_counts_as_a_weight_and_one_that_is_made_anew_does_not():
    model = random_llama(50)
    before = fingerprint(model)
    model.register_buffer("made_anew", torch.ones(3), persistent=False)
    assert fingerprint(model) == before
    model.model.layers[0].register_buffer("layer_scalar", torch.ones(1))
    one = fingerprint(model)
    model.model.layers[0].layer_scalar.fill_(2.0)
    assert len({before["weights"], one["weights"], fingerprint(model)["weights"]}) == 3


def test_base_tuned_and_changed_weights_never_share_a_row(tokenizer, adapter_folder, tmp_path):
    plain = random_llama(len(tokenizer))
    base = fingerprint(plain)
    model = attach_adapter(random_llama(len(tokenizer)), read_adapter(adapter_folder))
    tuned = fingerprint(model)
    with model.disable_adapter():
        off = fingerprint(model)
    assert off == base  # the same base model, wrapped or not, does share
    assert tuned != base
    other = tmp_path / "other"
    other.mkdir()
    write_adapter(other, lora_tensors(plain, seed=2))
    assert fingerprint(attach_adapter(random_llama(len(tokenizer)), read_adapter(other))) != tuned
    rescaled = tmp_path / "rescaled"
    rescaled.mkdir()
    write_adapter(rescaled, lora_tensors(plain, head="lm_head"), lora_alpha=16)
    assert fingerprint(attach_adapter(random_llama(len(tokenizer)), read_adapter(rescaled))) != tuned
    assert fingerprint(random_llama(len(tokenizer), seed=5)) != base
    assert fingerprint(random_llama(len(tokenizer), rope_theta=5e5)) != base
    assert fingerprint(random_llama(len(tokenizer)).to(torch.bfloat16)) != base


def test_adapter_on_and_off_give_tuned_and_base_states(model, tokenizer, adapter_folder):
    expected_base = HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all")
    tuned_model = attach_adapter(model, read_adapter(adapter_folder))
    extractor = HiddenStateExtractor(tuned_model, tokenizer)
    tuned = extractor.extract(TEXTS, "all")
    with tuned_model.disable_adapter():
        np.testing.assert_array_equal(extractor.extract(TEXTS, "all"), expected_base)
    assert np.abs(tuned - expected_base).max() > 0.1


def test_batches_are_sorted_complete_and_within_the_budget():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, 300).tolist()
    batches = plan_batches(lengths, 200)
    assert sorted(np.concatenate(batches)) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 200
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat)
    assert plan_batches([5, 500], 100)[1].tolist() == [1]


@pytest.mark.parametrize(
    ("layers", "message"),
    [([3], "blocks 0 to 2"), ([-4], "blocks 0 to 2"), ([True], "out of range"), (["norm"], "Unknown layer"),
     ([0, -3], "twice"), ([], "No layers")],
)  # fmt: skip
def test_a_layer_the_model_does_not_have_is_named(model, tokenizer, layers, message):
    with pytest.raises(ModelError, match=message):
        HiddenStateExtractor(model, tokenizer).extract(TEXTS, layers)


@pytest.mark.parametrize("text", ["a\0b", "😀", "שלום עולם", "</s>", " ", "\n", "e\u0301"])
def test_unusual_text_is_read_like_any_other(model, tokenizer, text):
    extractor = HiddenStateExtractor(model, tokenizer)
    alone, beside = extractor.extract([text], "all"), extractor.extract([TEXTS[0], text], "all")[1:]
    np.testing.assert_allclose(alone, beside, rtol=1e-5, atol=2e-5)


def test_half_a_character_is_refused_by_index(model, tokenizer):
    with pytest.raises(DataError, match="Text 1 holds half of a surrogate pair"):
        HiddenStateExtractor(model, tokenizer).extract(["fine", "a\ud83d"], [0])


def test_empty_and_over_long_texts(model, tokenizer):
    extractor = HiddenStateExtractor(model, tokenizer)
    assert extractor.extract([], [0]).shape == (0, 1, 32)
    with pytest.raises(DataError, match="Text 1 is empty"):
        extractor.extract(["a", ""], [0])
    with pytest.raises(DataError, match="not one string"):
        extractor.extract("a text", [0])
    long = " ".join("Paris" for _ in range(400))
    with pytest.raises(DataError, match=r"1 of 2 texts exceed the model's 256 tokens \(the first is text 1"):
        extractor.extract(["a", long], [0])
    ids = tokenizer(long)["input_ids"]
    kept = {"left": ids[:1] + ids[-255:], "right": ids[:256]}
    for side, expected in kept.items():
        got = extractor.extract([long], [0], truncation=side)
        rows = engine.read_rows(model, [expected], layers=["block.0"])
        np.testing.assert_array_equal(got, engine.as_array(rows.states))
