"""The interval of a share of so many rows."""

from scipy.stats import binomtest


def wilson(count: float, n: int) -> tuple[float, float]:
    """The 95 % interval of `count` of `n` rows (Wilson 1927), which has a width also where all or none count."""
    found = binomtest(round(count), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
