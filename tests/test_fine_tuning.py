"""Training with Tinker: what is learnt from, in which order, and where a stopped training goes on."""

import json
import math
import runpy
import sys

import numpy as np
import pytest

from src.data import Example, MMLUDataset
from src.errors import ConfigError, DataError
from src.pipeline.fine_tuning import Lessons, fine_tune, read_lessons
from src.tinker.training import Record, Schedule, Text, mean_loss, train

TEXTS = [Text((row, 1, 2, 3), 2) for row in range(10)]


class Learner:
    """Takes down what it is taught; `fails_at` counts calls from 0."""

    def __init__(self, *, fails_at=None, loss=1.0):
        self.taught, self.saved, self.fails_at, self.loss = [], [], fails_at, loss

    def step(self, texts, learning_rate):
        if len(self.taught) == self.fails_at:
            raise KeyboardInterrupt
        self.taught.append(([text.ids[0] for text in texts], learning_rate))
        return self.loss

    def save(self, name):
        self.saved.append(name)
        return f"tinker://run/weights/{name}"


class TestTheOrder:
    def test_every_epoch_deals_every_text_once_in_an_order_of_its_own(self):
        schedule = Schedule(steps=10, batch_size=3)
        dealt = [row for step in range(10) for row in schedule.batch(step, 10)]
        epochs = [dealt[start : start + 10] for start in (0, 10, 20)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3

    def test_the_order_depends_on_the_seed_alone(self):
        first, again, other = (
            [Schedule(steps=5, batch_size=4, seed=seed).batch(step, 20) for step in range(5)] for seed in (0, 0, 1)
        )
        assert first == again != other

    @pytest.mark.parametrize(("steps", "n"), [(2, 100), (30, 100), (3, 12), (1, 4)])
    def test_used_names_exactly_what_some_step_learns_from(self, steps, n):
        schedule = Schedule(steps=steps, batch_size=4)
        assert schedule.used(n) == sorted({row for step in range(steps) for row in schedule.batch(step, n)})

    def test_the_rate_falls_in_a_line_to_nothing(self):
        rates = [Schedule(steps=4, learning_rate=0.1).rate(step) for step in range(5)]
        assert np.allclose(rates, [0.1, 0.075, 0.05, 0.025, 0])

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"save_every": 0}, {"learning_rate": math.nan}])
    def test_a_schedule_that_cannot_be_is_refused(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Schedule(**({"steps": 3} | wrong))


class TestTheLoop:
    @pytest.mark.parametrize("stopped_after", [1, 3, 4, 5])
    def test_a_stopped_training_goes_on_to_the_same_end(self, tmp_path, stopped_after):
        schedule, path = Schedule(steps=7, batch_size=3, save_every=2), tmp_path / "training.json"
        undisturbed = Learner()
        train(undisturbed, TEXTS, schedule, Record(tmp_path / "other.json", {}))
        with pytest.raises(KeyboardInterrupt):
            train(Learner(fails_at=stopped_after), TEXTS, schedule, Record.opened(path, {"a": 1}))
        record = Record.opened(path, {"a": 1})
        assert record.step == stopped_after - stopped_after % 2
        assert record.state == (f"tinker://run/weights/step-{record.step}" if record.step else None)
        rest = Learner()
        record = train(rest, TEXTS, schedule, record)
        assert rest.taught == undisturbed.taught[7 - len(rest.taught) :]
        assert (record.step, len(record.losses)) == (7, 7)
        assert Record.opened(path, {"a": 1}) == record

    def test_another_training_in_the_same_place_is_refused_with_the_difference(self, tmp_path):
        Record(tmp_path / "t.json", {"rank": 8}).write()
        with pytest.raises(ConfigError, match="rank=8, and now it is 16"):
            Record.opened(tmp_path / "t.json", {"rank": 16})

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 1}', '{"settings": {}, "losses": ["a"]}'])
    def test_a_file_that_is_no_record_is_refused(self, tmp_path, content):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(ConfigError, match="no record"):
            Record.opened(tmp_path / "t.json", {})

    def test_a_training_that_diverges_ends_there(self, tmp_path):
        learner = Learner(loss=math.nan)
        with pytest.raises(DataError, match="step 0 is nan"):
            train(learner, TEXTS, Schedule(steps=3), Record(tmp_path / "t.json", {}))
        assert learner.saved == []

    def test_nothing_to_learn_is_an_error(self, tmp_path):
        with pytest.raises(DataError, match="no text"):
            train(Learner(), [], Schedule(steps=3), Record(tmp_path / "t.json", {}))


class TestWhatIsLearnt:
    def test_the_loss_counts_the_answers_tokens_only(self):
        texts = [Text((5, 6, 7, 8), 2), Text((5, 6, 7), 2)]
        assert texts[0].weights.tolist() == [0, 1, 1]
        assert mean_loss(texts, [np.array([-9.0, -1, -2]), np.array([-9.0, -6])]) == pytest.approx(3)

    @pytest.mark.parametrize("answer_from", [0, 4, 5])
    def test_a_text_needs_a_question_and_an_answer(self, answer_from):
        with pytest.raises(DataError, match="needs a token"):
            Text((1, 2, 3, 4), answer_from)

    def test_the_answer_begins_where_the_prompt_ends(self, tokenizer, mmlu_folder):
        lessons = read_lessons("mmlu", path=mmlu_folder)
        for text, example, answer in zip(lessons.texts(tokenizer), lessons.examples, lessons.answers, strict=True):
            assert tokenizer.decode(text.ids[: text.answer_from]).endswith(example.prompt)
            assert tokenizer.decode(text.ids[text.answer_from :]) == f" {example.target}</s>"
            assert answer == f" {example.target}"

    def test_a_token_across_the_border_belongs_to_the_answer(self, tokenizer):
        example = Example("12 34", "A", prompt="12 34")
        (text,) = Lessons("mmlu", (example,), ("5 6",)).texts(tokenizer)
        whole = tokenizer("12 345 6")["input_ids"]
        before = tokenizer("12 34")["input_ids"]
        assert list(text.ids[:-1]) == whole
        assert text.ids[: text.answer_from] == tuple(before[: text.answer_from])
        assert text.answer_from < len(before)

    def test_gsm8k_is_learnt_with_its_worked_solutions(self, tmp_path):
        rows = [{"question": f"{n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(3)]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        lessons = read_lessons("gsm8k", path=tmp_path, limit=2)
        assert lessons.answers == (" It is <<0+1=1>>\n#### 1", " It is <<1+1=2>>\n#### 2")
        with pytest.raises(ConfigError, match="without a category"):
            read_lessons("gsm8k", path=tmp_path, category="stem")


@pytest.fixture
def mmlu_folder(tmp_path):
    for part, count in (("dev", 2), ("val", 3)):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"astronomy_{part}.csv").write_text(
            "".join(f"{part} {n}: which?,one,two,three,four,{'ABCD'[n]}\n" for n in range(count))
        )
    (tmp_path / "test").mkdir()
    return tmp_path


class FakeTrainer(Learner):
    def save_for_sampling(self, name):
        return f"tinker://run/sampler_weights/{name}"

    def save_for_download(self, name):
        return f"tinker://run/external_weights/{name}"


class TestTheWholeTraining:
    def run(self, monkeypatch, tokenizer, folder, trainers, **changes):
        made = []

        def new(client, base_model, *, rank, seed):
            made.append("new")
            return trainers.pop(0)

        def resumed(client, path):
            made.append(path)
            return trainers.pop(0)

        monkeypatch.setattr("src.pipeline.fine_tuning.Trainer.new", new)
        monkeypatch.setattr("src.pipeline.fine_tuning.Trainer.resumed", resumed)
        schedule = Schedule(steps=4, batch_size=1, save_every=2)
        lessons = read_lessons("mmlu", path=folder)
        options = {"base_model": "m", "output_dir": folder / "out", "schedule": schedule, "client": object()} | changes
        return fine_tune(lessons, tokenizer, **options), made

    def test_what_was_trained_on_lies_beside_the_adapter_and_a_second_call_asks_for_nothing(
        self, monkeypatch, tokenizer, mmlu_folder
    ):
        trainer = FakeTrainer()
        record, made = self.run(monkeypatch, tokenizer, mmlu_folder, [trainer])
        kept = json.loads((mmlu_folder / "out" / "trained_on.json").read_text())
        by_first = {example.id: example for example in MMLUDataset("train", path=mmlu_folder)}
        assert kept["dataset"] == "mmlu"
        assert len(kept["ids"]) == len(set(kept["ids"])) == 4
        assert set(kept["ids"]) < set(by_first)
        assert record.download == "tinker://run/external_weights/final"
        again, asked = self.run(monkeypatch, tokenizer, mmlu_folder, [])
        assert (again, asked, made) == (record, [], ["new"])

    def test_a_stopped_training_goes_on_from_its_last_checkpoint(self, monkeypatch, tokenizer, mmlu_folder):
        with pytest.raises(KeyboardInterrupt):
            self.run(monkeypatch, tokenizer, mmlu_folder, [FakeTrainer(fails_at=3)])
        rest = FakeTrainer()
        record, made = self.run(monkeypatch, tokenizer, mmlu_folder, [rest])
        assert made == ["tinker://run/weights/step-2"]
        assert len(rest.taught) == 2
        assert record.step == 4

    def test_other_questions_in_the_same_folder_are_refused(self, monkeypatch, tokenizer, mmlu_folder):
        self.run(monkeypatch, tokenizer, mmlu_folder, [FakeTrainer()])
        path = mmlu_folder / "val" / "astronomy_val.csv"
        path.write_text(path.read_text().replace("which", "who"))
        with pytest.raises(ConfigError, match="texts_sha256"):
            self.run(monkeypatch, tokenizer, mmlu_folder, [])


def test_the_script_counts_first_and_says_in_a_sentence_what_is_missing(model_folder, mmlu_folder, monkeypatch, capsys):
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(mmlu_folder))
    options = ["--base-model", "m", "--model", model_folder, "--path", mmlu_folder, "--output-dir", mmlu_folder / "out"]
    monkeypatch.setattr(sys, "argv", ["tinker_finetune.py", *map(str, options), "--dry-run"])
    with pytest.raises(SystemExit, match="3"):
        runpy.run_path("experiments/tinker_finetune.py", run_name="__main__")
    assert capsys.readouterr().err.startswith("tinker_finetune.py: TINKER_API_KEY not found")
    monkeypatch.setenv("TINKER_API_KEY", "tml-key")
    runpy.run_path("experiments/tinker_finetune.py", run_name="__main__")
    counted = capsys.readouterr().out
    assert counted.startswith("5 questions of mmlu: ")
    assert "10 of them answers" in counted
    assert not (mmlu_folder / "out").exists()
