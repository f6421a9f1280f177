"""Choices and free answers equal those of one prompt at a time."""

import numpy as np
import pytest
import torch

from src.errors import DataError
from src.models import HiddenStateExtractor
from src.models.answering import answer_choices
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
