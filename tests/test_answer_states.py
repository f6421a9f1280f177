"""States inside answers are those of one answer at a time; thinking is told apart from the answer."""

import numpy as np
import pytest
import torch

from src.errors import DataError
from src.models.answer_states import answer_states, chunk_states
from src.models.generation import FreeAnswers, answer_freely
from src.models.reading import Reader, thinking_marks

LAYERS = [0, 2]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def transcript(tokenizer, prompt, thought, said):
    return tuple(ids(tokenizer, prompt)), tuple(ids(tokenizer, thought)), tuple(ids(tokenizer, said))


@pytest.fixture
def answers(tokenizer):
    """Made-up answers: with and without thinking, an empty one, one that begins with a space."""
    rows = [
        transcript(tokenizer, "Q 1?", "<think>12 is 12</think>", " The answer is 345 6."),
        transcript(tokenizer, "Question: what?", "", "B because"),
        transcript(tokenizer, "Q", "<think>x</think>", ""),
        transcript(tokenizer, "Q 3?", "", "  é 🙂 12 345"),
    ]
    prompts, thoughts, said = zip(*rows, strict=True)
    texts = tuple(tokenizer.decode(one).strip() for one in said)
    zeros = np.zeros(len(rows))
    return FreeAnswers(texts, zeros, zeros, zeros == 0, (), prompts, thoughts, said, zeros > 0)


def states(model, tokens):
    with torch.no_grad():
        found = model(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True).hidden_states
    blocks = {}
    handle = model.model.layers[2].register_forward_hook(lambda _m, _a, out: blocks.update(last=out))
    with torch.no_grad():
        model(input_ids=torch.tensor([list(tokens)]))
    handle.remove()
    last = blocks["last"][0] if isinstance(blocks["last"], tuple) else blocks["last"]
    return torch.stack([found[1][0], last.reshape(found[1][0].shape)], dim=1).numpy()  # (tokens, layers, d)


def expected(model, answers, row, first, last):
    """From token `first` to `last`, counted from the first one generated."""
    prompt = answers.prompt_ids[row]
    whole = (*prompt, *answers.thought_ids[row], *answers.answer_ids[row])
    every = states(model, whole)
    return every[len(prompt) + first : len(prompt) + last + 1].mean(0)


def test_every_position_is_the_state_of_its_very_token(model, tokenizer, answers):
    thought = [len(one) for one in answers.thought_ids]
    said = [len(one) for one in answers.answer_ids]
    places = {
        "last_prompt": [(-1, -1)] * 4,
        "end_of_thinking": [(thought[0] - 1,) * 2, None, (thought[2] - 1,) * 2, None],
        "first_answer": [(thought[0],) * 2, (0, 0), None, (0, 0)],
        "last_answer": [(thought[0] + said[0] - 1,) * 2, (said[1] - 1,) * 2, None, (said[3] - 1,) * 2],
        "mean_answer": [(thought[0], thought[0] + said[0] - 1), (0, said[1] - 1), None, (0, said[3] - 1)],
    }
    together = answer_states(model, tokenizer, answers, LAYERS, positions=list(places))
    for column, (position, wanted) in enumerate(places.items()):
        alone = answer_states(model, tokenizer, answers, LAYERS, positions=[position])
        elsewhere = tuple(row for row, place in enumerate(wanted) if place is None)
        assert (alone.elsewhere, together.elsewhere[column]) == ((elsewhere,), elsewhere)
        for row, place in enumerate(wanted):
            first, last = place or (thought[row] + said[row] - 1,) * 2
            state = expected(model, answers, row, first, last)
            np.testing.assert_allclose(alone.hidden[row, 0], state, atol=3e-5)
            np.testing.assert_allclose(together.hidden[row, column], state, atol=3e-5)


def test_several_positions_of_an_answer_are_one_text_of_one_pass(model, tokenizer, answers, monkeypatch):
    from src.models.extraction import passes

    seen = []
    packed = passes.forward_packed
    monkeypatch.setattr(passes, "forward_packed", lambda *a, **k: seen.append(a[2]) or packed(*a, **k))
    answer_states(model, tokenizer, answers, LAYERS, positions=["last_prompt", "mean_answer", "last_answer"])
    computed = sum(len(ids) for texts in seen[1:] for ids in texts)  # the first compares two ways to compute
    whole = [p + t + s for p, t, s in zip(answers.prompt_ids, answers.thought_ids, answers.answer_ids, strict=True)]
    assert computed == sum(map(len, whole))


def test_every_token_of_an_answer_and_the_mean_of_its_prompt_are_read_in_the_same_pass(model, tokenizer, answers):
    positions = ["last_answer", "mean_answer", "mean_prompt"]
    found = answer_states(model, tokenizer, answers, LAYERS, positions=positions, every_token=True)
    assert found.tokens is not None
    lengths = [len(one) or 1 for one in answers.answer_ids]  # of an empty answer the last token before it
    assert found.tokens.answer.tolist() == list(np.repeat(range(4), lengths))
    assert found.elsewhere == ((2,), (2,), (), (2,))
    for row in range(4):
        tokens = found.tokens.hidden[found.tokens.answer == row]
        begins = len(answers.thought_ids[row]) - (not answers.answer_ids[row])
        for place, token in enumerate(tokens):
            state = expected(model, answers, row, begins + place, begins + place)
            np.testing.assert_allclose(token, state, atol=3e-5)
        np.testing.assert_allclose(tokens[-1], found.hidden[row, 0], atol=1e-6)
        np.testing.assert_allclose(tokens.mean(0), found.hidden[row, 1], atol=3e-5)
        state = expected(model, answers, row, -len(answers.prompt_ids[row]), -1)
        np.testing.assert_allclose(found.hidden[row, 2], state, atol=3e-5)
    alone = answer_states(model, tokenizer, answers, LAYERS, positions=(), every_token=True)
    assert alone.tokens is not None
    assert alone.hidden.shape == (4, 0, 2, 32)
    np.testing.assert_allclose(alone.tokens.hidden, found.tokens.hidden, atol=3e-5)


def test_chunks_end_before_blank_lines_or_else_line_breaks(model, tokenizer):
    rows = [
        transcript(tokenizer, "Q 1?", "<think>12 is\n12\n\nso 3\n \nB</think>", " B"),
        transcript(tokenizer, "Q 2?", "", "12\n345\n6"),
        transcript(tokenizer, "Q 3?", "", ""),
        transcript(tokenizer, "Q 4?", "", " 12 345"),
    ]
    prompts, thoughts, said = zip(*rows, strict=True)
    zeros = np.zeros(len(rows))
    texts = tuple(tokenizer.decode(one).strip() for one in said)
    made = FreeAnswers(texts, zeros, zeros, zeros == 0, (), prompts, thoughts, said, zeros > 0)
    found = chunk_states(model, tokenizer, made, LAYERS)
    beginnings = [["<think>12 is\n12", "<think>12 is\n12\n\nso 3", "<think>12 is\n12\n\nso 3\n \nB</think>"],
                  ["12", "12\n345", "12\n345\n6"], [], [" 12 345"]]  # fmt: skip
    assert found.answer.tolist() == [row for row, some in enumerate(beginnings) for _ in some]
    ends = [[len(ids(tokenizer, text)) - 1 for text in some] for some in beginnings]
    wanted = [expected(model, made, row, end, end) for row, some in enumerate(ends) for end in some]
    np.testing.assert_allclose(found.hidden, wanted, atol=3e-5)
    pooled = answer_states(model, tokenizer, made, LAYERS, positions=["chunk_ends"])
    assert pooled.elsewhere == ((2,),)
    for row in (0, 1, 3):
        np.testing.assert_allclose(pooled.hidden[row, 0], found.hidden[found.answer == row].mean(0), atol=1e-6)


def test_before_and_after_the_exact_answer(model, tokenizer, answers):
    spans = [(text.index(piece), text.index(piece) + len(piece)) if piece else None
             for text, piece in zip(answers.texts, ("345", "B", None, "345"), strict=True)]  # fmt: skip
    names = ["before_exact_answer", "exact_answer_first", "exact_answer_last", "after_exact_answer"]
    found = answer_states(model, tokenizer, answers, LAYERS, positions=names, spans=spans)
    assert [2 in rows for rows in found.elsewhere] == [True] * 4
    assert 3 in found.elsewhere[3]  # nothing follows it
    first = len(answers.thought_ids[1])
    for column, place in ((0, first - 1), (1, first), (3, first + 1)):  # "B" is the first token of its answer
        np.testing.assert_allclose(found.hidden[1, column], expected(model, answers, 1, place, place), atol=3e-5)


def test_the_exact_answer_is_found_by_its_characters(model, tokenizer, answers):
    spans = []
    for text, piece in zip(answers.texts, ("345 6", "B", None, "🙂 12"), strict=True):
        spans.append((text.index(piece), text.index(piece) + len(piece)) if piece else None)
    for position in ("exact_answer_first", "exact_answer_last"):
        found = answer_states(model, tokenizer, answers, LAYERS, positions=[position], spans=spans)
        assert found.elsewhere == ((2,),)
        for row in (0, 1, 3):
            piece = answers.texts[row][slice(*spans[row])]
            wanted = piece[0] if position.endswith("first") else piece[-1]
            said = answers.answer_ids[row]
            character = spans[row][0] if position.endswith("first") else spans[row][1] - 1
            spaces = len(tokenizer.decode(said)) - len(tokenizer.decode(said).lstrip())
            lengths = [len(tokenizer.decode(said[: place + 1])) - spaces for place in range(len(said))]
            place = next(place for place, length in enumerate(lengths) if length > character)
            assert wanted in tokenizer.decode(said[place : place + 1]) or not wanted.isascii()
            at = len(answers.thought_ids[row]) + place
            np.testing.assert_allclose(found.hidden[row, 0], expected(model, answers, row, at, at), atol=3e-5)
    with pytest.raises(DataError, match="4 answers and 0 spans"):
        answer_states(model, tokenizer, answers, LAYERS, positions=["exact_answer_last"])
    with pytest.raises(DataError, match="no position 'middle'"):
        answer_states(model, tokenizer, answers, LAYERS, positions=["middle"])


def test_generated_tokens_are_the_ones_that_are_read(model, tokenizer):
    prompts = [f"Question: {'what ' * n}?" for n in (1, 3, 2)]
    answers = answer_freely(model, tokenizer, prompts, max_new_tokens=6)
    assert [tokenizer.decode(one, skip_special_tokens=True).strip() for one in answers.answer_ids] == list(
        answers.texts
    )
    assert [list(one) for one in answers.prompt_ids] == tokenizer(prompts)["input_ids"]
    found = answer_states(model, tokenizer, answers, LAYERS, positions=["last_answer"])
    for row in range(3):
        last = len(answers.answer_ids[row]) - 1
        np.testing.assert_allclose(found.hidden[row, 0], expected(model, answers, row, last, last), atol=3e-5)


class TestThinking:
    def read(self, tokenizer, said, *, prompt="Q?", stop=(), thinking="think", end=True):
        new = [token for part in said for token in ids(tokenizer, part)] + ([tokenizer.eos_token_id] if end else [])
        marks = thinking_marks(tokenizer, thinking)
        reader = Reader(tokenizer, frozenset({tokenizer.eos_token_id}), stop, marks)
        return reader.read(ids(tokenizer, prompt), new, -np.arange(1.0, len(new) + 1))

    def test_the_answer_comes_after_the_block(self, tokenizer):
        one = self.read(tokenizer, ["<think>", "A or B?", "</think>", "\nB"])
        assert one.text == "B"
        assert tokenizer.decode(one.thought) == "<think>A or B?</think>"
        assert one.finished
        before = len(one.thought)
        counted = np.arange(before + 1, before + len(one.ids) + 2)  # with the token that ends it
        assert (one.mean, one.least) == (-counted.mean(), -counted.max())

    def test_a_block_that_the_prompt_began_and_one_that_the_model_leaves_out(self, tokenizer):
        begun = self.read(tokenizer, ["A or B?", "</think>", "B"], prompt="Q?<think>")
        assert (begun.text, tokenizer.decode(begun.thought)) == ("B", "A or B?</think>")
        without = self.read(tokenizer, ["B"])
        assert (without.text, without.thought, without.cut_while_thinking) == ("B", (), False)

    @pytest.mark.parametrize("prompt", ["Q?", "Q?<think>"])
    def test_a_limit_inside_the_block_is_a_status_of_its_own(self, tokenizer, prompt):
        said = ["A or B? so"] if prompt.endswith(">") else ["<think>", "A or B? so"]
        one = self.read(tokenizer, said, prompt=prompt, end=False)
        assert one.cut_while_thinking
        assert (one.text, one.ids, one.finished) == ("", (), False)

    def test_the_last_end_counts_and_stop_strings_inside_the_block_do_not(self, tokenizer):
        one = self.read(tokenizer, ["<think>", "Question: 1\n", "</think>", "B\nQuestion: 2"], stop=("Question:",))
        assert (one.text, one.finished) == ("B", True)
        assert tokenizer.decode(one.ids).strip() == "B"
        twice = self.read(tokenizer, ["<think>", "a", "</think>", "x", "<think>", "b", "</think>", "C"])
        assert twice.text == "C"

    def test_a_block_that_the_prompt_closed_already_is_not_open(self, tokenizer):
        one = self.read(tokenizer, ["B"], prompt="Q?<think>\n\n</think>\n\n", end=False)
        assert (one.text, one.cut_while_thinking) == ("B", False)

    def test_harmony(self, tokenizer):
        said = ["<|channel|>analysis", "<|message|>why", "<|channel|>final<|message|>", "42"]
        assert self.read(tokenizer, said, thinking="harmony").text == "42"

    def test_a_tokenizer_without_the_marks_is_refused(self, tokenizer, monkeypatch):
        monkeypatch.setattr(type(tokenizer), "decode", lambda *_: "?")
        with pytest.raises(DataError, match="does not know '<think>'"):
            thinking_marks(tokenizer, "think")


def test_a_long_run_of_line_breaks_takes_no_time(tokenizer):
    from src.models.answer_states import _chunk_ends

    text = "12" + "\n" * 20_000
    assert _chunk_ends(tokenizer, ids(tokenizer, text)) == [len(ids(tokenizer, "12")) - 1]
