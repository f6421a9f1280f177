"""Beyond the answer: several positions, stated confidence, answers that cannot be read, trained questions."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from src.config import load_config
from src.data import Example, QADataset
from src.data.scoring import stated_probability
from src.data.trained_on import FILE_NAME, apart, read_trained_on
from src.errors import ConfigError, DataError
from src.models.answering import answer_choices, letter_states
from src.pipeline import run
from src.pipeline.plan import make_plan
from src.report import print_report
from src.report.html import render_html
from tests.test_data import write_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("85%", 0.85), ("I'd say 85", 0.85), (" 0.85.", 0.85), (".5", 0.5), ("9/10", 0.9), ("85 out of 100", 0.85),
        ("100", 1.0), ("1.0", 1.0), ("0", 0.0), ("1%", 0.01), ("0.5%", 0.005), ("99.5", 0.995), ("60-70%", 0.6),
        ("", None), ("very sure", None), ("120%", None), ("-5", None), ("7/0", None), ("3/2", None), ("A1", None),
    ],
)  # fmt: skip
def test_a_stated_probability_is_read_by_stated_rules(text, expected):
    assert stated_probability(text) == (None if expected is None else pytest.approx(expected))


@pytest.fixture
def choices(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"question": f"Which is number {n}?", "choices": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)]}
        for n in range(120)
    ]
    return write_lines(tmp_path / "choices.jsonl", *rows)


def settings(tmp_path, model_folder, path, **sections):
    config = {
        "model": {"name": str(model_folder)},
        "data": {"name": "custom", "path": str(path)},
        "extraction": {"layers": [0, -1]},
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(tmp_path / "run")},
    }
    return {key: config.get(key, {}) | sections.get(key, {}) for key in config | sections}


def test_the_state_of_the_chosen_letter_is_that_of_prompt_and_letter(model, tokenizer):
    prompts = [f"Which is {'it ' * n}?\nA. x\nB. y\nAnswer:" for n in (1, 4, 2)]
    answers = answer_choices(model, tokenizer, prompts, (" A", " B"))
    found = letter_states(model, answers, [1])
    for row, (prompt, chosen) in enumerate(zip(prompts, answers.chosen, strict=True)):
        ids = tokenizer(prompt + (" A", " B")[chosen])["input_ids"]
        assert list(answers.prompt_ids[row] + answers.chosen_ids[row]) == ids
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, -1]
        np.testing.assert_allclose(found[row, 0], expected.numpy(), atol=3e-5)


def test_a_prompt_that_fills_the_context_leaves_room_for_the_letter(tokenizer):
    from tests.test_packed import SMALL, build

    model = build("GPT2", {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24})
    assert SMALL
    answers = answer_choices(model, tokenizer, ["what " * 40], (" A", " B"), truncation="left", whole_answer=True)
    assert len(answers.prompt_ids[0]) + len(answers.chosen_ids[0]) == 24
    assert letter_states(model, answers, [1]).shape == (1, 1, 32)


def test_an_empty_answer_is_shown_as_nothing_and_not_as_a_letter():
    from src.pipeline.asking_again import _said

    assert [_said((" A", " B"), answer) for answer in ("B", "", "AB")] == [" B", " ", " AB"]


def test_a_run_chooses_among_layers_and_positions(tmp_path, model_folder, choices):
    extraction = {"position": ["last_prompt", "answer_letter"]}
    results = run(settings(tmp_path, model_folder, choices, extraction=extraction)).results
    base = results["variants"]["base"]
    tried = [(one["position"], one["layer"]) for one in base["layers"]]
    assert tried == [(p, f"block.{n}") for p in ("last_prompt", "answer_letter") for n in (0, 2)]
    assert (base["selected"]["position"], base["selected"]["layer"]) in tried
    best = min(base["layers"], key=lambda one: one["val_nll"])
    assert (best["position"], best["layer"]) == (base["selected"]["position"], base["selected"]["layer"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"extraction": {"position": "last_answer"}}, r"'last_answer', but .* Choose last_prompt or answer_letter"),
        ({"data": {"unparsed": "drop"}}, "can always be read"),
        ({"data": {"answer_by": "generation"}, "extraction": {"position": "end_of_thinking"}}, "data.thinking does"),
        ({"data": {"answer_by": "generation", "marking": "contains"}, "extraction": {"position": "answer_letter"}},
         "marked by 'contains'"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_together_are_named(tmp_path, model_folder, choices, sections, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(settings(tmp_path, model_folder, choices, **sections)))


def test_prompts_that_lose_their_beginning_when_it_asks_again_are_counted(tmp_path, model_folder, capsys):
    rows = [{"question": "what " * 56 * (n % 2) + str(n), "choices": ["x", "y"], "answer": "x"} for n in range(40)]
    path = write_lines(tmp_path / "long.jsonl", *rows)
    given = {"baselines": {"p_true": True}, "data": {"name": "custom", "path": str(path)}}
    results = run(settings(tmp_path, model_folder, path, **given)).results
    base = results["variants"]["base"]
    assert (base["truncated"], base["shortened"]) == (0, {"p_true": 20})
    print_report(results)
    assert "base: 20 times it was asked again without its prompt's beginning (P(True))." in capsys.readouterr().out
    assert "20 times the model was asked again without the beginning" in render_html(results)


def test_confidence_in_words_is_counted_where_there_is_none(tmp_path, model_folder, choices, monkeypatch):
    from src.pipeline import asking_again

    asked = []
    real = asking_again.answer_freely

    def every_other(model, tokenizer, prompts, **options):
        from dataclasses import replace

        asked.extend(prompts)
        said = real(model, tokenizer, prompts, **options)
        return replace(said, texts=tuple("80%" if n % 2 else "no idea" for n in range(len(prompts))))

    monkeypatch.setattr(asking_again, "answer_freely", every_other)
    few = {"baselines": {"stated": True}, "data": {"name": "custom", "path": str(choices), "limit": 40}}
    results = run(settings(tmp_path, model_folder, choices, **few)).results
    base = results["variants"]["base"]
    assert base["unsaid"] == {"stated": 20}
    assert base["scores"]["stated"]["all"]["n"] == results["data"]["splits"]["test"]
    rows = pq.read_table(tmp_path / "run" / "answers.parquet").to_pylist()
    assert [row["stated"] for row in rows[:4]] == [None, 0.8, None, 0.8]
    for row, prompt in zip(rows, asked, strict=True):
        assert f"Answer: {row['answer']}\n\nHow likely is it" in prompt


def test_answers_that_cannot_be_read_are_wrong_or_left_out_as_configured(tmp_path, model_folder, monkeypatch):
    from src.pipeline import asking

    rows = [{"question": f"Say {n}!", "answer": str(n % 7)} for n in range(40)]
    path = write_lines(tmp_path / "numbers.jsonl", *rows)
    real = asking.answer_freely

    def made_up(model, tokenizer, prompts, **options):
        from dataclasses import replace

        said = real(model, tokenizer, prompts, **options)
        texts = tuple("hm" if n % 4 == 0 else str(n % 7) if n % 3 else "8" for n in range(len(prompts)))
        return replace(said, texts=texts, finished=np.ones(len(texts), dtype=bool))

    monkeypatch.setattr(asking, "answer_freely", made_up)
    found = {}
    for unparsed in ("wrong", "drop"):
        data = {"marking": "numeric", "max_new_tokens": 2, "unparsed": unparsed}
        folder = {"dir": str(tmp_path / unparsed)}
        found[unparsed] = run(settings(tmp_path, model_folder, path, data=data, run=folder)).results
    counted, left_out = (found[key]["variants"]["base"] for key in ("wrong", "drop"))
    assert (counted["unreadable"], left_out["unreadable"]) == (10, 10)
    assert any("10 of 40 answers of the base model nothing was found" in s for s in found["wrong"]["verdict"])
    assert any("are left out, so all numbers are about the" in s for s in found["drop"]["verdict"])
    assert counted["status"] == left_out["status"] == {"nothing found": 10, "answered": 30}
    assert counted["scores"]["own_probability"]["answered"]["n"] < counted["scores"]["own_probability"]["all"]["n"]
    # Left out, all that is left is what was answered.
    assert left_out["accuracy"]["all"]["value"] == counted["accuracy"]["answered"]["value"]
    assert left_out["accuracy"]["all"]["value"] > counted["accuracy"]["all"]["value"]
    assert "answered" not in left_out["accuracy"]


@pytest.mark.slow
def test_the_probe_path_of_gsm8k_with_constructed_answers(shared, tmp_path, monkeypatch):
    """The small real model answers none right, so half of its answers are made up, as their own tokens."""
    from src.data import GSM8KDataset
    from src.models.generation import FreeAnswers
    from src.pipeline import asking

    data = list(GSM8KDataset("test", path=shared / "data" / "gsm8k")[:120])
    right = np.arange(120) % 3 > 0

    def constructed(_model, tokenizer, prompts, **_options):
        assert list(prompts) == [example.prompt for example in data]
        texts = [
            f"so it is\n#### {e.target}" if ok else "so it is\n#### 0.5" for e, ok in zip(data, right, strict=True)
        ]
        ids = [tuple(tokenizer(part)["input_ids"]) for part in prompts]
        said = tuple(tuple(tokenizer(f"\n{text}", add_special_tokens=False)["input_ids"]) for text in texts)
        chances = np.linspace(-2, -0.1, len(texts))
        nothing = np.zeros(len(texts), dtype=bool)
        return FreeAnswers(tuple(texts), chances, 2 * chances, ~nothing, (), tuple(ids), ((),) * 120, said, nothing)

    monkeypatch.setattr(asking, "answer_freely", constructed)
    config = load_config("configs/gsm8k.yaml").model_dump(mode="json")
    config["model"]["name"] = str(shared / "models" / "stories260K")
    config["data"] |= {"path": str(shared / "data" / "gsm8k"), "limit": 120}
    config["baselines"] |= {"p_true": False, "stated": False, "samples": 0}
    positions = ["attention_answer", "last_prompt", "mean_prompt", "exact_answer_last", "last_answer"]
    config["extraction"] |= {"layers": [2, 4], "position": positions, "cache_dir": str(tmp_path / "c")}
    config["evaluation"] |= {"bootstrap": 100, "repeats": 2}
    base = run(config | {"run": {"dir": str(tmp_path / "run")}}).results["variants"]["base"]
    assert base["accuracy_all_questions"] == right.mean()
    assert base["status"] == {"answered": 120}
    assert base["elsewhere"] == {}
    assert [one["position"] for one in base["layers"]] == [
        name for name in [*positions[1:], positions[0]] for _ in "ab"
    ]
    assert [one["family"] for one in base["layers"]] == ["logistic"] * 8 + ["attention"] * 2
    # The wrong answers all end alike, which any state at their end shows.
    assert base["selected"]["position"] in ("exact_answer_last", "last_answer", "attention_answer")
    assert base["scores"]["probe"]["all"]["auroc"]["value"] > 0.95
    expected = {"probe", "own_probability", "text_only", "surface", "least_log_probability", "perplexity"}
    assert expected <= set(base["scores"])
    rows = pq.read_table(tmp_path / "run" / "answers.parquet").to_pylist()
    assert {row["extractor"] for row in rows} == {"number after ####"}


class TestTrainedOn:
    @pytest.fixture
    def adapter(self, tmp_path, adapter_folder):
        import shutil

        return shutil.copytree(adapter_folder, tmp_path / "tuned" / "peft_adapter")

    def plan(self, tmp_path, model_folder, choices, adapter, **data):
        model = {"tinker_lora_path": str(adapter)}
        return make_plan(load_config(settings(tmp_path, model_folder, choices, model=model, data=data)))

    @pytest.mark.parametrize("beside", [True, False])
    def test_questions_of_the_fine_tuning_are_refused_or_tagged(self, tmp_path, model_folder, choices, adapter, beside):
        examples = list(QADataset(choices))
        ids = [example.id for example in examples[:7]]
        folder = adapter.parent if beside else adapter
        (folder / FILE_NAME).write_text(json.dumps({"dataset": "mine", "ids": [*ids, "0" * 16]}))
        with pytest.raises(DataError, match=rf"7 of 120 questions .*'Which is number 0\?', {ids[0]}"):
            self.plan(tmp_path, model_folder, choices, adapter)
        marked = self.plan(tmp_path, model_folder, choices, adapter, trained_on="mark").task.questions.examples
        assert [example.tag for example in marked] == ["fine-tuned on"] * 7 + ["new"] * 113
        assert [example.id for example in marked] == [example.id for example in examples]

    def test_a_tag_of_its_own_stays(self):
        first, second = Example("q", "a", tag="rare"), Example("r", "a", tag="rare")
        tagged = apart([first, second], frozenset([first.id]), Path("f"), refuse=False)
        assert [example.tag for example in tagged] == ["rare, fine-tuned on", "rare, new"]

    def test_a_folder_or_a_dangling_link_of_that_name_is_an_error(self, adapter):
        (adapter / FILE_NAME).symlink_to(adapter / "gone")
        with pytest.raises(DataError, match="cannot be read"):
            read_trained_on(adapter)
        (adapter / FILE_NAME).unlink()
        (adapter / FILE_NAME).mkdir()
        with pytest.raises(DataError, match="cannot be read"):
            read_trained_on(adapter)

    def test_other_questions_stay_as_they_are(self, tmp_path, model_folder, choices, adapter):
        (adapter / FILE_NAME).write_text('{"ids": ["0000000000000000"]}')
        assert {e.tag for e in self.plan(tmp_path, model_folder, choices, adapter).task.questions.examples} == {""}

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"ids": ["a"], "ids": []}', '{"ids": 3}', '{"ids": [1]}', "{" * 5000]
    )
    def test_a_file_that_cannot_be_read_is_an_error(self, tmp_path, model_folder, choices, adapter, content):
        (adapter / FILE_NAME).write_text(content)
        with pytest.raises(DataError, match=r"trained_on\.json"):
            self.plan(tmp_path, model_folder, choices, adapter)
