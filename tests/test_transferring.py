"""Probes where they were not trained: what is left out has no say, the matrix is one probe by one, and it is cited."""

import copy
import io

import numpy as np
import pytest
from pandas import read_parquet
from pandas.testing import assert_frame_equal
from rich.console import Console
from sklearn.metrics import roc_auc_score

from src.config import DataConfig, EvaluationConfig, load_config
from src.data.example import Example
from src.data.mmlu_subjects import CATEGORIES
from src.data.splits import SPLITS, Splits, normalised
from src.data.subject_groups import subject_groups
from src.errors import ConfigError
from src.evaluation.intervals import score
from src.evaluation.resampling import question_weights
from src.pipeline import make_plan, run
from src.pipeline.asked import Asked
from src.pipeline.judging import Judge
from src.pipeline.judging_elsewhere import Tried
from src.pipeline.probing import fit_scorers, part_of
from src.pipeline.questions import data_name
from src.pipeline.transferring import DataSet, on_other_data, on_other_subjects
from src.probes.part import Part
from src.probes.sweep import Place, sweep_places, to_choose_with
from src.probes.transfer import Grouped, try_elsewhere
from src.report import plots, print_plan, print_report, verdict, words
from src.report.html import render_html
from tests.report_examples import example_results, undefined
from tests.test_data import write_lines

N = 600
PLACES = (Place("last_prompt", "block.0"), Place("last_prompt", "block.1"))
SUBJECTS = ("one", "two", "three")


def world(*, seed=0, aligned=True, subjects=SUBJECTS, n=N):
    """Questions whose states show in feature 0 of block 1 whether the answer is right; one subject shows it elsewhere.

    Not aligned: of subject "three" feature 1 shows it, and feature 0 the opposite.
    """
    rng = np.random.default_rng(seed)
    knows = rng.standard_normal(n)
    correct = (rng.random(n) < 1 / (1 + np.exp(-3 * knows))).astype(float)
    names = np.array([subjects[row % len(subjects)] for row in range(n)])
    hidden = rng.standard_normal((n, 2, 4)).astype(np.float32)
    hidden[:, 1, 0] += 2 * knows
    if not aligned:
        odd = names == "three"
        hidden[odd, 1, 0] -= 4 * knows[odd]
        hidden[odd, 1, 1] += 2 * knows[odd]
    examples = tuple(
        Example(f"What is number {row}, seed {seed}?", "A", ("x", "y"), str(names[row])) for row in range(n)
    )
    asked = Asked(
        answers=("A",) * n, correct=correct, confidence=1 / (1 + np.exp(-knows - rng.standard_normal(n))), signals={},
        places=PLACES, hidden=hidden, status=("answered",) * n, marks=(), elsewhere={}, truncated=0,
    )  # fmt: skip
    return examples, asked


def split(n=N):
    rows = np.arange(n)
    return Splits(
        rows[: n // 2], rows[n // 2 : n * 6 // 10], rows[n * 6 // 10 : n * 7 // 10], rows[n * 7 // 10 :], rows
    )


def judged(examples, asked, splits=None, **settings):
    splits = splits or split(len(examples))
    probed = fit_scorers(asked, examples, splits, seed=1, repeats=2, label="base")
    config = EvaluationConfig.model_validate({"bootstrap": 200} | settings)
    judge = Judge.of(examples, splits.test, splits.groups, [asked], config, seed=1)
    return judge, probed


def subjects_of(examples, asked, splits=None):
    judge, probed = judged(examples, asked, splits)
    return on_other_subjects(judge, asked, probed, families=("logistic",), label="base"), judge, probed


def grouped(examples, asked, splits, *, names=SUBJECTS):
    of_row = np.array([names.index(example.subject) for example in examples])
    return [
        Grouped(part_of(asked, rows, splits.groups), of_row[rows]) for rows in (splits.train, splits.val, splits.test)
    ]


# Groups of subjects


def test_mmlu_is_left_out_by_its_four_categories():
    subjects = [subject for parts in CATEGORIES.values() for names in parts.values() for subject in names.split()]
    found = subject_groups(subjects)
    assert found.by == "category"
    assert list(found.subjects) == ["STEM", "humanities", "social sciences", "other"]
    assert sorted(subject for group in found.subjects.values() for subject in group) == sorted(subjects)


def test_up_to_eight_subjects_are_left_out_one_by_one():
    found = subject_groups("abcdefgh" * 3)
    assert (found.by, found.subjects) == ("subject", {name: (name,) for name in "abcdefgh"})


def test_subjects_of_one_category_are_no_categories():
    assert subject_groups(["astronomy", "anatomy", "virology"]).by == "category"
    assert subject_groups(["anatomy", "virology"]).by == "subject"
    assert subject_groups(["astronomy", "anatomy", "cooking"]).by == "subject"


def test_more_subjects_are_dealt_whole_into_five_groups_of_like_size_in_any_order():
    sizes = {f"subject {number}": 10 + 7 * number for number in range(20)}
    subjects = [name for name, size in sizes.items() for _ in range(size)]
    found = subject_groups(subjects)
    assert (found.by, len(found.subjects)) == ("deal", 5)
    assert sorted(subject for group in found.subjects.values() for subject in group) == sorted(sizes)
    held = [sum(sizes[name] for name in group) for group in found.subjects.values()]
    assert max(held) - min(held) < 0.1 * sum(held) / 5
    assert subject_groups(reversed(subjects)) == found


def test_one_subject_is_no_group():
    assert subject_groups(["facts"] * 9).subjects == {}
    examples, asked = world(subjects=("one",))
    found, _, _ = subjects_of(examples, asked)
    assert found["missing"] == "all questions are of one subject"


# What is left out has no say


def test_a_subject_that_is_left_out_changes_nothing_of_its_probe():
    examples, asked = world()
    splits = split()
    train, val, test = grouped(examples, asked, splits)
    before = try_elsewhere(PLACES, train, val, test, groups=3)
    fitted_on = np.concatenate([splits.train, splits.val])
    of_two = fitted_on[[examples[row].subject == "two" for row in fitted_on]]
    asked.hidden[of_two] = 1e3
    asked.correct[of_two] = 1 - asked.correct[of_two]
    train, val, test = grouped(examples, asked, splits)
    after = try_elsewhere(PLACES, train, val, test, groups=3)
    rows = test.groups == 1
    assert np.array_equal(before.left_out[rows], after.left_out[rows])
    assert not np.array_equal(before.left_out[~rows], after.left_out[~rows])
    assert np.array_equal(before.alone[[0, 2]], after.alone[[0, 2]])


def test_each_probe_is_the_sweep_of_its_own_rows():
    examples, asked = world()
    splits = split()
    train, val, test = grouped(examples, asked, splits)
    found = try_elsewhere(PLACES, train, val, test, groups=3)
    for group in range(3):
        rows = np.flatnonzero(test.groups == group)
        without = sweep_places(PLACES, *to_choose_with(train.without(group), val.without(group)))
        assert np.array_equal(found.left_out[rows], without.predict(test.part.only(rows)))
        assert found.chosen[group] == without.chosen
        alone = sweep_places(PLACES, *to_choose_with(train.only(group), val.only(group)))
        assert np.array_equal(found.alone[group], alone.predict(test.part))


def test_of_two_groups_to_leave_one_out_is_to_train_on_the_other():
    examples, asked = world(subjects=("one", "two"))
    train, val, test = grouped(examples, asked, split(), names=("one", "two"))
    found = try_elsewhere(PLACES, train, val, test, groups=2)
    for group in range(2):
        rows = np.flatnonzero(test.groups == group)
        without = sweep_places(PLACES, *to_choose_with(train.without(group), val.without(group)))
        assert np.array_equal(found.left_out[rows], without.predict(test.part.only(rows)))


def test_what_cannot_be_fitted_is_said_and_not_judged():
    examples, asked = world()
    judge, probed = judged(examples, asked)
    fitted_on = np.concatenate([probed.splits.train, probed.splits.val])
    asked.correct[[row for row in fitted_on if examples[row].subject != "two"]] = 1.0
    found = on_other_subjects(judge, asked, probed, families=("logistic",), label="base")
    missing = {group["name"]: group["missing"] for group in found["groups"]}
    assert "one class" in missing["two"]
    assert missing["one"] == missing["three"] == ""
    held = {group["name"]: group for group in found["groups"]}
    assert held["two"]["scores"] == held["two"]["differences"] == {}
    assert held["two"]["selected"] is None
    assert found["all"]["n"] == held["one"]["n"] + held["three"]["n"] == 120
    trained_on_one = found["matrix"]["auroc"][list(held).index("one")]
    assert all(cell["value"] is None and "one class" in cell["reason"] for cell in trained_on_one)
    trained_on_two = found["matrix"]["auroc"][list(held).index("two")]
    assert all(cell["value"] > 0.5 for cell in trained_on_two)


# Numbers


def test_of_like_subjects_little_is_lost_and_of_an_unlike_one_all():
    like, _, _ = subjects_of(*world(aligned=True))
    loss = like["all"]["differences"]["probe"]["auroc"]
    assert loss["low"] < 0 < loss["high"] or abs(loss["value"]) < 0.02
    unlike, _, _ = subjects_of(*world(aligned=False))
    held = {group["name"]: group for group in unlike["groups"]}
    assert held["three"]["scores"]["held_out"]["auroc"]["high"] < 0.5
    assert held["three"]["differences"]["probe"]["auroc"]["high"] < 0
    assert held["three"]["differences"]["probe"]["auroc"]["p_holm"] < 0.05
    matrix = np.array([[cell["value"] for cell in row] for row in unlike["matrix"]["auroc"]])
    order = [group["name"] for group in unlike["groups"]]
    three = order.index("three")
    others = [place for place in range(3) if place != three]
    assert (matrix[np.ix_(others, others)] > 0.8).all()
    assert (matrix[others, three] < 0.5).all()
    assert (matrix[three, others] < 0.5).all()
    assert matrix[three, three] > 0.8


def test_the_numbers_of_a_subject_are_those_of_its_questions_alone():
    examples, asked = world()
    found, judge, probed = subjects_of(examples, asked)
    (group,) = (one for one in found["groups"] if one["name"] == "two")
    rows = judge.subjects == "two"
    y = asked.correct[judge.rows][rows]
    for scorer in ("probe", "own_probability"):
        p = probed.test[scorer][rows]
        wanted = score(p, y, judge.weights[:, rows]).estimates()
        for metric in ("auroc", "brier", "nll", "ece"):
            number = group["scores"][scorer][metric]
            assert (number["value"], number["low"]) == pytest.approx((wanted[metric].value, wanted[metric].low))
    diagonal = found["matrix"]["auroc"][0][0]
    first = judge.subjects == found["groups"][0]["name"]
    names = tuple(one["name"] for one in found["groups"])
    train, val, test = grouped(examples, asked, split(), names=names)
    alone = sweep_places(PLACES, train.only(0), val.only(0)).predict(test.only(0))
    wanted = score(alone, asked.correct[judge.rows][first], judge.weights[:, first]).estimates()
    assert diagonal["value"] == pytest.approx(wanted["auroc"].value)
    assert (diagonal["low"], diagonal["high"]) == pytest.approx((wanted["auroc"].low, wanted["auroc"].high))
    assert found["matrix"]["nll"][0][0]["low"] == pytest.approx(wanted["nll"].low)


def tried(p, y, groups, **changes):
    weights = question_weights(np.arange(y.size), 100, 0)
    said = {"held_out": p, "probe": p, "own_probability": p}
    return Tried(**{"groups": groups, "y": y, "said": said, "alone": np.empty((0, y.size)), "weights": weights,
                     "bins": 15, "seed": 0} | changes)  # fmt: skip


def test_what_different_probes_say_is_not_compared():
    """The scores of one group may all lie above those of another: AUROC is over the pairs of one group."""
    rng = np.random.default_rng(0)
    groups, y = np.repeat([0, 1], 100), rng.permutation(200) % 2
    p = rng.random(200) / 3
    shifted = np.where(groups == 1, p + 0.6, p)
    apart = [tried(one, y.astype(float), groups).whole()["scores"]["held_out"] for one in (p, shifted)]
    assert apart[0]["auroc"] == apart[1]["auroc"]
    assert apart[0]["nll"] != apart[1]["nll"]
    pairs = {group: roc_auc_score(y[groups == group], p[groups == group]) for group in (0, 1)}
    counts = {group: (y[groups == group] == 1).sum() * (y[groups == group] == 0).sum() for group in (0, 1)}
    wanted = sum(pairs[group] * counts[group] for group in (0, 1)) / sum(counts.values())
    assert apart[0]["auroc"]["value"] == pytest.approx(wanted)


def test_a_group_of_one_class_has_no_pairs_and_takes_no_value_from_the_others():
    rng = np.random.default_rng(0)
    groups, y, p = np.repeat([0, 1], 100), rng.permutation(200) % 2, rng.random(200)
    y[groups == 1] = 1
    one = tried(p, y.astype(float), groups)
    mixed, single = one.by_group(2)
    assert one.whole()["scores"]["held_out"]["auroc"] == mixed["scores"]["held_out"]["auroc"]
    assert single["scores"]["held_out"]["auroc"]["reason"] == "one class: every answer is right"


def test_a_probe_that_equals_the_other_differs_from_it_by_nothing():
    rng = np.random.default_rng(0)
    y = rng.permutation(200) % 2
    found = tried(rng.random(200), y.astype(float), np.arange(200) % 4).whole()
    assert all(change["value"] == 0 for change in found["differences"]["probe"].values())


def test_all_scorers_are_judged_on_the_same_rows():
    rng = np.random.default_rng(0)
    y, p, groups = (rng.permutation(200) % 2).astype(float), rng.random(200), np.arange(200) % 2
    partly = np.where(groups == 0, p, np.nan)
    said = {"held_out": partly, "probe": p, "own_probability": p}
    one = tried(p, y, groups, said=said)
    assert one.whole()["n"] == 100
    assert one.whole()["scores"]["held_out"] == one.whole()["scores"]["probe"]
    assert [group["n"] for group in one.by_group(2)] == [100, 0]
    nothing = tried(p, y, groups, said=dict.fromkeys(said, np.full(200, np.nan)))
    assert nothing.whole() == {"n": 0, "scores": {}, "differences": {}}


def test_dealt_subjects_have_no_matrix():
    names = tuple(f"subject {number}" for number in range(10))
    found, _, _ = subjects_of(*world(subjects=names))
    assert found["by"] == "deal"
    assert found["matrix"] is None
    assert sum(len(group["subjects"]) for group in found["groups"]) == 10
    assert found["all"]["n"] == 180


# Several data sets


def data_sets():
    """Two data sets of like states, "unlike" one where feature 1 shows what feature 0 shows elsewhere."""
    found = []
    for seed, name in enumerate(("first", "second", "unlike")):
        examples, asked = world(seed=seed, subjects=("one",))
        if name == "unlike":
            asked.hidden[:, 1, [0, 1]] = asked.hidden[:, 1, [1, 0]]
        found.append(DataSet(name, examples, split(), asked))
    return found


def of_data(data):
    judge, _ = judged(data[0].examples, data[0].asked, data[0].splits)
    return on_other_data(judge, data, families=("logistic",), label="base")


def test_a_probe_of_other_data_sets_is_the_sweep_of_their_rows():
    data = data_sets()
    found = of_data(data)
    parts = {
        split: [part_of(one.asked, getattr(one.splits, split), one.splits.groups) for one in data]
        for split in ("train", "val", "test")
    }
    rows = data[1].splits.test
    y = data[1].asked.correct[rows]
    train, val = (Part.joined([parts[split][0], parts[split][2]]) for split in ("train", "val"))
    away = sweep_places(PLACES, *to_choose_with(train, val)).predict(parts["test"][1])
    home = sweep_places(PLACES, *to_choose_with(parts["train"][1], parts["val"][1])).predict(parts["test"][1])
    (group,) = (one for one in found["groups"] if one["name"] == "second")
    for scorer, p in (("held_out", away), ("probe", home), ("own_probability", data[1].asked.confidence[rows])):
        assert group["scores"][scorer]["auroc"]["value"] == pytest.approx(roc_auc_score(y, p))
    assert found["matrix"]["auroc"][1][1]["value"] == pytest.approx(roc_auc_score(y, home))
    assert (found["by"], group["n"], found["all"]["n"]) == ("data", 180, 540)


def test_what_an_unlike_data_set_teaches_does_not_carry_over():
    found = of_data(data_sets())
    matrix = np.array([[cell["value"] for cell in row] for row in found["matrix"]["auroc"]])
    assert (matrix[:2, :2] > 0.8).all()
    assert matrix[2, 2] > 0.8
    assert (np.abs(matrix[[0, 1, 2, 2], [2, 2, 0, 1]] - 0.5) < 0.1).all()
    unlike = found["groups"][2]
    assert unlike["differences"]["probe"]["auroc"]["high"] < 0


def test_a_data_set_that_cannot_train_is_said_and_the_others_are_judged():
    data = data_sets()
    data[1].asked.correct[np.concatenate([data[1].splits.train, data[1].splits.val])] = 0.0
    found = of_data(data)
    assert [group["missing"].partition(":")[0] for group in found["groups"]] == ["", "one class", ""]
    assert [group["n"] for group in found["groups"]] == [180, 0, 180]
    assert [row[0]["value"] is None for row in found["matrix"]["auroc"]] == [False, True, False]


@pytest.fixture
def files(tmp_path):
    """Questions with choices and questions without; thirty of them are asked in both."""
    rng = np.random.default_rng(0)
    choices = [
        {"question": f"Which is number {n}?", "choices": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)],
         "subject": ("one", "two")[n % 2]}
        for n in range(120)
    ]  # fmt: skip
    also = [{"question": f"WHICH is number {n}", "answer": str(n % 7)} for n in range(30)]
    free = also + [{"question": f"Say {n}", "answer": str(rng.integers(10))} for n in range(60)]
    return write_lines(tmp_path / "choices.jsonl", *choices), write_lines(tmp_path / "free.jsonl", *free)


def settings(tmp_path, model_folder, files, **transfer):
    choices, free = files
    return {
        "model": {"name": str(model_folder)},
        "data": {"name": "custom", "path": str(choices)},
        "extraction": {"layers": [0, -1], "cache_dir": str(tmp_path / "cache")},
        "transfer": {"data": [{"name": "custom", "path": str(free), "max_new_tokens": 2}]} | transfer,
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(tmp_path / "run")},
    }


def test_another_data_set_is_asked_judged_and_changes_no_other_number(tmp_path, model_folder, files, monkeypatch):
    config = settings(tmp_path, model_folder, files)
    results = run(config).results
    found = results["variants"]["base"]["held_out"]
    assert set(found) == {"subjects", "data"}
    assert [group["name"] for group in found["data"]["groups"]] == ["custom choices", "custom free"]
    assert results["transfer_data"]["custom free"]["n"] == 90
    assert sum(found["data"]["groups"][1]["asked"]["status"].values()) == 90
    alone = run(config | {"transfer": {"subjects": False}, "run": {"dir": str(tmp_path / "alone")}}).results
    assert alone["variants"]["base"].pop("held_out") == {}
    results["variants"]["base"].pop("held_out")
    assert alone["variants"] == results["variants"]
    assert alone["data"] == results["data"]
    assert alone["data"]["sha256"] != results["transfer_data"]["custom free"]["sha256"]
    without, table = (read_parquet(tmp_path / folder / "answers.parquet") for folder in ("alone", "run"))
    assert list(table["data"]) == ["custom choices"] * 120 + ["custom free"] * 90
    assert_frame_equal(table[:120][without.columns], without)
    other = table[120:]
    assert not other["judged"].any()
    assert other[["probe", "text_only", "entropy"]].isna().all(axis=None)
    assert other["correct"].mean() == found["data"]["groups"][1]["asked"]["accuracy_all_questions"]

    def no_forward(*_):
        raise AssertionError("computed again")

    for room in ("capture", "packed"):
        monkeypatch.setattr(f"src.models.extraction.{room}.forward", no_forward)
    again = run(config).results
    assert again["variants"]["base"]["held_out"] == found


def test_a_question_of_two_data_sets_is_in_one_split(tmp_path, model_folder, files):
    plan = make_plan(load_config(settings(tmp_path, model_folder, files)))
    texts = {
        name: {
            normalised(task.questions.examples[row].question)
            for task in plan.tasks
            for row in getattr(task.splits, name)
        }
        for name in SPLITS
    }
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 180


def test_the_dry_run_counts_every_data_set(tmp_path, model_folder, files):
    config = load_config(settings(tmp_path, model_folder, files))
    facts = make_plan(config).facts(config)
    (other,) = facts["transfer"]
    assert (other["data"], other["questions"], other["answers"]) == ("custom free", 90, "free answers")
    assert other["passes"]["texts"] == 90
    assert sum(other["splits"].values()) == 90
    assert facts["state_bytes"] == (120 + 90) * 2 * 32 * 4
    text = io.StringIO()
    print_plan(facts, console=Console(file=text, width=200, markup=False, emoji=False))
    assert "90 of custom free, free answers" in text.getvalue()


@pytest.mark.parametrize(
    ("transfer", "extraction", "message"),
    [
        ({"data": [{"name": "custom", "path": "choices.jsonl"}]}, {}, "transfer.data names the data set 'custom choic"),
        (
            {"data": [{"name": "quickstart"}, {"name": "quickstart"}]},
            {},
            "transfer.data names the data set 'quickstart', which is asked already",
        ),
        (
            {"data": [{"name": "custom", "path": "free.jsonl"}]},
            {"position": "answer_letter"},
            "transfer.data, custom free: extraction.position names answer_letter.*last_prompt is there in all",
        ),
        ({"data": [{"name": "quickstart", "shots": 2}]}, {}, "transfer.data, quickstart: data.shots has no meaning"),
        ({"data": [{"name": "custom"}]}, {}, r"transfer\.data\.path \(the file of questions\) is not given"),
        (
            {"data": [{"nmae": "gsm8k"}]},
            {},
            r"Unknown key 'transfer\.data\.0\.nmae'. Did you mean 'transfer.data.0.name",
        ),
        ({"data": [{"name": "mmul"}]}, {}, r"transfer\.data\.0\.name is 'mmul', but allowed is .*Which data set"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    tmp_path, model_folder, files, monkeypatch, transfer, extraction, message
):
    monkeypatch.chdir(tmp_path)
    config = settings(tmp_path, model_folder, files, **transfer)
    config["extraction"] |= extraction
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(config))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"name": "gsm8k"}, "gsm8k"),
        ({"name": "mmlu", "category": "stem", "path": "somewhere"}, "mmlu stem"),
        ({"name": "custom", "path": "a/history.jsonl"}, "custom history"),
    ],
)
def test_data_sets_are_called_by_what_tells_them_apart(data, name):
    assert data_name(DataConfig.model_validate(data)) == name


# What is said of it


@pytest.fixture(scope="module")
def results():
    return example_results(subjects=3, n_test=240, layers=2)


@pytest.fixture
def page(monkeypatch):
    """The page without its figures, which take most of its time."""
    sections = ("knows", "trust", "sure", "subjects", "elsewhere")
    monkeypatch.setattr("src.report.html.drawings", lambda _: {section: [] for section in sections})
    return render_html


def told(results):
    return " ".join(verdict(results))


def test_the_first_screen_and_the_terminal_show_it_beside_the_headline(results, page):
    header = page(results).partition("</header>")[0]
    held, trained = (
        words.with_interval(results["variants"]["base"]["held_out"]["subjects"]["all"]["scores"][scorer]["auroc"])
        for scorer in ("held_out", "probe")
    )
    assert f"not trained on the subject: {held} → {held}; trained on it too: .700 → .700" in header
    text = io.StringIO()
    print_report(results, console=Console(file=text, width=160, markup=False, emoji=False))
    assert f"on subjects it was not trained on: AUROC {held}; trained there too: {trained}" in text.getvalue()


def test_the_verdict_says_what_is_lost_and_what_does_not_carry_over(results):
    said = told(results)
    assert "On subjects it was not trained on, a probe tells right from wrong less well than one that was" in said
    assert "Trained on one subject alone, probes have AUROC .800 there and .510 on others; at chance" in said
    assert "in 6 of 6: subject 0 → subject 1 .510" in said
    assert "and 2 more" in said
    same = copy.deepcopy(results)
    for variant in same["variants"].values():
        variant["held_out"]["subjects"]["all"]["differences"]["probe"]["auroc"] |= {"low": -0.2, "high": 0.1}
    assert "neither clearly better nor worse than one that was" in told(same)


def test_groups_that_could_not_be_tried_are_counted_and_said(results, page):
    partly = copy.deepcopy(results)
    for variant in partly["variants"].values():
        variant["held_out"]["subjects"]["groups"][1] |= {
            "n": 0, "scores": {}, "differences": {}, "missing": "one class", "selected": None
        }  # fmt: skip
        variant["held_out"]["subjects"]["matrix"]["auroc"][1] = [undefined()] * 3
    assert "1 of 3 subjects could not be tried so (subject 1: one class)." in told(partly)
    assert "not tried: one class" in page(partly)


def test_where_nothing_could_be_tried_that_is_said(page):
    single = example_results(subjects=1, n_test=90, layers=1)
    reason = "is not known: all questions are of one subject."
    assert reason in told(single)
    assert reason in page(single)
    untried = example_results(n_test=90, layers=1)
    for variant in untried["variants"].values():
        variant["held_out"] = {}
    assert "not trained" not in told(untried) + page(untried)
    assert "is not known" not in told(untried)


def test_results_from_before_it_was_tried_are_shown(page):
    old = example_results(n_test=90, layers=1)
    for variant in old["variants"].values():
        del variant["held_out"]
    assert '<section id="elsewhere"' not in page(old)
    assert "it was not trained on" not in told(old)


def test_every_cell_of_the_map_holds_its_number_and_a_tint_that_grows_with_it(results):
    found = copy.deepcopy(results["variants"]["base"]["held_out"]["subjects"])
    values = [[0.8, 0.4, 0.6], [0.5, 0.9, 1.0], [0.7, None, 0.55]]
    found["matrix"]["auroc"] = [[{"value": value} for value in row] for row in values]
    ax = plots.transfer_map(found, label="base")
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert shown == {
        (x, y): "–" if value is None else words.figure(value, digits=2)
        for y, row in enumerate(values)
        for x, value in enumerate(row)
    }
    tints = [bar.get_facecolor()[3] for bar in ax.containers[0]]
    order = np.argsort([value or 0.0 for row in values for value in row])
    assert sorted(tints) == [tints[cell] for cell in order]
    assert len(set(tints)) == 7  # .4, .5 and unknown are alike
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["subject 0", "subject 1", "subject 2"]


def test_a_probe_of_shuffled_labels_that_is_refused_does_not_end_the_run():
    for seed in range(4):
        examples, asked = world(seed=seed)
        asked.correct[[example.subject != "two" for example in examples]] = 1.0
        judged(examples, asked)
