"""A confidence read while the model answers is the one that is read afterwards, from the same tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.data.scoring import mark
from src.errors import DataError, ModelError, ScoringError
from src.evaluation.selective import Promise
from src.models import HiddenStateExtractor, answer_choices, answer_freely
from src.models.answer_states import answer_states
from src.models.live import answer_live
from src.probes import Asking, ConfidenceModel, ModelIdentity, Origin, SavedProbe, TokenStates
from src.probes.attention import AttentionWeights
from src.probes.linear import ProbeWeights
from src.probes.mlp import MLPWeights
from tests.conftest import random_llama

FREE = "Question: {{ question }}\nAnswer:"
QUESTION, PROMPT = "What is 12 345?", "Question: What is 12 345?\nAnswer:"
CHOICE = "{{ question }}\n{% for letter, text in choices %}{{ letter }}. {{ text }}\n{% endfor %}Answer:"
POSITIONS = ["last_prompt", "first_answer", "last_answer", "mean_answer", "exact_answer_last", "chunk_ends"]
TOLERANCE = 3e-5  # of states between the engine's paths, see test_answer_states.py
FEW = Asking(template=FREE, max_new_tokens=12)


def probe_of(model, *, layer="block.1", position="last_answer", asking=FEW, **more):
    rng = np.random.default_rng(0)
    weights = ProbeWeights(rng.standard_normal(32) / 6, 0.1, rng.standard_normal(32) / 9, np.full(32, 1.5))
    return SavedProbe(weights, Origin(ModelIdentity.of(model), layer, position, asking), **more)


def live(model, tokenizer, **settings):
    return ConfidenceModel.from_pretrained(probe_of(model, **settings), model, tokenizer)


def ways_to_end(model, tokenizer):
    """How an answer ends: at the token limit, at a stop string (between and inside tokens), at an end token."""
    said = answer_freely(model, tokenizer, [PROMPT], max_new_tokens=12)
    tokens = [tokenizer.decode([token]) for token in said.answer_ids[0]]
    text = tokenizer.decode(said.answer_ids[0])
    inside = next(token for token in tokens[3:] if len(token) > 1 and token.isascii() and text.count(token[1:]) == 1)
    return {"limit": (), "between": (tokens[5],), "inside": (inside[1:],), "whole": (text[-1:],)}


@pytest.mark.parametrize("ending", ["limit", "between", "inside", "whole", "token"])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_live_confidence_is_the_offline_one(model, tokenizer, position, ending):
    stops = ways_to_end(model, tokenizer)
    if ending == "token":
        said = answer_freely(model, tokenizer, [PROMPT], max_new_tokens=12)
        model.generation_config.eos_token_id = [1, said.answer_ids[0][6]]
    asking = replace(FEW, stop=stops.get(ending, ()))
    offline = answer_freely(model, tokenizer, [PROMPT], stop=asking.stop, max_new_tokens=12)
    span = mark(offline.texts[0], "0", rule="exact").span
    states = answer_states(model, tokenizer, offline, ["block.1"], positions=[position], spans=[span])
    confident = live(model, tokenizer, position=position, asking=asking)
    answer = confident.ask(QUESTION)
    text, confidence = answer
    assert text == answer.text == offline.texts[0]
    assert confidence == answer.confidence
    assert answer.finished == offline.finished[0] == (ending != "limit")
    said = answer_live(model, tokenizer, PROMPT, "block.1", stop=asking.stop, max_new_tokens=12)
    assert said.answers.answer_ids == offline.answer_ids
    assert said.answers.log_probabilities == pytest.approx(offline.log_probabilities, abs=1e-5)
    np.testing.assert_allclose(said.state(tokenizer, position, span), states.hidden[:, 0, 0], atol=TOLERANCE)
    assert answer.confidence == pytest.approx(confident.probe.predict(states.hidden[:, 0, 0])[0], abs=TOLERANCE)


@pytest.mark.parametrize("ending", ["limit", "inside"])
def test_attention_is_paid_to_the_same_tokens_live_and_offline(model, tokenizer, ending):
    asking = replace(FEW, stop=ways_to_end(model, tokenizer)[ending])
    rng = np.random.default_rng(0)
    weights = AttentionWeights(
        rng.standard_normal(32) / 6, rng.standard_normal(32), 0.1, np.zeros(32), np.full(32, 1.5)
    )
    probe = SavedProbe(
        weights, Origin(ModelIdentity.of(model), "block.1", "attention_answer", asking, family="attention")
    )
    confident = ConfidenceModel.from_pretrained(probe, model, tokenizer)
    offline = answer_freely(model, tokenizer, [PROMPT], stop=asking.stop, max_new_tokens=12)
    tokens = answer_states(model, tokenizer, offline, ["block.1"], positions=(), every_token=True).tokens
    expected = probe.predict(TokenStates.of(tokens.hidden[:, 0], tokens.answer))
    assert confident.ask(QUESTION).confidence == pytest.approx(expected[0], abs=TOLERANCE)
    one = probe.predict(TokenStates.of(tokens.hidden[-1:, 0], np.zeros(1, dtype=int)))
    assert abs(one - expected)[0] > 1e-3


def test_a_saved_small_network_speaks_live(model, tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    weights = MLPWeights(
        rng.standard_normal((32, 64)),
        rng.standard_normal(64),
        rng.standard_normal(64) / 9,
        0.1,
        np.zeros(32),
        np.ones(32),
    )
    probe = SavedProbe(weights, Origin(ModelIdentity.of(model), "block.1", "last_prompt", FEW, family="mlp"))
    confident = ConfidenceModel.from_pretrained(probe.save_pretrained(tmp_path / "probe"), model, tokenizer)
    offline = HiddenStateExtractor(model, tokenizer).extract([PROMPT], ["block.1"])
    assert confident.ask(QUESTION).confidence == pytest.approx(probe.predict(offline)[0], abs=TOLERANCE)


@pytest.mark.parametrize("layer", ["embeddings", "block.0", "block.2", "final_norm"])
def test_every_layer_can_be_read_live(model, tokenizer, layer):
    offline = HiddenStateExtractor(model, tokenizer).extract([PROMPT], [layer])
    confident = live(model, tokenizer, layer=layer, position="last_prompt")
    assert confident.ask(QUESTION).confidence == pytest.approx(confident.probe.predict(offline)[0], abs=TOLERANCE)


@pytest.mark.parametrize("ending", ["limit", "inside"])
def test_there_is_one_pass_for_every_token_and_no_other(model, tokenizer, ending):
    stop = ways_to_end(model, tokenizer)[ending]
    kept = len(answer_live(model, tokenizer, PROMPT, 1, stop=stop, max_new_tokens=12).answers.answer_ids[0])
    confident = live(model, tokenizer, asking=replace(FEW, stop=stop))
    passes = []
    model.model.layers[0].register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[1]))
    confident.ask(QUESTION)
    # The prompt, then each token of the answer once: also its last one, which plain generation would not look at.
    assert passes == [len(tokenizer(PROMPT)["input_ids"])] + [1] * kept


def test_hooks_are_gone_afterwards(model, tokenizer):
    live(model, tokenizer).ask(QUESTION)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(DataError):
        answer_live(model, tokenizer, "a b " * 400, "final_norm")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("by", ["letters", "choices"])
def test_choices_are_picked_and_read_in_the_same_pass(model, tokenizer, by):
    template = CHOICE if by == "letters" else FREE
    confident = live(model, tokenizer, position="last_prompt", asking=Asking(by=by, template=template))
    choices = ["Paris", "Rome", "Oslo"]
    answer = confident.ask("What is the capital?", choices)
    prompt = "What is the capital?\nA. Paris\nB. Rome\nC. Oslo\nAnswer:"
    continuations = [" A", " B", " C"]
    if by == "choices":
        prompt, continuations = "Question: What is the capital?\nAnswer:", [" Paris", " Rome", " Oslo"]
    found = answer_choices(model, tokenizer, [prompt], continuations, layers=["block.1"])
    assert (answer.text, answer.choice) == (choices[found.chosen[0]], found.chosen[0])
    assert answer.confidence == pytest.approx(confident.probe.predict(found.hidden)[0], abs=TOLERANCE)
    whole = confident.ask_prompt(prompt, continuations)
    assert (whole.text, whole.confidence) == (continuations[answer.choice].strip(), answer.confidence)


def test_a_whole_prompt_is_given_as_it_is(model, tokenizer):
    confident = live(model, tokenizer)
    assert confident.ask_prompt(PROMPT) == confident.ask(QUESTION)
    nothing_known = live(model, tokenizer, asking=replace(FEW, template=None))
    assert nothing_known.ask_prompt(PROMPT) == confident.ask(QUESTION)
    with pytest.raises(DataError, match=r"Give the whole prompt: ask_prompt\(prompt\)"):
        nothing_known.ask(QUESTION)


def test_it_abstains_below_the_promised_threshold_of_the_confidence_before_recalibration(model, tokenizer):
    own = live(model, tokenizer).ask(QUESTION).confidence
    thresholds = {0.05: own - 1e-3, 0.1: own + 1e-3, 0.2: float("inf")}
    promises = tuple(Promise(threshold, risk, 0.95, 0.5, 50, 1) for risk, threshold in thresholds.items())
    p, y = np.array([own - 0.1, own, own + 0.05, own + 0.1]), np.array([0, 1, 0, 1])
    probe = probe_of(model, promises=promises).calibrated(p, y, method="platt")
    confident = ConfidenceModel.from_pretrained(probe, model, tokenizer)
    said = {risk: confident.ask(QUESTION, abstain=True, risk=risk) for risk in thresholds}
    assert {risk: answer.abstained for risk, answer in said.items()} == {0.05: False, 0.1: True, 0.2: True}
    assert not confident.ask(QUESTION).abstained
    assert said[0.1].confidence == pytest.approx(probe.recalibration([own])[0])
    assert said[0.1].text == said[0.05].text != ""
    with pytest.raises(ScoringError, match=r"no threshold for risk 0.3"):
        confident.ask(QUESTION, abstain=True, risk=0.3)


def test_a_folder_and_a_model_folder_are_enough(model_folder, adapter_folder, tmp_path):
    from src.models import ModelLoader

    tuned, tokenizer = ModelLoader(str(model_folder), adapter_folder).load()
    probe = probe_of(tuned)
    folder = probe.save_pretrained(tmp_path / "probe")
    expected = ConfidenceModel.from_pretrained(probe, tuned, tokenizer).ask(QUESTION)
    again = ConfidenceModel.from_pretrained(folder, str(model_folder), adapter=adapter_folder)
    assert again.ask(QUESTION) == expected
    with pytest.raises(ModelError, match="adapter none, not"):
        ConfidenceModel.from_pretrained(folder, model_folder)
    with tuned.disable_adapter(), pytest.raises(ModelError, match="adapter none, not"):
        ConfidenceModel.from_pretrained(folder, tuned, tokenizer)


def test_a_chat_template_is_put_around_the_question(model, tokenizer):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"
    chat = replace(FEW, chat=True)
    answer = live(model, chatty, asking=chat).ask(QUESTION)
    assert answer == live(model, tokenizer).ask_prompt(f"[user] {PROMPT}[assistant]")
    with pytest.raises(ModelError, match="this tokenizer has no chat template"):
        live(model, tokenizer, asking=chat)


def test_another_model_is_refused(model, tokenizer):
    with pytest.raises(ModelError, match="Load the model that the probe was fitted on"):
        ConfidenceModel.from_pretrained(probe_of(model), random_llama(len(tokenizer), seed=9), tokenizer)
    with pytest.raises(ModelError, match=r"needs its tokenizer: from_pretrained\(probe, model, tokenizer\)"):
        ConfidenceModel.from_pretrained(probe_of(model), model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"position": "answer_letter", "asking": Asking(by="letters")},
            "chosen by likelihood: that takes a second pass",
        ),
        ({"position": "mean_prompt"}, "'mean_prompt', and of a prompt only the last token is kept"),
        ({"position": "exact_answer_first", "asking": Asking(marking="contains")}, "known only beside the right one"),
    ],
)
def test_a_position_that_one_pass_does_not_reach_is_an_error(model, tokenizer, settings, message):
    with pytest.raises(DataError, match=message):
        live(model, tokenizer, **settings)


def test_a_prompt_that_names_the_subject_needs_one(model, tokenizer):
    confident = live(model, tokenizer, asking=replace(FEW, template="About {{ subject }}. " + FREE))
    with pytest.raises(DataError, match="name the subject"):
        confident.ask(QUESTION)
    assert confident.ask(QUESTION, subject="sums") == confident.ask_prompt("About sums. " + PROMPT)


def test_choices_that_do_not_belong_here_are_refused(model, tokenizer):
    with pytest.raises(DataError, match="fitted on answers in words: ask without choices"):
        live(model, tokenizer).ask(QUESTION, ["a", "b"])
    choosing = live(model, tokenizer, position="last_prompt", asking=Asking(by="letters", template=CHOICE))
    for choices in ((), ["one"], list("ABCDEFGHIJK")):
        with pytest.raises(DataError, match=f"give 2 to 10 of them, not {len(choices)}"):
            choosing.ask(QUESTION, choices)


def test_a_block_that_is_passed_twice_is_an_error(model, tokenizer):
    model.model.layers[2] = model.model.layers[1]
    model.generation_config.use_cache = False
    with pytest.raises(ModelError, match=r"looked 18 times at block.1 for 9 tokens"):
        answer_live(model, tokenizer, PROMPT, 1, max_new_tokens=8)


def test_the_answer_fits_into_the_context(model, tokenizer):
    long = "12 345 " * 500
    ids = tokenizer(long)["input_ids"][:246]
    prompt = tokenizer.decode(ids, skip_special_tokens=True)
    said = answer_live(model, tokenizer, prompt, 1, max_new_tokens=30)
    room = 256 - len(said.answers.prompt_ids[0])
    assert 8 <= room < 30
    assert len(said.answers.answer_ids[0]) == room
    assert len(said.states) == room + 1
    assert torch.isfinite(said.states).all()


def test_a_stop_string_that_the_tokenizer_cannot_write_is_named(model, tokenizer, monkeypatch):
    def unknown(*_):
        raise ValueError("Stop string preprocessing was unable to identify tokens matching the supplied stop strings")

    monkeypatch.setattr("transformers.StopStringCriteria", unknown)
    with pytest.raises(DataError, match="cannot write one of the stop strings"):
        answer_live(model, tokenizer, PROMPT, "block.1", stop=("x",), max_new_tokens=4)


def test_an_answer_that_the_gpu_has_no_room_for_is_one_sentence(model, tokenizer, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("src.models.live.generate", full)
    with pytest.raises(ModelError, match="do not fit into the GPU's memory"):
        answer_live(model, tokenizer, PROMPT, "block.1", max_new_tokens=4)
