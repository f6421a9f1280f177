"""A probe brought to another model's states without a label: what is recovered, and what cannot be."""

import numpy as np
import pytest

from src.errors import ScoringError
from src.probes import LinearProbe
from src.probes.drift import ENOUGH, realign
from src.probes.linear import ProbeWeights
from src.probes.maps import Pair
from src.probes.states import States


def states(n, d, *, rank=None, seed=0):
    """Rows of a spectrum that falls, in `rank` directions, off the origin."""
    rng = np.random.default_rng(seed)
    rank = rank or d
    basis = np.linalg.qr(rng.standard_normal((d, rank)))[0]
    return (rng.standard_normal((n, rank)) / np.sqrt(np.arange(1, rank + 1))) @ basis.T + rng.standard_normal(d)


def rotation(d, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def probe_of(X, *, along=None, seed=2):
    """A fitted probe; labels follow one direction of the states."""
    rng = np.random.default_rng(seed)
    along = X @ rng.standard_normal(X.shape[1]) if along is None else along
    y = (along + 0.3 * along.std() * rng.standard_normal(len(X)) > np.median(along)).astype(float)
    return LinearProbe(X.shape[1]).fit(X, y).weights_


@pytest.mark.parametrize(("n", "d", "rank"), [(300, 20, None), (60, 200, 12)])
def test_a_known_rotation_and_shift_is_recovered(n, d, rank):
    """With fewer rows than features, as far as the states span."""
    X = states(2 * n, d, rank=rank)
    turn, shift = rotation(d), np.random.default_rng(3).standard_normal(d)
    moved, weights = X @ turn + shift, probe_of(X)
    found = realign(weights, X[:n], moved[:n])
    assert found.chosen.method == "rotation"
    assert found.chosen.explained == pytest.approx(1, abs=1e-9)
    assert np.allclose(found.weights.logit(moved[n:]), weights.logit(X[n:]), atol=1e-6)
    assert found.frozen.explained < ENOUGH


def test_a_rotation_of_more_directions_than_there_are_rows_is_recovered_in_part():
    X = states(500, 200)
    moved, weights = X @ rotation(200), probe_of(X)
    found = realign(weights, X[:100], moved[:100])
    said = 1 - np.var(found.weights.logit(moved[100:]) - weights.logit(X[100:])) / np.var(weights.logit(X[100:]))
    assert found.frozen.explained < 0.1 < found.chosen.explained < 0.95
    assert said == pytest.approx(found.chosen.explained, abs=0.15)


def test_a_known_change_of_mean_and_scale_is_recovered():
    X, rng = states(400, 30), np.random.default_rng(4)
    moved, weights = X * rng.uniform(0.2, 5, 30) + rng.standard_normal(30), probe_of(X)
    found = realign(weights, X[:200], moved[:200])
    assert found.chosen.method == "mean and scale"
    assert np.allclose(found.weights.logit(moved[200:]), weights.logit(X[200:]), atol=1e-6)


def test_an_unchanged_model_keeps_its_probe_bit_for_bit():
    X = states(100, 20)
    weights = probe_of(X)
    found = realign(weights, X, X.copy())
    assert (found.chosen.method, found.chosen.explained, found.moved) == ("unchanged", 1.0, 0.0)
    assert np.array_equal(found.weights.logit(X), weights.logit(X))


def test_a_drift_that_takes_the_probes_direction_away_is_called_unrepairable():
    X = np.random.default_rng(5).standard_normal((600, 30))
    weights = probe_of(X, along=X[:, 0])
    raw = weights.weight / weights.scale
    gone = raw / np.linalg.norm(raw)
    found = realign(weights, X, (X - np.outer(X @ gone, gone)) @ rotation(30))
    assert not found.repairable
    assert found.chosen.explained < 0.1
    # What is left of the states does come back.
    other = np.linalg.qr(np.column_stack([gone, np.random.default_rng(6).standard_normal(30)]))[0][:, 1]
    kept = ProbeWeights(other, 0.0, np.zeros(30), np.ones(30))
    assert realign(kept, X, (X - np.outer(X @ gone, gone)) @ rotation(30)).repairable


def test_another_models_states_without_anything_in_common_are_unrepairable():
    X, Y = states(300, 20), states(300, 20, seed=9)
    assert not realign(probe_of(X), X, Y).repairable


def test_leading_directions_of_large_states_are_sought_and_not_decomposed(monkeypatch):
    """They are found to the rounding of the search where the spectrum falls."""
    X = states(300, 80, rank=15)
    moved, weights = X @ rotation(80), probe_of(X)
    exact = realign(weights, X, moved)
    monkeypatch.setattr("src.probes.maps._EXACTLY", 10)
    found = realign(weights, X, moved)
    assert found.chosen.explained == pytest.approx(1, abs=1e-6)
    assert np.allclose(found.weights.logit(moved), exact.weights.logit(moved), atol=1e-4)


def test_the_order_of_the_questions_changes_nothing():
    X = states(120, 20)
    moved, weights = X @ rotation(20) + 0.1 * states(120, 20, seed=7), probe_of(X)
    order = np.random.default_rng(8).permutation(120)
    names = np.array([f"question {n // 2}" for n in range(120)])
    one, other = realign(weights, X, moved, groups=names), realign(weights, X[order], moved[order], groups=names[order])
    assert (one.chosen.method, one.chosen.directions) == (other.chosen.method, other.chosen.directions)
    assert np.allclose([m.explained for m in one.tried], [m.explained for m in other.tried], atol=1e-9)
    assert np.allclose(one.weights.logit(moved), other.weights.logit(moved), atol=1e-8)


def test_the_rows_of_a_question_stay_in_one_fold():
    """Held out with its twin in the fit, a map that only remembers would look good."""
    rng = np.random.default_rng(10)
    X, noise = rng.standard_normal((30, 60)), rng.standard_normal((30, 60))
    X, moved = np.repeat(X, 2, axis=0), np.repeat(noise, 2, axis=0)
    weights = probe_of(states(200, 60))
    together = realign(weights, X, moved, groups=np.arange(60) // 2)
    apart = realign(weights, X, moved, groups=np.arange(60))
    assert together.chosen.explained < apart.chosen.explained - 0.2


def test_a_low_rank_change_as_an_adapters_is_undone_by_regression():
    """What no rotation undoes: some directions are stretched into others."""
    X, rng = states(400, 40), np.random.default_rng(11)
    change = np.eye(40) + rng.standard_normal((40, 4)) @ rng.standard_normal((4, 40)) / 4
    moved, weights = X @ change, probe_of(X)
    found = realign(weights, X[:300], moved[:300])
    assert found.chosen.method == "regression"
    assert found.chosen.explained > 0.98
    assert max(one.explained for one in found.tried if one.method != "regression") < 0.9
    off = found.weights.logit(moved[300:]) - weights.logit(X[300:])
    assert 1 - np.var(off) / np.var(weights.logit(X[300:])) > 0.98


def test_a_regression_is_the_same_in_both_of_its_forms():
    """With fewer rows than features it is solved among the rows: the ridge has one solution."""
    X, Y = states(30, 40), states(30, 40, seed=3)
    weights = probe_of(states(200, 40))
    pair = Pair.of(States(X, "before", 40), States(Y, "after", 40), weights)
    found = {one.penalty: probe for one, probe in pair.fitted(10) if one.method == "regression"}
    start = next(probe for one, probe in pair.fitted(10) if one.method == "mean and scale")
    A = (Y - start.mean) / start.scale
    left = pair.said - pair.said.mean() - A @ start.weight
    for penalty, probe in found.items():
        ridge = penalty * (A**2).sum() / len(A)
        direct = np.linalg.solve(A.T @ A + ridge * np.eye(40), A.T @ left)
        assert np.allclose(probe.weight - start.weight, direct, atol=1e-8)


def test_features_that_have_become_constant_say_nothing():
    X = states(200, 10)
    weights = probe_of(X)
    moved = 2 * X + 1
    moved[:, 3] = 7.0
    found = realign(weights, X, moved)
    assert all(np.isfinite(m.explained) for m in found.tried)
    assert found.tried[1].explained > found.frozen.explained


@pytest.mark.parametrize(("stretched", "method"), [(1.05, "unchanged"), (1.2, "mean and scale")])
def test_a_simpler_map_is_preferred_where_it_explains_all_but_a_hundredth(stretched, method):
    """Stretched states stretch the logit, so that all but (stretched - 1)^2 of its variance is said again."""
    X = states(300, 10)
    X -= X.mean(axis=0)
    found = realign(probe_of(X), X, stretched * X)
    assert found.frozen.explained == pytest.approx(1 - (stretched - 1) ** 2, abs=1e-3)
    assert found.tried[1].explained == pytest.approx(1, abs=1e-3)
    assert found.chosen.method == method


def test_a_feature_that_does_not_vary_in_one_of_the_models_is_not_read_by_mean_and_scale():
    X, Y = states(50, 6), states(50, 6, seed=1)
    X[:, 2], Y[:, 4] = 3.0, -1.0
    weights = ProbeWeights(np.arange(1.0, 7), 0.5, np.zeros(6), np.ones(6))
    pair = Pair.of(States(X, "before", 6), States(Y, "after", 6), weights)
    rescaled = next(probe for one, probe in pair.fitted(5) if one.method == "mean and scale")
    assert np.flatnonzero(rescaled.weight == 0).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (np.zeros((20, 5)), np.zeros((19, 5)), "before has 20 rows and after 19"),
        (np.zeros((20, 6)), np.zeros((20, 5)), r"before has shape \(20, 6\)"),
        (np.zeros((20, 5)), np.full((20, 5), np.nan), "after holds NaN"),
        (np.zeros((9, 5)), np.zeros((9, 5)), "There are 9 questions"),
        (np.zeros((20, 5)), np.zeros((20, 5)), "says the same of all questions"),
    ],
)
def test_states_that_cannot_be_compared_are_named(before, after, message):
    weights = ProbeWeights(np.ones(5), 0.0, np.zeros(5), np.ones(5))
    with pytest.raises(ScoringError, match=message):
        realign(weights, before, after)
