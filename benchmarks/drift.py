"""How much of a probe's logit realignment brings back, on synthetic states that an adapter's low-rank change moved.

    python benchmarks/drift.py [--rows 2000] [--width 1024] [--rank 8] [--seed 0]

States have a power-law spectrum and features of uneven scale. The change adds `rank` directions that are read from the
states, scaled so that it moves them by a share of their own size; labels follow one direction of the old states. The
probe is fitted on the first half of the questions, the map on the second, without labels. For each kind of map the best
is printed, and what `realign` chose.
"""

import argparse

import numpy as np

from src.probes import LinearProbe
from src.probes.drift import realign

SIZES = {"large": 2.0, "small": 0.5}  # of the change, as a share of the states' root mean square


def states(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(n, d) float32."""
    spectrum = (np.arange(d) + 1.0) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    uneven = np.exp(0.7 * rng.standard_normal(d))
    return ((rng.standard_normal((n, d)) * spectrum) @ turn * uneven + rng.standard_normal(d)).astype(np.float32)


def moved(X: np.ndarray, rank: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """The states after x -> x + x B A, of a size that is a share of theirs."""
    centred = X - X.mean(axis=0)
    change = centred @ rng.standard_normal((X.shape[1], rank)) @ rng.standard_normal((rank, X.shape[1]))
    return (X + size * np.sqrt((centred**2).mean() / (change**2).mean()) * change).astype(np.float32)


def main() -> None:
    """Print a line for each size of the change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 2000), ("width", 1024), ("rank", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    X = states(2 * given.rows, given.width, rng)
    along = (X - X.mean(axis=0)) @ rng.standard_normal(given.width)
    y = (along + 0.5 * along.std() * rng.standard_normal(len(X)) > 0).astype(float)
    old, new = np.arange(given.rows), np.arange(given.rows, 2 * given.rows)
    probe = LinearProbe(given.width).fit(X[old], y[old])
    for name, size in SIZES.items():
        found = realign(probe.weights_, X[new], moved(X, given.rank, size, rng)[new])
        best: dict[str, float] = {}
        for one in found.tried:
            best[one.method] = max(best.get(one.method, -np.inf), one.explained)
        shares = ", ".join(f"{method} {share:.2f}" for method, share in best.items())
        print(f"{name} change (moved by {found.moved:.2f} deviations): {shares}; chosen: {found.chosen}")


if __name__ == "__main__":
    main()
