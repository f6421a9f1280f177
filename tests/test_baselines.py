"""Baselines keep the ranking of what they are made of, and know nothing that they are not given."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from src.models.answering import ChoiceAnswers
from src.probes.baselines import SurfaceAssessor, signal_confidence, subject_means


def world(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    return signal, (rng.random(n) < 1 / (1 + np.exp(1.5 * signal))).astype(float)


def test_a_signals_ranking_stays_and_its_scale_becomes_a_probability():
    signal, y = world()
    p = signal_confidence(signal[:1000], y[:1000], signal[1000:1500], y[1000:1500], signal[1500:])
    assert roc_auc_score(y[1500:], p) == pytest.approx(roc_auc_score(y[1500:], -signal[1500:]))
    reference = LogisticRegression(C=1e6).fit(signal[:1000, None], y[:1000]).predict_proba(signal[1500:, None])[:, 1]
    np.testing.assert_allclose(p, reference, atol=0.05)


def test_infinite_and_constant_signals_are_no_error():
    signal, y = world(400)
    signal[:3] = np.inf
    p = signal_confidence(signal[:200], y[:200], signal[200:300], y[200:300], np.array([np.inf, -np.inf, 0.0]))
    assert np.isfinite(p).all()
    assert p[0] < p[2] < p[1]
    flat = signal_confidence(np.ones(200), y[:200], np.ones(100), y[200:300], np.ones(5))
    np.testing.assert_allclose(flat, y[:200].mean(), atol=0.01)


def test_the_surface_reads_letter_length_and_subject_and_nothing_else():
    rng = np.random.default_rng(0)
    columns = rng.choice(list("ABCD"), 2000), rng.integers(10, 1000, 2000).tolist(), rng.choice(["x", "y"], 2000)
    rows = list(zip(*columns, strict=True))
    for read in (lambda r: r[0] == "A", lambda r: r[1] > 100, lambda r: r[2] == "x"):
        y = np.array([float(rng.random() < (0.9 if read(row) else 0.2)) for row in rows])
        assessor = SurfaceAssessor().fit(rows[:1000], y[:1000], rows[1000:1300], y[1000:1300])
        assert roc_auc_score(y[1300:], assessor.predict(rows[1300:])) > 0.7
    random = rng.integers(0, 2, 2000).astype(float)
    blind = SurfaceAssessor().fit(rows[:1000], random[:1000], rows[1000:1300], random[1000:1300])
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
