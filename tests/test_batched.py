"""All layers at once: what each gets is what it gets alone, from the solver that `test_solver.py` holds to its peer.

A GPU's part is played by the CPU: the same code on another device.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from src.errors import ScoringError
from src.probes import LinearProbe, layers, sweep
from src.probes.batch import Batch, Directions
from src.probes.choice import Choice
from src.probes.descent import Memory
from src.probes.layers import fit_layers
from src.probes.part import Part
from src.probes.solver import HALF_DECADES, mean_nll, probability
from src.probes.spectrum import Spectrum
from src.probes.sweep import Place, sweep_places

SIGNALS = (0.05, 0.5, 2.0, 0.0)


def world(n, d, *, seed=0):
    """Raw states (n, 4, d) of layers that tell the labels to different degrees; one feature is constant in layer 2."""
    rng = np.random.default_rng(seed)
    told, states = np.zeros(n), []
    for signal in SIGNALS:
        X = rng.standard_normal((n, d)) * (np.arange(d) + 1.0) ** -0.4
        X = X @ np.linalg.qr(rng.standard_normal((d, d)))[0]
        told += signal * X @ rng.standard_normal(d)
        states.append(X * np.exp(rng.standard_normal(d)) + rng.standard_normal(d))
    states = np.stack(states, axis=1).astype(np.float32)
    states[:, 2, 3] = 1.5
    return states, (rng.random(n) < probability(3 * told / told.std())).astype(float)


def said(one, X):
    """P of a layer's fit on raw states."""
    return probability((X - one.scaling.mean) * one.scaling.inverse @ one.fit.weight + one.fit.bias)


def halves(n, d, **more):
    states, y = world(n + 200, d, **more)
    return states[:n], y[:n], states[n:], y[n:]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(400, 60), (250, 200), (90, 200)])
def test_each_layer_is_fitted_as_the_probe_of_that_layer(n, d, weighted):
    """Many more rows than features, about as many, and so few that the probe works in the row space."""
    X, y, X_val, y_val = halves(n, d)
    weight = np.random.default_rng(5).integers(0, 3, n).astype(float) if weighted else None
    together = fit_layers(X, y, X_val, y_val, device="cpu", sample_weight=weight)
    for i, one in enumerate(together):
        probe = LinearProbe(d).fit(X[:, i], y, X_val[:, i], y_val, sample_weight=weight)
        assert one.fit.C == probe.C_
        assert one.fit.val_nll == pytest.approx(probe.val_nll_, abs=1e-6)
        np.testing.assert_allclose(said(one, X_val[:, i]), probe.predict(X_val[:, i]), atol=1e-4)
        assert one.fit.converged
    assert len({one.fit.C for one in together}) > 1  # their paths ended at different places
    assert together[2].fit.weight[3] == 0


def test_how_many_go_together_changes_nothing():
    X, y, X_val, y_val = halves(300, 60)
    whole = fit_layers(X, y, X_val, y_val, device="cpu")
    parts = fit_layers(X, y, X_val, y_val, device="cpu", together=3)
    for one, other, i in zip(whole, parts, range(4), strict=True):
        assert one.fit.C == other.fit.C
        np.testing.assert_allclose(said(one, X_val[:, i]), said(other, X_val[:, i]), atol=1e-6)


@pytest.mark.parametrize("of", [torch.from_numpy, lambda a: torch.from_numpy(a).bfloat16(), np.float64])
def test_states_may_lie_in_torch_or_have_another_precision(of: Any):
    X, y, X_val, y_val = halves(200, 30)
    one = fit_layers(of(X), y, of(X_val), y_val, device="cpu")[1]
    probe = LinearProbe(30).fit(of(X)[:, 1], y, of(X_val)[:, 1], y_val)
    assert one.fit.C == probe.C_
    raw = np.asarray(of(X_val)[:, 1].float()) if of is not np.float64 else of(X_val)[:, 1]
    np.testing.assert_allclose(said(one, raw), probe.predict(of(X_val)[:, 1]), atol=1e-4)


def test_of_the_whole_grid_the_best_is_taken():
    X, y, X_val, y_val = halves(200, 60)
    for i, one in enumerate(fit_layers(X, y, X_val, y_val, device="cpu", whole=True)):
        alone = [fit_layers(X[:, [i]], y, X_val[:, [i]], y_val, device="cpu", grid=(C,))[0] for C in HALF_DECADES]
        best = min(alone, key=lambda fit: fit.fit.val_nll)
        assert one.fit.C == best.fit.C
        assert one.fit.val_nll == pytest.approx(best.fit.val_nll, abs=1e-6)
        assert one.fit.val_nll == pytest.approx(mean_nll(np.log(said(one, X_val[:, i])) - np.log1p(
            -said(one, X_val[:, i])), y_val), abs=1e-5)  # fmt: skip


def test_a_gradient_smaller_than_float32_sees_is_reached():
    X, y, X_val, y_val = halves(300, 60)
    for i, one in enumerate(fit_layers(X, y, X_val, y_val, device="cpu", tolerance=1e-10)):
        features = (X[:, i].astype(np.float64) - one.scaling.mean).astype(np.float32) * one.scaling.inverse.astype("f4")
        wide = features.astype(np.float64)
        residuals = probability(wide @ one.fit.weight + one.fit.bias) - y
        gradient = wide.T @ residuals / y.size + one.fit.weight / (one.fit.C * y.size)
        assert one.fit.converged
        assert max(np.abs(gradient).max(), abs(residuals.mean())) < 1.1e-10


def test_the_triangular_systems_are_the_two_loops():
    """Of two layers with a history each, one of which lacks a pair: the loops leave it out, the systems hold zeros."""
    rng = np.random.default_rng(0)
    n, d, m = 300, 40, 6
    X = rng.standard_normal((2, n, d))
    share = np.full(n, 1 / n)
    batch = Batch.start(
        tuple(torch.from_numpy(X)), torch.from_numpy((rng.random(n) < 0.5) * 1.0), torch.from_numpy(share)
    )
    steps, changes = rng.standard_normal((2, m, d + 1)), np.empty((2, m, d + 1))
    spectra = [Spectrum.of(layer, share) for layer in X]
    memories = [Memory(spectrum, np.float64) for spectrum in spectra]
    for i in range(2):
        bend = X[i].T @ X[i] / n
        changes[i, :, :-1], changes[i, :, -1] = steps[i, :, :-1] @ bend, steps[i, :, -1]
    steps[1, 2], changes[1, 2] = 0, 0
    for i in range(2):
        for step, change in zip(steps[i], changes[i], strict=True):
            memories[i].add(step, change)
    directions = Directions(
        torch.from_numpy(np.stack([s.vectors for s in spectra if s.vectors is not None])),
        torch.from_numpy(np.stack([s.values for s in spectra])), torch.zeros(2, dtype=torch.float64),
    )  # fmt: skip
    full = Batch(
        batch.X, batch.y, batch.share, directions, batch.v, batch.z, batch.slope,
        torch.from_numpy(steps), torch.from_numpy(changes),
    )  # fmt: skip
    penalty, curvature = np.array([0.3, 0.01]), np.array([0.2, 0.1])
    gradient = rng.standard_normal((2, d + 1))
    found = full._direction(*(torch.from_numpy(a) for a in (gradient, penalty, curvature))).numpy()
    for i in range(2):
        np.testing.assert_allclose(found[i], memories[i].direction(gradient[i], penalty[i], curvature[i]), rtol=1e-9)


def test_only_the_last_hundred_steps_are_kept(monkeypatch):
    monkeypatch.setattr("src.probes.batch.MEMORY", 3)
    X, y, _, _ = halves(100, 20)
    batch = Batch.start([torch.from_numpy(X[:, 0])], torch.from_numpy(y), torch.full((100,), 0.01, dtype=torch.float64))
    kept = []
    for _ in range(5):
        batch = batch.stepped(torch.tensor([0.1], dtype=torch.float64))
        kept.append(batch.steps)
    assert [len(steps[0]) for steps in kept] == [1, 2, 3, 3, 3]
    assert torch.equal(kept[4][0, :2], kept[3][0, 1:])


def test_a_layer_that_does_not_move_stays_where_it_is():
    X, y, _, _ = halves(100, 20)
    layers_ = [torch.from_numpy(X[:, i]) for i in (0, 1)]
    batch = Batch.start(layers_, torch.from_numpy(y), torch.full((100,), 0.01, dtype=torch.float64))
    penalty = torch.tensor([0.1, 0.1], dtype=torch.float64)
    on = batch.stepped(penalty, torch.tensor([False, True]))
    for name in ("v", "z", "slope"):
        assert torch.equal(getattr(on, name)[0], getattr(batch, name)[0])
        assert torch.equal(getattr(on, name)[1], getattr(batch.stepped(penalty), name)[1])
    assert not on.steps[0].any()


def test_features_that_are_all_zero_leave_the_base_rate():
    X, y, X_val, y_val = halves(100, 20)
    X[:, 1], X_val[:, 1] = 2.0, 2.0
    one = fit_layers(X, y, X_val, y_val, device="cpu")[1]
    assert (one.fit.weight == 0).all()
    assert probability(np.array(one.fit.bias)) == pytest.approx(y.mean(), abs=1e-6)


def test_what_cannot_be_fitted_is_named_with_its_place():
    X, y, X_val, y_val = halves(50, 5)
    torn = X.copy()
    torn[7, 2, 1] = np.nan
    names = ["block.0", "block.1", "block.2", "block.3"]
    with pytest.raises(ScoringError, match=r"block\.2: X holds NaN or infinity in 1 rows, the first is row 7"):
        fit_layers(torn, y, X_val, y_val, device="cpu", names=names)
    with pytest.raises(ScoringError, match=r"place 0: All 50 training labels are 1"):
        fit_layers(X, np.ones(50), X_val, y_val, device="cpu")
    with pytest.raises(ScoringError, match=r"place 0: There are no validation rows"):
        fit_layers(X, y, X_val[:0], y_val[:0], device="cpu")
    with pytest.raises(ScoringError, match="grid of C is empty"):
        fit_layers(X, y, X_val, y_val, device="cpu", grid=())


def test_a_limit_of_steps_is_told():
    X, y, X_val, y_val = halves(100, 20)
    assert not any(
        one.fit.converged for one in fit_layers(X, y, X_val, y_val, device="cpu", max_iter=1, tolerance=1e-12)
    )


def test_so_many_go_together_as_the_gpus_free_memory_holds(monkeypatch):
    states = np.empty((1000, 32, 512), np.float32)
    one = 4 * 512 * 1000
    for free, together in ((0, 1), (10 * one, 3), (10**12, 10**12 // one)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, free))
        assert layers._room(torch.device("cuda"), states, 1000, 200) <= together
        assert layers._room(torch.device("cuda"), states.astype(np.float64), 1000, 200) <= max(together // 2, 1)
    assert layers._room(torch.device("cpu"), states, 1000, 200) == 32


def test_a_path_ends_at_a_loss_that_is_far_above_the_best():
    choice = Choice(2000)
    assert [choice.ends(loss) for loss in (0.6, 0.59, 0.6, 0.61, 0.62, 0.5, 0.54, 0.55)] == [False] * 7 + [True]
    assert not Choice(100).ends(0.7)
    few = Choice(100)  # of few rows, noise that is fitted first costs more
    assert [few.ends(loss) for loss in (0.5, 0.73, 0.74)] == [False, False, True]
    assert not any(Choice(None).ends(loss) for loss in (0.5, 0.6, 0.7, 0.8))


def test_a_loss_is_hopeless_where_it_is_far_off_and_rises():
    choice = Choice(2000)
    choice.ends(0.5)
    choice.ends(0.505)
    assert not choice.hopeless(0.54)  # rises, but is near
    assert choice.hopeless(0.57)
    assert not choice.hopeless(0.56)  # far off, but falls
    assert not Choice(None).hopeless(np.inf)


@pytest.mark.parametrize("rows", [False, True])
def test_a_sweep_on_a_gpu_chooses_and_predicts_as_one_without(rows, monkeypatch):
    """With rows: parts that are some rows of the same states."""
    states, y = world(700, 40)
    questions, places = np.arange(700), [Place("last_prompt", f"block.{i}") for i in range(4)]
    order = np.random.default_rng(1).permutation(700)
    if rows:
        parts = [Part(states, y[some], questions[some], some) for some in (order[:500], order[500:])]
    else:
        parts = [Part(states[some], y[some], questions[some]) for some in (order[:500], order[500:])]
    families: Any = ("logistic", "mean_difference")
    expected = sweep_places(places, *parts, families=families)
    monkeypatch.setattr(sweep, "_gpu", lambda: "cpu")
    monkeypatch.setattr(LinearProbe, "_fit", None)
    found = sweep_places(places, *parts, families=families)
    assert (found.best, found.place, found.chosen.C) == (expected.best, expected.place, expected.chosen.C)
    for one, other in zip(found.results, expected.results, strict=True):
        assert (one.family, one.layer, one.C) == (other.family, other.layer, other.C)
        assert one.val_nll == pytest.approx(other.val_nll, abs=1e-6)
        assert one.val_auroc == pytest.approx(other.val_auroc, abs=1e-3)
    np.testing.assert_allclose(found.predict(parts[1]), expected.predict(parts[1]), atol=1e-4)
    assert found.out_of_fold is None


def test_a_sweep_on_a_gpu_says_where_a_probe_cannot_be_fitted(monkeypatch):
    states, y = world(300, 20)
    places = [Place("last_prompt", f"block.{i}") for i in range(4)]
    parts = [Part(states, y[some], some, some) for some in (np.arange(200), np.arange(200, 300))]
    monkeypatch.setattr(sweep, "_gpu", lambda: "cpu")
    real = layers.fit_layers

    def inverted(*arguments, **options):
        fits = real(*arguments, **options)
        return [replace(one, fit=replace(one.fit, weight=-one.fit.weight)) for one in fits]

    monkeypatch.setattr(layers, "fit_layers", inverted)
    with pytest.raises(ScoringError, match=r"block\.\d at .* logistic: .*wrong way"):
        sweep_places(places, *parts)
    monkeypatch.setattr(layers, "fit_layers", real)
    states[5, 2, 1] = np.nan
    with pytest.raises(ScoringError, match=r"^block\.2 at last_prompt, logistic: X holds NaN"):
        sweep_places(places, *parts)
