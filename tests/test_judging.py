"""What results.json says of one model and of two: counts that add up, numbers that equal those of single calls."""

from dataclasses import replace

import numpy as np
import pytest

from src.config import EvaluationConfig
from src.data.example import Example
from src.data.splits import Splits
from src.evaluation import CalibrationMetrics
from src.evaluation.comparison import Difference, difference
from src.evaluation.intervals import Estimate, calibrated_null, score
from src.evaluation.resampling import question_weights
from src.pipeline.asked import Asked
from src.pipeline.contrasting import advantages, compare, disagreement, gains
from src.pipeline.deciding import promises
from src.pipeline.judging import Judge
from src.pipeline.numbers import beyond_floors, honest, number, with_p_values
from src.pipeline.picturing import MOST_CHARACTERS, examples_of, pictures
from src.pipeline.probing import fit_scorers
from src.probes.refits import half_predictions, out_of_fold_predictions
from src.probes.sweep import Part, Place
from src.report.words import excludes_zero

N = 600


def example(row, subject):
    return Example(f"What is number {row}?", "A", ("x", "y"), subject, f"What is number {row}?\nAnswer:", (" A", " B"))


EXAMPLES = tuple(example(row, ("one", "two", "three")[row % 3]) for row in range(N))


def asked(seed, shown=1.0):
    """A model that is right more often where a hidden number is large; its states and its probability show that."""
    rng = np.random.default_rng(seed)
    knows = np.random.default_rng(0).standard_normal(N) + 0.5 * rng.standard_normal(N)
    correct = (rng.random(N) < 1 / (1 + np.exp(-2 * knows))).astype(float)
    hidden = rng.standard_normal((N, 2, 4)).astype(np.float32)
    hidden[:, 1, 0] += (shown * knows).astype(np.float32)
    confidence = 1 / (1 + np.exp(-knows - 1.5 * rng.standard_normal(N)))
    return Asked(
        answers=tuple("AB"[int(1 - y)] for y in correct), correct=correct, confidence=confidence,
        signals={"margin": confidence - 0.5}, places=tuple(Place("last_prompt", f"block.{n}") for n in range(2)),
        hidden=hidden, status=("answered",) * N, marks=(), elsewhere={}, truncated=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def judged():
    rows = np.split(np.arange(N), [250, 330, 430])
    splits = Splits(*rows, groups=np.arange(N))
    models = {"base": asked(1), "tuned": asked(2)}
    settings = EvaluationConfig.model_validate({"bootstrap": 200, "repeats": 3})
    judge = Judge.of(EXAMPLES, splits.test, splits.groups, models.values(), settings, seed=0)
    probed = {name: fit_scorers(one, EXAMPLES, splits, seed=0, repeats=3, label=name) for name, one in models.items()}
    return judge, {name: judge.variant(models[name], probed[name]) for name in models}, models, splits


def test_numbers_equal_those_of_calibration_metrics(judged):
    judge, both, _, _ = judged
    for one in both.values():
        p, y = one.probed.test["probe"], one.correct
        expected = CalibrationMetrics(p > 0.5, p, y).summary()
        found = one.numbers["scores"]["probe"]["all"]
        shared = set(expected) & set(found) - {"n"}
        assert len(shared) >= 12
        assert {name: found[name]["value"] for name in shared} == pytest.approx(
            {name: expected[name] for name in shared}
        )
        part = judge.parts["two"]
        assert one.numbers["scores"]["probe"]["two"]["auroc"]["value"] == pytest.approx(
            CalibrationMetrics(p[part] > 0.5, p[part], y[part]).auroc()
        )


def test_every_error_of_calibration_has_its_floor_and_the_probe_its_training(judged):
    _, both, _, _ = judged
    scores = both["base"].numbers["scores"]
    for name in ("ece", "ece_mass", "smooth_ece", "ks"):
        found = scores["own_probability"]["all"][name]
        assert 0 < found["calibrated_mean"] < found["calibrated_q95"]
    assert scores["probe"]["all"]["auroc"]["training_sd"] > 0
    assert "training_sd" not in scores["own_probability"]["all"]["auroc"]


def test_subjects_are_drawn_together_and_say_how_many_they_are(judged):
    judge, both, _, _ = judged
    accuracy = both["base"].numbers["accuracy"]
    names = judge.subject_names
    assert sum(accuracy[name]["n"] for name in names) == accuracy["all"]["n"] == judge.rows.size
    raw, shrunk = (np.ptp([entry["value"] for entry in column]) for column in (
        [accuracy[name] for name in names], [accuracy[name]["shrunk"] for name in names],
    ))  # fmt: skip
    assert shrunk < raw
    aurocs = both["base"].numbers["scores"]["probe"]
    assert all(aurocs[name]["auroc"]["shrunk"]["value"] is not None for name in names)


def test_what_figures_draw_holds_every_question_once(judged):
    _, both, _, _ = judged
    found, n = both["tuned"].numbers, judged[0].rows.size
    for scorer in ("probe", "own_probability", "text_only"):
        assert sum(row["n"] for row in found["reliability"][scorer]) == n
        assert all(
            row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in found["reliability"][scorer]
        )
        histogram = found["histogram"][scorer]
        assert sum(histogram["right"]) == both["tuned"].correct.sum()
        assert sum(histogram["right"]) + sum(histogram["wrong"]) == n
        curve = found["risk_coverage"][scorer]
        assert curve["coverage"][-1] == 1
        assert curve["risk"][-1] == pytest.approx(1 - both["tuned"].correct.mean())
        assert len(curve["coverage"]) == len(curve["risk"]) <= 200


def test_a_long_curve_is_thinned_to_its_own_points():
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    curve = pictures({"probe": p}, (rng.random(5000) < p).astype(float), 15)["risk_coverage"]["probe"]
    assert len(curve["coverage"]) == 200
    assert (curve["coverage"][0], curve["coverage"][-1]) == (1 / 5000, 1)


def test_the_answers_worth_reading_are_the_surest_wrong_and_the_least_sure_right(judged):
    judge, both, models, _ = judged
    p, y = both["base"].probed.test["probe"], both["base"].correct
    found = both["base"].numbers["examples"]["probe"]
    assert [entry["confidence"] for entry in found["wrong"]] == sorted(p[y == 0])[::-1][:10]
    assert [entry["confidence"] for entry in found["right"]] == sorted(p[y == 1])[:10]
    assert found["right"][0]["answer"] == found["right"][0]["target"] == "A: x"
    long = tuple([Example("q" * 5000, "A")] * N)
    cut = examples_of(long, judge.rows, models["base"], p)["wrong"][0]["question"]
    assert len(cut) == MOST_CHARACTERS
    assert cut.endswith("…")


def test_the_probe_is_compared_with_every_other_scorer(judged):
    judge, both, _, _ = judged
    found = advantages(judge, both["base"])
    others = both["base"].probed.test.keys() - {"probe", "own_recalibrated"}  # recalibrated, it ranks as before
    assert set(found) == {f"probe_over_{name}" for name in others}
    over_text = found["probe_over_text_only"]["all"]
    values = {name: parts["all"]["auroc"]["value"] for name, parts in both["base"].numbers["scores"].items()}
    assert over_text["value"] == pytest.approx(values["probe"] - values["text_only"])
    assert over_text["p"] < 0.001
    assert all(parts["all"]["p_holm"] >= parts["all"]["p"] for parts in found.values())


def test_states_that_show_more_than_the_probability_add_to_it(judged):
    judge, both, _, splits = judged
    gain = gains(judge, both["base"])["all"]
    assert gain["gain"]["low"] > 0
    assert gain["gain"]["value"] == pytest.approx(gain["own_nll"] - gain["both_nll"])
    noise = asked(1, shown=0.0)
    whole = replace(judge, examples=tuple(example(row, "one") for row in range(N)))
    blind = whole.variant(noise, fit_scorers(noise, whole.examples, splits, seed=0, repeats=2, label="noise"))
    nothing = gains(whole, blind)["all"]["gain"]
    assert nothing["low"] < 0
    assert abs(nothing["value"]) < 0.02


def test_tuned_against_base(judged):
    judge, both, _, _ = judged
    found = compare(judge, both["base"], {"tuned": both["tuned"]})["tuned"]
    change = found["scores"]["own_probability"]
    accuracy = [both[name].correct.mean() for name in ("base", "tuned")]
    assert change["all"]["accuracy"]["value"] == pytest.approx(accuracy[1] - accuracy[0])
    assert change["all"]["accuracy"]["p"] == found["flips"]["p_value"]
    assert found["flips"]["gained"] - found["flips"]["lost"] == round((accuracy[1] - accuracy[0]) * judge.rows.size)
    assert set(change) == {"all", "one", "two", "three"}
    differ = both["base"].correct != both["tuned"].correct
    assert found["disagreement"]["n"] == differ.sum() == found["flips"]["gained"] + found["flips"]["lost"]


def test_where_two_models_disagree_what_both_share_says_the_opposite_of_each():
    rng = np.random.default_rng(3)
    n = 800
    base, tuned = ((rng.random(n) < 0.6).astype(float) for _ in range(2))
    shared = rng.random(n)
    knows = {"base": base + 0.5 * rng.random(n), "tuned": tuned + 0.5 * rng.random(n)}
    said = {name: {"own_probability": shared, "text_only": shared, "probe": knows[name] / 1.5} for name in knows}
    found = disagreement({"base": base, "tuned": tuned}, said, rng.multinomial(n, [1 / n] * n, size=200))
    assert found["n"] == (base != tuned).sum()
    for scorer in ("own_probability", "text_only"):
        assert found["base"][scorer]["value"] + found["tuned"][scorer]["value"] == pytest.approx(1)
    for name in ("base", "tuned"):
        assert found[name]["probe"]["value"] == 1
        assert found[name]["other_probe"]["value"] == 0
    same = disagreement({"base": base, "tuned": base}, said, np.ones((2, n)))
    assert same["n"] == 0
    assert same["tuned"]["probe"]["value"] is None


def test_no_width_is_no_certainty_and_nothing_is_null():
    assert number(honest(Estimate(1.0, 1.0, 1.0))) == {
        "value": 1.0, "low": None, "high": None, "reason": "the resamples show no spread"
    }  # fmt: skip
    assert honest(Estimate(0.5, 0.4, 0.6)) == Estimate(0.5, 0.4, 0.6)
    found = with_p_values(
        {"a": Difference(Estimate(0.1, 0.0, 0.2), 0.04), "b": Difference(Estimate(0.1), float("nan"))}
    )
    assert (found["a"]["p"], found["a"]["p_holm"]) == (0.04, 0.04)
    assert (found["b"]["p"], found["b"]["p_holm"]) == (None, None)


def test_out_of_fold_is_told_by_probes_that_never_saw_the_question():
    """With labels that follow nothing, rows a probe was trained on look right; these do not."""
    rng = np.random.default_rng(0)

    def noise(n):
        return Part(
            rng.standard_normal((n, 1, 60)).astype(np.float32), (rng.random(n) < 0.5).astype(float), np.arange(n)
        )

    part, val = noise(200), noise(50)
    said = out_of_fold_predictions(part, val, 0, seed=0)
    assert CalibrationMetrics(said > 0.5, said, part.labels).auroc() < 0.6
    doubled = part.only(np.repeat(np.arange(200), 2))
    twice = out_of_fold_predictions(doubled, val, 0, seed=0)
    assert twice[::2] == pytest.approx(twice[1::2], abs=1e-6)  # a question's rows are in one fold
    assert CalibrationMetrics(twice > 0.5, twice, doubled.labels).auroc() < 0.6


def test_two_perfectly_calibrated_models_are_not_said_to_differ_in_calibration():
    """The sharper one has the lower ECE, and the plain interval mistakes that for a difference."""
    plain = claimed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p, q = rng.beta(2, 1.5, 400), rng.beta(12, 0.6, 400)
        y, z = ((rng.random(400) < one).astype(float) for one in (p, q))
        weights = question_weights(np.arange(400), 200, seed)
        change = with_p_values({"ece": difference(score(p, y, weights), score(q, z, weights), "ece")})["ece"]
        floors = [{"calibrated_mean": calibrated_null(one, metrics=["ece"], draws=100)["ece"].mean} for one in (p, q)]
        plain += excludes_zero(change)
        claimed += excludes_zero(beyond_floors(change, *floors))
    assert plain > 30
    assert claimed <= 8


def test_halves_hold_all_rows_of_a_question_and_show_how_training_varies():
    """The spread over halves is that over fresh training sets of the whole size, within a third."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(20) / 3

    def drawn(n):
        states = rng.standard_normal((n, 1, 20)).astype(np.float32)
        labels = (rng.random(n) < 1 / (1 + np.exp(-states[:, 0] @ weight))).astype(float)
        return Part(states, labels, np.arange(n))

    test = drawn(3000)

    def spread(predictions):
        order = np.argsort(predictions, axis=1).argsort(axis=1)
        right = test.labels == 1
        return np.std((order[:, right].mean(axis=1) - order[:, ~right].mean(axis=1)) / 3000, ddof=1)

    from src.probes import LinearProbe

    fresh = []
    for _ in range(60):
        train, val = drawn(300), drawn(100)
        fresh.append(LinearProbe(20).fit(train.states, train.labels, val.states, val.labels).predict(test.states))
    halves = [spread(half_predictions(drawn(300), drawn(100), test, 0, seed=seed, repeats=15)) for seed in range(6)]
    assert np.mean(halves) == pytest.approx(spread(np.array(fresh)), rel=1 / 3)

    twice = drawn(40).only(np.repeat(np.arange(40), 2))
    one_class = Part(twice.states, np.ones(80), twice.questions)
    assert half_predictions(one_class, twice, test, 0, seed=0, repeats=4).shape == (0, 3000)


def test_of_few_questions_the_probe_is_fitted_to_train_and_val_and_val_is_said_out_of_fold(judged):
    _, both, models, splits = judged
    from src.probes import LinearProbe

    for name, one in both.items():
        selected, probed = one.numbers["selected"], one.probed
        assert (selected["chosen_by"], selected["candidates"]) == ("cross-validation", 2)
        rows = np.r_[splits.train, splits.val]
        X, y = models[name].hidden[:, 1], models[name].correct
        expected = LinearProbe(4).fit(X[rows], y[rows], groups=rows)
        assert (selected["layer"], selected["C"]) == ("block.1", expected.C_)
        np.testing.assert_allclose(probed.test["probe"], expected.predict(X[splits.test]), atol=1e-6)
        np.testing.assert_allclose(probed.calibration["probe"], expected.predict(X[splits.calibration]), atol=1e-6)
        out_of_fold = np.r_[probed.train_probe, probed.val["probe"]]
        assert len(out_of_fold) == rows.size
        there = out_of_fold != expected.out_of_fold_  # a fold that preferred the other layer
        assert there.mean() < 0.5
        assert not np.allclose(probed.val["probe"], expected.predict(X[splits.val]), atol=1e-4)


def test_of_many_questions_the_probe_is_fitted_to_train_and_chosen_on_val(judged, monkeypatch):
    _, _, models, splits = judged
    from src.probes import LinearProbe

    monkeypatch.setattr("src.probes.sweep.CROSS_VALIDATED_BELOW", 330)
    probed = fit_scorers(models["base"], EXAMPLES, splits, seed=0, repeats=2, label="base")
    X, y = models["base"].hidden[:, 1], models["base"].correct
    expected = LinearProbe(4).fit(X[splits.train], y[splits.train], X[splits.val], y[splits.val])
    assert probed.sweep.out_of_fold is None
    np.testing.assert_array_equal(probed.val["probe"], expected.predict(X[splits.val]))


def test_too_few_different_questions_leave_no_folds(judged):
    _, _, models, splits = judged
    same = replace(splits, groups=np.arange(N) % 2)
    probed = fit_scorers(models["base"], EXAMPLES, same, seed=0, repeats=2, label="base")
    assert probed.missing == "too few different questions: 2 to train on"


def test_a_threshold_begins_where_val_has_predictions(judged):
    _, both, models, _ = judged
    probed, settings = both["base"].probed, EvaluationConfig.model_validate({})
    half = probed.val["probe"].copy()
    half[::2] = np.nan
    nothing = np.full_like(half, np.nan)
    weights, correct = np.ones((2, len(probed.splits.test))), models["base"].correct
    assert len(promises(replace(probed, val={"probe": half}), "probe", correct, weights, settings)) == 3
    assert promises(replace(probed, val={"probe": nothing}), "probe", correct, weights, settings) == []
