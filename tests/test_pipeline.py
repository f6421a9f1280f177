"""The whole job on a random model: files, counts, honest verdicts, and errors in one sentence."""

import csv
import json
import re
import sys

import numpy as np
import pytest

import src.report
from src.errors import ConfigError
from src.pipeline import run
from src.report import render_html, verdict
from tests.conftest import NOT_DRAWN
from tests.test_data import write_lines


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    """150 questions with three choices and two subjects; right letters at random."""
    rng = np.random.default_rng(0)
    rows = [
        {"question": f"Which is number {n}?", "choices": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)],
         "subject": ("one", "two")[n % 2]}
        for n in range(150)
    ]  # fmt: skip
    return write_lines(tmp_path_factory.mktemp("data") / "choices.jsonl", *rows)


def config(tmp_path, model_folder, path, **sections):
    return {
        "model": {"name": str(model_folder)},
        "data": {"name": "custom", "path": str(path)},
        "extraction": {"layers": [0, -1], "cache_dir": str(tmp_path / "cache")},
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(tmp_path / "run")},
    } | sections


def without_times(results):
    return {key: value for key, value in results.items() if key not in ("created", "seconds", "peak_memory_mb")}


@pytest.fixture(scope="module")
def both(tmp_path_factory, model_folder, adapter_folder, choices):
    """A finished run of base and tuned, and its folder."""
    folder = tmp_path_factory.mktemp("both")
    model = {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}
    return run(config(folder, model_folder, choices, model=model)), folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model_folder, choices):
    """A finished run of one model, with a name from outside."""
    name = {"name": "<script>alert(1)</script>"}
    return run(config(tmp_path_factory.mktemp("alone"), model_folder, choices, experiment=name))


def test_base_against_tuned_leaves_everything_a_person_needs(both):
    result, folder = both
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "results.json",
        "questions.csv",
        "answers.parquet",
        "report.html",
        "probes",
    }
    results = json.loads((folder / "results.json").read_text())
    assert results == result.results
    assert (folder / "report.html").read_text() == NOT_DRAWN
    assert set(results["variants"]) == {"base", "tuned"}
    for variant in results["variants"].values():
        main = {"probe", "own_probability", "text_only", "shuffled_labels"}
        baselines = {"own_recalibrated", "surface", "subject_mean", "entropy", "margin", "choice_mass"}
        assert set(variant["scores"]) == main | baselines
        assert all(set(variant["scores"][name]) == {"all"} for name in baselines)
        assert set(variant["scores"]["probe"]) == {"all", "one", "two"}
        assert variant["scores"]["probe"]["all"]["ece"]["calibrated_mean"] > 0
    assert set(results["comparisons"]["tuned"]["scores"]["probe"]["all"]) == {
        "accuracy",
        "auroc",
        "brier",
        "nll",
        "ece",
        "ece_mass",
    }
    assert sum(results["data"]["splits"].values()) == 150
    with (folder / "questions.csv").open() as file:
        rows = list(csv.DictReader(file))
    test = [row for row in rows if row["split"] == "test"]
    assert len(rows) == 150
    assert len(test) == results["data"]["splits"]["test"]
    right = np.mean([int(row["tuned_correct"]) for row in test])
    assert right == pytest.approx(results["variants"]["tuned"]["accuracy"]["all"]["value"])
    assert all(bool(row["base_probe"]) == (row["split"] == "test") for row in rows)
    again = run(folder / "config.yaml")
    assert without_times(again.results) == without_times(results)


def test_a_model_at_chance_concludes_nothing(alone):
    assert alone.results["comparisons"] == {}
    assert "nothing can be concluded" in alone.verdict[0]
    assert "nothing can be concluded" in repr(alone)


def test_one_class_is_undefined_and_the_run_ends_well_with_a_page(tmp_path, model_folder, monkeypatch):
    monkeypatch.setitem(vars(src.report), "render_html", render_html)
    data = write_lines(tmp_path / "a.jsonl", *({"question": f"Say {n}", "answer": "impossible"} for n in range(60)))
    result = run(config(tmp_path, model_folder, data))
    base = result.results["variants"]["base"]
    assert base["scores"]["own_probability"]["all"]["auroc"] == {
        "value": None, "low": None, "high": None, "reason": "one class: every answer is wrong"
    }  # fmt: skip
    assert base["missing"] == "one class: every training answer is wrong"
    assert "undefined (one class: every answer is wrong)" in result.verdict[0]
    assert sum(base["status"].values()) == 60
    assert "undefined" in (tmp_path / "run" / "report.html").read_text()


def test_text_from_outside_is_escaped_in_the_report(alone):
    results = alone.results
    page = render_html(results)
    assert page.count("<script") == 1  # ours
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert verdict(results) == results["verdict"]


def test_keys_without_meaning_and_too_few_questions_are_named(tmp_path, model_folder, choices):
    data = {"name": "custom", "path": str(choices), "category": "x"}
    with pytest.raises(ConfigError, match=r"data\.category has no meaning for data\.name: custom"):
        run(config(tmp_path, model_folder, choices, data=data))
    with pytest.raises(ConfigError, match="test split"):
        run(config(tmp_path, model_folder, write_lines(tmp_path / "b.jsonl", {"question": "Q", "answer": "A"})))


def cli(monkeypatch, *arguments):
    from src.cli import main

    monkeypatch.setattr(sys, "argv", ["confprobe", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_the_command_runs_reports_and_prints(tmp_path, model_folder, choices, monkeypatch, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config(tmp_path, model_folder, choices)))
    assert cli(monkeypatch, "run", path, "--set", "experiment.name=mine", "--set", "data.limit=24") == 0
    printed = capsys.readouterr().out
    assert "mine: 24 questions" in printed
    assert "Verdict" in printed
    (tmp_path / "run" / "report.html").unlink()
    assert cli(monkeypatch, "report", tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere.yaml"], 2, "cannot be read"),
        (["run", "configs/own.yaml", "--set", "data.path=nowhere.jsonl"], 2, "no file nowhere.jsonl"),
        (["report", "."], 2, "no results.json"),
        (["download", "nowhere.tar", "base", "out"], 2, "no checkpoint archive"),
        (["download", "README.md", "base", "out"], 5, "cannot be read as a tar archive"),
        (["run"], 2, "Missing argument"),
        (["rnu"], 2, "No such command"),
    ],
)
def test_errors_are_one_sentence_and_a_code(monkeypatch, capsys, tmp_path, arguments, code, message):
    if arguments[0] == "run" and len(arguments) > 2:
        arguments = [*arguments, "--set", f"run.dir={tmp_path}"]
    assert cli(monkeypatch, *arguments) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_one_model_at_chance_is_said_beside_what_the_other_shows(both):
    results = json.loads(json.dumps(both[0].results))
    results["variants"]["tuned"]["accuracy"]["all"] = {"value": 0.8, "low": 0.7, "high": 0.9}
    results["variants"]["base"]["accuracy"]["all"] = {"value": 0.33, "low": 0.2, "high": 0.4}
    sentences = verdict(results)
    assert "Fine-tuning" in sentences[0]
    assert sum("The base model's accuracy" in sentence for sentence in sentences) == 1
    assert not any("The tuned model's accuracy" in sentence for sentence in sentences)


def test_no_cell_of_questions_csv_is_a_formula(tmp_path, model_folder):
    rows = [{"question": f"=SUM({n})", "choices": ["-1", "@x"], "answer": "-1" if n % 2 else "@x", "subject": "+cmd|x"}
            for n in range(40)]  # fmt: skip
    run(config(tmp_path, model_folder, write_lines(tmp_path / "f.jsonl", *rows)))
    with (tmp_path / "run" / "questions.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert {row["subject"] for row in cells} == {"'+cmd|x"}
    assert all(row["question"].startswith("'=SUM(") for row in cells)
    text = (tmp_path / "run" / "questions.csv").read_text()
    assert not re.search(r"(^|,)\"?[=@]", text, re.MULTILINE)


@pytest.mark.parametrize("number", ["-5", "+1,000", "-.5", "-12%"])
def test_a_negative_number_stays_one(number):
    from src.pipeline.results import _no_formula

    assert _no_formula(number) == number
