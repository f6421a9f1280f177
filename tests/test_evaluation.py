"""Metrics equal closed forms, reference values and scikit-learn; bad input is an error; intervals cover."""

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from src.errors import ScoringError
from src.evaluation import CalibrationMetrics
from src.evaluation.calibration import Ranking, bin_index, reliability
from src.evaluation.comparison import differences, flips
from src.evaluation.intervals import calibrated_null, metric_draws, question_weights, score


def metrics(p, y):
    p = np.asarray(p, dtype=float)
    return CalibrationMetrics(p > 0.5, p, y)


def sample(n, seed=0, sharpness=1.5):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-sharpness * rng.standard_normal(n)))
    return p, (rng.random(n) < p).astype(float)


def test_a_calibrated_million_scores_almost_no_ece():
    rng = np.random.default_rng(1)
    p = rng.random(1_000_000)
    assert metrics(p, rng.random(1_000_000) < p).ece() < 0.002


def test_the_event_is_that_the_answer_is_correct():
    p = np.full(1000, 0.3)
    assert metrics(p, np.arange(1000) < 302).ece() == pytest.approx(0.002)


def test_edges_are_compared_and_not_floored():
    m = metrics([0.2, 0.25, 0.4, 0.45], [0, 1, 1, 0])
    assert m.ece(5, closed="left") == pytest.approx(0.175)
    assert m.ece(5, closed="right") == pytest.approx(0.5)
    assert bin_index(np.array([0.0, 0.3, 1.0]), 10, "right").tolist() == [0, 2, 9]
    assert bin_index(np.array([0.0, 0.3, 1.0]), 10, "left").tolist() == [0, 2, 9]  # linspace's .3 is above .3
    assert metrics([0.95, 1.0], [1, 0]).ece() == pytest.approx(0.475)


pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(pairs)
@settings(max_examples=60)
def test_one_bin_is_the_gap_of_the_means_and_no_order_or_copy_matters(rows):
    p, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert metrics(p, y).ece(1) == pytest.approx(abs(p.mean() - y.mean()), abs=1e-9)
    ece = metrics(p, y).ece()
    assert metrics(p[::-1], y[::-1]).ece() == pytest.approx(ece, abs=1e-12)
    assert metrics(np.tile(p, 3), np.tile(y, 3)).ece() == pytest.approx(ece, abs=1e-12)
    if 0 < y.mean() < 1:
        # 1 - p would merge confidences that differ by less than a rounding error.
        assert metrics(p, y).auroc() + metrics(p, 1 - y).auroc() == pytest.approx(1)
        assert metrics(p, y).auroc() == pytest.approx(roc_auc_score(y, p))


def test_brier_nll_and_auroc_equal_scikit_learn():
    p, y = sample(500)
    p = np.round(p, 2).clip(0.01, 0.99)  # ties
    m = metrics(p, y)
    assert m.brier() == pytest.approx(brier_score_loss(y, p))
    assert m.nll() == pytest.approx(log_loss(y, p))
    assert m.auroc() == pytest.approx(roc_auc_score(y, p))
    assert m.accuracy() == pytest.approx(np.mean((p > 0.5) == y))
    assert m.summary()["base_rate"] == pytest.approx(y.mean())


def test_weights_of_a_resample_equal_the_rows_repeated():
    p, y = sample(60, seed=3)
    p = np.round(p, 1)
    weights = question_weights(np.arange(60), 5, seed=0)
    draws = metric_draws(p, y, weights)
    for b in range(5):
        rows = np.repeat(np.arange(60), weights[b])
        m = metrics(p[rows], y[rows])
        expected = {
            "auroc": m.auroc(),
            "brier": m.brier(),
            "nll": m.nll(),
            "ece": m.ece(),
            "accuracy": y[rows].mean(),
        }
        assert {name: draw[b] for name, draw in draws.items()} == pytest.approx(expected)


def test_the_reference_values(shared):
    reference = json.loads((shared / "metrics" / "reference_metrics.json").read_text())
    scope: dict = {}
    exec(reference["generator_prelude"], scope)  # noqa: S102 (a generator in a reference file of our own)
    for name, entry in reference["arrays"].items():
        if name == "nan_one":
            continue
        exec(entry["generator"], scope)  # noqa: S102
        expected = entry["expected"]
        m = metrics(scope["p"], scope["y"])
        for closed in ("left", "right"):
            for bins in (10, 15):
                key = f"ece_ew{bins}_{closed}closed"
                assert m.ece(bins, closed=closed) == pytest.approx(expected[key], abs=1e-12), (name, key)
        assert m.brier() == pytest.approx(expected["brier"], abs=1e-12), name
        assert m.nll() == pytest.approx(expected["nll_clip_1e-15"], abs=1e-9), name
        if isinstance(expected["auroc"], float):
            assert m.auroc() == pytest.approx(expected["auroc"], abs=1e-9), name


def test_real_confidences_give_the_known_figures(shared):
    folder = shared / "data" / "mmlu_confidence"
    with (folder / "mmlu_small.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, expected in json.loads((folder / "expected.json").read_text()).items():
        mine = [row for row in rows if f"{row['model']}|{row['prompt']}" == name]
        m = metrics([float(row["msp"]) for row in mine], [row["grade"] == "Correct" for row in mine])
        assert m.labels.mean() == pytest.approx(expected["accuracy_all"], abs=1e-9)
        assert m.auroc() == pytest.approx(expected["auroc_msp"], abs=1e-9)
        assert m.brier() == pytest.approx(expected["brier"], abs=1e-9)
        assert m.ece(10) == pytest.approx(expected["ece10_uniform"], abs=1e-9)


def test_one_class_is_undefined_and_said():
    m = metrics([0.2, 0.9], [1, 1])
    with pytest.warns(UserWarning, match="every label is 1"):
        assert np.isnan(m.auroc())
    found = score(m.confidences, m.labels, question_weights(np.arange(2), 100, 0)).estimates()
    assert np.isnan(found["auroc"].value)
    assert "every answer is right" in found["auroc"].reason
    assert np.isfinite(found["brier"].value)


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([0.5, float("nan")], [0, 1], "confidences holds 1 NaN or infinite values, the first at index 1"),
        ([0.5, 0.5], [0, float("nan")], "labels holds 1 NaN"),
        ([0.5, 1.2], [0, 1], r"1 of 2 confidences lie outside \[0, 1\] .* sigmoid"),
        ([0.5, -0.2], [0, 1], r"outside \[0, 1\]"),
        ([0.5, 0.5], [0, 2], "labels must be 0, 1, True or False; 1 are not, the first is 2 at index 1"),
        ([0.5, 0.5], [0, 0.7], "labels must be 0, 1"),
        ([0.5], [0, 1], "lengths differ: predictions 1, confidences 1, labels 2"),
        ([[0.5, 0.5]], [0, 1], r"has shape \(1, 2\)"),
        ([], [], "is empty"),
    ],
)
def test_bad_input_is_refused_with_the_value(p, y, message):
    with pytest.raises(ScoringError, match=message):
        metrics(p, y)


def test_the_other_reading_is_refused_and_both_are_named():
    with pytest.raises(ScoringError, match=r"confidences > 0\.5.*predicted == true"):
        CalibrationMetrics([0, 1, 1], [0.9, 0.6, 0.8], [1, 1, 0])
    assert CalibrationMetrics([0, 1, 1], [0.6, 0.7, 0.8], [1, 1, 0]).accuracy() == pytest.approx(1 / 3)


def test_tensors_of_any_precision_and_columns_are_taken():
    p, y = sample(50)
    expected = metrics(p.astype(np.float32), y).ece()
    tensor = torch.tensor(p, dtype=torch.float32, requires_grad=True)
    got = CalibrationMetrics((tensor > 0.5).int(), tensor[:, None], torch.tensor(y).bool())
    assert got.ece() == pytest.approx(expected)
    assert metrics(np.array([1 + 5e-7, 0.2]), [1, 0]).confidences.max() == 1.0


def test_reliability_bins_hold_every_row_once():
    p, y = sample(300)
    bins = reliability(p, y)
    assert sum(b.n for b in bins) == 300
    assert sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / 300 == pytest.approx(metrics(p, y).ece())


def test_resamples_keep_the_rows_of_a_question_together():
    groups = np.array([5, 5, 2, 9, 9, 9])
    weights = question_weights(groups, 200, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    questions = weights[:, [0, 2, 3]].sum(axis=1)
    assert (questions == 3).all()
    np.testing.assert_array_equal(weights, question_weights(groups, 200, seed=1))


def test_the_calibrated_null_is_what_calibrated_data_score():
    scores = [metrics(*sample(200, seed=s)).ece() for s in range(60)]
    null = calibrated_null(sample(200, seed=0)[0])
    assert null.mean == pytest.approx(np.mean(scores), abs=0.01)
    assert null.mean < null.q95 < 2 * null.mean


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_claim():
    """1,000 samples of 200: accuracy, Brier, NLL and AUROC of the population lie inside .93 to .97 of the time."""
    truth = {name: draw[0] for name, draw in metric_draws(*sample(2_000_000, seed=99), np.ones((1, 2_000_000))).items()}
    inside = dict.fromkeys(("accuracy", "brier", "nll", "auroc"), 0)
    for seed in range(1000):
        found = score(*sample(200, seed=seed), question_weights(np.arange(200), 500, seed)).estimates()
        for name in inside:
            inside[name] += found[name].contains(truth[name])
    print({name: count / 1000 for name, count in inside.items()})
    assert all(0.92 <= count / 1000 <= 0.975 for count in inside.values())


def test_a_difference_is_paired_by_question():
    p, y = sample(400)
    weights = question_weights(np.arange(400), 300, 0)
    before = score(p, y, weights)
    same = differences(before, before)
    assert all(d.value == d.low == d.high == 0 for d in same.values())
    worse = differences(before, score(1 - p, y, weights))
    assert worse["auroc"].high < 0 < worse["brier"].low
    assert np.isnan(differences(before, score(p, np.ones(400), weights))["auroc"].value)


def test_flips_are_mcnemars():
    before, after = np.array([1, 1, 0, 0, 0, 0, 0, 1]), np.array([1, 0, 1, 1, 1, 1, 1, 1])
    found = flips(before, after)
    assert (found.gained, found.lost) == (5, 1)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert flips(before, before).p_value == 1


def test_one_sort_serves_any_weights():
    p = np.array([0.1, 0.1, 0.8, 0.9])
    ranking = Ranking.of(p)
    areas = ranking.auroc(np.array([0, 1, 0, 1.0]), np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0.0]]))
    assert areas[:2].tolist() == [0.625, 1.0]
    assert np.isnan(areas[2])
