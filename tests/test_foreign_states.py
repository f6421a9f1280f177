"""States that another program read: whatever is off in them is named, and what is right comes out as if read here."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from src.errors import DataError, MissingFileError, ModelError
from src.models.extraction.engine import as_array, read_rows
from src.models.extractor import HiddenStateExtractor
from src.models.outside.states_file import read_states_file
from src.models.outside.states_folder import load_states, open_states
from src.models.outside.verifying import verify_states
from tests.conftest import random_llama

IDS = (0, 1, 2, 3)  # vLLM's numbers of what goes into each block of the random Llama of three, and of what comes out
NAMES = ("embeddings", "block.0", "block.1", "block.2")


@pytest.fixture(scope="module")
def llama():
    return random_llama(400)


@pytest.fixture(scope="module")
def requests():
    """Five of nine tokens and one of six, none of which begins like another."""
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(3, 400, (9 if i < 5 else 6,), generator=draw).tolist() for i in range(6)]


@pytest.fixture(scope="module")
def truth(llama, requests):
    """Of each request what transformers itself says, (layers, tokens, d), and what each feed-forward part adds."""
    added, last, found = [], [], []
    hooks = [block.mlp.register_forward_hook(lambda *args: added.append(args[2][0])) for block in llama.model.layers]
    # The last of transformers' states has the final norm; this is what it is before.
    hooks.append(llama.model.layers[-1].register_forward_hook(lambda *args: last.append(args[2][0])))
    for ids in requests:
        added.clear()
        with torch.no_grad():
            *streams, normed = llama.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        found.append((torch.stack([*(one[0] for one in streams), last[-1]]), normed[0], torch.stack(added)))
    for hook in hooks:
        hook.remove()
    return found


def write_vllm(folder, requests, states, *, dtype=torch.float32, ids=IDS, names=None):
    """As vLLM's connector writes them: states (layers, tokens, d) of each request."""
    folder.mkdir(exist_ok=True)
    for number, (tokens, one) in enumerate(zip(requests, states, strict=True)):
        name = names[number] if names else f"hs_{number}"
        content = {"hidden_states": one.transpose(0, 1).to(dtype).contiguous(), "token_ids": torch.tensor(tokens)}
        save_file(content, folder / f"{name}.safetensors")
    (folder / "layer_ids.json").write_text(json.dumps(list(ids)))
    return folder


def replaced(streams, layer, values):
    """The same states with other ones for one layer."""
    streams = streams.clone()
    streams[layer] = values
    return streams


# What was done to block.1 (column 2 of the file) -> how the sentence about it goes on.
FAULTS = {
    "one layer early": (lambda s, n, a: replaced(s, 2, s[1]), "holds the state of block.0: 1 layer too early"),
    "one layer late": (lambda s, n, a: replaced(s, 2, s[3]), "holds the state of block.2: 1 layer too late"),
    "the embeddings": (lambda s, n, a: replaced(s, 2, s[0]), "holds the state of embeddings: 2 layers too early"),
    "no residual": (lambda s, n, a: replaced(s, 2, a[1]), "holds only what the block's feed-forward part adds"),
    "only residual": (lambda s, n, a: replaced(s, 2, s[2] - a[1]), "holds the residual stream without what the block"),
    "increment": (lambda s, n, a: replaced(s, 2, s[2] - s[1]), "holds only what the block adds"),
    "next token": (lambda s, n, a: replaced(s, 2, s[2].roll(-1, 0)), "holds at each token the state of the next one"),
    "token before": (lambda s, n, a: replaced(s, 2, s[2].roll(1, 0)), "holds at each token the state of the one befo"),
    "first token": (lambda s, n, a: replaced(s, 2, s[2][:1]), "holds at every token the state of the first one"),
    "last token": (lambda s, n, a: replaced(s, 2, s[2][-1:]), "holds at every token the state of the last one"),
    "scaled": (lambda s, n, a: replaced(s, 2, 0.5 * s[2]), "holds its states times 0.5"),
    "the wrong way round": (lambda s, n, a: replaced(s, 2, -s[2]), "holds its states times -1"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_true_states_hold_whatever_they_are_stored_as(tmp_path, llama, requests, truth, dtype):
    found = verify_states(write_vllm(tmp_path / "s", requests, [s for s, _, _ in truth], dtype=dtype), llama)
    assert found.holds
    assert [(one.layer, one.verdict) for one in found.layers] == [(name, "holds") for name in NAMES]
    assert all(one.error < (1e-5 if dtype == torch.float32 else 2**-8) for one in found.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_known_fault_is_named_and_the_layers_without_it_hold(tmp_path, llama, requests, truth, fault, dtype):
    spoil, sentence = FAULTS[fault]
    spoilt = [spoil(*one) for one in truth]
    found = verify_states(write_vllm(tmp_path / "s", requests, spoilt, dtype=dtype), llama)
    by_layer = {one.layer: one for one in found.layers}
    assert not found.holds
    assert by_layer["block.1"].verdict == "named"
    assert by_layer["block.1"].sentence.startswith(f"block.1 {sentence}")
    assert {one.verdict for name, one in by_layer.items() if name != "block.1"} == {"holds"}


def test_the_final_norm_is_named_where_it_was_applied_and_where_it_was_not(tmp_path, llama, requests, truth):
    normed = verify_states(write_vllm(tmp_path / "a", requests, [replaced(s, 3, n) for s, n, _ in truth]), llama)
    assert "the final norm was applied" in normed.layers[3].sentence
    plain = write_vllm(tmp_path / "b", requests, [s for s, _, _ in truth], ids=(0, 1, 2, "final_norm"))
    assert "the final norm was not applied" in verify_states(plain, llama).layers[3].sentence
    right = write_vllm(tmp_path / "c", requests, [replaced(s, 3, n) for s, n, _ in truth], ids=(0, 1, 2, "final_norm"))
    assert verify_states(right, llama).layers[3].verdict == "holds"


def test_requests_that_were_swapped_are_named_with_whose_states_they_hold(tmp_path, llama, requests, truth):
    order = [0, 1, 4, 3, 2, 5]
    found = verify_states(write_vllm(tmp_path / "s", requests, [truth[i][0] for i in order]), llama)
    assert {one.verdict for one in found.layers} == {"named"}
    for pair in ("hs_2.safetensors has those of hs_4.safetensors", "hs_4.safetensors has those of hs_2.safetensors"):
        assert pair in found.layers[1].sentence


def test_states_that_nothing_explains_are_counted_and_placed(tmp_path, llama, requests, truth):
    spoilt = [s.clone() for s, _, _ in truth]
    spoilt[2][1, 4:6] = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    found = verify_states(write_vllm(tmp_path / "s", requests, spoilt), llama)
    assert [one.verdict for one in found.layers] == ["holds", "unknown", "holds", "holds"]
    assert "block.0 is off in 2 of 51 tokens" in found.layers[1].sentence
    assert "The first is token 4 of hs_2.safetensors" in found.layers[1].sentence


def test_scales_that_differ_between_requests_are_no_scale(tmp_path, llama, requests, truth):
    spoilt = [replaced(s, 2, (2 + number) * s[2]) for number, (s, _, _) in enumerate(truth)]
    found = verify_states(write_vllm(tmp_path / "s", requests, spoilt), llama)
    assert found.layers[2].verdict == "unknown"


def test_swapped_requests_do_not_hide_a_fault_of_another(tmp_path, llama, requests, truth):
    spoilt = [truth[i][0] for i in (1, 0, 2, 3, 4, 5)]
    spoilt[3] = replaced(spoilt[3], 2, 3 + spoilt[3][2])
    found = verify_states(write_vllm(tmp_path / "s", requests, spoilt), llama)
    assert [one.verdict for one in found.layers] == ["named", "named", "unknown", "named"]


def test_a_model_in_which_two_layers_are_the_same_is_not_guessed_about(tmp_path, requests):
    model = random_llama(400)
    with torch.no_grad():  # block 1 adds nothing, so what comes out of it is what went in
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    states = [_streams(model, ids) for ids in requests]
    found = verify_states(write_vllm(tmp_path / "a", requests, states), model)
    assert found.holds
    assert [one.verdict for one in found.layers] == ["holds", "undecided", "undecided", "holds"]
    assert "or it holds the state of block.0" in found.layers[2].sentence
    assert "cannot be told apart" in found.layers[2].sentence
    wrong = verify_states(write_vllm(tmp_path / "b", requests, [replaced(s, 3, s[2]) for s in states]), model)
    assert (wrong.holds, wrong.layers[3].verdict) == (False, "unknown")
    assert "block.0" in wrong.layers[3].sentence
    assert "block.1" in wrong.layers[3].sentence


@pytest.mark.parametrize(
    ("added", "dtype", "held"), [(1e-3, torch.bfloat16, 2), (1e-3, torch.bfloat16, 1), (1e-8, torch.float32, 1)]
)
def test_layers_that_differ_by_less_than_rounding_are_not_guessed_about(tmp_path, requests, added, dtype, held):
    model = random_llama(400)
    with torch.no_grad():  # block 1 adds next to nothing
        model.model.layers[1].self_attn.o_proj.weight.mul_(added)
        model.model.layers[1].mlp.down_proj.weight.mul_(added)
    states = [_streams(model, ids) for ids in requests]
    folder = write_vllm(tmp_path / "s", requests, [replaced(s, 2, s[held]) for s in states], dtype=dtype)
    assert verify_states(folder, model).layers[2].verdict == "undecided"


def test_layers_that_lie_within_the_tolerance_of_each_other_are_told_apart(tmp_path, requests):
    model = random_llama(400)
    with torch.no_grad():  # block 1 adds a few hundredths: less than bfloat16 may be off, more than it is
        model.model.layers[1].self_attn.o_proj.weight.mul_(0.02)
        model.model.layers[1].mlp.down_proj.weight.mul_(0.02)
    states = [_streams(model, ids) for ids in requests]
    assert max(float(((s[2] - s[1]).norm(dim=-1) / s[2].norm(dim=-1)).max()) for s in states) < 0.1
    right = verify_states(write_vllm(tmp_path / "a", requests, states, dtype=torch.bfloat16), model)
    assert {one.verdict for one in right.layers} == {"holds"}
    wrong = [replaced(s, 2, s[1]) for s in states]
    found = verify_states(write_vllm(tmp_path / "b", requests, wrong, dtype=torch.bfloat16), model).layers[2]
    assert found.verdict == "named"
    assert "holds the state of block.0" in found.sentence


def test_a_request_of_one_token_among_longer_ones_is_no_obstacle(tmp_path, llama, requests, truth):
    states = [*(s for s, _, _ in truth), _streams(llama, [7])]
    assert {
        one.verdict for one in verify_states(write_vllm(tmp_path / "s", [*requests, [7]], states), llama).layers
    } == {"holds"}


def test_a_decoder_without_a_head_is_compared_up_to_its_last_block(tmp_path, llama, requests, truth):
    folder = write_vllm(tmp_path / "a", requests, [s for s, _, _ in truth])
    assert verify_states(folder, llama.model).holds
    normed = write_vllm(tmp_path / "b", requests, [s for s, _, _ in truth], ids=(0, 1, 2, "final_norm"))
    with pytest.raises(DataError, match="does not show the state of final_norm"):
        verify_states(normed, llama.model)


def _streams(model, ids):
    names = list(NAMES)
    every = tuple((t, t) for t in range(len(ids)))
    return torch.from_numpy(as_array(read_rows(model, [ids], windows=[every], layers=names).states)).transpose(0, 1)


def test_one_request_of_one_token_decides_nothing_about_tokens(tmp_path, llama):
    found = verify_states(write_vllm(tmp_path / "s", [[7]], [_streams(llama, [7])]), llama)
    assert {one.verdict for one in found.layers} == {"undecided"}
    assert "the state of the first one" in found.layers[1].sentence


def test_of_a_long_request_both_ends_are_looked_at(tmp_path, llama):
    ids = torch.randint(3, 400, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    streams = _streams(llama, ids)
    assert verify_states(write_vllm(tmp_path / "s", [ids], [streams]), llama).tokens == 128
    for place in (3, 199):
        spoilt = streams.clone()
        spoilt[2, place] += 1
        found = verify_states(write_vllm(tmp_path / f"t{place}", [ids], [spoilt]), llama)
        assert f"The first is token {place} of" in found.layers[2].sentence


def test_swapped_neighbours_are_among_the_few_that_are_read_again(tmp_path, llama):
    draw = torch.Generator().manual_seed(8)
    requests = [torch.randint(3, 400, (5 + i // 2,), generator=draw).tolist() for i in range(16)]
    states = [_streams(llama, ids) for ids in requests]
    states[0], states[1] = states[1], states[0]
    names = [f"hs_{i:02}" for i in range(16)]
    found = verify_states(write_vllm(tmp_path / "s", requests, states, names=names), llama, rows=4)
    assert found.requests == ("hs_00.safetensors", "hs_01.safetensors", "hs_08.safetensors", "hs_09.safetensors")
    assert "hs_00.safetensors has those of hs_01.safetensors" in found.layers[1].sentence


def test_the_adapter_counts_as_it_is_switched(tmp_path, model_folder, adapter_folder, requests):
    from src.models import ModelLoader

    model, _ = ModelLoader(str(model_folder), adapter_folder).load()
    few = [[token % 300 for token in ids] for ids in requests]
    folder = write_vllm(tmp_path / "s", few, [_streams(model, ids) for ids in few])
    assert verify_states(folder, model).holds
    with model.disable_adapter():
        assert not verify_states(folder, model).holds


def test_another_models_states_are_refused(tmp_path, llama, requests, truth):
    folder = write_vllm(tmp_path / "s", requests, [s for s, _, _ in truth])
    with pytest.raises(DataError, match="have width 32, those of this model 16"):
        verify_states(folder, random_llama(400, hidden_size=16))
    with pytest.raises(ModelError, match=r"Layer 2 is out of range"):
        verify_states(folder, random_llama(400, num_hidden_layers=2))
    with pytest.raises(DataError, match="this model knows 50"):
        verify_states(folder, random_llama(50))
    with pytest.raises(DataError, match="has 9 tokens; this model takes 8"):
        verify_states(folder, random_llama(400, max_position_embeddings=8))
    with pytest.raises(DataError, match="rows is 0"):
        verify_states(folder, llama, rows=0)


# Reading


TEXTS = ["What is the capital of France?", "Which of these is the largest number?", "What is the capital"]


@pytest.mark.parametrize("position", ["last_prompt", "mean_prompt"])
@pytest.mark.parametrize("tool", ["vllm", "vllm-lens"])
def test_states_from_outside_are_those_that_the_extractor_reads(tmp_path, model, tokenizer, position, tool):
    for number, text in enumerate(TEXTS[::-1]):
        ids = tokenizer(text + " A", add_special_tokens=True)["input_ids"]  # files hold the answer as well
        streams = _streams(model, ids)[1:].contiguous()
        states = {
            "vllm": {"hidden_states": streams.transpose(0, 1).contiguous()},
            "vllm-lens": {"residual_stream": streams},
        }
        save_file(states[tool] | {"token_ids": torch.tensor(ids)}, tmp_path / f"{number}.safetensors")
    ids = [1, 2, 3] if tool == "vllm" else [0, 1, 2]
    found = load_states(tmp_path, TEXTS, [2, 0], tokenizer=tokenizer, position=position, layer_ids=ids)
    expected = HiddenStateExtractor(model, tokenizer).extract(TEXTS, [2, 0], position=position)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_text_that_no_file_begins_with_is_an_error_that_says_how_near_one_comes(tmp_path, model, tokenizer):
    ids = tokenizer(TEXTS[0])["input_ids"]
    write_vllm(tmp_path / "s", [ids], [_streams(model, ids)])
    with pytest.raises(DataError, match=r"begins with the tokens of 2 of 3 texts\. The first is text 1: of its"):
        load_states(tmp_path / "s", [TEXTS[0], TEXTS[1], "?"], [0], tokenizer=tokenizer)
    without = write_vllm(tmp_path / "t", [ids[1:]], [_streams(model, ids[1:])])
    with pytest.raises(DataError, match="the nearest file has the first 0"):
        load_states(without, TEXTS[:1], [0], tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"of its (\d+) tokens the nearest file has the first 9\."):
        open_states(tmp_path / "s").read([[*ids[:9], 399]], ["block.0"])


def test_a_layer_that_was_not_extracted_is_an_error(tmp_path, requests, truth):
    states = open_states(write_vllm(tmp_path / "s", requests, [s[1:3] for s, _, _ in truth], ids=(1, 2)))
    assert states.layers == ("block.0", "block.1")
    with pytest.raises(DataError, match=r"does not hold the states of block\.2: it has block\.0, block\.1"):
        states.read(requests, ["block.2"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_no_number_is_named_with_its_token_and_layer(tmp_path, llama, requests, truth, bad):
    spoilt = [s.clone() for s, _, _ in truth]
    spoilt[1][2, 7, 30] = bad
    folder = write_vllm(tmp_path / "s", requests, spoilt)
    with pytest.raises(DataError, match=r"hs_1\.safetensors: the state of token 7 in layer number 2 of the file"):
        verify_states(folder, llama)
    with pytest.raises(DataError, match="token 7 in layer number 2"):
        open_states(folder).read([requests[1][:8]], ["block.1"])


def test_fewer_states_than_tokens_name_the_prefix_cache(tmp_path):
    cut = {"hidden_states": torch.zeros(4, 2, 8), "token_ids": torch.arange(6)}
    save_file(cut, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"4 states for 6 tokens.*turn prefix caching"):
        read_states_file(tmp_path / "a.safetensors")
    save_file({"residual_stream": torch.zeros(2, 5, 8), "token_ids": torch.arange(6)}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"5 states for 6 tokens.*The last token that was generated"):
        read_states_file(tmp_path / "b.safetensors")


HOSTILE = {
    "another name": ({"states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2)}, "'states', 'token_ids'"),
    "one name more": (
        {"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2), "x": torch.zeros(1)}, "holds 'hidden_",
    ),
    "no tokens": ({"hidden_states": torch.zeros(2, 1, 4)}, "Of vLLM, hidden_states and token_ids are needed"),
    "two axes": ({"hidden_states": torch.zeros(2, 4), "token_ids": torch.arange(2)}, r"has shape \(2, 4\)"),
    "no layer": ({"hidden_states": torch.zeros(2, 0, 4), "token_ids": torch.arange(2)}, r"none of them 0"),
    "whole states": ({"hidden_states": torch.zeros(2, 1, 4).long(), "token_ids": torch.arange(2)}, "dtype 'I64'"),
    "broken tokens": ({"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.zeros(2)}, "token_ids is F32"),
    "square tokens": ({"hidden_states": torch.zeros(1, 1, 4), "token_ids": torch.zeros(1, 1).int()}, "is I32"),
    "negative token": ({"hidden_states": torch.zeros(1, 1, 4), "token_ids": torch.tensor([-1])}, "holds -1 to -1"),
    "huge token": ({"hidden_states": torch.zeros(1, 1, 4), "token_ids": torch.tensor([1 << 40])}, "no vocabulary has"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_not_what_the_tools_write_is_refused(tmp_path, case):
    content, message = HOSTILE[case]
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        read_states_file(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value)


def test_a_folder_of_that_name_is_no_file_and_one_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(DataError, match=r"holds no \.safetensors file"):
        open_states(tmp_path, layer_ids=[1])
    with pytest.raises(DataError, match=r"a\.safetensors cannot be read: Is a directory"):
        read_states_file(tmp_path / "a.safetensors")
    (tmp_path / "states").mkdir()
    save_file({"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2)}, tmp_path / "states/a.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_states("~/states", layer_ids=[1]).path == tmp_path / "states"


def test_two_files_of_the_same_tokens_must_agree_on_their_states(tmp_path):
    ids, states = torch.arange(5), torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    save_file({"hidden_states": states, "token_ids": ids}, tmp_path / "a.safetensors")
    save_file({"hidden_states": states * 1.01, "token_ids": ids}, tmp_path / "b.safetensors")
    assert len(open_states(tmp_path, layer_ids=[1, 2]).files) == 2
    save_file({"hidden_states": states * 5, "token_ids": ids}, tmp_path / "b.safetensors")
    with pytest.raises(
        DataError, match=r"a\.safetensors and b\.safetensors hold the same tokens, and states that .* 0\.8"
    ):
        open_states(tmp_path, layer_ids=[1, 2])


def test_a_torn_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"hidden_states": torch.ones(3, 2, 4), "token_ids": torch.arange(3)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.safetensors"):
            read_states_file(path)
    path.write_bytes(whole)
    one = read_states_file(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="torn"):
        dataclasses.replace(one, content=one.content).read(0, 2, [0, 1])


@pytest.mark.parametrize("other", [torch.zeros(2, 2, 4), torch.zeros(2, 1, 8), torch.zeros(2, 1, 4).bfloat16()])
def test_files_of_several_extractions_are_not_mixed(tmp_path, other):
    save_file({"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2)}, tmp_path / "a.safetensors")
    save_file({"hidden_states": other, "token_ids": torch.arange(2)}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="Keep one extraction in a folder"):
        open_states(tmp_path, layer_ids=[1])


@pytest.mark.parametrize(
    ("kept", "given", "message"),
    [
        (None, None, "do not say which layers they hold"),
        ("[1, 2]", None, "has 1 layers, and 2 layer ids are given"),
        ("[1]", [2], "given as \\[2\\], and"),
        ("{", None, "is not valid JSON"),
        ("{}", None, "holds a dict"),
        ("[" * 100_000, None, "is not valid JSON"),
        (" " * (1 << 20) + "[1]", None, "has 1,048,579 bytes"),
        (None, [-1], "are not a list of whole numbers"),
        (None, [True], "are not a list of whole numbers"),
        (None, [1.0], "are not a list of whole numbers"),
        (None, ["block.1"], "are not a list of whole numbers"),
        (None, [], "are not a list of whole numbers"),
        (None, [0, 0], "name a layer twice"),
    ],
)
def test_layer_ids_are_understood_or_refused(tmp_path, kept, given, message):
    save_file({"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2)}, tmp_path / "a.safetensors")
    if kept is not None:
        (tmp_path / "layer_ids.json").write_text(kept)
    with pytest.raises(DataError, match=message):
        open_states(tmp_path, layer_ids=given)


def test_a_name_that_would_move_the_cursor_is_refused(tmp_path):
    save_file({"hidden_states": torch.zeros(2, 1, 4), "token_ids": torch.arange(2)}, tmp_path / "a\x1b[2J.safetensors")
    with pytest.raises(DataError, match=r"a file called 'a\\x1b\[2J") as caught:
        open_states(tmp_path, layer_ids=[1])
    assert str(caught.value).isprintable()


def test_a_model_that_overflows_is_no_yardstick(tmp_path, requests, truth):
    model = random_llama(400)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"own state of block\.1 holds NaN or infinity"):
        verify_states(write_vllm(tmp_path / "s", requests, [s for s, _, _ in truth]), model)


def test_a_folder_without_states_is_an_error(tmp_path):
    with pytest.raises(MissingFileError, match="There is no folder"):
        open_states(tmp_path / "none", layer_ids=[1])
    with pytest.raises(DataError, match=r"holds no \.safetensors file"):
        open_states(tmp_path, layer_ids=[1])


def test_a_file_that_became_shorter_meanwhile_is_torn(tmp_path):
    from src.adapters.tensor_file import Entry
    from src.models.outside.states_file import _token_ids

    (tmp_path / "a").write_bytes(bytes(20))
    with pytest.raises(DataError, match="it is torn"):
        _token_ids(tmp_path / "a", Entry("I64", (3,), 0, 24))
