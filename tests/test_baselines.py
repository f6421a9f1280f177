"""Baselines keep the ranking of what they are made of, and know nothing that they are not given."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from src.data.example import Example
from src.data.splits import Splits
from src.models.answering import ChoiceAnswers
from src.pipeline import probing
from src.pipeline.asked import Asked
from src.probes.baselines import fit_signal, fit_surface, subject_means
from src.probes.encoded import fit_encoded
from src.probes.folds import fold_of_names
from src.probes.sweep import Place
from src.probes.text_only import fit_text_only


def world(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    return signal, (rng.random(n) < 1 / (1 + np.exp(1.5 * signal))).astype(float)


def test_a_signals_ranking_stays_and_its_scale_becomes_a_probability():
    signal, y = world()
    p = fit_signal(signal[:1000], y[:1000], signal[1000:1500], y[1000:1500]).predict(signal[1500:])
    assert roc_auc_score(y[1500:], p) == pytest.approx(roc_auc_score(y[1500:], -signal[1500:]))
    reference = LogisticRegression(C=1e6).fit(signal[:1000, None], y[:1000]).predict_proba(signal[1500:, None])[:, 1]
    np.testing.assert_allclose(p, reference, atol=0.05)


def test_infinite_and_constant_signals_are_no_error():
    signal, y = world(400)
    signal[:3] = np.inf
    p = fit_signal(signal[:200], y[:200], signal[200:300], y[200:300]).predict(np.array([np.inf, -np.inf, 0.0]))
    assert np.isfinite(p).all()
    assert p[0] < p[2] < p[1]
    flat = fit_signal(np.ones(200), y[:200], np.ones(100), y[200:300]).predict(np.ones(5))
    np.testing.assert_allclose(flat, y[:200].mean(), atol=0.01)


def test_the_surface_reads_letter_length_and_subject_and_nothing_else():
    rng = np.random.default_rng(0)
    columns = rng.choice(list("ABCD"), 2000), rng.integers(10, 1000, 2000).tolist(), rng.choice(["x", "y"], 2000)
    rows = list(zip(*columns, strict=True))
    for read in (lambda r: r[0] == "A", lambda r: r[1] > 100, lambda r: r[2] == "x"):
        y = np.array([float(rng.random() < (0.9 if read(row) else 0.2)) for row in rows])
        assessor = fit_surface(rows[:1000], y[:1000], rows[1000:1300], y[1000:1300])
        assert roc_auc_score(y[1300:], assessor.predict(rows[1300:])) > 0.7
    random = rng.integers(0, 2, 2000).astype(float)
    blind = fit_surface(rows[:1000], random[:1000], rows[1000:1300], random[1000:1300])
    assert abs(roc_auc_score(random[1300:], blind.predict(rows[1300:])) - 0.5) < 0.06
    assert np.isfinite(blind.predict([("Z", 5, "never seen")])).all()


def test_a_subjects_mean_is_drawn_to_the_mean_of_all():
    y = np.array([1.0, 1, 1, 1, 0, 0])
    found = subject_means(["a", "a", "a", "a", "b", "b"], y, ["a", "b", "new"])
    overall = y.mean()
    np.testing.assert_allclose(found, [(4 + 5 * overall) / 9, (0 + 5 * overall) / 7, overall])


def test_entropy_and_margin_of_shares():
    log_likelihoods = np.log(np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.3, 0.1, 0.1], [1.0, 1e-300, 1e-300, 1e-300]]))
    log_likelihoods[1, 3] = -np.inf
    answers = ChoiceAnswers(np.zeros(3, dtype=int), log_likelihoods, np.empty((3, 0, 0)), ((),) * 3, ((),) * 3, (), 3)
    shares = np.array([0.5, 0.3, 0.1]) / 0.9
    np.testing.assert_allclose(answers.entropy, [np.log(4), -(shares * np.log(shares)).sum(), 0], atol=1e-12)
    np.testing.assert_allclose(answers.margin, [0, 0.2 / 0.9, 1], atol=1e-12)


def test_without_validation_items_c_is_the_best_over_the_probes_folds():
    """Nothing is learnt from an item that is held out, and scikit-learn agrees on the choice and on the fit."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 6))
    y = (rng.random(300) < 1 / (1 + np.exp(-0.5 * X[:, 0]))).astype(float)
    questions = np.arange(300) // 2
    fold, learnt_from = fold_of_names(questions), []

    def learn(rows):
        learnt_from.append(rows)
        return lambda some: X[np.asarray(some)]

    found = fit_encoded(learn, np.arange(300), y, groups=questions)
    assert sorted(map(tuple, learnt_from)) == sorted(
        tuple(np.flatnonzero(fold != k)) if k < 5 else tuple(range(300)) for k in range(6)
    )
    losses = {}
    for C in 10 ** (np.arange(-6, 7) / 2):
        said = np.empty(300)
        for k in range(5):
            peer = LogisticRegression(C=C, tol=1e-8).fit(X[fold != k], y[fold != k])
            said[fold == k] = peer.predict_proba(X[fold == k])[:, 1]
        losses[C] = log_loss(y, said), said
    C = min(losses, key=lambda one: losses[one][0])
    assert pytest.approx(C) == found.fit.C
    np.testing.assert_allclose(found.out_of_fold, losses[C][1], atol=1e-3)
    peer = LogisticRegression(C=C, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(found.predict(np.arange(300)), peer.predict_proba(X)[:, 1], atol=1e-5)


def knowing(knows, correct, rng):
    """A model whose own log-odds of being right are `knows`, (n,)."""
    n = len(knows)
    return Asked(
        answers=tuple("AB"[row % 2] for row in range(n)), correct=correct, confidence=expit(knows),
        signals={"margin": knows}, places=(Place("last_prompt", "block.0"),),
        hidden=(knows[:, None, None] + rng.standard_normal((n, 1, 3))).astype(np.float32), status=("answered",) * n,
        marks=(), elsewhere={}, truncated=0,
    )  # fmt: skip


def test_the_own_probability_is_recalibrated_on_val_alone():
    """Log-odds twice too large: Platt scaling gets back what they should be, whatever the other splits' labels say."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(6000) + 0.3
    y = (rng.random(6000) < expit(truth)).astype(float)
    splits = Splits(*np.split(np.arange(6000), [40, 3040, 3080]), groups=np.arange(6000))
    examples = tuple(Example(f"What is {row}?", "A", ("x", "y"), "", f"prompt {row}") for row in range(6000))

    def test_of(correct, labels=y):
        asked = knowing(2 * truth, np.where(np.isin(np.arange(6000), splits.val), labels, correct), rng)
        return probing.fit_scorers(asked, examples, splits, seed=0, repeats=2, label="base").test

    # All else is right: no probe, and the same recalibration.
    one, other = test_of(y), test_of(np.ones(6000))
    assert "probe" in one
    assert "probe" not in other
    np.testing.assert_array_equal(one["own_recalibrated"], other["own_recalibrated"])
    np.testing.assert_allclose(one["own_recalibrated"], expit(truth[splits.test]), atol=0.05)
    assert roc_auc_score(y[splits.test], one["own_recalibrated"]) == roc_auc_score(y[splits.test], one[probing.OWN])
    assert "own_recalibrated" not in test_of(y, labels=np.ones(6000))


@pytest.mark.parametrize("few", [True, False])
def test_every_baseline_is_fitted_to_the_rows_of_the_probe(few, monkeypatch):
    n = 200
    rng = np.random.default_rng(0)
    knows = rng.standard_normal(n)
    examples = tuple(Example(f"What is {row}?", "A", ("x", "y"), "ab"[row % 2], f"prompt {row}") for row in range(n))
    asked = knowing(knows, (knows > 0).astype(float), rng)
    rows = np.split(rng.permutation(n), [100, 130, 150])
    splits = Splits(*rows, groups=np.arange(n) + 1000)
    monkeypatch.setattr("src.probes.sweep.CROSS_VALIDATED_BELOW", 2000 if few else 0)
    fitted = {}

    def seen(name):
        real = getattr(probing, name)

        def wrapped(*arguments, **options):
            fitted[name] = arguments, options
            return real(*arguments, **options)

        return wrapped

    for name in ("sweep_places", "fit_text_only", "fit_signal", "fit_surface", "subject_means"):
        monkeypatch.setattr(probing, name, seen(name))
    probed = probing.fit_scorers(asked, examples, splits, seed=0, repeats=2, label="base")
    (_, train, val), _ = fitted["sweep_places"]
    assert train.rows.tolist() == (np.r_[splits.train, splits.val] if few else splits.train).tolist()
    items = {
        "fit_text_only": [f"What is {row}?\nx\ny" for row in train.rows],
        "fit_signal": asked.signals["margin"][train.rows].tolist(),
        "fit_surface": [(asked.answers[row], len(f"prompt {row}"), "ab"[row % 2]) for row in train.rows],
        "subject_means": ["ab"[row % 2] for row in train.rows],
    }
    for name, wanted in items.items():
        (found, y, *chosen_on), options = fitted[name]
        assert list(found) == wanted
        np.testing.assert_array_equal(y, train.labels)
        if name != "subject_means":
            assert len(chosen_on) == (0 if few else 2)
            if few:
                np.testing.assert_array_equal(options["groups"], train.questions)
            else:
                np.testing.assert_array_equal(chosen_on[1], val.labels)
    # What is said of val was never learnt from it.
    again = fit_text_only(items["fit_text_only"], train.labels, groups=train.questions) if few else None
    text = again.out_of_fold[100:] if again else probed.val["text_only"]
    np.testing.assert_array_equal(probed.val["text_only"], text)
