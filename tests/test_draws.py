"""Many resamples at once equal one at a time; what a perfectly calibrated model scores; when an interval is unknown."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from src.errors import ScoringError
from src.evaluation import CalibrationMetrics
from src.evaluation.full import FULL, full_draws, full_values
from src.evaluation.intervals import calibrated_null, score, score_in_full
from src.evaluation.null import CALIBRATION, null_draws
from src.evaluation.resampling import METRICS, Ranking, question_weights
from src.evaluation.smooth import smooth_eces


def metrics(p, y):
    return CalibrationMetrics(p > 0.5, p, y)


def sample(n, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-1.5 * rng.standard_normal(n)))
    p = p if decimals is None else np.round(p, decimals)
    return p, (rng.random(n) < p**1.3).astype(float)


def in_full(m):
    """The metrics of `FULL`, from the class for one sample."""
    corp = m.corp()
    return {
        "smooth_ece": m.smooth_ece(), "ks": m.ks(), "mcb": corp.mcb, "dsc": corp.dsc, "aurc": m.aurc(),
        "e_aurc": m.e_aurc(), "prr": m.prr(),
        **{f"accuracy_at_{share}": m.accuracy_at(share / 100) for share in (50, 80, 90)},
    }  # fmt: skip


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("n", [2, 7, 90])
def test_every_draw_is_the_metric_of_the_rows_repeated(n, decimals):
    p, y = sample(n, seed=n, decimals=decimals)
    weights = question_weights(np.arange(n), 12, seed=1)
    draws = full_draws(p, y, weights)
    assert tuple(sorted(draws)) == tuple(sorted(FULL))
    for b, times in enumerate(weights):
        rows = np.repeat(np.arange(n), times)
        expected = in_full(metrics(p[rows], y[rows]))
        found = {name: draw[b] for name, draw in draws.items()}
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
        del found["smooth_ece"], expected["smooth_ece"]
        assert found == pytest.approx(expected, abs=1e-11, nan_ok=True)


def test_the_values_of_the_sample_are_those_of_the_class():
    for decimals in (None, 2):
        p, y = sample(700, decimals=decimals)
        m, strata = metrics(p, y), np.arange(700) % 3
        values = score_in_full(p, y, question_weights(np.arange(700), 5, 0), strata=strata).values
        assert {name: values[name] for name in FULL} == pytest.approx(in_full(m), abs=1e-9)
        for name in ("auroc", "brier", "nll", "ece"):
            assert values[name] == pytest.approx(getattr(m, name)(), abs=1e-9)
        assert values["ece_mass"] == pytest.approx(m.ece(scheme="mass"), abs=1e-9)
        assert values["accuracy"] == pytest.approx(y.mean())


def pairs_within(p, y, strata):
    """AUROC by its definition, over the pairs of one stratum."""
    won = [
        (p[i] > p[j]) + (p[i] == p[j]) / 2
        for i, j in itertools.product(np.flatnonzero(y == 1), np.flatnonzero(y == 0))
        if strata[i] == strata[j]
    ]
    return np.mean(won)


def test_pairs_of_one_subject_are_counted_one_by_one():
    p, y = sample(80, decimals=1)
    strata = np.random.default_rng(2).choice(["law", "art", "maths"], 80)
    weights = question_weights(np.arange(80), 4, 0)
    found = Ranking.of(p, strata).auroc(y, np.vstack([np.ones(80), weights]))
    assert found[0] == pytest.approx(pairs_within(p, y, strata))
    for b, times in enumerate(weights):
        rows = np.repeat(np.arange(80), times)
        assert found[b + 1] == pytest.approx(pairs_within(p[rows], y[rows], strata[rows]))
    assert Ranking.of(p, np.zeros(80)).auroc(y, weights) == pytest.approx(Ranking.of(p).auroc(y, weights))


def test_a_shift_of_a_whole_subject_changes_nothing_within_subjects():
    p, y = sample(60)
    strata, ones = np.arange(60) % 2, np.ones((1, 60))
    shifted = np.where(strata == 1, p / 10, p)
    assert Ranking.of(shifted, strata).auroc(y, ones) == pytest.approx(Ranking.of(p, strata).auroc(y, ones))


def test_blocks_of_resamples_change_nothing(monkeypatch):
    p, y = sample(150, decimals=2)
    weights, strata = question_weights(np.arange(150), 40, 0), np.arange(150) % 4
    whole, null = score_in_full(p, y, weights, strata=strata).draws, null_draws(p, CALIBRATION, bins=15, closed="right",
                                                                               draws=30, seed=3)  # fmt: skip
    for module, name in (("resampling", "_HELD"), ("resampling", "_NEAR"), ("full", "NEAR"), ("null", "NEAR"),
                         ("null", "_HELD"), ("smooth", "_ROWS")):  # fmt: skip
        monkeypatch.setattr(f"src.evaluation.{module}.{name}", 7 if name == "_ROWS" else 1000)
    parts = score_in_full(p, y, weights, strata=strata).draws
    for name, draws in whole.items():
        np.testing.assert_allclose(parts[name], draws, atol=1e-6 if name == "smooth_ece" else 1e-12, err_msg=name)
    monkeypatch.setattr("src.evaluation.null._ALL_AT_ONCE", 149)
    again = null_draws(p, CALIBRATION, bins=15, closed="right", draws=30, seed=3)
    for name, draws in null.items():
        np.testing.assert_allclose(again[name], draws, atol=1e-6 if name == "smooth_ece" else 1e-12, err_msg=name)


@pytest.mark.parametrize("centre", [0.003, 0.02, 0.5, 0.97, 0.9995])
@pytest.mark.parametrize("n", [3, 40, 4000])
def test_smooth_errors_of_many_samples_equal_one_at_a_time(centre, n):
    """From samples of a few to samples whose kernel is narrower than .002."""
    rng = np.random.default_rng(n)
    p = np.r_[rng.beta(300 * centre, 300 * (1 - centre), n - 2), 0.0, 1.0]
    labels = rng.random((20, n)) < p
    found = smooth_eces(p, lambda columns: (p - labels) @ columns / n)
    for one, y in zip(found, labels, strict=True):
        alone = metrics(p, y).smooth_ece()
        assert one == pytest.approx(alone, abs=1e-6 if alone > 0.002 else 2e-4)


def test_the_null_is_the_metric_of_drawn_labels():
    p, _ = sample(120, decimals=2)
    found = null_draws(p, CALIBRATION, bins=10, closed="left", draws=25, seed=5)
    rng = np.random.default_rng(5)
    for b in range(25):
        m = metrics(p, rng.random(120) < p)
        expected = {
            "ece": m.ece(10, closed="left"), "ece_mass": m.ece(10, scheme="mass"), "smooth_ece": m.smooth_ece(),
            "ks": m.ks(),
        }  # fmt: skip
        assert {name: draws[b] for name, draws in found.items()} == pytest.approx(expected, abs=1e-6)


def test_the_null_of_one_confidence_is_the_spread_of_a_binomial():
    null = calibrated_null(np.full(50, 0.3), draws=6_000)
    right = np.arange(51)
    expected = binom.pmf(right, 50, 0.3) @ np.abs(right / 50 - 0.3)
    assert set(null) == set(CALIBRATION)
    for found in null.values():
        assert found.mean == pytest.approx(expected, abs=2e-3)
        assert found.q95 == pytest.approx(0.12)
    with pytest.raises(ScoringError, match="A calibrated model's brier is not computed; ece, ece_mass"):
        calibrated_null(np.full(5, 0.3), metrics=("ece", "brier"))


def test_the_null_of_certainty_is_nothing():
    null = calibrated_null(np.array([0.0, 1.0, 1.0]), draws=20)
    assert all(found.q95 == pytest.approx(0, abs=1e-6) for found in null.values())


def test_the_null_is_the_same_whichever_metrics_are_asked_for():
    p, _ = sample(80)
    assert calibrated_null(p, metrics=("ks",))["ks"] == calibrated_null(p)["ks"]


def test_what_has_no_value_says_why_and_has_no_interval():
    p, y = sample(30)
    weights, strata = question_weights(np.arange(30), 50, 0), np.arange(30) % 2
    one_class = score_in_full(p, np.ones(30), weights, strata=strata).estimates()
    for name in ("auroc", "auroc_within", "prr"):
        assert np.isnan([one_class[name].value, one_class[name].low, one_class[name].high]).all()
        assert one_class[name].reason == "one class: every answer is right"
    assert np.isfinite(one_class["aurc"].high)
    apart = score_in_full(p, y, weights, strata=y).estimates()
    assert apart["auroc_within"].reason == "no subject has both a right and a wrong answer"
    assert np.isfinite(apart["auroc"].value)
    assert set(apart) == {*METRICS, *FULL, "auroc_within"}


def test_a_resample_without_any_of_the_rows_has_no_value():
    p, y = sample(4)
    weights = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 2, 0, 3]], dtype=np.uint16)
    draws = score_in_full(p, y, weights).draws
    for name in (*METRICS, *FULL):
        assert np.isnan(draws[name][1]), name
    assert np.isfinite(draws["smooth_ece"][[0, 2]]).all()


@pytest.mark.parametrize("groups", [[4], [4, 4, 4]])
def test_one_question_tells_nothing_of_the_spread(groups):
    p, y = sample(len(groups))
    weights = question_weights(np.array(groups), 100, 0)
    for found in (score(p, y, weights).estimates(), score_in_full(p, y, weights).estimates()):
        for name, estimate in found.items():
            assert np.isnan([estimate.low, estimate.high]).all(), name
        assert found["ece"].value == pytest.approx(metrics(p, y).ece())


def test_full_values_of_one_row_are_those_of_its_gap():
    values = full_values(np.array([0.7]), np.array([1.0]))
    assert (values["ks"], values["smooth_ece"], values["aurc"]) == (pytest.approx(0.3), pytest.approx(0.3), 0)
