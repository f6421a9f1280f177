"""Choices and free answers equal those of one prompt at a time."""

import numpy as np
import pytest
import torch

from src.errors import DataError, ModelError
from src.models import HiddenStateExtractor, generation, likelihood
from src.models.answering import answer_choices
from src.models.decoding import Sampling, _Drawn
from src.models.generation import answer_freely

PROMPTS = [f"Question: {'what ' * n}?\nA. x\nB. y\nAnswer:" for n in (1, 9, 3, 3, 14)]
LETTERS = [" A", " B", " C", " D"]


def log_likelihood(model, tokenizer, prompt, continuation):
    before, whole = tokenizer([prompt, prompt + continuation])["input_ids"]
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(scores[place - 1, whole[place]].item() for place in range(len(before), len(whole)))


@pytest.mark.parametrize("continuations", [LETTERS, [" A", " Answer", " zebra", " zebu 1"]])
def test_likelihoods_equal_one_continuation_at_a_time(model, tokenizer, continuations):
    answers = answer_choices(model, tokenizer, PROMPTS, continuations)
    expected = [[log_likelihood(model, tokenizer, p, c) for c in continuations] for p in PROMPTS]
    np.testing.assert_allclose(answers.log_likelihoods, expected, atol=2e-5)
    assert (answers.chosen == np.argmax(expected, axis=1)).all()
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(answers.mass, np.exp(expected).sum(axis=1), rtol=1e-4)


def test_one_pass_a_question_gives_answer_and_states(model, tokenizer, tmp_path):
    answers = answer_choices(model, tokenizer, PROMPTS, LETTERS, layers=[0, 2], cache_dir=tmp_path)
    assert answers.computed == len(set(PROMPTS))
    expected = HiddenStateExtractor(model, tokenizer).extract(PROMPTS, [0, 2])
    np.testing.assert_allclose(answers.hidden, expected, atol=2e-5)
    again = answer_choices(model, tokenizer, PROMPTS, LETTERS, layers=[0, 2], cache_dir=tmp_path)
    assert again.computed == 0
    np.testing.assert_array_equal(again.log_likelihoods, answers.log_likelihoods)


def test_a_question_chooses_among_its_own_choices_only(model, tokenizer):
    own = [LETTERS[:n] for n in (4, 2, 2, 2, 3)]
    answers = answer_choices(model, tokenizer, PROMPTS, own)
    assert (answers.chosen < [4, 2, 2, 2, 3]).all()
    assert (answers.probabilities[1, 2:] == 0).all()
    assert answers.probabilities[1].sum() == pytest.approx(1)


def test_every_question_may_have_its_own_continuations(model, tokenizer):
    own = [[" Paris", " Rome"], [" zebra", " zebu"], [" 1", " 12", " 345 6"], [" A", " Oslo"], [" B", " what"]]
    answers = answer_choices(model, tokenizer, PROMPTS, own, layers=[1])
    for row, (prompt, options) in enumerate(zip(PROMPTS, own, strict=True)):
        expected = [log_likelihood(model, tokenizer, prompt, option) for option in options]
        np.testing.assert_allclose(answers.log_likelihoods[row, : len(options)], expected, atol=2e-5)
        assert (answers.log_likelihoods[row, len(options) :] == -np.inf).all()
    np.testing.assert_allclose(answers.hidden, HiddenStateExtractor(model, tokenizer).extract(PROMPTS, [1]), atol=2e-5)
    with pytest.raises(DataError, match="5 prompts and 2 lists"):
        answer_choices(model, tokenizer, PROMPTS, own[:2])
    with pytest.raises(DataError, match="the same tokens"):
        answer_choices(model, tokenizer, PROMPTS, [" A", " A"])


def test_prompts_whose_ending_merges_with_the_answer_are_refused(model, tokenizer):
    with pytest.raises(DataError, match=r"End the prompt without a space"):
        answer_choices(model, tokenizer, ["Answer: "], ["A", "nswer"])
    with pytest.raises(DataError, match="no prompts"):
        answer_choices(model, tokenizer, [], LETTERS)


def test_cut_prompts_are_counted_and_leave_room_for_the_answer(model, tokenizer):
    long = "word " * 300 + "Answer:"
    with pytest.raises(DataError, match=r"data\.truncation"):
        answer_choices(model, tokenizer, [*PROMPTS, long], LETTERS)
    answers = answer_choices(model, tokenizer, [*PROMPTS, long], [" A", " zebra"], truncation="left")
    assert answers.truncated == (5,)
    assert np.isfinite(answers.log_likelihoods).all()


def greedy(model, tokenizer, prompt, room):
    """Token by token, without a cache: ids and mean log-probability, the end-of-text token included."""
    ids = tokenizer(prompt)["input_ids"]
    new, scores = [], []
    for _ in range(room):
        with torch.no_grad():
            step = model(input_ids=torch.tensor([ids + new])).logits[0, -1].double().log_softmax(-1)
        new.append(int(step.argmax()))
        scores.append(step.max().item())
        if new[-1] == tokenizer.eos_token_id:
            break
    return new, scores


def test_free_answers_equal_greedy_decoding_one_at_a_time(model, tokenizer):
    answers = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=12)
    for row, prompt in enumerate(PROMPTS):
        new, scores = greedy(model, tokenizer, prompt, 12)
        ended = new[-1] == tokenizer.eos_token_id
        assert answers.texts[row] == tokenizer.decode(new, skip_special_tokens=True).strip()
        assert answers.finished[row] == ended
        assert answers.log_probabilities[row] == pytest.approx(np.mean(scores), abs=1e-4)
    assert ((answers.confidence > 0) & (answers.confidence <= 1)).all()


def test_sampled_answers_depend_on_the_seed_and_their_own_prompt_only(model, tokenizer):
    def drawn(prompts, **sampling):
        return answer_freely(model, tokenizer, prompts, max_new_tokens=12, sampling=Sampling(**sampling))

    before = torch.random.get_rng_state()
    together = drawn(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), before)
    alone = [drawn([prompt]) for prompt in PROMPTS]
    assert together.texts == tuple(one.texts[0] for one in alone)
    np.testing.assert_allclose(together.log_probabilities, [one.log_probabilities[0] for one in alone], atol=1e-5)
    assert together.texts != drawn(PROMPTS, seed=1).texts
    assert together.texts != answer_freely(model, tokenizer, PROMPTS, max_new_tokens=12).texts
    # The colder, the greedier; their probability is the model's own at temperature 1 all the same.
    cold = drawn(PROMPTS, temperature=1e-4)
    greedy_ones = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert cold.texts == greedy_ones.texts
    np.testing.assert_allclose(cold.log_probabilities, greedy_ones.log_probabilities, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    scores = torch.tensor([[0.3, -1.2, 2.0, 0.0, -float("inf")]])
    expected = (scores[0] / temperature).softmax(-1)
    n = 20_000
    process = _Drawn(Sampling(temperature), [[row] for row in range(20)], torch.device("cpu"))
    counts = torch.zeros(5)
    for _ in range(n // 20):
        counts += torch.bincount(process(torch.zeros(20, 1), scores.expand(20, 5)).argmax(-1), minlength=5)
    assert counts[4] == 0
    deviations = (counts[:4] / n - expected[:4]) / (expected[:4] * (1 - expected[:4]) / n).sqrt()
    assert deviations.abs().max() < 4


def test_a_stop_string_ends_an_answer_and_its_probability(model, tokenizer):
    free = answer_freely(model, tokenizer, PROMPTS[:1], max_new_tokens=12)
    stop = free.texts[0][3:5]
    new, scores = greedy(model, tokenizer, PROMPTS[0], 12)
    whole = tokenizer.decode(new, skip_special_tokens=True)
    needed = next(k for k in range(1, 13) if stop in tokenizer.decode(new[:k], skip_special_tokens=True))
    stopped = answer_freely(model, tokenizer, PROMPTS[:1], max_new_tokens=12, stop=[stop])
    assert stopped.texts[0] == whole[: whole.find(stop)].strip()
    assert stopped.finished[0]
    assert stopped.log_probabilities[0] == pytest.approx(np.mean(scores[:needed]), abs=1e-4)


def test_the_token_limit_is_flagged_and_the_context_respected(model, tokenizer):
    answers = answer_freely(model, tokenizer, [" A" * 100], max_new_tokens=2)
    assert answers.finished.tolist() in ([False], [True])
    with pytest.raises(DataError, match="exceed the model's 248 tokens"):
        answer_freely(model, tokenizer, [" A" * 250], max_new_tokens=64)


def test_an_answer_does_not_depend_on_which_others_were_asked_before(model, tokenizer, tmp_path):
    prompts = [f"Question {'word ' * (n % 9)}{n}?\nAnswer:" for n in range(40)]
    answer_freely(model, tokenizer, prompts[::3], max_new_tokens=8, cache_dir=tmp_path)
    second = answer_freely(model, tokenizer, prompts, max_new_tokens=8, cache_dir=tmp_path)
    third = answer_freely(model, tokenizer, prompts, max_new_tokens=8, cache_dir=tmp_path)
    fresh = answer_freely(model, tokenizer, prompts, max_new_tokens=8)
    np.testing.assert_array_equal(third.log_probabilities, second.log_probabilities)
    assert fresh.texts == second.texts == third.texts
    np.testing.assert_allclose(fresh.log_probabilities, second.log_probabilities, atol=1e-5)


def test_kept_answers_need_no_generation_and_another_way_to_answer_is_another_answer(
    model, tokenizer, tmp_path, monkeypatch
):
    from src.models import generation

    real = generation.generate
    first = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=8, cache_dir=tmp_path)
    monkeypatch.setattr(generation, "generate", None)
    again = answer_freely(model, tokenizer, PROMPTS[::-1], max_new_tokens=8, cache_dir=tmp_path)
    assert again.texts == first.texts[::-1]
    np.testing.assert_array_equal(again.log_probabilities, first.log_probabilities[::-1])
    np.testing.assert_array_equal(again.finished, first.finished[::-1])
    for other in ({"max_new_tokens": 7}, {"max_new_tokens": 8, "stop": ["x"]}):
        with pytest.raises(TypeError, match="NoneType"):
            answer_freely(model, tokenizer, PROMPTS, cache_dir=tmp_path, **other)
    monkeypatch.setattr(generation, "generate", real)


def test_a_prompt_that_leaves_little_room_shares_no_limit_with_the_others(model, tokenizer):
    tight = "A " * 120
    together = answer_freely(model, tokenizer, [*PROMPTS, tight], max_new_tokens=40)
    alone = [answer_freely(model, tokenizer, [prompt], max_new_tokens=40) for prompt in (*PROMPTS, tight)]
    assert together.texts == tuple(one.texts[0] for one in alone)
    np.testing.assert_allclose(together.log_probabilities, [one.log_probabilities[0] for one in alone], atol=1e-5)


def test_a_stop_string_that_is_a_special_token_ends_an_answer(model, tokenizer):
    import copy

    special = copy.deepcopy(tokenizer)
    free = answer_freely(model, special, PROMPTS[:1], max_new_tokens=12)
    new, scores = greedy(model, special, PROMPTS[0], 12)
    mark = special.convert_ids_to_tokens(new[4])
    if mark in special.convert_ids_to_tokens(new[:4]) or new[4] == special.eos_token_id:
        pytest.skip("the random model repeats itself")
    special.add_special_tokens({"additional_special_tokens": [mark]})
    assert special.convert_tokens_to_ids(mark) == new[4]
    stopped = answer_freely(model, special, PROMPTS[:1], max_new_tokens=12, stop=[mark])
    beside = answer_freely(model, special, PROMPTS, max_new_tokens=12, stop=[mark])
    assert stopped.finished[0]
    assert stopped.texts[0] == beside.texts[0] != free.texts[0]
    assert stopped.log_probabilities[0] == pytest.approx(np.mean(scores[:5]), abs=1e-4)
    assert beside.log_probabilities[0] == pytest.approx(np.mean(scores[:5]), abs=1e-4)


@pytest.mark.parametrize("settings", [{"return_dict_in_generate": True}, {"sequence_bias": {(5,): -1.0}}])
def test_a_models_own_generation_settings_do_not_break_answering(model, tokenizer, tmp_path, settings):
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    answers = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=4, cache_dir=tmp_path)
    assert len(answers.texts) == len(PROMPTS)


def test_a_batch_that_a_gpu_has_no_room_for_is_answered_in_halves(model, tokenizer, monkeypatch, caplog):
    def with_room_for(most, compute, count):
        def limited(*args, **kwargs):
            if count(args) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return compute(*args, **kwargs)

        return limited

    def both():
        free = answer_freely(model, tokenizer, PROMPTS, max_new_tokens=6)
        found = likelihood.answer_likelihood(model, free.prompt_ids, [[7, 8, 9]] * len(PROMPTS))
        return free, found

    free, found = both()
    originals = generation.generate, likelihood._scored
    for most in (2, 0):
        monkeypatch.setattr(generation, "generate", with_room_for(most, originals[0], lambda args: len(args[2])))
        monkeypatch.setattr(likelihood, "_scored", with_room_for(most, originals[1], lambda args: len(args[2])))
        if most:
            halved, scores = both()
            assert halved.texts == free.texts
            np.testing.assert_allclose(halved.log_probabilities, free.log_probabilities, atol=2e-5)
            np.testing.assert_allclose(scores.mean, found.mean, atol=2e-5)
            assert "memory is full" in caplog.text
        else:
            with pytest.raises(ModelError, match="One text alone does not fit into the GPU's memory"):
                both()


def test_what_is_no_text_is_refused_for_choices_too(model, tokenizer):
    with pytest.raises(DataError, match="Text 0 holds half of a surrogate pair"):
        answer_choices(model, tokenizer, ["Which\ud800?"], LETTERS)
    with pytest.raises(DataError, match="Text 1 holds half of a surrogate pair"):
        answer_choices(model, tokenizer, ["Which?"], [" A", " \ud800"])
    with pytest.raises(DataError, match=r"A continuation has [\d,]+ tokens, and the model's context"):
        answer_choices(model, tokenizer, ["Which?"], [" A", " x" * 20_000])
