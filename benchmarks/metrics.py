r"""The metric kernel against numpy, torchmetrics, netcal, uncertainty-calibration and relplot, in one process.

    pip install --no-deps torchmetrics==1.9.0 lightning-utilities netcal==1.4.0 uncertainty-calibration==0.1.4 \
        relplot==1.0.3 deprecation seaborn
    pip install pandas
    python benchmarks/metrics.py [--rows 10000000] [--repetitions 5]

(--no-deps, because netcal and relplot ask for some 60 packages that these metrics do not use.)

p = sigmoid(1.5 logit u) and y ~ Bernoulli(u) for uniform u, float64. Ours and the peer take turns, who is first
changes, and figures are CPU-seconds of all threads; "times" is the median of the ratios within a repetition, with the
smallest and the largest. The values must agree, or the script stops.

"kernel" is `equal_width_ece(p, y)`, arrays in and a number out, like numpy's bincount; "class" is
`CalibrationMetrics(predictions, p, y).ece()`, which checks every value of all three arrays, as torchmetrics does.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.evaluation import CalibrationMetrics
from src.evaluation.binning import equal_width_ece
from src.evaluation.resampling import metric_draws, question_weights
from src.evaluation.smooth import smooth_ece

BINS = 15
MMLU = 14_042
Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the table. `asked` and `aim` bound ours / peer from above, or peer / ours from below."""

    name: str
    ours: Call
    peer: Call
    asked: str
    slower: bool = False  # the ratio is ours / peer: how much longer ours may take
    tolerance: float | None = 1e-6  # of the values; None where the peer computes something else
    rounds: int | None = None


def timed(call: Call) -> tuple[float, Any]:
    start = time.process_time()
    value = call()
    return time.process_time() - start, value


def measure(row: Row, repetitions: int) -> str:
    """Both in turn; a line of the table."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for repetition in range(-1, row.rounds or repetitions):
        found = {}
        for who in ("ours", "peer") if repetition % 2 else ("peer", "ours"):
            taken, found[who] = timed(getattr(row, who))
            if repetition >= 0:  # the first round only warms up
                seconds[who].append(taken)
        if row.tolerance is not None and not abs(float(found["ours"]) - float(found["peer"])) <= row.tolerance:
            raise SystemExit(f"{row.name}: ours is {found['ours']}, the peer's {found['peer']}")
    pairs = zip(seconds["ours"], seconds["peer"], strict=True)
    ratios = sorted(ours / peer if row.slower else peer / ours for ours, peer in pairs)
    ours, peer = (statistics.median(seconds[who]) for who in ("ours", "peer"))
    times = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    return f"| {row.name} | {ours:.3f} | {peer:.3f} | {times} | {row.asked} |"


def world(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    u = rng.random(n)
    p = 1 / (1 + np.exp(-1.5 * (np.log(u) - np.log1p(-u))))
    return p, (rng.random(n) < u).astype(np.float64)


def one_bincount(p: np.ndarray, y: np.ndarray) -> float:
    """The reference of the issue: floored bins, so that values on edges may be misplaced."""
    return np.abs(np.bincount((p * BINS).astype(np.intp), weights=p - y, minlength=BINS)).sum() / p.size


def of_class(predictions: np.ndarray, p: np.ndarray, y: np.ndarray) -> float:
    return CalibrationMetrics(predictions, p, y).ece()


def numpy_rows(n: int) -> list[Row]:
    p, y = world(n)
    name = f"kernel, {n:,}, to numpy's one weighted bincount"
    return [Row(name, lambda: equal_width_ece(p, y), lambda: one_bincount(p, y), "at most 2; aim 1.3", slower=True)]


def peer_rows(n: int) -> list[Row]:
    """Only those that are installed; the others are named by `main`."""
    p, y = world(n)
    whole, predictions = y.astype(np.int64), p > 0.5
    rows = []
    if version("torchmetrics"):
        import torch
        from torchmetrics.functional.classification import binary_calibration_error

        torch.set_num_threads(1)
        tensors = torch.from_numpy(p), torch.from_numpy(whole)
        rows.append(Row(f"class, {n:,}, torchmetrics validated", lambda: of_class(predictions, p, y),
                        lambda: binary_calibration_error(*tensors, n_bins=BINS, validate_args=True), "10; aim 20",
                        tolerance=1e-4))  # fmt: skip
    if version("netcal"):
        from netcal.metrics import ECE

        rows.append(Row(f"class, {n:,}, netcal", lambda: of_class(predictions, p, y), lambda: ECE(BINS).measure(p, y),
                        "10; aim 20"))  # fmt: skip
    if version("uncertainty-calibration"):
        import calibration

        rows.append(Row(f"class, {n:,}, uncertainty-calibration", lambda: of_class(predictions, p, y),
                        lambda: calibration.get_ece(p, whole, num_bins=BINS), "40; aim 80", rounds=2))  # fmt: skip
    if version("relplot"):
        import relplot

        rows.append(Row(f"smooth ECE, {n:,}, relplot", lambda: smooth_ece(p, p - y, p.size),
                        lambda: relplot.smECE(p, y), "5; aim 12", tolerance=0.01))  # fmt: skip
    return rows


def summary_rows(n: int) -> list[Row]:
    p, y = world(n)
    name = f"class and summary(), {n:,}, to np.argsort"
    return [Row(name, lambda: CalibrationMetrics(p > 0.5, p, y).summary(), lambda: np.argsort(p),
                "at most 2 (+ .1 s); aim 1.5", slower=True, tolerance=None)]  # fmt: skip


def memory(n: int) -> str:
    """The most that `summary` holds at once beside its three inputs, in arrays of float64."""
    p, y = world(n)
    m = CalibrationMetrics(p > 0.5, p, y)
    tracemalloc.start()
    m.summary()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"Memory of summary(), {n:,} rows: {peak / p.nbytes:.1f} arrays of float64; asked at most 6."


def bootstrap(repetitions: int) -> str:
    """Resamples of accuracy, Brier, NLL, AUROC and both ECEs, weights included: wall seconds."""
    p, y = world(MMLU)
    walls, cpus = [], []
    for _ in range(repetitions):
        start, cpu = time.perf_counter(), time.process_time()
        metric_draws(p, y, question_weights(np.arange(MMLU), 2000, 0))
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    return (
        f"2,000 bootstrap resamples of accuracy, Brier, NLL, AUROC and both ECEs, n = {MMLU:,}: "
        f"{statistics.median(walls):.2f} s ({min(walls):.2f}-{max(walls):.2f}), {statistics.median(cpus):.2f} "
        "CPU-seconds; asked 10 s, aim 4 s."
    )


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    peers = {name: version(name) for name in ("torchmetrics", "netcal", "uncertainty-calibration", "relplot")}
    print(f"{platform.platform()}, {os.cpu_count()} cores; numpy {np.__version__}; "
          + ", ".join(f"{name} {found or 'NOT INSTALLED: not measured'}" for name, found in peers.items()))  # fmt: skip
    print("| what | ours, s | peer, s | times | asked |\n|---|---|---|---|---|")
    for rows in (lambda: numpy_rows(1_000_000), lambda: numpy_rows(args.rows), lambda: peer_rows(args.rows),
                 lambda: summary_rows(1_000_000)):  # fmt: skip
        for row in rows():
            print(measure(row, args.repetitions), flush=True)
    print(memory(1_000_000))
    print(bootstrap(args.repetitions))


if __name__ == "__main__":
    main()
