"""The verdict from states and labels: worlds in which it is known what has become of the second model's states."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from src.config import load_config
from src.data.splits import Splits
from src.pipeline.asked import Asked
from src.pipeline.check_numbers import with_labels
from src.pipeline.holding import Margins
from src.probes import LinearProbe, ModelIdentity, Origin, SavedProbe
from src.probes.drift import realign

D = 16
IDENTITY = ModelIdentity("m", None, "0" * 16, None, "float32", None)
SETTINGS = load_config({"model": {"name": "m"}, "evaluation": {"bootstrap": 200}}).evaluation


def asked(states, labels, confidence=None):
    n = len(states)
    confidence = np.full(n, 0.6) if confidence is None else confidence
    return Asked(("A",) * n, labels, confidence, {}, (), states[:, None], ("answered",) * n, (), {}, 0)


class World:
    """Questions of which the states' first feature tells how likely the answer is right."""

    def __init__(self, n, *, seed=0):
        rng = np.random.default_rng(seed)
        self.states = rng.standard_normal((n, D)) + rng.standard_normal(D)
        self.labels = (rng.random(n) < expit(2.5 * (self.states[:, 0] - self.states[:, 0].mean()))).astype(float)
        edges = np.cumsum([int(0.5 * n), int(0.1 * n), int(0.1 * n)])
        self.splits = Splits(*np.split(np.arange(n), edges), groups=np.arange(n))
        train, val = self.splits.train, self.splits.val
        probe = LinearProbe(D).fit(self.states[train], self.labels[train], self.states[val], self.labels[val])
        self.saved = SavedProbe(probe.weights_, Origin(IDENTITY, "block.0", "last_prompt"))

    def check(self, states, labels=None, *, groups=None, **changes):
        before, after = asked(self.states, self.labels), asked(states, self.labels if labels is None else labels)
        rows = np.concatenate([self.splits.train, self.splits.val])
        drift = realign(self.saved.weights, self.states[rows], states[rows])
        realigned = None if drift.chosen.method == "unchanged" else replace(self.saved, weights=drift.weights)
        settings = {"settings": SETTINGS, "margins": Margins(), "seed": 0} | changes
        return with_labels(self.saved, realigned, before, after, self.splits, groups or {}, **settings)


@pytest.fixture(scope="module")
def world():
    return World(3000)


def turn():
    return np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]


def test_states_in_other_coordinates_are_realigned(world):
    found = world.check(world.states @ turn() + 3.0)
    assert found.judgement.verdict == "realign"
    for metric in ("auroc", "nll"):
        assert found.scores["realigned"][metric]["value"] == pytest.approx(found.scores["at home"][metric]["value"])


def test_states_that_say_it_elsewhere_are_labelled_anew(world):
    """The second model is right about other questions, and its states tell about which: no map knows of that."""
    rng = np.random.default_rng(2)
    ease = world.states[:, 1] - world.states[:, 1].mean()
    labels = (rng.random(3000) < expit(2.5 * ease)).astype(float)
    found = world.check(world.states @ turn(), labels)
    assert found.judgement.verdict == "label"
    assert found.judgement.settled
    assert 0 < found.judgement.labels <= 1800
    assert found.scores["refit"]["auroc"]["low"] > 0.8 > found.scores["realigned"]["auroc"]["high"]


def test_little_noise_keeps_the_probe_and_few_questions_tell_nothing(world):
    noise = np.random.default_rng(3).standard_normal((3000, D))
    assert world.check(world.states + 0.05 * noise).judgement.verdict == "keep"
    few = World(120, seed=4)
    found = few.check(few.states + 0.5 * noise[:120])
    assert found.judgement.verdict == "cannot tell"


def test_test_questions_fit_nothing(world):
    """Other labels there change no confidence: only what is said of it."""
    moved, labels = world.states @ turn(), world.labels.copy()
    first = world.check(moved, labels)
    labels[world.splits.test] = 1 - labels[world.splits.test]
    other = world.check(moved, labels)
    assert np.array_equal(first.refit.weights_.weight, other.refit.weights_.weight)
    assert other.scores["refit"]["auroc"]["value"] == pytest.approx(1 - first.scores["refit"]["auroc"]["value"])


def test_how_far_off_a_group_is_is_its_mean_confidence_minus_its_accuracy(world):
    part = np.arange(3000) % 3 == 0
    group = world.check(world.states, groups={"tag t": part, "tag none": np.zeros(3000, dtype=bool)}).groups
    test = world.splits.test[part[world.splits.test]]
    assert set(group) == {"tag t"}
    assert group["tag t"]["n"] == test.size
    p, y = world.saved.predict(world.states[test]), world.labels[test]
    assert group["tag t"]["frozen"]["value"] == pytest.approx(p.mean() - y.mean())
    assert group["tag t"]["frozen"]["low"] < p.mean() - y.mean() < group["tag t"]["frozen"]["high"]


def test_where_no_refit_is_possible_there_is_no_verdict(world):
    found = world.check(world.states, np.ones(3000))
    assert found.judgement is None
    assert found.missing == "one class: every training answer is right"
    assert "refit" not in found.scores
    assert found.as_plain()["losses"] == {}
