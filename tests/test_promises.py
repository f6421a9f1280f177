"""Thresholds that promise: they agree with MAPIE, are chosen on calibration questions only, and keep what they say."""

import warnings

import numpy as np
import pytest
from scipy.special import expit

from src.config import EvaluationConfig
from src.data.splits import Splits
from src.evaluation.resampling import question_weights
from src.evaluation.selective import guaranteed_threshold, promising_thresholds
from src.pipeline.deciding import promises
from src.pipeline.probing import OWN, PROBE, Probed
from src.probes.sweep import Part, Place, sweep_places

LAYERS, WIDTH = 5, 6
RISK = 0.1


def test_mapie_finds_the_same_threshold():
    mapie = pytest.importorskip("mapie.risk_control")
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p = rng.beta(4, 1, 800)
        y = (rng.random(800) < p**0.5).astype(int)
        candidates = np.linspace(0.3, 0.95, 14)
        controller = mapie.BinaryClassificationController(
            lambda X: np.column_stack([1 - X[:, 0], X[:, 0]]), risk="precision", target_level=1 - RISK,
            confidence_level=0.95, list_predict_params=candidates[::-1], fwer_method="fixed_sequence",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the risk need not fall with the threshold, and that there is none
            controller.calibrate(p[:, None], y)
        # MAPIE rounds n * (wrong / n) up, which now and then counts one wrong answer more.
        valid = np.asarray(controller.valid_predict_params, dtype=float).ravel()
        theirs = valid.min() if valid.size else np.inf
        ours = guaranteed_threshold(p, y, risk=RISK, candidates=candidates).threshold
        assert ours <= theirs + 1e-12
        found += abs(ours - theirs) < 1e-12 or ours == theirs
    assert found >= 34


def test_promising_thresholds_end_where_the_promise_looks_safest():
    p = np.linspace(0, 1, 400, endpoint=False)
    y = ((p > 0.5) & (p < 0.97)).astype(float)  # the most confident ones are wrong
    steps = promising_thresholds(p, y, risk=RISK)
    assert steps.max() == pytest.approx(0.5, abs=0.03)
    assert (np.diff(steps) > 0).all()


def probed(test_p, calibration_p, val_p, groups, sizes):
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    splits = Splits(train=np.empty(0, dtype=int), val=rows[0], calibration=rows[1], test=rows[2], groups=groups)
    return without_probe(splits, {OWN: test_p}, {OWN: val_p}, {OWN: calibration_p})


def without_probe(splits, test, val, calibration):
    none, empty = np.empty((0, splits.test.size)), np.empty(0)
    return Probed(splits, test, val, calibration, empty, empty, none, none, None, "")


def test_what_a_promise_did_on_test_is_counted_and_a_repeated_question_calibrates_once():
    rng = np.random.default_rng(0)
    sizes = (300, 600, 400)
    p = rng.beta(4, 1, sum(sizes))
    y = (rng.random(p.size) < p**0.3).astype(float)
    val, calibration, test = np.split(p, np.cumsum(sizes)[:-1])
    settings = EvaluationConfig.model_validate({"risks": [0.1, 0.0001]})
    weights = question_weights(np.arange(sizes[2]), 200, 0)
    groups = np.arange(p.size)
    kept, impossible = promises(probed(test, calibration, val, groups, sizes), OWN, y, weights, settings)
    above = test >= kept["threshold"]
    assert kept["n"] == 600
    assert kept["test"]["answered"] == above.sum()
    assert kept["test"]["coverage"]["value"] == pytest.approx(above.mean())
    assert kept["test"]["risk"]["value"] == pytest.approx(1 - y[900:][above].mean())
    assert kept["test"]["risk"]["low"] < kept["test"]["risk"]["value"] < kept["test"]["risk"]["high"]
    assert (impossible["threshold"], impossible["test"]) == (None, None)

    # Every calibration question asked three times says as much as once.
    thrice = np.r_[y[:300], np.repeat(y[300:900], 3), y[900:]]
    groups = np.r_[groups[:300], np.repeat(groups[300:900], 3), groups[900:]]
    again = probed(test, np.repeat(calibration, 3), val, groups, (300, 1800, 400))
    assert promises(again, OWN, thrice, weights, settings)[0] == kept


def world(seed, sizes):
    """States at five layers, each of which shows as much of the truth beside its own noise; labels; P(right)."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    truth = 2 + 3 * rng.standard_normal(n)
    states = rng.standard_normal((n, LAYERS, WIDTH)).astype(np.float32)
    states[:, :, 0] += truth[:, None].astype(np.float32)
    return states, (rng.random(n) < expit(truth)).astype(float), expit(truth)


@pytest.mark.slow
def test_promises_are_kept_with_layer_and_c_selected_in_every_run(capsys):
    """A threshold from the calibration split is broken in at most 5 % of runs; one from val, which chose, in more."""
    sizes, runs = (100, 100, 300, 3000), 400
    broken, found = {"calibration": 0, "val": 0}, {"calibration": 0, "val": 0}
    settings = EvaluationConfig.model_validate({"risks": [RISK]})
    places = [Place("last_prompt", f"block.{layer}") for layer in range(LAYERS)]
    for seed in range(runs):
        states, y, truth = world(seed, sizes)
        rows = np.split(np.arange(len(y)), np.cumsum(sizes)[:-1])
        splits = Splits(*rows, groups=np.arange(len(y)))
        everything = Part(states, y, np.arange(len(y)))
        sweep = sweep_places(places, everything.only(rows[0]), everything.only(rows[1]))
        said = {name: {PROBE: sweep.predict(everything.only(getattr(splits, name)))}
                for name in ("test", "val", "calibration")}  # fmt: skip
        run = without_probe(splits, **said)
        (promise,) = promises(run, PROBE, y, np.ones((2, sizes[3])), settings)
        chosen_on_val = guaranteed_threshold(said["val"][PROBE], y[splits.val], risk=RISK)
        for name, threshold in (("calibration", promise["threshold"]), ("val", chosen_on_val.threshold)):
            above = said["test"][PROBE] >= (np.inf if threshold is None else threshold)
            if above.any():
                found[name] += 1
                broken[name] += 1 - truth[splits.test][above].mean() > RISK
    with capsys.disabled():
        print(f"\nAt most {RISK:.0%} wrong, with probability 95 %: {runs} runs, layer and C chosen in each")
        for name, count in broken.items():
            print(f"  threshold from {name:12} promised in {found[name]} runs, broken in {count / runs:.1%}")
    assert broken["calibration"] <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)
    assert found["calibration"] > runs / 2


def test_a_promise_needs_rows_that_chose_nothing():
    """The thresholds' own words: without calibration or validation rows there is none."""
    groups = np.arange(20)
    empty = np.empty(0)
    rows = Splits(train=groups[:10], val=groups[10:10], calibration=groups[10:15], test=groups[15:], groups=groups)
    run = without_probe(rows, {OWN: np.full(5, 0.5)}, {OWN: empty}, {OWN: np.full(5, 0.5)})
    settings = EvaluationConfig.model_validate({})
    assert promises(run, OWN, np.ones(20), np.ones((2, 5)), settings) == []
