"""The own solver: equal to scikit-learn's at a tight tolerance, and theorems of penalised logistic regression."""

from functools import partial

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from src.errors import ScoringError
from src.probes import LinearProbe, descent, solver, spectrum
from src.probes.choice import Choice
from src.probes.solver import HALF_DECADES, fit_at, fit_path, mean_nll, probability

PARITY = 1e-10


def world(n, d, *, seed=0, signal=3.0):
    """Correlated float32 features of mean about 0 and deviation about 1; labels that some directions tell."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (np.arange(d) + 1.0) ** -0.4
    X = X @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    z = signal * X @ rng.standard_normal(d) / np.linalg.norm(X, axis=1).mean() + 0.5
    return X, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)


def objective(X, y, weight, bias, C):
    z = X.astype(np.float64) @ weight + bias
    return C * np.sum(np.logaddexp(0, z) - y * z) + weight @ weight / 2


@threadpool_limits.wrap(limits=1)
def reference(X, y, C, *, tol=1e-10):
    model = LogisticRegression(C=C, tol=tol, max_iter=100_000).fit(X.astype(np.float64), y)
    return model.coef_[0], float(model.intercept_[0])


@pytest.fixture
def sketched(monkeypatch):
    """200 features count as many."""
    monkeypatch.setattr(spectrum, "_SMALL", 150)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize(("n", "d"), [(300, 20), (60, 150), (100, 100), (260, 200)])
def test_the_objective_is_scikit_learns_at_a_tight_tolerance(n, d, C):
    """Few features, fewer rows than features, as many, and the sketched preconditioner."""
    X, y = world(n, d)
    fit = fit_at(X, y, C, tolerance=PARITY)
    weight, bias = reference(X, y, C)
    ours, theirs = objective(X, y, fit.weight, fit.bias, C), objective(X, y, weight, bias, C)
    assert fit.converged
    assert ours <= theirs * (1 + 1e-10)
    np.testing.assert_allclose(probability(X @ fit.weight + fit.bias), probability(X @ weight + bias), atol=1e-5)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(("n", "d"), [(400, 200), (90, 200)])
def test_held_out_loss_and_ranking_are_those_of_scikit_learns_best_c_of_the_same_grid(n, d):
    X, y = world(n + 1200, d, seed=3)
    train, val, test = (slice(0, n), slice(n, n + 400), slice(n + 400, None))
    best = (np.inf, None, None, None)
    for C in HALF_DECADES:
        weight, bias = reference(X[train], y[train], C, tol=1e-6)
        best = min(best, (mean_nll(X[val] @ weight + bias, y[val]), C, weight, bias), key=lambda one: one[0])
    fit = fit_path(X[train], y[train], X[val], y[val])
    _, C, weight, bias = best
    assert fit.C == C
    ours, theirs = X[test] @ fit.weight + fit.bias, X[test] @ weight + bias
    assert mean_nll(ours, y[test]) == pytest.approx(mean_nll(theirs, y[test]), abs=1e-4)
    assert roc_auc_score(y[test], ours) == pytest.approx(roc_auc_score(y[test], theirs), abs=1e-4)


tight = partial(fit_at, tolerance=PARITY)


def equal(fit, other, X, atol=1e-6):
    np.testing.assert_allclose(X @ fit.weight + fit.bias, X @ other.weight + other.bias, atol=atol)


def test_all_rows_twice_and_half_of_c_is_the_same_regression():
    X, y = world(200, 30)
    equal(tight(np.tile(X, (2, 1)), np.tile(y, 2), 0.05), tight(X, y, 0.1), X)


def test_a_soft_target_is_as_many_hard_ones():
    X, _ = world(200, 30)
    shares = np.random.default_rng(1).integers(0, 5, 200) / 4
    hard = np.concatenate([(np.arange(4) < 4 * share) for share in shares]).astype(float)
    equal(tight(X, shares, 0.4), tight(np.repeat(X, 4, axis=0), hard, 0.1), X)


@pytest.mark.parametrize("d", [30, 400])
def test_a_rows_weight_is_how_often_it_stands_there(d):
    X, y = world(200, d)
    times = np.random.default_rng(1).integers(1, 4, 200)
    equal(
        tight(X, y, 0.1, sample_weight=times.astype(float)),
        tight(np.repeat(X, times, axis=0), np.repeat(y, times), 0.1), X,
    )  # fmt: skip


def test_turned_features_give_the_same_predictions():
    X, y = world(300, 40)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((40, 40)))[0].astype(np.float32)
    turned = X @ turn
    fit, other = fit_at(X, y, 0.1), fit_at(turned, y, 0.1)
    np.testing.assert_allclose(turned @ other.weight + other.bias, X @ fit.weight + fit.bias, atol=1e-4)
    order = np.random.default_rng(3).permutation(40)
    np.testing.assert_allclose(fit_at(X[:, order], y, 0.1).weight, fit.weight[order], atol=1e-6)


def test_the_row_space_and_the_features_give_the_same_fit(monkeypatch):
    X, y = world(90, 200)
    inside = tight(X, y, 1.0)
    monkeypatch.setattr(solver, "MOST_ROWS", 10)
    equal(tight(X, y, 1.0), inside, X)


def test_sparse_features_are_fitted_like_dense_ones():
    rng = np.random.default_rng(0)
    X = sparse.csr_array(rng.standard_normal((300, 80)) * (rng.random((300, 80)) < 0.1))
    y = (rng.random(300) < 0.5).astype(float)
    equal(tight(X, y, 10.0), tight(X.toarray(), y, 10.0), X.toarray())


def test_a_feature_of_zeros_gets_no_weight_and_changes_nothing():
    X, y = world(200, 30)
    padded = np.hstack([X, np.zeros((200, 3), np.float32)])
    fit = fit_at(padded, y, 1.0)
    assert (fit.weight[30:] == 0).all()
    np.testing.assert_allclose(fit.weight[:30], fit_at(X, y, 1.0).weight, atol=1e-6)


def test_separable_rows_end_at_the_penalised_optimum():
    X, _ = world(200, 10)
    y = (X[:, 0] > 0).astype(float)
    fit = fit_at(X, y, 1e4, tolerance=PARITY)
    weight, bias = reference(X, y, 1e4)
    assert fit.converged
    assert objective(X, y, fit.weight, fit.bias, 1e4) <= objective(X, y, weight, bias, 1e4) * (1 + 1e-9)


def test_ten_rows_are_fitted():
    X, _ = world(10, 50)
    y = np.array([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    fit = fit_path(X, y, X, y, tolerance=PARITY)
    weight, bias = reference(X, y, fit.C)
    np.testing.assert_allclose(X @ fit.weight + fit.bias, X @ weight + bias, atol=1e-5)


@pytest.mark.usefixtures("sketched")
def test_a_step_costs_two_products_with_the_features(monkeypatch):
    X, y = world(260, 200)
    counts = dict.fromkeys(("margins", "slope", "_step_length"), 0)

    def counted(where, name):
        whole = getattr(where, name)

        def call(*args):
            counts[name] += 1
            return whole(*args)

        monkeypatch.setattr(where, name, call)

    counted(descent.Rows, "margins")
    counted(descent.Rows, "slope")
    counted(descent, "_step_length")
    path = solver.Path(X, y)
    assert counts == {"margins": 0, "slope": 1, "_step_length": 0}
    with threadpool_limits(1):
        for C in HALF_DECADES:
            path.descend(C)
    steps = counts["_step_length"]
    assert counts == {"margins": steps, "slope": steps + 1, "_step_length": steps}
    assert 13 < steps < 130


@pytest.mark.usefixtures("sketched")
def test_the_fit_is_the_same_every_time_and_leaves_the_threads_alone():
    X, y = world(360, 200)
    before = [pool["num_threads"] for pool in threadpool_info()]
    first, second = (fit_path(X[:260], y[:260], X[260:], y[260:]) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
    assert (first.bias, first.C, first.val_nll) == (second.bias, second.C, second.val_nll)
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.parametrize("cross_validated", [False, True])
def test_a_signal_that_comes_late_on_the_path_is_found(cross_validated):
    """Four strong directions say nothing, so that losses rise a little before the weak ones that tell are reached."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, d = 1400, 64
        loud = 3 * rng.standard_normal((n, 4)) @ rng.standard_normal((4, d))
        ease = rng.standard_normal(n)
        X = loud + 0.3 * np.outer(ease, rng.standard_normal(d)) + 0.02 * rng.standard_normal((n, d))
        y = (rng.random(n) < expit(2.5 * ease)).astype(float)
        rows, val, test = np.split(np.arange(n), [300, 400])
        if cross_validated:
            probe = LinearProbe(d).fit(X[:400], y[:400])
        else:
            probe = LinearProbe(d).fit(X[rows], y[rows], X[val], y[val])
        scaled = StandardScaler().fit(X[:400])
        best = LogisticRegression(C=1.0, max_iter=5000).fit(scaled.transform(X[:400]), y[:400])
        peer = roc_auc_score(y[test], best.decision_function(scaled.transform(X[test])))
        found.append(roc_auc_score(y[test], probe.predict(X[test])) - peer)
    assert min(found) > -0.05  # by two C's without improvement: -.4, in a quarter of them and more


def test_a_path_ends_where_validation_has_become_clearly_worse():
    X, y = world(900, 200, seed=4)
    walk = solver.Path(X[:400], y[:400]).walk(X[400:], y[400:], HALF_DECADES)
    whole = solver.Path(X[:400], y[:400]).walk(X[400:], y[400:], HALF_DECADES, whole=True)
    assert len(walk) < len(whole) == len(HALF_DECADES)
    best = min(whole, key=lambda step: step.val_nll)
    assert best.C == min(walk, key=lambda step: step.val_nll).C
    fit = fit_path(X[:400], y[:400], X[400:], y[400:])
    assert fit.C == best.C
    assert fit.val_nll == pytest.approx(best.val_nll, abs=1e-4)


def test_a_c_that_only_makes_things_worse_is_left_after_three_steps(monkeypatch):
    X, y = world(900, 200, seed=4)
    asked = []
    whole = Choice.hopeless

    def watched(self, loss):
        asked.append(whole(self, loss))
        return asked[-1]

    monkeypatch.setattr(Choice, "hopeless", watched)
    solver.Path(X[:400], y[:400]).walk(X[400:], y[400:], (*HALF_DECADES[:6], 1.0))
    assert asked == [True]


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sketch_holds_all_of_features_of_few_directions(dtype):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((300, 8)) @ rng.standard_normal((8, 200))).astype(dtype)
    share = rng.random(300)
    share /= share.sum()
    found = spectrum.Spectrum.of(X, share)
    values = np.linalg.eigvalsh((X.T @ (X * share[:, None])).astype(np.float64))[-8:]
    assert found.vectors is not None
    np.testing.assert_allclose(found.values, values, rtol=1e-4)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(8), atol=1e-4)
    assert found.rest == pytest.approx(0, abs=1e-4 * values.sum() / 192)


def test_features_that_are_all_zero_have_no_directions():
    found = spectrum.Spectrum.of(np.zeros((700, 600), np.float32), np.full(700, 1 / 700))
    assert found.vectors is not None
    assert found.vectors.shape == (600, 0)
    assert np.isfinite(found.precondition(0.25, 0.1, np.ones(601, np.float32))).all()


def test_what_a_path_cannot_do_without_is_named():
    X, y = world(40, 5)
    with pytest.raises(ScoringError, match="no validation rows"):
        fit_path(X, y, X[:0], y[:0])
    with pytest.raises(ScoringError, match="grid of C is empty"):
        fit_path(X, y, X, y, grid=())
    with pytest.raises(ScoringError, match=r"All 40 training labels are 0\.5"):
        fit_path(X, np.full(40, 0.5), X, y)


def test_a_limit_of_steps_is_told():
    X, y = world(300, 20)
    assert not fit_at(X, y, 100.0, max_iter=1).converged
