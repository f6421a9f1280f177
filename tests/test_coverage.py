"""95 % intervals hold the truth of a known world about 95 times in 100 (make test-slow prints how often)."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from src.evaluation.binning import bin_index
from src.evaluation.comparison import differences
from src.evaluation.intervals import calibrated_null, score
from src.evaluation.resampling import question_weights

pytestmark = pytest.mark.slow
CLAIMED = ("accuracy", "auroc", "brier", "nll")
WEIGHTINGS = 20  # draws of resamples that the samples take in turn


@dataclass(frozen=True)
class Model:
    """Answers right with log-odds `ability` + the question's ease, and believes in `sharpness` times as much."""

    ability: float
    sharpness: float

    def answers(self, ease, rng):
        odds = ease + self.ability
        return expit(self.sharpness * odds), (rng.random(ease.size) < expit(odds)).astype(float)

    def truth(self):
        """The metrics of all questions there are: sums over a grid of 1,000,000 quantiles of ease."""
        odds = 1.3 * norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000) + self.ability
        right, p = expit(odds), expit(self.sharpness * odds)
        wrong, gaps = 1 - right, np.bincount(bin_index(p, 15), weights=p - right) / p.size
        below = np.cumsum(wrong) - wrong / 2
        return {
            "accuracy": right.mean(),
            "auroc": right @ below / (right.sum() * wrong.sum()),
            "brier": np.mean(right * (1 - p) ** 2 + wrong * p**2),
            "nll": -np.mean(right * np.log(p) + wrong * np.log1p(-p)),
            "ece": np.abs(gaps).sum(),
        }


BASE, TUNED = Model(ability=0.8, sharpness=1.5), Model(ability=1.4, sharpness=1.0)


def coverage(n, samples, resamples):
    """How often intervals of the base model's metrics, and of tuned minus base, hold the truth."""
    rng = np.random.default_rng(n)
    weightings = [question_weights(np.arange(n), resamples, seed) for seed in range(WEIGHTINGS)]
    truth, of_tuned = BASE.truth(), TUNED.truth()
    difference = {name: of_tuned[name] - truth[name] for name in truth}
    alone, paired = dict.fromkeys(truth, 0.0), dict.fromkeys(truth, 0.0)
    for sample in range(samples):
        ease, weights = 1.3 * rng.standard_normal(n), weightings[sample % WEIGHTINGS]
        base, tuned = (score(*model.answers(ease, rng), weights) for model in (BASE, TUNED))
        found, changed = base.estimates(), differences(base, tuned)
        for name in truth:
            alone[name] += found[name].contains(truth[name]) / samples
            paired[name] += changed[name].estimate.contains(difference[name]) / samples
    return alone, paired


@pytest.mark.parametrize(("n", "samples", "resamples"), [(200, 1500, 600), (2000, 1000, 300)])
def test_intervals_hold_the_truth_as_often_as_they_claim(n, samples, resamples, capsys):
    """Accuracy, AUROC, Brier and NLL, and their paired differences; of ECE nothing is claimed."""
    alone, paired = coverage(n, samples, resamples)
    ease = 1.3 * np.random.default_rng(0).standard_normal(n)
    # The upward bias of ECE is there twice: in the sample, and once more in its resamples.
    floor = calibrated_null(BASE.answers(ease, np.random.default_rng(1))[0], metrics=("ece",))["ece"].mean
    with capsys.disabled():
        print(f"\ncoverage of 95 % intervals, n = {n}, {samples} samples, {resamples} resamples")
        for name in (*CLAIMED, "ece"):
            note = f"  no claim: true {BASE.truth()['ece']:.3f}, floor {floor:.3f}" if name == "ece" else ""
            print(f"  {name:9s} {alone[name]:.3f}   difference of two models {paired[name]:.3f}{note}")
    for name in CLAIMED:
        assert 0.93 <= alone[name] <= 0.97, name
        assert 0.93 <= paired[name] <= 0.97, name
