"""Prompts: the harness's few-shot draw, chat templates, and a user's own Jinja text."""

import json
from dataclasses import replace

import pytest

from src.config import load_config
from src.data import Example, GSM8KDataset
from src.data.prompts import as_chat, chat_follow_up, follow_up, from_template
from src.errors import ConfigError
from src.models import answer_choices
from src.pipeline.plan import make_plan
from src.pipeline.questions import load_questions
from tests.test_data import write_lines

EXAMPLE = Example("Which?", "B", ("x", "y"), "sums", "Which?\nA. x\nB. y\nAnswer:", (" A", " B"))
LINES = "{{ question }}\n{% for letter, text in choices %}{{ letter }}) {{ text }}\n{% endfor %}Say:"
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def gsm8k_folder(folder, n_train=50, n_test=9):
    for split, n in (("train", n_train), ("test", n_test)):
        rows = [json.dumps({"question": f"{split} {i}?", "answer": f"It is {i}\n#### {i}"}) for i in range(n)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


def test_each_question_has_its_own_shots_from_one_stream(tmp_path):
    folder = gsm8k_folder(tmp_path)
    prompts = [example.prompt for example in GSM8KDataset("test", path=folder, shots=3)]
    shots = [tuple(block for block in prompt.split("\n\n")[:-1]) for prompt in prompts]
    assert len(set(shots)) == len(prompts)
    assert all(len(set(one)) == 3 for one in shots)
    assert [p.split("\n\n")[-1] for p in prompts] == [f"Question: test {i}?\nAnswer:" for i in range(9)]
    again = [example.prompt for example in GSM8KDataset("test", path=folder, shots=3)[:4]]
    assert again == prompts[:4]  # a limit changes nothing
    with pytest.raises(Exception, match="the training split has 50 questions"):
        len(GSM8KDataset("test", path=folder, shots=51))


class TestTemplate:
    def test_it_is_filled_in_and_ends_without_a_space(self):
        made = from_template(EXAMPLE, LINES + "  \n", answer_by_letter=True)
        assert made.prompt == "Which?\nA) x\nB) y\nSay:"
        assert made.continuations == (" A", " B")
        assert made.id == EXAMPLE.id

    def test_loops_know_where_they_are(self):
        text = "{{ question }}{% for _, text in choices %}\n{{ text|trim }}{{ ';' if not loop.last }}{% endfor %}"
        assert from_template(EXAMPLE, text, answer_by_letter=True).prompt == "Which?\nx;\ny"

    def test_a_prompt_that_would_fill_the_memory_is_noticed_while_it_grows(self):
        long = replace(EXAMPLE, question="what " * 100_000)
        with pytest.raises(ConfigError, match="the prompt would have more than 16,777,216 characters"):
            from_template(long, "{{ question }}" * 1000, answer_by_letter=False)

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{{ qestion }}", "cannot be filled in: 'qestion' is undefined"),
            ("{% for %}", "cannot be filled in"),
            ("Say something", "leaves the question out"),
            ("{{ question }}", "leaves the choice 'x' out"),
            ("{{ question + 1 }}", r"\+ is not possible"),
            ("{{ 1 / 0 }}", "cannot be filled in"),
            ("{{ question.__class__.__mro__ }}", "cannot be filled in"),
            ("{{ question }}{{ ''.__class__.__base__.__subclasses__() }}", "cannot be filled in"),
            ("{{ question }}{{ 'a' * 10**10 }}", "operator .* is not possible"),
            ("{{ question }}{{ '%9999999999s' % 'x' }}", "operator % is not possible"),
            ("{{ question }}{{ 'x'.ljust(9999999999) }}", "cannot be filled in"),
            ("{{ question }}{{ 'x'|center(9999999999) }}", "No filter named 'center'"),
            ("{{ question }}{% for i in range(9) %}x{% endfor %}", "a loop can go over choices only"),
            ("{{ question }}{% for i in question %}x{% endfor %}", "a loop can go over choices only"),
            ("{{ question }}{% for i in choices[0][1] %}x{% endfor %}", "a loop can go over choices only"),
            ("{{ question }}" + "x" * (1 << 16), "it has 65,550 characters, and at most 65,536"),
            ("{{ question }}" + "{% if 1 %}" * 200 + "{% endif %}" * 200, "cannot be filled in"),
            ("{{ question }}{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "macros is not possible"),
            (
                "{% for a in question %}" * 3 + "{% endfor %}" * 3,
                "at most 2 loops",
            ),
        ],
    )
    def test_what_is_wrong_with_one_is_said(self, template, message):
        with pytest.raises(ConfigError, match=message):
            from_template(EXAMPLE, template, answer_by_letter=True)


class TestChat:
    @pytest.fixture
    def chatty(self, tokenizer, monkeypatch):
        monkeypatch.setattr(tokenizer, "chat_template", CHAT, raising=False)
        return tokenizer

    def test_there_is_one_beginning_of_sequence_and_the_answer_begins_a_turn(self, chatty, model):
        made = as_chat(EXAMPLE, chatty)
        assert made.prompt == f"<|user|>{EXAMPLE.prompt}\n<|assistant|>\n"
        assert made.continuations == ("A", "B")
        assert chatty(made.prompt)["input_ids"].count(chatty.bos_token_id) == 1
        answers = answer_choices(model, chatty, [made.prompt], made.continuations)
        assert answers.log_likelihoods.shape == (1, 2)

    def test_a_question_about_an_answer_is_a_turn_of_its_own(self, chatty):
        made = chat_follow_up(EXAMPLE.prompt, " B", "Sure?", chatty)
        assert made == f"<|user|>{EXAMPLE.prompt}\n<|assistant|>B\n<|user|>Sure?\n<|assistant|>\n"
        assert follow_up("Q?\nAnswer:", " B", "Sure?", cue="Say:") == "Q?\nAnswer: B\n\nSure?\nSay:"

    def test_a_tokenizer_that_adds_none_keeps_the_templates(self, chatty, monkeypatch):
        monkeypatch.setattr(type(chatty), "__call__", lambda *_, **__: {"input_ids": [5]})
        assert as_chat(EXAMPLE, chatty).prompt.startswith("<s><|user|>")

    def test_a_model_without_a_template_is_refused(self, tmp_path, model_folder):
        path = write_lines(tmp_path / "q.jsonl", *[{"question": f"Q {i}?", "answer": "a"} for i in range(40)])
        config = {
            "model": {"name": str(model_folder)},
            "data": {"name": "custom", "path": str(path), "template": "chat"},
        }
        with pytest.raises(ConfigError, match="no chat template"):
            make_plan(load_config(config))


def data(folder, **changes):
    rows = [{"question": f"Q {i}?", "choices": ["x", "y"], "answer": "A"} for i in range(5)]
    path = write_lines(folder / "q.jsonl", *rows)
    config = {"model": {"name": "m"}, "data": {"name": "custom", "path": str(path)} | changes}
    return load_questions(load_config(config).data)


def test_choices_may_be_answered_in_words(tmp_path):
    questions = data(tmp_path, answer_by="generation", max_new_tokens=7)
    assert (questions.with_choices, questions.marking, questions.max_new_tokens) == (False, "letter", 7)
    assert data(tmp_path).with_choices
    assert data(tmp_path, template=LINES).examples[0].prompt == "Q 0?\nA) x\nB) y\nSay:"
    for changes in ({"max_new_tokens": 7}, {"marking": "letter"}, {"thinking": "think"}):
        with pytest.raises(ConfigError, match=r"set data\.answer_by: generation"):
            data(tmp_path, **changes)
