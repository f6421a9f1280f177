"""The rule: keep, realign, label or cannot tell; and how often it is right where the truth is known."""

import numpy as np
import pytest
from scipy.special import expit

from src.errors import ConfigError
from src.evaluation.intervals import score
from src.evaluation.resampling import question_weights
from src.pipeline.holding import Margins, judge
from src.pipeline.refitting import Marked, Step, learning_curve, refit, why_no_refit

SETTLED = (Step(500, 0.79, 0.51), Step(1000, 0.8, 0.5))


def judged(n, curve=SETTLED, *, seed=0, margins=None, times=1, **confidences):
    """Each confidence is the truth's log-odds times a slope plus noise: (slope, deviation of the noise).

    `times`: how often each question is there, as if as many more, just like these, had been asked.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.5, 1.5, n)
    y = (rng.random(n) < expit(truth)).astype(float)
    weights = question_weights(np.arange(n * times), 400, seed)
    said = {name: expit(slope * truth + noise * rng.standard_normal(n)) for name, (slope, noise) in confidences.items()}
    scored = {name: score(np.tile(p, times), np.tile(y, times), weights) for name, p in said.items()}
    return judge(scored, curve, questions=n * times, margins=margins)


GOOD, SAME, SLIGHTLY, BAD = (1, 0.2), (1, 0.25), (1, 0.45), (0.2, 1.5)


def test_a_probe_that_loses_nothing_is_kept():
    assert judged(2000, frozen=SAME, realigned=BAD, refit=GOOD).verdict == "keep"


def test_one_that_holds_once_it_is_realigned_is_realigned():
    found = judged(2000, frozen=BAD, realigned=SAME, refit=GOOD)
    assert (found.verdict, found.standings) == ("realign", {"frozen": "fails", "realigned": "holds"})


def test_where_neither_holds_labels_are_asked_for():
    found = judged(2000, frozen=BAD, realigned=BAD, refit=GOOD)
    assert found.verdict == "label"
    assert judged(2000, frozen=BAD, refit=GOOD).verdict == "label"


def test_too_few_questions_are_said_with_how_many_more_would_do():
    few = judged(60, frozen=SLIGHTLY, refit=GOOD)
    assert few.verdict == "cannot tell"
    assert few.labels is not None
    times = 1 + few.labels / 60
    assert judged(60, times=int(times / 2), frozen=SLIGHTLY, refit=GOOD).verdict == "cannot tell"
    assert judged(60, times=int(times * 1.3) + 1, frozen=SLIGHTLY, refit=GOOD).verdict != "cannot tell"


def test_a_probe_that_is_the_refit_is_kept_however_few_the_questions():
    rng = np.random.default_rng(0)
    p, y = rng.random(12), (rng.random(12) < 0.5).astype(float)
    same = score(p, y, question_weights(np.arange(12), 200, 0))
    assert judge({"frozen": same, "refit": same}, SETTLED, questions=12).verdict == "keep"


def test_a_wider_margin_keeps_what_a_narrow_one_does_not():
    assert judged(2000, frozen=BAD, refit=GOOD, margins=Margins(0.5, 2.0)).verdict == "keep"


def test_calibration_alone_is_reason_enough_not_to_keep():
    """The same order with far too much confidence: AUROC sees nothing, the nats do."""
    found = judged(2000, frozen=(4, 0), realigned=(1, 0), refit=(1, 0))
    assert found.verdict == "realign"
    assert found.losses["frozen"]["auroc"].value == pytest.approx(0, abs=1e-12)
    assert found.losses["frozen"]["nll"].low > 0.02


def test_of_one_class_the_nats_alone_ask_for_labels():
    y, weights = np.ones(400), question_weights(np.arange(400), 200, 0)
    scored = {name: score(np.full(400, p), y, weights) for name, p in (("frozen", 0.1), ("refit", 0.9))}
    nan = float("nan")
    curve = (Step(100, nan, 0.9), Step(200, nan, 0.51), Step(400, nan, 0.5))
    assert judge(scored, curve, questions=400).labels == 200
    still = (Step(200, nan, 0.6), Step(400, nan, 0.5))
    assert judge(scored, still, questions=400).labels == 2000


def test_one_class_cannot_be_told_and_no_number_is_named():
    y, weights = np.ones(40), question_weights(np.arange(40), 200, 0)
    rng = np.random.default_rng(1)
    scored = {name: score(rng.uniform(0.3, 0.9, 40), y, weights) for name in ("frozen", "refit")}
    found = judge(scored, SETTLED, questions=40)
    assert (found.verdict, found.labels) == ("cannot tell", None)


def test_the_labels_that_are_enough_are_the_fewest_that_lose_no_more_than_the_margin():
    curve = (Step(250, 0.7, 0.6), Step(500, 0.79, 0.515), Step(1000, 0.795, 0.505), Step(2000, 0.8, 0.5))
    found = judged(2000, curve, frozen=BAD, refit=GOOD)
    assert (found.labels, found.settled) == (500, True)


def test_a_refit_that_still_learns_asks_for_so_many_that_it_no_longer_would():
    """What is lost falls with one over the labels: .06 nats by the last doubling leave .06, three times .02."""
    curve = (Step(50, 0.7, 0.66), Step(100, 0.71, 0.6))
    found = judged(2000, curve, frozen=BAD, refit=GOOD)
    assert (found.labels, found.settled) == (300, False)
    assert judged(2000, curve[:1], frozen=BAD, refit=GOOD).labels is None


def world(n, *, seed, d=12, axis=0):
    """States of two models and labels of the second; the feature that tells is `axis` in the second."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = (rng.random(n) < expit(2 * X[:, axis])).astype(float)
    return Marked(X, y, np.arange(n))


def test_a_learning_curve_ends_with_the_refit_itself_and_rises_to_it():
    train, val, test = (world(n, seed=seed) for seed, n in enumerate((800, 200, 1000)))
    whole = refit(train, val)
    curve = learning_curve(train, val, test, seed=0, whole=whole)
    assert [step.labels for step in curve] == [125, 250, 500, 1000]
    assert curve[0].nll > curve[-1].nll
    p = np.clip(whole.predict(test.states), 1e-15, 1)
    assert curve[-1].nll == pytest.approx(-np.mean(np.where(test.labels == 1, np.log(p), np.log1p(-p))))
    assert curve == learning_curve(train, val, test, seed=0, whole=whole)


def test_shares_are_of_whole_questions():
    train = world(80, seed=0)
    twice = Marked(train.states, train.labels, np.arange(80) // 2)
    some = twice.share(0.5, np.random.default_rng(0))
    assert np.unique(some.questions).size == 20
    assert some.labels.size == 40


def test_why_there_is_no_refit_is_said():
    rows = world(30, seed=0)
    none = rows.only(np.arange(0))
    assert why_no_refit(rows, none) == "too few questions: 30 to train on, 0 to choose with"
    assert "every training answer is right" in why_no_refit(Marked(rows.states, np.ones(30), rows.questions), rows)
    assert why_no_refit(rows, rows) == ""
    # Sizes too small to be fitted are left out of the curve.
    curve = learning_curve(rows, rows, rows, seed=0, whole=refit(rows, rows))
    assert [step.labels for step in curve][-1] == 60
    assert curve[0].labels >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frozen", "realigned", "wrong", "right"),
    [
        (SAME, BAD, {"label", "realign"}, {"keep"}),
        (BAD, BAD, {"keep", "realign"}, {"label"}),
        (BAD, SAME, {"keep", "label"}, {"realign"}),
    ],
)
def test_the_rule_is_wrong_in_at_most_a_few_of_many_runs(frozen, realigned, wrong, right):
    """A probe as good as the refit is hardly ever sent away, a bad one hardly ever kept, whatever the size.

    The same holds of what realignment makes of it.
    """
    for n in (100, 400, 1500):
        several = {"frozen": frozen, "realigned": realigned, "refit": GOOD}
        verdicts = [judged(n, seed=seed, **several).verdict for seed in range(60)]
        print(n, {one: verdicts.count(one) for one in sorted(set(verdicts))})
        assert sum(one in wrong for one in verdicts) <= 0.05 * len(verdicts)
    assert sum(one in right for one in verdicts) >= 0.9 * len(verdicts)


@pytest.mark.parametrize("margins", [(0.0, 0.02), (0.02, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_margin_of_nothing_is_refused(margins):
    with pytest.raises(ConfigError, match="Both must be above 0"):
        Margins(*margins)
