"""Probes: theorems, agreement with scikit-learn, and errors that name the row."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

from src.errors import ScoringError
from src.probes import LinearProbe, MeanDifferenceProbe, MLPProbe, ProbeClassifier
from src.probes.folds import fold_of_each, fold_of_names
from src.probes.refits import half_predictions, shuffled_predictions
from src.probes.solver import fit_path, mean_nll, probability
from src.probes.states import Sample
from src.probes.sweep import Part, Place, new_probe, sweep_places, to_choose_with
from src.probes.text_only import fit_text_only


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
    test = Part(states[450:], y[450:], np.arange(150))
    np.testing.assert_array_equal(sweep.predict(test), sweep.probe.predict(states[450:, 1]))
    shuffled = shuffled_predictions(train, val, test, 1, seed=0, shuffles=10)
    assert shuffled.shape == (10, 150)
    assert np.mean([roc_auc_score(y[450:], p) for p in shuffled]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("family", ["logistic", "mean_difference", "mlp"])
def test_every_family_can_be_swept_shuffled_and_halved(family):
    X, y = toy(n=400)
    states = np.stack([toy(n=400, seed=9)[0], X], axis=1)
    everything, rows = Part(states, y, np.arange(400)), np.split(np.arange(400), [200, 300])
    train, val, test = (everything.only(some) for some in rows)
    sweep = sweep_places([Place("last_answer", f"block.{n}") for n in range(2)], train, val, families=[family])
    assert sweep.chosen.family == family
    assert sweep.chosen.layer == "block.1"
    assert (sweep.chosen.C is None) == (family != "logistic")
    assert isinstance(sweep.probe, type(new_probe(family, 6)))
    shuffled = shuffled_predictions(train, val, test, 1, seed=0, shuffles=2, family=family)
    halves = half_predictions(train, val, test, 1, seed=0, repeats=2, family=family)
    assert shuffled.shape == halves.shape == (2, 100)
    assert min(roc_auc_score(y[300:], p) for p in halves) > 0.6


def test_a_layer_that_cannot_be_fitted_is_named_with_the_row():
    X, y = toy(n=60)
    states = np.stack([X, X], axis=1)
    states[7, 1, 2] = np.nan
    part = Part(states, y, np.arange(60))
    with pytest.raises(ScoringError, match=r"^block\.5 at last_answer, logistic: X holds NaN .* first is row 7"):
        sweep_places([Place("last_answer", "block.2"), Place("last_answer", "block.5")], part, part)


def test_the_text_only_assessor_reads_what_the_text_tells():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 100, (900, 2))
    texts = [f"What is {a} + {b}?" for a, b in numbers]
    y = (rng.random(900) < np.where(numbers[:, 0] < 50, 0.9, 0.2)).astype(float)
    assessor = fit_text_only(texts[:500], y[:500], texts[500:600], y[500:600])
    assert roc_auc_score(y[600:], assessor.predict(texts[600:])) > 0.75
    shuffled = rng.permutation(y)
    assessor = fit_text_only(texts[:500], shuffled[:500], texts[500:600], shuffled[500:600])
    assert roc_auc_score(shuffled[600:], assessor.predict(texts[600:])) == pytest.approx(0.5, abs=0.1)


FAMILIES = [LinearProbe, MeanDifferenceProbe, MLPProbe]


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_reads_what_there_is_and_gives_probabilities(self, family):
        X, y = toy(n=900)
        probe = family(6).fit(X[:400], y[:400], X[400:600], y[400:600])
        p = probe.predict(X[600:])
        assert p.dtype == np.float64
        assert roc_auc_score(y[600:], p) > 0.75
        assert p.mean() == pytest.approx(y[600:].mean(), abs=0.08)
        np.testing.assert_allclose(probe.predict_proba(X[600:]), np.column_stack([1 - p, p]), atol=1e-12)
        np.testing.assert_allclose(probability(probe.decision_function(X[600:])), p)
        assert probe.score(X[600:], y[600:]) == np.mean((p > 0.5) == y[600:])
        said = probe.decision_function(X[400:600])
        if family is not MeanDifferenceProbe:
            assert probe.val_nll_ == pytest.approx(mean_nll(said, y[400:600]), abs=1e-6)

    def test_is_the_same_every_time_and_wherever_the_states_lie(self, family, tmp_path):
        X, y = toy()
        np.save(tmp_path / "states.npy", X)
        mapped = np.load(tmp_path / "states.npy", mmap_mode="r")

        def said(states):
            return family(6).fit(states[:200], y[:200], states[200:], y[200:]).predict(states)

        expected = said(X)
        for same in (X, mapped, X[:, None], torch.from_numpy(X)):
            np.testing.assert_array_equal(said(same), expected)
        half = torch.from_numpy(X).bfloat16()
        np.testing.assert_array_equal(said(half), said(half.float().numpy()))

    def test_cross_validates_where_no_validation_rows_are_given(self, family):
        X, y = toy(n=900)
        probe = family(6).fit(X[:600], y[:600])
        assert roc_auc_score(y[600:], probe.predict(X[600:])) > 0.75
        assert 0.3 < probe.val_nll_ < 0.69

    def test_ignores_a_feature_that_was_constant_in_training(self, family):
        X, y = toy()
        X = np.hstack([X, (1000 + 1e-4 * y[:, None]).astype(np.float32)])  # but for rounding
        probe = family(7).fit(X, y)
        moved = X.copy()
        moved[:, 6] = -50
        np.testing.assert_allclose(probe.predict(moved), probe.predict(X), atol=1e-12)

    def test_learns_nothing_from_random_labels(self, family):
        X, _ = toy(n=2000, d=20)
        y = np.random.default_rng(5).integers(0, 2, 2000).astype(float)
        probe = family(20).fit(X[:400], y[:400], X[400:600], y[400:600])
        assert roc_auc_score(y[600:], probe.predict(X[600:])) == pytest.approx(0.5, abs=0.06)
        assert mean_nll(probe.decision_function(X[600:]), y[600:]) < 0.74


@pytest.mark.parametrize("family", [LinearProbe, MeanDifferenceProbe])
@pytest.mark.parametrize("validated", [True, False])
def test_a_rows_weight_is_how_often_it_is_given_and_none_is_no_row(family, validated):
    X, y = (a.astype(np.float64) for a in toy(n=120))
    times = np.random.default_rng(1).integers(0, 4, 120)
    val = toy(n=80, seed=7) if validated else ()
    weighted = family(6).fit(X, y, *val, sample_weight=times)
    repeated = family(6).fit(np.repeat(X, times, axis=0), np.repeat(y, times), *val)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-5)


def test_a_share_of_right_answers_is_as_many_right_and_wrong_ones():
    X, _ = toy(n=150)
    shares = np.random.default_rng(1).integers(0, 5, 150) / 4
    hard = np.concatenate([(np.arange(4) < 4 * share) for share in shares]).astype(float)
    val = toy(n=80, seed=7)
    soft = LinearProbe(6).fit(X, shares, *val, sample_weight=np.full(150, 4.0))
    np.testing.assert_allclose(soft.predict(X), LinearProbe(6).fit(np.repeat(X, 4, axis=0), hard, *val).predict(X),
                               atol=1e-4)  # fmt: skip


def test_rows_of_one_question_stay_in_one_fold_in_any_order():
    X, y = toy(n=300)
    groups = np.random.default_rng(0).integers(0, 60, 300)
    sample = Sample.of(X, y, None, "X", 6)
    fold = fold_of_each(sample, groups)
    assert all(np.unique(fold[groups == group]).size == 1 for group in range(60))
    assert np.bincount(fold).min() > 20
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(fold_of_each(Sample.of(X[order], y[order], None, "X", 6), groups[order]), fold[order])
    twice = fold_of_each(Sample.of(np.tile(X, (2, 1)), np.tile(y, 2), None, "X", 6))
    np.testing.assert_array_equal(twice[:300], twice[300:])


def test_repeated_questions_do_not_choose_a_weak_penalty():
    """Each question ten times with labels of its own: folds of rows would reward remembering it."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((60, 200)), 10, axis=0) + 0.1 * rng.standard_normal((600, 200))
    X, y = X.astype(np.float32), np.repeat(rng.integers(0, 2, 60), 10).astype(float)
    assert LinearProbe(200).fit(X, y, groups=np.repeat(np.arange(60), 10)).C_ < LinearProbe(200).fit(X, y).C_


def test_means_far_from_zero_do_not_blur_float32_states():
    X, y = toy()
    moved = X.astype(np.float64) + 4096.0
    probe, expected = fitted(moved.astype(np.float32), y), fitted(X, y)
    np.testing.assert_allclose(probe.predict(moved.astype(np.float32)), expected.predict(X), atol=2e-3)


def test_a_fit_holds_one_copy_of_a_layer_and_little_else():
    X, y = toy(n=4000, d=600)
    fitted(X[:1000], y[:1000])
    tracemalloc.start()
    fitted(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sampled_rows, blocks_and_vectors = 2000 * 600 * 4, 6 * 2**20
    assert peak < X.nbytes + sampled_rows + blocks_and_vectors


def test_a_probe_upside_down_on_its_own_training_rows_is_an_error():
    X = np.r_[np.linspace(0.0, 1.0, 20), np.linspace(-1.0, 0.0, 19), 500.0].astype(np.float32)[:, None]
    y = np.r_[np.zeros(20), np.ones(20)]
    with pytest.raises(ScoringError, match=r"the wrong way round \(AUROC 0\.0"):
        LinearProbe(1).fit(X, y, X, y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight": np.full(20, -1.0)}, "sample_weight must be 0 or more; 20 are not, the first is -1"),
        ({"sample_weight": np.ones(19)}, r"sample_weight has shape \(19,\), but there are 20 rows"),
        ({"sample_weight": np.zeros(20)}, "sample_weight is zero in all 20 rows"),
        ({"X_val": np.zeros((5, 6))}, "X_val and y_val belong together"),
        ({"X_val": np.zeros((0, 6)), "y_val": np.zeros(0)}, "no validation rows"),
        ({"X_val": np.zeros((5, 7)), "y_val": np.zeros(5)}, r"X_val has shape \(5, 7\)"),
        ({"X_val": np.full((5, 6), np.inf), "y_val": np.zeros(5)}, "X_val holds NaN or infinity in 5 rows"),
        ({"X_val": np.zeros((5, 6)), "y_val": np.full(5, 2.0)}, "y_val must be between 0 and 1; 5 are not"),
        ({"groups": np.zeros(20)}, "All 20 training rows are one group"),
        ({"groups": np.zeros(3)}, r"groups has shape \(3,\)"),
        ({"groups": np.arange(20) < 10}, "No part of the training rows can be set aside"),
    ],
)
def test_what_does_not_fit_the_training_rows_is_named(given, message):
    X, _ = toy(20)
    with pytest.raises(ScoringError, match=message):
        LinearProbe(6).fit(X, np.repeat([1.0, 0.0], 10), **given)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_chooses_on_no_rows(family):
    X, y = toy()
    with pytest.raises(ScoringError, match="no validation rows to choose with"):
        family(6).fit(X, y, X[:0], y[:0])


def test_halves_of_too_few_rows_are_left_out():
    X, y = toy(n=40)
    few, val, test = (Part(X[rows, None], y[rows], rows) for rows in np.split(np.arange(40), [12, 24]))
    assert half_predictions(few, val, test, 0, seed=0, repeats=3).shape == (0, 16)


def test_a_feature_that_float32_cannot_square_is_named():
    X, y = toy()
    X[:, 2] *= np.float32(1e30)
    with pytest.raises(ScoringError, match="Feature 2 spreads further than float32 can square"):
        fitted(X, y)


def test_a_direction_that_validation_contradicts_or_cannot_judge_says_nothing():
    X, y = toy()
    probe = MeanDifferenceProbe(6).fit(X[:200], y[:200], X[200:], 1 - y[200:])
    np.testing.assert_allclose(probe.predict(X), ((1 - y[200:]).sum() + 0.5) / 201, atol=1e-9)
    probe = MeanDifferenceProbe(6).fit(X[:200], y[:200], X[200:250], np.ones(50))
    np.testing.assert_allclose(probe.predict(X), 50.5 / 51, atol=1e-9)


def test_the_difference_of_means_is_that_of_standardised_states():
    X, y = toy()
    moved = X * np.array([1, 10, 0.1, 3, 7, 1], dtype=np.float32)
    Z = (moved[:200] - moved[:200].mean(0)) / moved[:200].std(0)
    expected = Z[y[:200] == 1].mean(0) - Z[y[:200] == 0].mean(0)
    weight = MeanDifferenceProbe(6).fit(moved[:200], y[:200], moved[200:], y[200:]).weights_.weight
    np.testing.assert_allclose(weight / np.linalg.norm(weight), expected / np.linalg.norm(expected), atol=1e-5)


def test_an_mlp_reads_what_no_line_can_and_leaves_torchs_random_numbers_alone():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 4)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(float)
    state = torch.random.get_rng_state()
    probe = MLPProbe(4).fit(X[:800], y[:800], X[800:1000], y[800:1000])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert roc_auc_score(y[1000:], probe.predict(X[1000:])) > 0.9
    line = LinearProbe(4).fit(X[:800], y[:800], X[800:1000], y[800:1000])
    assert roc_auc_score(y[1000:], line.predict(X[1000:])) < 0.6


@pytest.mark.slow
def test_the_classifier_passes_every_check_of_scikit_learn():
    results = check_estimator(ProbeClassifier(), on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    skipped = [result["check_name"] for result in results if result["status"] == "skipped"]
    assert skipped in ([], ["check_array_api_input"])


def test_the_classifier_gives_labels_of_its_own_kind():
    X, y = toy()
    names = np.where(y == 1, "yes", "no")
    classifier = ProbeClassifier().fit(X, names)
    assert list(classifier.classes_) == ["no", "yes"]
    np.testing.assert_array_equal(classifier.predict(X) == "yes", classifier.predict_proba(X)[:, 1] > 0.5)
    probe = LinearProbe(6, tolerance=1e-10).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X)[:, 1], probe.predict(X), atol=1e-9)
    with pytest.raises(ScoringError, match="y holds 3 classes"):
        ProbeClassifier().fit(X, np.arange(400) % 3)
    with pytest.raises(ScoringError, match="y holds one class, yes"):
        ProbeClassifier().fit(X, np.full(400, "yes"))


def test_parts_are_row_numbers_and_joined_parts_keep_their_questions_apart():
    rng = np.random.default_rng(0)
    whole = Part(rng.standard_normal((20, 3, 4)), rng.integers(0, 2, 20).astype(float), np.arange(20) // 2)
    some = whole.only(np.arange(4, 16)).only(np.array([0, 5, 3]))
    assert some.states is whole.states
    np.testing.assert_array_equal(some.at(2), whole.states[[4, 9, 7], 2])
    both = Part.joined([some, whole])
    np.testing.assert_array_equal(both.at(1), np.r_[some.at(1), whole.at(1)])
    np.testing.assert_array_equal(both.labels, np.r_[some.labels, whole.labels])
    assert (len(both), both.width) == (23, 4)
    assert not set(both.questions[:3]) & set(both.questions[3:])
    np.testing.assert_array_equal(both.questions[3:] - both.questions[3], whole.questions)


def test_joined_states_are_copied_a_place_at_a_time():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 3, 4)).astype(np.float32) for n in (20, 7)]
    parts = [Part(states, np.ones(len(states)), np.arange(len(states))) for states in arrays]
    both = Part.joined(parts)
    assert all(one is states for one, states in zip(both.states.arrays, arrays, strict=True))
    some = both.only(np.array([25, 3]))
    assert Part.joined([both.only(np.arange(9)), some]).states is both.states
    for place in range(3):
        np.testing.assert_array_equal(both.at(place), np.r_[arrays[0][:, place], arrays[1][:, place]])
        np.testing.assert_array_equal(some.at(place), both.at(place)[[25, 3]])
        again = Part.joined([some, parts[1]]).at(place)
        np.testing.assert_array_equal(again, np.r_[some.at(place), arrays[1][:, place]])
    assert (both.width, both.states.shape, both.states.dtype) == (4, (27, 3, 4), np.float32)


def test_the_best_candidate_of_all_places_and_families_is_chosen():
    X, y = toy(n=600)
    states = np.stack([toy(n=600, seed=9)[0], X], axis=1)
    everything = Part(states, y, np.arange(600))
    train, val = everything.only(np.arange(300)), everything.only(np.arange(300, 600))
    places, families = (
        [Place("last_answer", "block.0"), Place("last_answer", "block.1")],
        ["mean_difference", "logistic"],
    )
    sweep = sweep_places(places, train, val, families=families)
    assert [(one.layer, one.family) for one in sweep.results] == [(p.layer, f) for p in places for f in families]
    alone = [sweep_places(places, train, val, families=[family]) for family in families]
    losses = [alone[f].results[p].val_nll for p in range(2) for f in range(2)]
    assert [one.val_nll for one in sweep.results] == losses
    assert (sweep.best, sweep.place) == (int(np.argmin(losses)), 1)


def questions_of_three(n=150, d=40, seed=0, signal=0.0):
    """Three rows a question, nearly alike and with one label."""
    rng = np.random.default_rng(seed)
    X = np.repeat(rng.standard_normal((n // 3, d)), 3, axis=0) + 0.01 * rng.standard_normal((n, d))
    y = (rng.random(n // 3) < probability(signal * X[::3, 0])).astype(float)
    return X.astype(np.float32), np.repeat(y, 3), np.repeat(np.arange(n // 3), 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_fold_no_row_is_spoken_of_by_a_fit_that_saw_its_question(family):
    """Labels that follow nothing but the question: whoever saw another row of it would know."""
    aurocs = []
    for seed in range(2 if family is MLPProbe else 4):
        X, y, questions = questions_of_three(seed=seed)
        probe = family(40).fit(X, y, groups=questions)
        assert probe.out_of_fold_.shape == y.shape
        aurocs.append(roc_auc_score(y, probe.out_of_fold_))
    assert np.mean(aurocs) < 0.6
    half = len(y) // 2
    assert family(40).fit(X[:half], y[:half], X[half:], y[half:]).out_of_fold_ is None


def test_out_of_fold_is_what_the_fit_to_the_other_folds_says():
    X, y = toy(n=200)
    weight = np.where(np.arange(200) % 9, 1.0, 0.0)
    probe = LinearProbe(6).fit(X, y, sample_weight=weight, groups=np.arange(200))
    rows = np.flatnonzero(weight)
    fold = fold_of_each(Sample.of(X, y, weight, "X", 6), np.arange(200))
    for number in range(5):
        others, here = rows[fold != number], rows[fold == number]
        mean, scale = X[others].mean(0), X[others].std(0)
        reference = LogisticRegression(C=probe.C_, tol=1e-8).fit((X[others] - mean) / scale, y[others])
        expected = reference.predict_proba((X[here] - mean) / scale)[:, 1]
        np.testing.assert_allclose(probe.out_of_fold_[here], expected, atol=5e-3)
    assert np.isnan(probe.out_of_fold_[weight == 0]).all()
    assert probe.val_nll_ == pytest.approx(
        -np.log(np.where(y, probe.out_of_fold_, 1 - probe.out_of_fold_))[rows].mean()
    )


@pytest.mark.parametrize("family", ["logistic", "mean_difference", "mlp"])
def test_one_candidate_chosen_by_cross_validation_is_the_probe_fitted_without_validation_rows(family):
    X, y, questions = questions_of_three(signal=2.0)
    sweep = sweep_places([Place("last_prompt", "block.0")], Part(X[:, None], y, questions), None, families=[family])
    probe = new_probe(family, 40).fit(X, y, groups=questions)
    np.testing.assert_array_equal(sweep.probe.predict(X), probe.predict(X))
    np.testing.assert_array_equal(sweep.out_of_fold, probe.out_of_fold_)
    assert sweep.chosen.val_nll == probe.val_nll_
    fold = fold_of_names(questions)
    here = [fold == k for k in range(5)]
    pairs = [y[rows].sum() * (1 - y[rows]).sum() for rows in here]
    each = [roc_auc_score(y[rows], probe.out_of_fold_[rows]) for rows in here]
    assert sweep.chosen.val_auroc == pytest.approx(np.average(each, weights=pairs))


def test_no_row_chooses_who_speaks_of_it():
    """Of places that know nothing the best looks as if it knew; what the other folds prefer does so less."""
    looks, speaks = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        part = Part(rng.standard_normal((120, 12, 8)), rng.integers(0, 2, 120).astype(float), np.arange(120))
        places = [Place("last_prompt", f"block.{n}") for n in range(12)]
        sweep = sweep_places(places, part, None, families=["mean_difference"])
        looks.append(sweep.chosen.val_auroc)
        speaks.append(roc_auc_score(part.labels, sweep.out_of_fold))
    assert np.mean(speaks) < np.mean(looks) - 0.03


def test_few_questions_are_all_fitted_to_and_many_are_set_aside():
    def part(n):
        return Part(np.zeros((2 * n, 1, 1)), np.zeros(2 * n), np.repeat(np.arange(n), 2))

    enough, some = part(1500), part(500)
    assert to_choose_with(enough, some) == (enough, some)
    train, val = to_choose_with(enough, part(499))
    assert val is None
    assert (len(train), np.unique(train.questions).size) == (2 * 1999, 1999)


def test_an_mlp_begins_at_the_share_of_right_answers(monkeypatch):
    """From random first weights a short fit could rank its own training rows upside down."""
    monkeypatch.setattr("src.probes.mlp._RATE", 0.0)
    X, y = toy(n=90)
    probe = MLPProbe(6).fit(X, y, X, y)
    np.testing.assert_allclose(probe.predict(X), y.mean(), atol=1e-6)
