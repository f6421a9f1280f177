"""Probes: theorems, agreement with scikit-learn, and errors that name the row."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from src.errors import ScoringError
from src.probes import LinearProbe
from src.probes.refits import shuffled_predictions
from src.probes.solver import fit_path, mean_nll, probability
from src.probes.sweep import Part, Place, sweep_places
from src.probes.text_only import TextOnlyAssessor


def toy(n=400, d=6, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(np.float32)
    y = (rng.random(n) < 1 / (1 + np.exp(-signal * X[:, 0] - 0.4))).astype(float)
    return X, y


def fitted(X, y):
    half = len(X) // 2
    return LinearProbe(X.shape[-1]).fit(X[:half], y[:half], X[half:], y[half:])


def test_a_probe_ignores_shift_scale_and_order_of_features():
    X, y = toy()
    expected = fitted(X, y).predict(X)
    moved = X * np.float32([1, 10, 0.1, 3, 7, 1]) + np.float32([0, 5, -2, 100, 1, 0])
    np.testing.assert_allclose(fitted(moved, y).predict(moved), expected, atol=2e-3)
    order = [3, 1, 5, 0, 2, 4]
    np.testing.assert_allclose(fitted(X[:, order], y).predict(X[:, order]), expected, atol=2e-3)


def test_a_probe_equals_scikit_learn_at_the_c_it_chose():
    X, y = toy()
    probe = fitted(X, y)
    Z = (X - X[:200].mean(0)) / X[:200].std(0)
    reference = LogisticRegression(C=probe.C_, tol=1e-8, max_iter=10_000).fit(Z[:200], y[:200])
    np.testing.assert_allclose(probe.predict(X), reference.predict_proba(Z)[:, 1], atol=2e-3)
    assert probe.converged_
    assert probe.val_nll_ == pytest.approx(mean_nll(probe.decision_function(X[200:]), y[200:]), abs=1e-5)


def test_the_chosen_c_is_the_best_of_the_path_on_validation():
    X, y = toy(n=300, d=80, seed=2)
    grid = tuple(10.0**k for k in range(-5, 3))
    best = fit_path(X[:150], y[:150], X[150:], y[150:], grid=grid)
    losses = {C: fit_path(X[:150], y[:150], X[150:], y[150:], grid=(C,)).val_nll for C in grid}
    assert best.val_nll == pytest.approx(min(losses.values()), abs=1e-3)
    assert max(grid) > best.C


def test_independent_labels_give_chance():
    X, _ = toy(n=3000, d=20)
    y = np.random.default_rng(5).integers(0, 2, 3000).astype(float)
    probe = LinearProbe(20).fit(X[:1000], y[:1000], X[1000:1500], y[1000:1500])
    assert roc_auc_score(y[1500:], probe.predict(X[1500:])) == pytest.approx(0.5, abs=0.04)


def test_constant_features_and_one_layer_axis_are_fine():
    X, y = toy()
    X = np.hstack([X, np.full((400, 1), 7.123, np.float32)])
    probe = fitted(X, y)
    assert np.isfinite(probe.predict(X)).all()
    np.testing.assert_array_equal(fitted(X[:, None], y).predict(X[:, None]), probe.predict(X))
    np.testing.assert_allclose(fitted(torch.tensor(X), torch.tensor(y)).predict(torch.tensor(X)), probe.predict(X))
    assert probe.predict(X).dtype == np.float64
    assert probe.fit(X[:200], y[:200], X[200:], y[200:]) is probe


def test_probabilities_do_not_saturate():
    assert 0 < 1 - probability(np.array([30.0]))[0] < 1e-12
    assert mean_nll(np.array([800.0, -800.0]), np.array([1.0, 0.0])) == 0


BAD = np.zeros((10, 6), np.float32)
BAD[3, 2] = np.nan


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((10, 4, 6)), np.zeros(10), r"4 layers. A probe reads one: pass X\[:, i\]"),
        (np.zeros((10, 5)), np.zeros(10), r"X has shape \(10, 5\); \(n, 6\)"),
        (BAD, np.zeros(10), "NaN or infinity in 1 rows, the first is row 3"),
        (np.zeros((10, 6)), np.zeros(9), r"y has shape \(9,\), but there are 10 rows"),
        (np.zeros((10, 6)), np.full(10, 1.7), r"y must be between 0 and 1; 10 are not, the first is 1\.7 at index 0"),
        (np.zeros((10, 6)), np.full(10, np.nan), "y must be between 0 and 1; 10 are not, the first is nan"),
        (np.zeros((9, 6)), np.arange(9) % 2, "There are 9 training rows: a probe needs 10"),
        (np.zeros((10, 6)), np.ones(10), "All 10 training labels are 1"),
    ],
)
def test_bad_input_is_named(X, y, message):
    with pytest.raises(ScoringError, match=message):
        LinearProbe(6).fit(X, y, *toy(20))


def test_an_unfitted_probe_says_so():
    with pytest.raises(ScoringError, match=r"call fit\(X, y, X_val, y_val\)"):
        LinearProbe(3).predict(np.zeros((2, 3)))


def test_the_sweep_finds_the_layer_that_knows():
    X, y = toy(n=600)
    noise = toy(n=600, seed=9)[0]
    states = np.stack([noise, X, noise[::-1]], axis=1)
    train, val = (
        Part(states[rows], y[rows], np.arange(rows.stop - rows.start)) for rows in (slice(0, 300), slice(300, 450))
    )
    sweep = sweep_places([Place("last_answer", f"block.{n}") for n in range(3)], train, val)
    assert (sweep.best, sweep.chosen.layer, sweep.chosen.position) == (1, "block.1", "last_answer")
    assert sweep.results[1].val_auroc > 0.7
    shuffled = shuffled_predictions(train, val, states[450:], 1, seed=0, shuffles=10)
    assert shuffled.shape == (10, 150)
    assert np.mean([roc_auc_score(y[450:], p) for p in shuffled]) == pytest.approx(0.5, abs=0.1)


def test_the_text_only_assessor_reads_what_the_text_tells():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 100, (900, 2))
    texts = [f"What is {a} + {b}?" for a, b in numbers]
    y = (rng.random(900) < np.where(numbers[:, 0] < 50, 0.9, 0.2)).astype(float)
    assessor = TextOnlyAssessor().fit(texts[:500], y[:500], texts[500:600], y[500:600])
    assert roc_auc_score(y[600:], assessor.predict(texts[600:])) > 0.75
    shuffled = rng.permutation(y)
    assessor = TextOnlyAssessor().fit(texts[:500], shuffled[:500], texts[500:600], shuffled[500:600])
    assert roc_auc_score(shuffled[600:], assessor.predict(texts[600:])) == pytest.approx(0.5, abs=0.1)
