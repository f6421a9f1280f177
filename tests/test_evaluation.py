"""Metrics equal closed forms, reference values and scikit-learn; bad input is an error; intervals cover."""

import csv
import json
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
)

from src.errors import ScoringError
from src.evaluation import CalibrationMetrics
from src.evaluation.binning import bin_index
from src.evaluation.comparison import differences, flips
from src.evaluation.intervals import calibrated_null, score
from src.evaluation.resampling import Ranking, metric_draws, question_weights
from src.evaluation.selective import guaranteed_threshold


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
        # Equal-mass bins are those of the sample itself.
        index = np.searchsorted(metrics(p, y).bins(scheme="mass").high[:-1], p[rows])
        sums = np.bincount(index, weights=p[rows] - y[rows])
        expected["ece_mass"] = np.abs(sums).sum() / 60
        assert {name: draw[b] for name, draw in draws.items()} == pytest.approx(expected)


def reference_arrays(shared):
    reference = json.loads((shared / "metrics" / "reference_metrics.json").read_text())
    scope: dict = {}
    exec(reference["generator_prelude"], scope)  # noqa: S102 (a generator in a reference file of our own)
    for name, entry in reference["arrays"].items():
        exec(entry["generator"], scope)  # noqa: S102
        yield name, np.asarray(scope["p"], dtype=float), np.asarray(scope["y"]), entry["expected"]


def test_the_reference_values(shared):
    seen = 0
    for name, p, y, expected in reference_arrays(shared):
        if name == "nan_one":
            with pytest.raises(ScoringError, match="1 NaN or infinite values, the first at index 3"):
                CalibrationMetrics(np.ones_like(y), p, y)
            continue
        m, corp = metrics(p, y), metrics(p, y).corp()
        murphy = m.murphy()
        found = {
            "ece_em15_ties_kept_together": m.ece(scheme="mass"),
            "nonempty_bins_em15_ties_kept_together": m.bins(scheme="mass").n.size,
            "brier": m.brier(), "nll_clip_1e-15": m.nll(), "aurc_ties_expected": m.aurc(), "e_aurc": m.e_aurc(),
            "ks_at_distinct_p": m.ks(), "mean_p": m.confidences.mean(), "base_rate": m.labels.mean(),
            "corp": {"mcb": corp.mcb, "dsc": corp.dsc, "unc": corp.unc},
            "murphy_ew15_rightclosed": {"rel": murphy.rel, "res": murphy.res, "unc": murphy.unc},
            "ece_sweep_em": dict(zip(("value", "bins"), m.sweep_ece(), strict=True)),
        }  # fmt: skip
        if expected["auroc"] is not None:
            found["auroc"] = m.auroc()
        for closed in ("left", "right"):
            bins = m.bins(closed=closed)
            found |= {f"ece_ew{n}_{closed}closed": m.ece(n, closed=closed) for n in (10, 15)}
            numbers = {"mce": bins.mce()[0], "ace": bins.ace(), "rmsce": bins.rmsce(), "nonempty_bins": bins.n.size}
            found |= {f"{key}_ew15_{closed}closed": value for key, value in numbers.items()}
        for key, value in found.items():
            if isinstance(expected.get(key), dict | float | int):
                assert value == pytest.approx(expected[key], abs=1e-9), (name, key)
                seen += 1
        # Values near 0 are square roots, and smooth ECE lives on a grid.
        for closed in ("left", "right"):
            debiased = m.bins(closed=closed).l2_debiased()
            assert debiased == pytest.approx(expected[f"l2_debiased_ew15_{closed}closed"], abs=1e-7), name
        assert m.l2_debiased() == pytest.approx(expected["l2_debiased_em15_ties_kept_together"], abs=1e-7), name
        assert m.smooth_ece() == pytest.approx(expected["smece_exact_fixed_point"], abs=1e-6), name
        assert m.ece() == pytest.approx(m.bins().ece(), abs=1e-12), name
        assert m.brier() == pytest.approx(corp.mcb - corp.dsc + corp.unc, abs=1e-12), name
    assert seen > 150


def test_the_readings_and_edges_of_the_reference(shared):
    reference = json.loads((shared / "metrics" / "reference_metrics.json").read_text())
    for case in reference["small_edge_cases"]:
        m = CalibrationMetrics(np.ones(len(case["p"])), case["p"], case["y"])
        for closed in ("left", "right"):
            assert m.ece(case["bins"], closed=closed) == pytest.approx(case[f"ece_{closed}closed"], abs=1e-12)
    for name, p, y, _ in reference_arrays(shared):
        readings = reference["readings_15_bins_leftclosed"].get(name)
        if readings:
            assert metrics(p, y).ece(closed="left") == pytest.approx(readings["A_label_vs_p"], abs=1e-9)
            top = CalibrationMetrics.from_top_label(p > 0.5, np.maximum(p, 1 - p), y)
            assert top.ece(closed="left") == pytest.approx(readings["C_hit_vs_top"], abs=1e-9)


@given(pairs)
@settings(max_examples=30, deadline=None)
def test_rank_metrics_depend_on_no_order_and_no_copy(rows):
    p, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    m, shuffled = metrics(p, y), np.random.default_rng(0).permutation(p.size)
    again, thrice = metrics(p[shuffled], y[shuffled]), metrics(np.tile(p, 3), np.tile(y, 3))
    assert again.summary() == pytest.approx(m.summary(), abs=1e-12, nan_ok=True)
    for name in ("brier", "nll", "ks", "smooth_ece", "auprc"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert getattr(thrice, name)() == pytest.approx(getattr(m, name)(), abs=1e-9, nan_ok=True)
    assert m.ece() <= m.mce()[0] + 1e-12
    assert m.ranked.aurc_of_ideal() - 1e-12 >= 0 or y.mean() == 1
    assert m.ranked.aurc_of_ideal() - 1e-12 <= m.aurc() <= 1
    assert m.accuracy_at(1.0) == pytest.approx(y.mean())
    corp = m.corp()
    assert min(corp.mcb, corp.dsc) >= -1e-12


@given(pairs)
@settings(max_examples=30, deadline=None)
def test_every_calibration_error_is_at_least_the_gap_of_the_means(rows):
    p, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    m, gap = metrics(p, y), abs(p.mean() - y.mean()) - 1e-9
    errors = (m.ece(), m.ece(scheme="mass"), m.mce()[0], m.bins().rmsce(), m.sweep_ece()[0], m.smooth_ece(), m.ks())
    assert min(errors) >= gap
    assert max(errors) <= 1 + 1e-9


@given(pairs)
@settings(max_examples=30, deadline=None)
def test_rankings_lie_between_the_ideal_and_its_reverse_and_copies_change_no_bins(rows):
    p, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    m, thrice = metrics(p, y), metrics(np.tile(p, 3), np.tile(y, 3))
    assert m.e_aurc() >= -1e-12
    assert m.ranked.one_class or m.prr() <= 1 + 1e-12
    assert metrics(1 - y, y).aurc() + 1e-12 >= m.aurc() >= metrics(y, y).aurc() - 1e-12
    assert thrice.mce() == (pytest.approx(m.mce()[0], abs=1e-12), 3 * m.mce()[1])
    for name in ("corp", "murphy"):
        assert vars(getattr(thrice, name)()) == pytest.approx(vars(getattr(m, name)()), abs=1e-12)


def test_right_and_wrong_are_two_names_of_one_thing():
    """Confidence 1 - p in the opposite event: the same calibration; bins that are open below are open above."""
    p, y = sample(400, seed=8)
    m, mirrored = metrics(p, y), metrics(1 - p, 1 - y)
    for name in ("brier", "nll", "smooth_ece", "auroc"):
        assert getattr(mirrored, name)() == pytest.approx(getattr(m, name)())
    assert vars(mirrored.corp()) == pytest.approx(vars(m.corp()), abs=1e-12)
    assert mirrored.ece(closed="left") == pytest.approx(m.ece(closed="right"))


def test_parts_that_fit_the_cache_change_nothing(monkeypatch):
    p, y = sample(1000, seed=6)
    p = np.round(p, 3)
    whole = metrics(p, y)
    expected = whole.summary() | {"kernel": whole.ece()}
    for place in ("ranking.CHUNK", "binning._ROWS", "smooth._CHUNK"):
        monkeypatch.setattr(f"src.evaluation.{place}", 7)
    parts = metrics(p, y)
    assert parts.summary() | {"kernel": parts.ece()} == pytest.approx(expected, abs=1e-12)


def one_by_one_risks(p, y):
    """AURC by its definition: the mean over many orders of the rows of a tie."""
    rng = np.random.default_rng(0)
    risks = []
    for _ in range(4000):
        order = np.lexsort((rng.random(p.size), -p))
        risks.append(np.cumsum(1 - y[order]) / np.arange(1, p.size + 1))
    return np.mean(risks, axis=0)


def test_answering_the_most_confident_only():
    p = np.array([0.9, 0.7, 0.7, 0.7, 0.4, 0.2, 0.2, 0.1])
    y = np.array([1, 1, 0, 0, 1, 0, 1, 0.0])
    m, risks = metrics(p, y), one_by_one_risks(p, y)
    assert m.aurc() == pytest.approx(risks.mean(), abs=5e-3)
    for k in range(1, 9):
        assert m.accuracy_at(k / 8) == pytest.approx(1 - risks[k - 1], abs=2e-2)
    assert m.coverage_at(0.0) == 1 / 8
    assert m.coverage_at(0.5) == 1.0
    assert m.coverage_at(0.42) == 5 / 8
    assert metrics(y, y).prr() == pytest.approx(1)
    assert metrics(np.full(8, 0.5), y).prr() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ScoringError, match=r"coverage=0: a share above 0"):
        m.accuracy_at(0)


def test_auprc_f1_and_confusion_equal_scikit_learn():
    p, y = sample(300, seed=5)
    p = np.round(p, 2)
    m = metrics(p, y)
    assert m.auprc() == pytest.approx(average_precision_score(y, p))
    assert m.f1() == pytest.approx(f1_score(y, p > 0.5))
    assert m.confusion().tolist() == confusion_matrix(y, p > 0.5).tolist()
    assert np.isnan(metrics([0.1, 0.2], [0, 0]).f1())


def test_a_sweep_of_rising_labels_has_a_bin_for_every_confidence():
    assert metrics([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1]).sweep_ece()[1] == 3
    p, y = sample(50_000, seed=2)
    assert metrics(p, np.ones_like(y)).sweep_ece()[1] == 50_000


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
        assert m.bins(10, scheme="quantile").outside == (m.confidences == 1).sum()
        assert m.ace(10, scheme="quantile") == pytest.approx(expected["ece10_quantile_unweighted"], abs=1e-9)


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
        ([float("inf"), 0.5, -float("inf")], [0, 1, 1], "holds 2 NaN or infinite values, the first at index 0"),
        ([0.5, 0.5], [1, float("inf")], "labels holds 1 NaN or infinite values, the first at index 1"),
        ([0.5, 1.2], [0, 1], r"1 of 2 confidences lie outside \[0, 1\] \(from 0\.5 to 1\.2\).* sigmoid"),
        ([-3.5, 0.5, 2.25], [0, 1, 1], r"2 of 3 confidences .* \(from -3\.5 to 2\.25\)"),
        ([0.5, -0.2], [0, 1], r"outside \[0, 1\]"),
        ([0.5, 0.5], [0, 2], "labels must be 0, 1, True or False; 1 are not, the first is 2 at index 1"),
        ([0.5, 0.5], [0, 0.7], "labels must be 0, 1"),
        ([0.5], [0, 1], "lengths differ: predictions 1, confidences 1, labels 2"),
        ([[0.5, 0.5]], [0, 1], r"has shape \(1, 2\)"),
        ([0.5, 0.5], [[0, 1], [1, 0]], r"labels has shape \(2, 2\)"),
        ([], [], "is empty"),
    ],
)
def test_bad_input_is_refused_with_the_value(p, y, message):
    with pytest.raises(ScoringError, match=message):
        metrics(p, y)


@pytest.mark.parametrize("values", [["high", "low"], [None, 0.5], [[0.5], [0.5, 0.1]], object()])
def test_what_is_no_vector_of_numbers_is_refused(values):
    with pytest.raises(ScoringError, match=r"labels cannot be read as a vector of numbers|labels holds 1 NaN"):
        CalibrationMetrics([1, 1], [0.5, 0.5], values)


def test_rounding_beyond_the_ends_is_clipped_and_said(caplog):
    assert metrics([1 + 5e-7, -5e-7], [1, 0]).confidences.tolist() == [1, 0]
    assert "reach from -5e-07 to 1.0000005 and were clipped" in caplog.text


def test_certainty_is_in_the_first_and_the_last_bin_and_has_a_likelihood():
    m = metrics([0.0, 0.0, 1.0, 1.0], [0, 1, 1, 0])
    for closed in ("left", "right"):
        bins = m.bins(closed=closed)
        assert (bins.low.tolist(), bins.high.tolist()) == ([0, 14 / 15], [1 / 15, 1])
        assert bins.n.tolist() == [2, 2]
    assert m.nll() == pytest.approx(-np.log(1e-15) / 2, rel=1e-2)  # 1 - 1e-15 is rounded
    assert m.ece() == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_of_one_class_only_the_metrics_of_ranking_are_undefined(label):
    m = metrics([0.2, 0.7, 0.9], [label] * 3)
    for name in ("auroc", "auprc"):
        with pytest.warns(UserWarning, match=f"{name.upper()} is undefined: every label is {label}"):
            assert np.isnan(getattr(m, name)())
    undefined = {name for name, value in m.summary().items() if np.isnan(value)}
    assert undefined == {"auroc", "auprc", "prr"}


@pytest.mark.parametrize(("p", "y"), [(0.7, 1), (0.2, 1), (0.2, 0), (0.0, 0), (1.0, 0)])
def test_one_row_scores_its_gap(p, y):
    m = metrics([p], [y])
    for scheme in ("width", "mass"):
        assert m.ece(scheme=scheme) == pytest.approx(abs(p - y))
        assert m.l2_debiased(scheme=scheme) == 0
    assert m.ks() == pytest.approx(abs(p - y))
    assert m.smooth_ece() == pytest.approx(abs(p - y), abs=1e-9)


def test_a_constant_confidence_ranks_nothing_and_is_one_bin():
    m = metrics(np.full(40, 0.65), np.arange(40) < 25)
    assert m.auroc() == 0.5
    assert m.bins(scheme="mass").n.tolist() == [40]
    assert [m.ece(scheme="mass"), m.ece()] == pytest.approx([abs(0.65 - 25 / 40)] * 2)
    assert m.accuracy_at(0.5) == pytest.approx(25 / 40)


def test_fewer_rows_than_bins_are_computed_and_said(caplog):
    assert metrics([0.2, 0.8], [0, 1]).summary()["ece"] == pytest.approx(0.2)
    assert "2 rows in 15 bins: most bins hold single rows" in caplog.text


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, np.float16])
def test_half_precision_that_rounds_to_certainty_is_said(half, caplog):
    p, y = np.r_[np.full(198, 0.25), 1.0, 1.0], np.arange(200) < 80
    make = (lambda values: torch.tensor(values).to(half)) if isinstance(half, torch.dtype) else half
    metrics(p[100:], y[100:])
    CalibrationMetrics(np.ones(200), make(p), y)
    assert not caplog.text  # in float64, and of one in a hundred
    m = CalibrationMetrics(np.ones(100), make(p[100:]), y[100:])
    assert "2 of 100 confidences are exactly 1, in half precision" in caplog.text
    assert m.confidences.dtype == np.float64
    assert m.confidences.tolist() == p[100:].tolist()


def test_the_other_reading_is_refused_and_both_are_named():
    with pytest.raises(ScoringError, match=r"confidences > 0\.5.*from_top_label"):
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
    for scheme in ("width", "mass", "quantile"):
        bins = metrics(p, y).bins(scheme=scheme).rows()
        assert sum(b["n"] for b in bins) == 300
        ece = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / 300
        assert ece == pytest.approx(metrics(p, y).ece(scheme=scheme))


def test_resamples_keep_the_rows_of_a_question_together():
    groups = np.array([5, 5, 2, 9, 9, 9])
    weights = question_weights(groups, 200, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    questions = weights[:, [0, 2, 3]].sum(axis=1)
    assert (questions == 3).all()
    np.testing.assert_array_equal(weights, question_weights(groups, 200, seed=1))


def test_a_difference_is_paired_by_question():
    p, y = sample(400)
    weights = question_weights(np.arange(400), 300, 0)
    before = score(p, y, weights)
    same = differences(before, before)
    assert all(d.estimate.value == d.estimate.low == d.estimate.high == 0 and d.p == 1 for d in same.values())
    worse = differences(before, score(1 - p, y, weights))
    assert worse["auroc"].estimate.high < 0 < worse["brier"].estimate.low
    assert np.isnan(differences(before, score(p, np.ones(400), weights))["auroc"].estimate.value)


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


class TestPromise:
    def world(self, n, seed):
        rng = np.random.default_rng(seed)
        p = rng.beta(4, 1, n)
        return p, (rng.random(n) < p**0.5).astype(float)

    def test_it_is_broken_no_more_often_than_it_may_be(self):
        """2,000 calibration sets: the true share of wrong answers above the threshold exceeds .1 in at most 5 %."""
        far, far_y = self.world(500_000, 10**6)
        order = np.argsort(-far)
        lowest = -far[order]
        risks = np.cumsum(1 - far_y[order]) / np.arange(1, far.size + 1)
        broken = found = 0
        for seed in range(2000):
            promise = guaranteed_threshold(*self.world(300, seed), risk=0.1)
            if promise.kept:
                found += 1
                count = np.searchsorted(lowest, -promise.threshold, side="right")
                broken += risks[count - 1] > 0.1
        assert broken <= 2000 * 0.05 + 2 * np.sqrt(2000 * 0.05 * 0.95)
        assert found > 1000  # and it does promise something

    def test_it_is_the_lowest_threshold_that_every_higher_one_allows(self):
        p, y = self.world(800, 3)
        candidates = np.linspace(0.3, 0.95, 14)
        promise = guaranteed_threshold(p, y, risk=0.1, candidates=candidates)
        allowed = []
        for t in candidates[::-1]:
            rows = p >= t
            if rows.sum() < np.log(0.05) / np.log(0.9):
                continue
            if binomtest(int((1 - y[rows]).sum()), int(rows.sum()), 0.1, alternative="less").pvalue > 0.05:
                break
            allowed.append(t)
        assert promise.threshold == pytest.approx(allowed[-1])
        rows = p >= promise.threshold
        assert (promise.answered, promise.wrong) == (rows.sum(), (1 - y[rows]).sum())
        assert promise.coverage == pytest.approx(rows.mean())

    def test_nothing_is_promised_from_too_little(self):
        promise = guaranteed_threshold(np.full(58, 0.99), np.ones(58))  # 59 without an error are needed
        assert not promise.kept
        assert guaranteed_threshold(np.full(59, 0.99), np.ones(59)).coverage == 1
        with pytest.raises(ScoringError, match=r"risk=1.5: a number between 0 and 1"):
            guaranteed_threshold([0.5], [1], risk=1.5)


def test_a_notebook_shows_the_numbers_beside_those_of_a_perfect_model():
    p, y = sample(300)
    shown = metrics(p, y)._repr_html_()
    assert f"<td>{metrics(p, y).brier():.4f}</td>" in shown
    null = calibrated_null(p)
    for name, found in (("ECE, 15 bins of equal width", "ece"), ("smooth ECE", "smooth_ece"), ("KS", "ks")):
        [(value, perfect)] = re.findall(rf">{name}</th><td>([.\d]+)</td><td>([.\d]+)</td>", shown)
        assert float(value) == pytest.approx(metrics(p, y).summary()[found], abs=1e-4)
        assert float(perfect) == pytest.approx(null[found].mean, abs=1e-4)
    assert not re.search(r"<script|http|src=|url\(", shown)
    ElementTree.fromstring(shown)  # noqa: S314 (of our own making; every tag is closed)
    assert ">AUROC</th><td>undefined</td>" in metrics(p, np.ones(300))._repr_html_()


def test_a_notebook_does_not_wait_for_the_null_of_millions():
    m = CalibrationMetrics([1], [0.7], [1])
    m.confidences = m.predictions = m.labels = np.ones(1_000_001)
    assert "<td>0.0000</td><td></td>" in m._repr_html_()
