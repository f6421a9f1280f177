"""Two confidences, two models, many subjects: tests equal closed forms, and keep the level they claim."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from src.evaluation.comparison import differences, holm
from src.evaluation.delong import auroc_covariance, auroc_interval, auroc_within, delong_test
from src.evaluation.gain import likelihood_losses
from src.evaluation.groups import auroc_variance, share_variance, shrink
from src.evaluation.intervals import score
from src.evaluation.ranking import Ranked
from src.evaluation.resampling import question_weights


def two_scores(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.6).astype(float)
    shared = rng.standard_normal(n)
    p, q = (expit(y + shared + rng.standard_normal(n)) for _ in range(2))
    return (p.round(1), q.round(1), y) if ties else (p, q, y)


def pair_by_pair(scores, y):
    """DeLong's covariance from all pairs, as the paper writes it."""
    right, wrong = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    wins = [np.array([[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in wrong] for i in right]) for s in scores]
    s10, s01 = (np.cov([w.mean(axis=axis) for w in wins]) for axis in (1, 0))
    return np.array([w.mean() for w in wins]), s10 / right.size + s01 / wrong.size


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_all_pairs_one_by_one(ties):
    p, q, y = two_scores(80, 1, ties)
    aurocs, covariance = auroc_covariance([p, q], y)
    expected, expected_covariance = pair_by_pair([p, q], y)
    assert aurocs == pytest.approx(expected)
    assert covariance == pytest.approx(expected_covariance)
    assert aurocs[0] == pytest.approx(Ranked.of(p, y).auroc())


def test_a_question_asked_twice_is_no_more_evidence_than_asked_once():
    p, q, y = two_scores(200, 2)
    once = auroc_covariance([p, q], y)
    twice = auroc_covariance([np.tile(p, 2), np.tile(q, 2)], np.tile(y, 2), np.tile(np.arange(200), 2))
    assert twice[0] == pytest.approx(once[0])
    assert twice[1] == pytest.approx(once[1])
    alone = auroc_covariance([np.tile(p, 2), np.tile(q, 2)], np.tile(y, 2))
    assert alone[1][0, 0] < 0.6 * once[1][0, 0]


def test_delong_keeps_its_level_and_its_interval_covers():
    rejected = covered = 0
    truth = norm.cdf(1 / 2)  # one apart, each with a variance of two
    for seed in range(600):
        p, q, y = two_scores(150, seed)
        rejected += delong_test(p, q, y) < 0.05
        low, high = auroc_interval(p, y)
        covered += low <= truth <= high
    assert rejected / 600 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)
    assert covered / 600 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 600)


def test_what_delong_cannot_say_is_not_a_number():
    p = np.array([0.2, 0.4, 0.6])
    assert np.isnan(auroc_covariance([p], np.ones(3))[0]).all()
    assert np.isnan(auroc_interval(p, np.array([0.0, 0.0, 1.0]))).all()  # one right row has no spread
    assert np.isnan(auroc_interval(np.arange(6) / 6, np.array([0, 0, 0, 1, 1, 1.0]))).all()  # exactly 1
    assert delong_test(p, p, np.array([0.0, 1.0, 1.0])) == 1.0


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.5, float("nan"), 0.02])
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(0.04)
    assert holm([]) == []


def test_differences_have_a_p_value_that_keeps_its_level():
    rejected = dict.fromkeys(("accuracy", "auroc", "brier", "nll"), 0)
    for seed in range(300):
        p, q, y = two_scores(150, seed)
        weights = question_weights(np.arange(150), 150, seed)
        found = differences(score(p, y, weights), score(q, y, weights))
        assert found["accuracy"].p == 1.0  # the same labels
        for name in rejected:
            rejected[name] += found[name].p < 0.05
    for name in ("auroc", "brier", "nll"):
        assert rejected[name] / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300), name


class TestShrinking:
    def test_without_a_spread_of_their_own_all_groups_get_the_mean(self):
        found = shrink(np.array([0.5, 0.52, 0.48]), np.full(3, 0.01))
        assert [one.value for one in found] == pytest.approx([0.5] * 3)

    def test_of_endless_questions_every_group_keeps_its_own(self):
        values = np.array([0.2, 0.5, 0.9])
        assert [one.value for one in shrink(values, np.full(3, 1e-9))] == pytest.approx(values, abs=1e-5)

    def test_smaller_groups_are_drawn_further(self):
        large, small = shrink(np.array([0.8, 0.8, 0.4, 0.4]), np.array([0.001, 0.02, 0.001, 0.02]))[:2]
        assert 0.6 < small.value < large.value < 0.8

    def test_groups_without_a_number_have_none_and_change_nothing(self):
        with_gap = shrink(np.array([0.2, np.nan, 0.9]), np.array([0.01, np.nan, 0.01]))
        without = shrink(np.array([0.2, 0.9]), np.full(2, 0.01))
        assert np.isnan(with_gap[1].value)
        assert [with_gap[0], with_gap[2]] == without

    def test_they_are_nearer_to_the_truth_and_their_intervals_hold_it(self):
        rng = np.random.default_rng(0)
        raw = drawn = covered = 0.0
        for _ in range(200):
            truth = rng.normal(0.6, 0.08, 57).clip(0.05, 0.95)
            n = rng.integers(10, 150, 57)
            share = rng.binomial(n, truth) / n
            found = shrink(share, share_variance(float(share @ n / n.sum()), n))
            raw += np.mean((share - truth) ** 2)
            drawn += np.mean([(one.value - t) ** 2 for one, t in zip(found, truth, strict=True)])
            covered += np.mean([one.contains(t) for one, t in zip(found, truth, strict=True)])
        assert drawn < 0.8 * raw
        assert 0.92 < covered / 200 < 0.98

    def test_the_variance_of_an_auroc_is_what_samples_scatter_by(self):
        rng = np.random.default_rng(1)
        y = np.repeat([1.0, 0.0], [30, 20])
        scatter = np.var([Ranked.of(expit(1.2 * y + rng.logistic(size=50)), y).auroc() for _ in range(3000)])
        auroc = np.mean([Ranked.of(expit(1.2 * y + rng.logistic(size=50)), y).auroc() for _ in range(3000)])
        assert float(auroc_variance(float(auroc), np.array([30]), np.array([20]))[0]) == pytest.approx(scatter, rel=0.1)
        assert np.isnan(auroc_variance(0.7, np.array([3]), np.array([0]))).all()


class TestGain:
    def world(self, n, seed):
        """Two readings of log-odds: the truth is the sum of both."""
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal((2, n))
        return expit(a), expit(b), (rng.random(n) < expit(a + b)).astype(float)

    def test_two_halves_of_the_truth_add_up(self):
        a, b, y = self.world(20_000, 0)
        found = likelihood_losses(a, b, y, self.world(4000, 1))
        assert found is not None
        truth = expit(np.log(a / (1 - a)) + np.log(b / (1 - b)))
        best = -np.mean(np.where(y == 1, np.log(truth), np.log1p(-truth)))
        assert found.both.mean() == pytest.approx(best, abs=2e-3)
        assert found.own.mean() - found.both.mean() > 0.05

    def test_a_copy_and_a_noise_add_nothing(self):
        a, _, y = self.world(20_000, 0)
        a_fit, _, y_fit = self.world(4000, 1)
        noise = np.random.default_rng(2).random((2, 20_000))
        for other, other_fit in ((a**2, a_fit**2), (noise[0], noise[1][:4000])):
            found = likelihood_losses(a, other, y, (a_fit, other_fit, y_fit))
            assert found is not None
            assert abs(found.own.mean() - found.both.mean()) < 5e-3

    def test_the_scale_of_a_confidence_does_not_matter(self):
        a, b, y = self.world(500, 3)
        a_fit, b_fit, y_fit = self.world(300, 4)
        plain = likelihood_losses(a, b, y, (a_fit, b_fit, y_fit))

        def sharpened(p):
            return expit(3 * np.log(p / (1 - p)) + 1)

        sharp = likelihood_losses(sharpened(a), b, y, (sharpened(a_fit), b_fit, y_fit))
        assert plain is not None
        assert sharp is not None
        assert sharp.both == pytest.approx(plain.both, abs=1e-4)

    def test_too_little_to_fit_on_is_said(self):
        a, b, y = self.world(30, 5)
        assert likelihood_losses(a, b, y, (a[:19], b[:19], y[:19])) is None
        assert likelihood_losses(a, b, y, (a, b, np.ones(30))) is None


def test_within_parts_the_levels_of_parts_do_not_count():
    p, _, y = two_scores(300, 0)
    parts = np.arange(300) % 5
    auroc, low, high = auroc_within(p, y, parts)
    shares = [[(y[parts == k] == 1).sum() * (y[parts == k] == 0).sum()] for k in range(5)]
    each = [auroc_covariance([p[parts == k]], y[parts == k])[0] for k in range(5)]
    assert auroc == pytest.approx(np.average(each, weights=shares))
    assert auroc_within(p + parts, y, parts) == (auroc, low, high)
    assert low < auroc < high
    whole = auroc_within(p, y, np.zeros(300))
    assert whole == (pytest.approx(auroc_covariance([p], y)[0][0]), *auroc_interval(p, y))
    # Where only some parts have pairs, these are the ones that count; without any there is nothing to say.
    one_class = np.concatenate([y, np.ones(50)])
    assert auroc_within(np.append(p, np.arange(50)), one_class, np.append(parts, np.full(50, 9)))[0] == auroc
    assert np.isnan(auroc_within(p[y == 1], y[y == 1], parts[y == 1])).all()


def test_the_interval_within_parts_covers():
    covered, truth = 0, norm.cdf(1 / 2)
    for seed in range(400):
        p, _, y = two_scores(200, seed)
        parts = np.arange(200) % 5
        _, low, high = auroc_within(p + parts, y, parts)
        covered += low <= truth <= high
    assert covered / 400 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)
