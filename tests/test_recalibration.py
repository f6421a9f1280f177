"""Recalibration: theorems, agreement with CORP and scikit-learn, and the real confidences of two models."""

import csv
import json
import logging

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from src.errors import ScoringError
from src.evaluation import CalibrationMetrics
from src.evaluation.binning import equal_width_ece
from src.evaluation.null import null_draws
from src.evaluation.recalibration import (
    Platt,
    Temperature,
    fit_isotonic,
    fit_platt,
    fit_recalibration,
    fit_temperature,
    recalibration_from,
)

METHODS = ("temperature", "platt", "isotonic")


def calibrated(repeats=100):
    """Nine confidences, each of which is right exactly as often as it says."""
    p = np.repeat(np.arange(1, 10) / 10, 10 * repeats)
    y = np.concatenate([np.arange(10 * repeats) < tenth * repeats for tenth in range(1, 10)]).astype(float)
    return p, y


def drawn(n=500, seed=0, slope=0.4):
    """Overconfident ones, all different."""
    rng = np.random.default_rng(seed)
    z = 3 * rng.standard_normal(n)
    return expit(z), (rng.random(n) < expit(slope * z + 0.3)).astype(float)


def auroc(p, y):
    return CalibrationMetrics(p > 0.5, p, y).auroc()


def test_calibrated_confidences_keep_their_temperature():
    p, y = calibrated()
    found = fit_temperature(p, y)
    assert found.temperature == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found(p), p, atol=1e-9)
    np.testing.assert_allclose(Temperature(1.0)(p), p, atol=1e-15)


@pytest.mark.parametrize("temperature", [0.3, 1.7, 6.0])
def test_a_known_temperature_is_recovered(temperature):
    p, y = calibrated()
    assert fit_temperature(expit(logit(p) * temperature), y).temperature == pytest.approx(temperature, rel=1e-8)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (1.0, 0.0), (2.5, 0.7)])
def test_platt_recovers_slope_and_offset(slope, offset):
    p, y = calibrated(3_000)
    found = fit_platt(expit((logit(p) - offset) / slope), y)
    # The labels' (n + 1) / (n + 2) is what is left between.
    assert (found.slope, found.offset) == (pytest.approx(slope, abs=1e-4), pytest.approx(offset, abs=1e-4))


def test_platt_is_the_logistic_regression_of_smoothed_labels():
    p, y = drawn()
    right, wrong = y.sum(), (1 - y).sum()
    weights = np.concatenate([
        np.where(y == 1, (right + 1) / (right + 2), 1 / (wrong + 2)),
        np.where(y == 1, 1 / (right + 2), (wrong + 1) / (wrong + 2)),
    ])  # fmt: skip
    reference = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky", max_iter=200)
    reference.fit(np.tile(logit(p), 2)[:, None], np.repeat([1, 0], y.size), sample_weight=weights)
    found = fit_platt(p, y)
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-6)
    assert found.offset == pytest.approx(reference.intercept_[0], rel=1e-6)


def test_isotonic_is_the_recalibration_of_corp():
    p, y = drawn()
    q = fit_isotonic(p, y)(p)
    before, after = (CalibrationMetrics(one > 0.5, one, y).corp() for one in (p, q))
    assert np.mean((q - y) ** 2) == pytest.approx(before.unc - before.dsc, abs=1e-12)
    assert after.mcb == pytest.approx(0, abs=1e-12)
    assert after.dsc == pytest.approx(before.dsc, abs=1e-12)


def test_isotonic_equals_scikit_learn_between_and_beyond_what_it_saw():
    p, y = drawn()
    p = 0.1 + 0.8 * np.round(p, 2)
    elsewhere = np.linspace(0, 1, 1001)
    reference = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    found = fit_isotonic(p, y)
    np.testing.assert_allclose(found(elsewhere), reference.predict(elsewhere), atol=1e-12)
    assert found([0.0])[0] == found.shares[0]
    assert found([1.0])[0] == found.shares[-1]


@pytest.mark.parametrize("method", METHODS)
def test_a_recalibration_is_monotone_within_0_and_1_and_deterministic(method):
    p, y = drawn()
    found = fit_recalibration(p, y, method=method)
    q = found(np.linspace(0, 1, 2001))
    assert q.min() >= 0
    assert q.max() <= 1
    assert (np.diff(q) >= 0).all()
    order = np.random.default_rng(1).permutation(p.size)
    assert fit_recalibration(p, y, method=method) == found
    np.testing.assert_allclose(fit_recalibration(p[order], y[order], method=method)(p), found(p), atol=1e-9)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_auroc_stays_where_the_slope_is_positive(method):
    p, y = drawn()
    assert auroc(fit_recalibration(p, y, method=method)(p), y) == auroc(p, y)


@pytest.mark.parametrize("method", METHODS)
def test_it_lowers_the_loss_on_its_own_rows(method):
    p, y = drawn()
    q = fit_recalibration(p, y, method=method)(p)
    assert np.mean((q - y) ** 2) < np.mean((p - y) ** 2) - 0.01


def test_exactly_0_and_1_have_finite_log_odds():
    for found in (Temperature(2.0), Platt(0.5, 0.1)):
        low, high = found([0.0, 1.0])
        assert 0 < low < 1e-7
        assert 1e-9 < 1 - high < 1e-6
    p, y = np.array([1.0, 1.0, 1.0, 0.0, 0.0]), np.array([1, 1, 0, 0, 1])
    assert 0.5 < fit_platt(p, y)([1.0])[0] < 1
    assert fit_temperature(p, y).temperature > 10


def test_confidences_that_separate_perfectly_have_a_finite_platt_and_the_lowest_temperature(caplog):
    p, y = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), np.array([0, 0, 0, 1, 1, 1])
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(p, y).temperature == pytest.approx(0.01)
    assert "most extreme" in caplog.text
    q = fit_platt(p, y)(p)
    assert q.mean() == pytest.approx(0.5)
    assert 0.1 < q[0] < q[2] < 0.35  # the labels count as 1/5 and 4/5


def test_a_ranking_the_wrong_way_round_becomes_the_share_of_right_answers(caplog):
    p, y = drawn()
    with caplog.at_level(logging.WARNING):
        found = fit_platt(1 - p, y)
    assert found.slope == 0
    assert "higher confidences" in caplog.text
    assert found([0.2, 0.9]) == pytest.approx(y.mean(), abs=1e-3)
    assert np.ptp(fit_isotonic(1 - p, y)(p)) < 0.6
    assert fit_temperature(1 - p, y).temperature == pytest.approx(100)


def test_confidences_that_are_all_equal():
    p, y = np.full(10, 0.9), np.array([1, 1, 0, 0, 0] * 2)
    assert fit_platt(p, y)(p) == pytest.approx((4 * 5 / 6 + 6 / 8) / 10)  # the mean of the smoothed labels
    assert fit_isotonic(p, y)([0.1, 0.9, 1.0]) == pytest.approx(0.4)
    assert fit_temperature(np.full(10, 0.5), y).temperature == 1
    assert fit_platt(np.full(10, 0.5), y).slope == 0


@pytest.mark.parametrize("method", METHODS)
def test_saved_as_plain_numbers_it_comes_back_bit_equal(method):
    p, y = drawn()
    found = fit_recalibration(p, y, method=method)
    again = recalibration_from(json.loads(json.dumps(found.as_plain(), allow_nan=False)))
    assert again == found
    np.testing.assert_array_equal(again(p), found(p))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([0.1, np.nan], [0, 1], "confidences holds 1 NaN or infinite values, the first at index 1"),
        ([0.1, 1.2], [0, 1], r"1 of 2 confidences lie outside \[0, 1\]"),
        ([0.1, 0.2], [0, 0.5], "labels must be 0, 1, True or False; 1 are not, the first is 0.5"),
        ([0.1, 0.2, 0.3], [0, 1], "The lengths differ: confidences 3, labels 2"),
        ([], [], "confidences is empty"),
        ([0.1, 0.2], [1, 1], "All 2 labels are 1: recalibration needs right and wrong answers"),
    ],
)
def test_bad_rows_are_named(method, p, y, message):
    with pytest.raises(ScoringError, match=message):
        fit_recalibration(p, y, method=method)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "method is None; temperature, platt, isotonic are known"),
        ({"method": ["platt"]}, r"method is \['platt'\]"),
        ({"method": "platt", "slope": 1.0}, r"has slope, offset, and this one \['slope'\]"),
        ({"method": "temperature", "temperature": 1.0, "more": 1}, "has temperature, and this one"),
        ({"method": "temperature", "temperature": 0.0}, "temperature is 0.0; a finite number above 0"),
        ({"method": "temperature", "temperature": float("inf")}, "temperature is inf"),
        ({"method": "temperature", "temperature": True}, "temperature of the recalibration is True"),
        ({"method": "platt", "slope": -1.0, "offset": 0.0}, "slope is -1.0; a finite number of at least 0"),
        ({"method": "platt", "slope": 1.0, "offset": "0"}, "offset of the recalibration is '0'"),
        ({"method": "isotonic", "confidences": [0.2, 0.1], "shares": [0.0, 1.0]}, "confidences that rise"),
        ({"method": "isotonic", "confidences": [0.1, 0.2], "shares": [1.0, 0.0]}, "shares that do not fall"),
        ({"method": "isotonic", "confidences": [0.1], "shares": [0.1, 0.2]}, "The lengths differ"),
        ({"method": "isotonic", "confidences": [], "shares": []}, "confidences is empty"),
        ({"method": "isotonic", "confidences": [0.1], "shares": [1.5]}, r"1 of 1 shares lie outside \[0, 1\]"),
        ({"method": "isotonic", "confidences": [0.1], "shares": ["x"]}, r"shares of the recalibration is \['x'\]"),
        ({"method": "isotonic", "confidences": 0.5, "shares": 0.5}, "confidences has shape"),
    ],
)
def test_a_saved_recalibration_from_anybody_is_checked(plain, message):
    with pytest.raises(ScoringError, match=message):
        recalibration_from(plain)


def test_an_unknown_method_is_named():
    with pytest.raises(ScoringError, match="method='beta': choose one of temperature, platt, isotonic"):
        fit_recalibration([0.1, 0.2], [0, 1], method="beta")  # pyright: ignore


@pytest.mark.parametrize("model", ["Llama3-8b", "Llama3-70b"])
def test_isotonic_recalibration_of_real_confidences_comes_near_the_calibrated_null(shared, model):
    """60 random halves of 6,000 MMLU answers: fitted on one, judged on the other."""
    with (shared / "data" / "mmlu_confidence" / "mmlu_small.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    p, y = np.array([float(row["msp"]) for row in rows]), np.array([row["grade"] == "Correct" for row in rows], float)
    rng, figures = np.random.default_rng(0), []
    for _ in range(60):
        fit, test = np.array_split(rng.permutation(p.size), 2)
        q = fit_isotonic(p[fit], y[fit])(p[test])
        null = null_draws(q, ["ece"], bins=15, closed="right", draws=20, seed=0)["ece"]
        figures.append((equal_width_ece(p[test], y[test]), equal_width_ece(q, y[test]), np.mean(null)))
    raw, after, null = np.median(figures, axis=0)
    print(f"{model}: ECE raw {raw:.4f}, after isotonic {after:.4f}, calibrated null {null:.4f}")
    assert after <= 1.5 * null
    assert after <= raw / 4
