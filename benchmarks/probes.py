"""The probes' solver against scikit-learn's, in one process, on the synthetic states of `layer_states`.

    python benchmarks/probes.py [--threads 1] [--repetitions 3] [--rows 10000] [--width 4096] [--layers 32]
                                [--distinct 32]

Standardisation is part of every figure. Ours and the peer take turns, who is first changes, and figures are
CPU-seconds of all threads; "times" is the median of the ratios within a repetition, with the smallest and the largest.
Both choose C on the same validation rows; ours then goes on to a gradient of 1e-6 with products in float64,
scikit-learn stops at 1e-4. The chosen C and the held-out loss and AUROC must agree, or the script stops.

`--threads 1` gives both one BLAS and OpenMP thread; without it each works as it is installed: ours then limits itself
to one BLAS thread, scikit-learn uses all, which on few or busy cores wait for one another. `--distinct` generates fewer
layers than are timed and takes them in turn (the generator takes longer than the probes).
"""

import argparse
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
import sklearn
from scipy.fft import dct
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from src.probes import LinearProbe
from src.probes.choice import limit
from src.probes.scaling import Scaling
from src.probes.solver import fit_at, fit_path, mean_nll
from src.probes.states import Sample

DECADES = tuple(10.0**k for k in range(-6, 1))
HALF = tuple(float(10 ** (k / 2)) for k in range(-12, 1))
LAYER = 19


def latent_and_labels(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """How easy each question is, and whether it was answered right."""
    r = np.random.default_rng(seed)
    ease = r.standard_normal(n)
    return ease, (r.random(n) < 1 / (1 + np.exp(-(0.7 + 1.9 * ease)))).astype(np.int64)


def layer_states(layer: int, *, n: int, d: int, layers: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States with a power-law spectrum, uneven scales and offsets and four massive dimensions; labels.

    The order of the random calls is part of the definition: for n = 16,000 and d = 4,096, layer 19 begins -.0060897,
    .0215123, -.0405269.
    """
    ease, y = latent_and_labels(seed, n)
    r = np.random.default_rng(1000 * seed + layer + 1)
    Z = r.standard_normal((n, d), dtype=np.float32)
    scale = ((np.arange(d) + 1.0) ** -0.5).astype(np.float32)
    snr = 0.25 + 1.0 * np.exp(-(((layer / layers - 0.6) / 0.25) ** 2))
    told = min(400, d)
    u = np.zeros(d, np.float32)
    u[5:told] = r.standard_normal(told - 5)
    u /= np.linalg.norm(u)
    Z += (snr * 0.9 * ease[:, None] * u[None]).astype(np.float32)
    Z *= scale
    Z *= r.choice([-1.0, 1.0], d).astype(np.float32)
    Z = dct(Z, axis=1, norm="ortho", workers=2)
    Z *= r.choice([-1.0, 1.0], d).astype(np.float32)
    Z = Z[:, r.permutation(d)]
    Z = dct(Z, axis=1, norm="ortho", workers=2)
    Z *= np.exp(0.4 * r.standard_normal(d)).astype(np.float32)
    Z += (0.3 * Z.std() * r.standard_normal(d)).astype(np.float32)
    massive = r.choice(d, 4, replace=False)
    Z[:, massive] = Z[:, massive] * 30 + (np.array([40, -25, 10, 60]) * Z.std()).astype(np.float32)
    return np.ascontiguousarray(Z, dtype=np.float32), y


@dataclass(frozen=True)
class World:
    """Raw states and labels, cut into rows to train on, to choose with and to test on."""

    X: np.ndarray
    y: np.ndarray
    train: slice
    val: slice
    test: slice

    @classmethod
    def of(cls, layer: int, sizes: tuple[int, int, int], d: int) -> "World":
        """One layer's."""
        X, y = layer_states(layer, n=sum(sizes), d=d)
        ends = np.cumsum((0, *sizes))
        return cls(X, y.astype(np.float64), *(slice(a, b) for a, b in pairwise(ends)))

    def judged(self, weight: np.ndarray, bias: float) -> tuple[float, float]:
        """Loss and AUROC on the test rows of weights on raw states."""
        z = self.X[self.test].astype(np.float64) @ weight + bias
        return mean_nll(z, self.y[self.test]), float(roc_auc_score(self.y[self.test], z))


Fitted = tuple[float, np.ndarray, float]  # the chosen C, weights on raw states, intercept


def ours(world: World, grid: tuple[float, ...], *, whole: bool) -> Fitted:
    train, val = (
        Sample.of(world.X[rows], world.y[rows], None, "X", world.X.shape[1]) for rows in (world.train, world.val)
    )
    scaling = Scaling.of(train)
    fit = fit_path(scaling.apply(train), train.y, scaling.apply(val), val.y, grid=grid, whole=whole)
    weight = fit.weight / scaling.scale
    return fit.C, weight, fit.bias - float(scaling.mean @ weight)


def scikit_learn(world: World, grid: tuple[float, ...], *, whole: bool, warm: bool) -> Fitted:
    scaler = StandardScaler()
    X, X_val = scaler.fit_transform(world.X[world.train]), scaler.transform(world.X[world.val])
    model = LogisticRegression(max_iter=1000, warm_start=warm)
    best = (np.inf, 0.0, np.empty(0), 0.0)
    for C in grid:
        model.set_params(C=C).fit(X, world.y[world.train])
        loss = mean_nll(model.decision_function(X_val), world.y[world.val])
        if loss < best[0]:
            best = (loss, C, model.coef_[0].astype(np.float64), float(model.intercept_[0]))
        elif not whole and loss > limit(best[0], len(X)):
            break
    _, C, weight, bias = best
    weight = weight / scaler.scale_
    return C, weight, bias - float(scaler.mean_ @ weight)


def timed(call: Callable[[], Fitted]) -> tuple[float, Fitted]:
    start = time.process_time()
    value = call()
    return time.process_time() - start, value


def measure(name: str, world: World, mine: Callable[[], Fitted], peer: Callable[[], Fitted], asked: str,
            repetitions: int) -> str:  # fmt: skip
    """Both in turn; a line of the table."""
    seconds: dict[str, list[float]] = {"mine": [], "peer": []}
    found: dict[str, Fitted] = {}
    for repetition in range(repetitions):
        for who in ("mine", "peer") if repetition % 2 else ("peer", "mine"):
            taken, found[who] = timed(mine if who == "mine" else peer)
            seconds[who].append(taken)
    if not np.isclose(found["mine"][0], found["peer"][0]):
        raise SystemExit(f"{name}: ours chose C = {found['mine'][0]}, scikit-learn {found['peer'][0]}")
    (nll, auroc), (their_nll, their_auroc) = (world.judged(*found[who][1:]) for who in ("mine", "peer"))
    if max(abs(nll - their_nll), abs(auroc - their_auroc)) > 1e-3:
        raise SystemExit(f"{name}: NLL {nll} and {their_nll}, AUROC {auroc} and {their_auroc}")
    ratios = sorted(b / a for a, b in zip(seconds["mine"], seconds["peer"], strict=True))
    a, b = (statistics.median(seconds[who]) for who in ("mine", "peer"))
    times = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f})"
    held_out = f"{nll:.4f}, {auroc:.4f} ({nll - their_nll:+.0e}, {auroc - their_auroc:+.0e})"
    return f"| {name} | {a:.2f} | {b:.2f} | {times} | {asked} | {found['mine'][0]:.1e} | {held_out} |"


def all_layers(layers: int, distinct: int, sizes: tuple[int, int, int], d: int) -> str:
    """Every layer's probe, half-decade grid, stopping where validation says; generation is not timed."""
    wall = cpu = 0.0
    best = (np.inf, -1)
    for layer in range(min(distinct, layers)):
        world = World.of(layer * max(layers // distinct, 1), sizes, d)
        for _ in range(layers // min(distinct, layers)):
            start, cpu_start = time.perf_counter(), time.process_time()
            probe = LinearProbe(d).fit(
                world.X[world.train], world.y[world.train], world.X[world.val], world.y[world.val]
            )
            wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - cpu_start
        best = min(best, (probe.val_nll_, layer * max(layers // distinct, 1)))
    return (
        f"{layers} layers ({min(distinct, layers)} distinct) with selection, one after another: {wall:.1f} s, "
        f"{cpu:.1f} CPU-seconds; asked 45 s, aim 30 s. Chosen: layer {best[1]}, validation NLL {best[0]:.4f}."
    )


def memory(world: World) -> str:
    """The most that a fit holds beside the data."""
    rows, d = world.val.stop, world.X.shape[1]
    X, y = world.X[: world.train.stop], world.y[: world.train.stop]
    tracemalloc.start()
    LinearProbe(d).fit(X, y, world.X[world.val], world.y[world.val])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    layer = rows * d * 4
    return (
        f"Memory of a fit beside the data: {peak / 2**20:.0f} MiB, of which {layer / 2**20:.0f} MiB are the "
        f"standardised rows of one layer (float32, train and val); {(peak - layer) / 2**20:.0f} MiB are all else."
    )


def parity() -> str:
    """Objectives against scikit-learn at tolerance 1e-10 in float64: the worst relative excess, and difference in P."""
    worst, apart = 0.0, 0.0
    for n, d in ((400, 40), (150, 600), (300, 300), (900, 600)):
        X, y = layer_states(LAYER, n=n, d=d)
        X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
        wide = X.astype(np.float64)
        for C in (1e-4, 1e-2, 1.0, 100.0):
            fit = fit_at(X, y.astype(np.float64), C, tolerance=1e-10)
            with threadpool_limits(1):
                peer = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(wide, y)
            z, theirs = wide @ fit.weight + fit.bias, peer.decision_function(wide)
            mine, other = (
                C * y.size * mean_nll(m, y) + w @ w / 2 for m, w in ((z, fit.weight), (theirs, peer.coef_[0]))
            )
            worst = max(worst, mine / other - 1)
            apart = max(apart, float(np.abs(1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-theirs))).max()))
    return (
        f"Objective above scikit-learn's at tolerance 1e-10, at most: {worst:.0e} (relative); P differs by {apart:.0e}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="of BLAS and OpenMP, for both; default: as installed")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--distinct", type=int, default=32)
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, threads {args.threads or 'as installed'}; "
          f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}")  # fmt: skip
    with threadpool_limits(args.threads) if args.threads else nullcontext():
        tables(args)


def tables(args: argparse.Namespace) -> None:
    sizes = (args.rows, args.rows // 5, 2 * args.rows // 5)
    world = World.of(LAYER, sizes, args.width)
    few = World.of(LAYER, (1019, 300, 3000), args.width)
    rows = (
        (f"7 C's, cold loop, {args.rows:,} x {args.width:,}", world, DECADES, True, False, "10; aim 15"),
        ("half decades, warm start, same rule", world, HALF, False, True, "6; aim 10"),
        (f"7 C's, cold loop, 1,019 x {args.width:,}", few, DECADES, True, False, "12; aim 20"),
    )
    print("| what | ours, s | scikit-learn, s | times | asked | C | test NLL, AUROC (difference) |\n|" + "---|" * 7)
    for name, where, grid, whole, warm, asked in rows:
        print(
            measure(
                name, where, lambda w=where, g=grid, whole=whole: ours(w, g, whole=whole),
                lambda w=where, g=grid, whole=whole, warm=warm: scikit_learn(w, g, whole=whole, warm=warm), asked,
                args.repetitions,
            ), flush=True,
        )  # fmt: skip
    print(memory(world), flush=True)
    print(parity(), flush=True)
    if args.layers:
        print(all_layers(args.layers, args.distinct, sizes, args.width), flush=True)


if __name__ == "__main__":
    main()
