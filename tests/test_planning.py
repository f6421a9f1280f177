"""What the label planner promises is what runs then show; its worlds are what they are said to be."""

import itertools
import json

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import multinomial, multivariate_normal
from sklearn.metrics import roc_auc_score

from src.errors import ConfigError, ScoringError
from src.evaluation import CalibrationMetrics, judged_worlds, planning
from src.evaluation.comparison import differences, flips
from src.evaluation.intervals import score
from src.evaluation.judged_worlds import Judged, lower_ends
from src.evaluation.planning import METRICS, Assumptions, mcnemar_power, questions_needed, smallest_difference
from src.evaluation.resampling import Ranking, question_weights
from src.evaluation.worlds import Answers, Assumed, World, both_below
from src.pipeline import plan_labels
from src.pipeline.planning import assumptions_of
from src.pipeline.results import SCHEMA
from tests.test_pipeline import cli


class Runs:
    """Runs of an assumed world, drawn and solved by other means than the planner's, judged by the library."""

    GRID = ndtri((np.arange(4000) + 0.5) / 4000)

    def __init__(self, assumed, planned):
        self.accuracy = np.array([assumed.accuracy] * 2)
        self.ece = np.array([assumed.ece] * 2)
        first = self.spread_of(assumed.auroc)
        self.spread = np.array([first, first])
        if planned.metric == "accuracy":
            self.accuracy[1] = planned.after
            self.spread[1] = self.spread_of(assumed.auroc, 1)
        elif planned.metric == "ece":
            self.ece[1] = planned.after
        elif planned.metric == "auroc":
            self.spread[1] = self.spread_of(planned.after)
        else:
            self.spread[1] = brentq(lambda spread: self.brier(spread) - planned.after, 1e-2, 50)
        self.metric = planned.metric
        self.alike = self.likeness(assumed.changed)

    def chances(self, ease, spread, mean):
        return ndtr(ndtri(mean) * np.sqrt(1 + spread**2) + spread * ease)

    def spread_of(self, auroc, side=0):
        def excess(spread):
            right = self.chances(self.GRID, spread, self.accuracy[side])
            labels = np.repeat([1, 0], self.GRID.size)
            return roc_auc_score(labels, np.tile(self.GRID, 2), sample_weight=np.r_[right, 1 - right]) - auroc

        return brentq(excess, 1e-2, 50, xtol=1e-4)

    def brier(self, spread):
        right, said = (
            self.chances(self.GRID, spread, mean) for mean in (self.accuracy[0], self.accuracy[0] + self.ece[0])
        )
        return np.mean(right * (1 - said) ** 2 + (1 - right) * said**2)

    def likeness(self, changed):
        rng = np.random.default_rng(99)
        normals = rng.standard_normal((4, 300_000))
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            (_, y), (_, z) = self.answers(normals, middle)
            low, high = (middle, high) if np.mean(y != z) > changed else (low, middle)
        return middle

    def answers(self, normals, alike):
        ease, luck, *others = normals
        both = []
        for side in (0, 1):
            mine = (ease, luck)
            if side:
                mine = (alike * one + np.sqrt(1 - alike**2) * other for one, other in zip(mine, others, strict=True))
            g, v = mine
            right = ndtr(v) < self.chances(g, self.spread[side], self.accuracy[side])
            both.append((self.chances(g, self.spread[side], self.accuracy[side] + self.ece[side]), right.astype(float)))
        return both

    def shown(self, n, runs, resamples=300, seed=11):
        """The share of runs with n test questions in which the library shows the difference."""
        rng = np.random.default_rng(seed)
        found = 0
        for run in range(runs):
            # Of its own: shared by all runs, the error of its quantiles would be one error of them all.
            weights = question_weights(np.arange(n), resamples, seed + run)
            (p, y), (q, z) = self.answers(rng.standard_normal((4, n)), self.alike)
            if self.metric == "accuracy":
                change = flips(y, z)
                found += change.p_value < 0.05 and change.gained > change.lost
            else:
                change = differences(score(p, y, weights), score(q, z, weights))[self.metric].estimate
                found += change.high < 0 if self.metric == "brier" else change.low > 0
        return found / runs


WORLDS = [
    Assumptions(),
    Assumptions(accuracy=0.85, auroc=0.7, ece=0.1, changed=0.1),
    Assumptions(accuracy=0.4, auroc=0.85, ece=0.0, changed=0.3),
]


@pytest.fixture
def few_runs(monkeypatch):
    """A coarse simulation, which is quick."""
    monkeypatch.setattr(planning, "_PASSES", (50, 100, 300))


class TestWorlds:
    @pytest.mark.parametrize("assumed", WORLDS)
    def test_many_answers_are_as_good_as_assumed(self, assumed):
        one = assumed.before
        other = Assumed.with_auroc(assumed.accuracy - 0.05, assumed.auroc + 0.05, assumed.ece + 0.02)
        world = World(one, other, assumed.changed)
        drawn = world.draw((300_000,), np.random.default_rng(1))
        for model, answers in zip((one, other), drawn, strict=True):
            found = CalibrationMetrics(answers.confidence > 0.5, answers.confidence, answers.correct)
            assert answers.correct.mean() == pytest.approx(model.accuracy, abs=0.004)
            assert found.auroc() == pytest.approx(model.auroc, abs=0.005)
            assert found.brier() == pytest.approx(model.brier, abs=0.003)
            assert found.ece() == pytest.approx(model.ece, abs=0.006)
            assert np.abs(model.gaps()).sum() == pytest.approx(model.ece, abs=1e-4)
        assert np.mean(drawn[0].correct != drawn[1].correct) == pytest.approx(assumed.changed, abs=0.004)

    def test_a_calibrated_model_scores_the_floor(self):
        model, rng = Assumed.with_auroc(0.6, 0.75), np.random.default_rng(2)
        drawn = model.answers(*rng.standard_normal((2, 400, 300)))
        scores = [CalibrationMetrics(p > 0.5, p, y).ece() for p, y in zip(drawn.confidence, drawn.correct, strict=True)]
        assert np.mean(scores) == pytest.approx(model.floor(300), rel=0.05)

    @pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9, 0.999])
    def test_two_normals_are_both_below_as_often_as_scipy_says(self, correlation):
        for h, k in ((0.3, -0.2), (1.0, 1.0), (-2.0, 0.5)):
            expected = multivariate_normal.cdf([h, k], cov=[[1, correlation], [correlation, 1]])
            assert both_below(h, k, correlation) == pytest.approx(expected, abs=1e-8)
        assert both_below(0.3, 0.3, 1.0) == pytest.approx(ndtr(0.3), abs=1e-8)

    def test_two_models_differ_at_least_as_much_as_they_must_and_at_most_as_strangers(self):
        one = Assumed.with_auroc(0.6, 0.75)
        assert World(one, Assumed.with_auroc(0.9, 0.75), 0.1).differing == pytest.approx(0.3)
        assert World(one, Assumed.with_auroc(0.9, 0.75), 0.35).differing == pytest.approx(0.35)
        with pytest.raises(ScoringError, match=r"changed=0.6: .* nothing in common would differ on 0.48"):
            World(one, one, 0.6).draw((3,), np.random.default_rng(0))


class TestJudging:
    def test_a_row_weighs_in_auroc_as_the_derivative_says(self):
        rng = np.random.default_rng(3)
        p, y, q, z = rng.random(40), rng.random(40) < 0.6, rng.random(40), rng.random(40) < 0.5
        judged = Judged("auroc", World(Assumed(0.5, 1.0), Assumed(0.5, 1.0), 0.1))
        (terms,) = judged.columns(Answers(p, y.astype(float)), Answers(q, z.astype(float))).T
        assert terms.mean() == pytest.approx(roc_auc_score(z, q) - roc_auc_score(y, p))
        step = 1e-5
        weights = np.ones((40, 40)) + step * np.eye(40)
        moved = Ranking.of(q).auroc(z, weights) - Ranking.of(p).auroc(y, weights)
        assert np.allclose((moved - terms.mean()) / step * 40, terms - terms.mean(), atol=1e-3)

    @pytest.mark.parametrize("metric", ["auroc", "brier", "ece"])
    def test_drawn_questions_and_drawn_sums_say_the_same(self, metric, monkeypatch):
        world = World(Assumptions().before, Assumed.with_auroc(0.6, 0.8, 0.12), 0.15)
        rows = lower_ends(Judged(metric, world), 500, 600, 1)
        monkeypatch.setattr(judged_worlds, "_MOST_ROWS", 10)
        sums = lower_ends(Judged(metric, world), 500, 600, 1)
        assert np.median(rows) == pytest.approx(np.median(sums), abs=0.2 * rows.std())
        assert rows.std() == pytest.approx(sums.std(), rel=0.15)

    def test_a_run_of_one_class_shows_nothing(self):
        sure = World(Assumed.with_auroc(0.995, 0.6), Assumed.with_auroc(0.995, 0.7), 0.005)
        ends = lower_ends(Judged("auroc", sure), 20, 50, 0)
        assert np.isneginf(ends).mean() > 0.5
        assert not np.isnan(ends).any()


@pytest.mark.usefixtures("few_runs")
class TestPlanned:
    def test_mcnemars_power_is_that_of_the_test_itself(self):
        n, changed, difference = 14, 0.6, 0.5
        expected = sum(
            multinomial.pmf([gained, lost, n - gained - lost], n, [0.55, 0.05, 0.4])
            for gained, lost in itertools.product(range(n + 1), repeat=2)
            if lost < gained <= n - lost and self.flips(n, gained, lost).p_value < 0.05
        )
        assert mcnemar_power(n, changed, difference) == pytest.approx(expected, abs=1e-10)

    def flips(self, n, gained, lost):
        before, after = np.zeros(n), np.zeros(n)
        after[:gained] = 1
        before[gained : gained + lost] = 1
        return flips(before, after)

    @pytest.mark.parametrize("metric", METRICS)
    def test_labels_and_differences_are_two_sides_of_one_thing(self, metric):
        planned = smallest_difference(metric, 1200)
        assert questions_needed(metric, planned.difference).n == pytest.approx(1200, rel=0.1)
        assert abs(planned.after - planned.before) == pytest.approx(planned.difference)
        assert (planned.after < planned.before) == (metric == "brier")
        assert smallest_difference(metric, 1200) == planned

    @pytest.mark.parametrize("metric", METRICS)
    def test_four_times_as_many_questions_show_half_the_difference(self, metric):
        calibrated_apart = Assumptions(ece=0.3)  # far above what chance alone gives
        few, many = (smallest_difference(metric, n, calibrated_apart).difference for n in (50_000, 200_000))
        assert many == pytest.approx(few / 2, rel=0.1)

    def test_more_power_and_more_changed_questions_need_more(self):
        usual = questions_needed("brier", 0.02).n
        assert questions_needed("brier", 0.02, power=0.95).n > 1.4 * usual
        assert questions_needed("brier", 0.02, Assumptions(changed=0.3)).n > 1.3 * usual

    def test_what_nothing_shows_is_none(self):
        few = smallest_difference("ece", 30, Assumptions(accuracy=0.9))
        assert (few.difference, few.after, few.n) == (None, None, 30)
        assert few.largest == pytest.approx(0.04)
        assert (
            smallest_difference("accuracy", 30, Assumptions(accuracy=0.95, ece=0.01, changed=0.06)).difference is None
        )
        assert questions_needed("auroc", 0.3).n is None
        assert questions_needed("auroc", 1e-5).n is None
        assert questions_needed("accuracy", 1e-6).n is None

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: smallest_difference("f1", 100), "metric='f1'"),
            (lambda: smallest_difference("ece", 5), "n=5: from 10 to 3,000,000"),
            (lambda: smallest_difference("ece", 100, power=1.0), "power=1"),
            (lambda: questions_needed("ece", 0.0), "difference=0"),
            (lambda: questions_needed("ece", float("nan")), "difference=nan"),
            (lambda: smallest_difference("ece", 100, Assumptions(accuracy=1.0)), "accuracy=1:"),
            (lambda: smallest_difference("ece", 100, Assumptions(auroc=0.4)), r"auroc=0\.4"),
            (lambda: smallest_difference("ece", 100, Assumptions(accuracy=0.95, ece=0.1)), r"would be 1\.05"),
            (lambda: smallest_difference("ece", 100, Assumptions(changed=0.0)), "changed=0"),
            (lambda: smallest_difference("accuracy", 100, Assumptions(changed=0.6)), "nothing in common"),
        ],
    )
    def test_what_cannot_be_planned_with_is_said(self, call, message):
        with pytest.raises(ScoringError, match=message):
            call()


@pytest.mark.usefixtures("few_runs")
class TestLabels:
    def test_only_the_test_share_is_judged(self):
        plan = plan_labels(labels=1000, metrics=("accuracy",)).as_plain()
        assert plan["metrics"]["accuracy"]["test_questions"] == 300
        assert plan["metrics"]["accuracy"]["difference"] == smallest_difference("accuracy", 300).difference
        back = plan_labels(difference=0.03, metrics=("accuracy",)).as_plain()["metrics"]["accuracy"]
        assert back["labels"] == pytest.approx(back["test_questions"] / 0.3, abs=1)

    def test_one_of_labels_and_difference_is_needed(self):
        for wrong in ({}, {"labels": 100, "difference": 0.1}):
            with pytest.raises(ConfigError, match="not both"):
                plan_labels(**wrong)
        with pytest.raises(ConfigError, match="3 labels: from 34 to 10,000,000"):
            plan_labels(labels=3)

    def run(self, folder, comparison, auroc=0.8):
        own = {
            "n": 400,
            "auroc": {"value": auroc, "reason": "one class"},
            "ece": {"value": 0.1, "calibrated_mean": 0.06},
        }
        base = {"accuracy": {"all": {"value": 0.7}}, "scores": {"own_probability": {"all": own}}}
        results = {
            "schema": SCHEMA,
            "variants": {"base": base},
            "comparisons": {"tuned": comparison} if comparison else {},
        }
        rest = dict.fromkeys(["config", "data", "model", "name", "verdict"])
        (folder / "results.json").write_text(json.dumps(rest | results))
        return folder

    def test_a_run_says_what_is_to_be_assumed(self, tmp_path):
        alone = assumptions_of(self.run(tmp_path, None))
        assert alone == Assumptions(accuracy=0.7, auroc=0.8, ece=pytest.approx(0.08), changed=Assumptions().changed)
        both = assumptions_of(self.run(tmp_path, {"flips": {"gained": 30, "lost": 10}}))
        assert both.changed == 0.1
        plan = plan_labels(labels=500, metrics=("accuracy",), run=tmp_path, assume={"changed": 0.2})
        assert (plan.assumed.accuracy, plan.assumed.changed, plan.run) == (0.7, 0.2, str(tmp_path))
        with pytest.raises(ConfigError, match="undefined"):
            assumptions_of(self.run(tmp_path, None, auroc=None))

    def test_the_command_says_it_in_words_and_in_json(self, monkeypatch, capsys):
        assert cli(monkeypatch, "plan", "--labels", 1000, "--json", "--metric", "ece") == 0
        plan = json.loads(capsys.readouterr().out)
        assert set(plan["metrics"]) == {"ece"}
        assert plan["metrics"]["ece"]["floor"] == pytest.approx(Assumptions().before.floor(300))
        assert cli(monkeypatch, "plan", "--labels", 100, "--accuracy", 0.95, "--ece", 0.01, "--changed", 0.06) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "No rise in accuracy is shown: even the largest there can be (5.0 points) is too small." in printed
        assert cli(monkeypatch, "plan", "--difference", 0.3, "--metric", "auroc") == 0
        assert "AUROC cannot rise by .300 here: .240 is the most there can be." in " ".join(
            capsys.readouterr().out.split()
        )
        assert cli(monkeypatch, "plan", "--difference", 1e-6, "--metric", "accuracy") == 0
        assert "even 10 million labels are too few" in capsys.readouterr().out
        assert cli(monkeypatch, "plan") == 2
        assert "--labels 2000" in capsys.readouterr().err


# Fewer runs where a run has many questions; where nothing can be shown there is nothing to compare.
CELLS = [(WORLDS[0], 100, 1000), (WORLDS[2], 300, 1000), (WORLDS[1], 1000, 1000), (WORLDS[0], 4000, 500)]


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_the_promised_power_is_what_real_runs_have(metric, capsys):
    rows = []
    for assumed, n, runs in CELLS:
        planned = smallest_difference(metric, n, assumed)
        count = 2000 if metric == "accuracy" else runs
        rows.append((assumed.accuracy, n, planned.difference, count, Runs(assumed, planned).shown(n, count)))
    with capsys.disabled():
        print(f"\n{metric}: promised .80; base accuracy, test questions, difference, runs, share that show it")
        for row in rows:
            print("  {:.2f} {:6,} {:.4f} {:6,} {:.3f}".format(*row))
    for _, _, _, count, share in rows:
        assert abs(share - 0.8) < 0.03 + 2 * np.sqrt(0.8 * 0.2 / count), rows
