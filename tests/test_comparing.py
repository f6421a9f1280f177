"""Finished runs against each other: on the questions that they share, paired, and corrected for their number."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from src.errors import ConfigError
from src.pipeline import compare_runs

METRICS = {"accuracy", "auroc", "brier", "nll", "ece", "ece_mass"}
SETTINGS = {
    "experiment": {"name": "toy", "seed": 1}, "model": {"name": "toy", "quantization": None, "dtype": "auto"},
    "evaluation": {"bootstrap": 300, "bins": 15}, "data": {"limit": None},
}  # fmt: skip


def finished_run(folder, *, seed, asked=range(400), accuracy=0.6, name="toy", probe=True, **model):
    """A run of one model, which is right at random about some of 1,000 questions, and mostly knows it."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    knows = np.random.default_rng(0).random(1000)  # what is hard is hard for all
    correct = (knows + 0.3 * rng.standard_normal(1000) > 1 - accuracy)[list(asked)]
    said = (correct + rng.random(len(correct))) / 2
    rows = {
        "model": ["base"] * len(correct),
        "id": [f"question {n}" for n in asked],
        "judged": [bool(n % 4) for n in asked],
        "group": list(asked),
        "correct": correct,
        "own_probability": said,
        "probe": [value if probe else None for value in said**2],
        "text_only": [0.5] * len(correct),
    }
    parquet.write_table(pa.table(rows), folder / "answers.parquet")
    config = SETTINGS | {"model": SETTINGS["model"] | model, "experiment": {"name": name, "seed": 1}}
    results = {"schema": 4, "name": name, "config": config, "model": {"name": "toy", "adapters": {}}, "data": {},
               "variants": {"base": {}}, "verdict": []}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_a_run_does_not_differ_from_itself(tmp_path):
    one, copy = (finished_run(tmp_path / name, seed=1) for name in "ab")
    found = compare_runs([one, copy])
    assert [side["label"] for side in found["sides"]] == ["a", "b"]
    change = found["differences"][0]
    assert (change["flips"]["gained"], change["flips"]["lost"]) == (0, 0)
    for metrics in change["scores"].values():
        assert set(metrics) == METRICS
        assert all(number["value"] == 0 and number["p_holm"] == 1 for number in metrics.values())
    assert change["disagreement"]["n"] == 0
    assert "no clear difference" in found["verdict"][0]


def test_only_test_questions_of_all_runs_count(tmp_path):
    first = finished_run(tmp_path / "a", seed=1, asked=range(400))
    second = finished_run(tmp_path / "b", seed=2, asked=range(200, 600))
    found = compare_runs([first, second])
    shared = [n for n in range(200, 400) if n % 4]
    assert found["shared"]["n"] == len(shared)
    assert found["sides"][0]["n_test"] == 300
    table = parquet.read_table(first / "answers.parquet").to_pydict()
    right = [y for n, y in zip(table["group"], table["correct"], strict=True) if n in shared]
    assert found["sides"][0]["accuracy"]["value"] == pytest.approx(np.mean(right))


def test_what_differs_is_found_named_and_corrected_for_the_number_of_runs(tmp_path):
    folders = [finished_run(tmp_path / "a", seed=1, accuracy=0.5, name="full")]
    folders += [finished_run(tmp_path / "b", seed=2, accuracy=0.8, name="better", quantization="8bit")]
    alone = compare_runs(folders)["differences"][0]["scores"]["own_probability"]
    folders += [finished_run(tmp_path / f"c{n}", seed=3 + n, accuracy=0.5, name=f"same {n}") for n in range(3)]
    found = compare_runs(folders)
    better = found["differences"][0]["scores"]["own_probability"]
    assert better["accuracy"]["value"] > 0.15
    assert better["accuracy"]["p"] == alone["accuracy"]["p"]
    assert better["accuracy"]["p_holm"] > alone["accuracy"]["p_holm"]
    assert found["sides"][1]["settings"] == {"model.quantization": "8bit"}
    assert found["verdict"][0].startswith("Clearly another accuracy than full: better +")
    assert found["verdict"][0].endswith("(of 4 models).")
    assert "better against full: accuracy +" in found["verdict"][1]


def test_any_model_may_be_the_one_that_others_are_compared_with(tmp_path):
    folders = [finished_run(tmp_path / name, seed=n, accuracy=0.5 + n / 10) for n, name in enumerate("abc")]
    straight, turned = compare_runs(folders), compare_runs(folders, against="b")
    assert [one["against"] for one in turned["differences"]] == ["b", "b"]
    assert [side["label"] for side in turned["sides"]] == ["b", "a", "c"]
    one, other = (found["differences"][0]["scores"]["probe"]["auroc"] for found in (straight, turned))
    assert one["value"] == -other["value"]
    with pytest.raises(ConfigError, match="None of these models is called 'x': choose one of a, b, c"):
        compare_runs(folders, against="x")
    with pytest.raises(ConfigError, match="More than one of these models is called 'base'"):
        compare_runs(folders, against="base")


def test_a_model_that_says_what_another_says_is_compared_once(tmp_path):
    """Such as the base model of two runs with an adapter each."""
    folders = [finished_run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("again", 1))]
    found = compare_runs(folders)
    assert found["same"] == [{"label": "again", "as": "a"}]
    assert [side["label"] for side in found["sides"]] == ["a", "b"]
    once = compare_runs(folders[:2])
    assert (found["differences"], once["same"]) == (once["differences"], [])
    assert "again says what a says, and is compared once." in found["verdict"]


def test_accuracy_is_tested_by_mcnemar_and_ece_beyond_what_perfect_models_differ_by(tmp_path):
    folders = [finished_run(tmp_path / name, seed=n, accuracy=0.5 + n / 10) for n, name in enumerate("ab")]
    found = compare_runs(folders)
    change, sides = found["differences"][0], found["sides"]
    own = change["scores"]["own_probability"]
    assert own["accuracy"]["p"] == change["flips"]["p_value"]
    floors = [side["scores"]["own_probability"]["ece"]["calibrated_mean"] for side in sides]
    assert own["ece"]["excess"]["value"] == pytest.approx(own["ece"]["value"] - (floors[1] - floors[0]))


def test_a_scorer_that_some_run_lacks_is_left_out_there_only(tmp_path):
    folders = [finished_run(tmp_path / name, seed=n, probe=name != "b") for n, name in enumerate("abc")]
    found = compare_runs(folders)
    assert ["probe" in side["scores"] for side in found["sides"]] == [True, False, True]
    assert ["probe" in change["scores"] for change in found["differences"]] == [False, True]


def test_what_cannot_be_compared_is_said(tmp_path):
    one, other = (finished_run(tmp_path / name, seed=1, asked=asked) for name, asked in
                  (("a", range(100)), ("b", range(500, 600))))  # fmt: skip
    with pytest.raises(ConfigError, match="share no test question"):
        compare_runs([one, other])
    with pytest.raises(ConfigError, match="1 model cannot be compared: name another run"):
        compare_runs([one])
    parquet.write_table(pa.table({"id": ["x"]}), other / "answers.parquet")
    with pytest.raises(ConfigError, match="has no column 'correct': another version wrote it"):
        compare_runs([one, other])
    (other / "answers.parquet").unlink()
    with pytest.raises(ConfigError, match=r"holds no answers.parquet"):
        compare_runs([one, other])
    with pytest.raises(ConfigError, match=r"holds no results.json"):
        compare_runs([one, tmp_path])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *itertools.product(["correct", "own_probability", "probe"], [2.0, "yes"]),
        ("correct", None),
        ("own_probability", None),
    ],
)
def test_an_answers_table_of_somebody_else_is_one_error(tmp_path, column, value):
    copies = [finished_run(tmp_path / name, seed=n) for n, name in enumerate("ab")]
    path = copies[1] / "answers.parquet"
    table = parquet.read_table(path)
    place = table.column_names.index(column)
    parquet.write_table(table.set_column(place, column, pa.array([value] * len(table))), path)
    with pytest.raises(ConfigError, match=f"the column '{column}' holds what no run writes there"):
        compare_runs(copies)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"answers\.parquet cannot be read"):
        compare_runs(copies)
