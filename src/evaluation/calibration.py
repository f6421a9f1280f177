"""Calibration of P(the answer is correct), on one sample.

The reading is the event's own: in each bin, how often the answer was right against the mean confidence.
(Other libraries compare with max(p, 1 - p), which hides a bias that is symmetric around .5.)
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from src.errors import ScoringError
from src.evaluation.inputs import as_labels, as_probabilities, as_vector, check_same_length

Closed = Literal["left", "right"]

DEFAULT_BINS = 15
NLL_CLIP = 1e-15


class CalibrationMetrics:
    """Metrics of one set of confidences.

    Args:
        predictions: (n,) 0/1, the confidences cut at a threshold; they feed accuracy only.
        confidences: (n,) P(label = 1), within [0, 1]; numpy, torch or a list.
        labels: (n,) 1 where the model's answer was correct, else 0.

    Raises:
        ScoringError (a ValueError): NaN, infinity, values outside their range, lengths that differ, nothing
            at all; or predictions that are no threshold of the confidences while some 0 has a confidence
            above .5, so that the confidences may be meant for the predicted class.
    """

    def __init__(self, predictions: Any, confidences: Any, labels: Any):
        self.predictions = as_labels(predictions, "predictions")
        self.confidences = as_probabilities(confidences)
        self.labels = as_labels(labels)
        check_same_length(predictions=self.predictions, confidences=self.confidences, labels=self.labels)
        self._check_reading()

    def _check_reading(self) -> None:
        below, above = (self.confidences[self.predictions == side] for side in (0, 1))
        if below.size and above.size and below.max() > 0.5 and below.max() > above.min():
            raise ScoringError(
                "The predictions are no threshold of the confidences, and some predicted 0 have a confidence "
                "above .5. If a confidence is P(label = 1), pass CalibrationMetrics(confidences > 0.5, "
                "confidences, labels); if it belongs to the predicted class, pass np.ones(n) as predictions, "
                "the confidences, and predicted == true as labels."
            )

    def ece(self, bins: int = DEFAULT_BINS, *, closed: Closed = "right") -> float:
        """Expected calibration error: mean over rows of |mean confidence - accuracy| of the row's bin.

        Equal-width bins with edges `numpy.linspace(0, 1, bins + 1)` (Guo et al. 2017, arXiv 1706.04599). A
        perfectly calibrated model does not score 0: see `src.evaluation.intervals.calibrated_null`.

        Args:
            bins: how many.
            closed: "right" bins are (a, b], the first also holds 0; "left" ones are [a, b), the last holds 1.
        """
        index = bin_index(self.confidences, bins, closed)
        gaps = np.bincount(index, weights=self.confidences - self.labels, minlength=bins)
        return float(np.abs(gaps).sum() / self.labels.size)

    def brier(self) -> float:
        """Mean squared difference between confidence and label (Brier 1950)."""
        return float(np.mean((self.confidences - self.labels) ** 2))

    def nll(self) -> float:
        """Mean negative log-likelihood in nats; confidences are clipped to [1e-15, 1 - 1e-15]."""
        return float(row_nll(self.confidences, self.labels).mean())

    def auroc(self) -> float:
        """P(a correct answer has the higher confidence), ties counting half.

        NaN, with a warning that names the class, where all answers are right or all are wrong.
        """
        value = Ranking.of(self.confidences).auroc(self.labels, np.ones((1, self.labels.size)))[0]
        if np.isnan(value):
            warnings.warn(f"AUROC is undefined: every label is {self.labels[0]:.0f}.", stacklevel=2)
        return float(value)

    def accuracy(self) -> float:
        """Share of rows whose prediction equals the label."""
        return float(np.mean(self.predictions == self.labels))

    def summary(self) -> dict[str, float]:
        """All of the above, with the number of rows and the share of correct answers (`base_rate`)."""
        return {
            "n": self.labels.size,
            "base_rate": float(self.labels.mean()),
            "accuracy": self.accuracy(),
            "auroc": self.auroc(),
            "brier": self.brier(),
            "nll": self.nll(),
            "ece": self.ece(),
        }

    def __repr__(self) -> str:
        return f"CalibrationMetrics(n={self.labels.size}, ece={self.ece():.4f}, brier={self.brier():.4f})"


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: its edges, its rows, their mean confidence and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidences: Any, labels: Any, bins: int = DEFAULT_BINS, *, closed: Closed = "right") -> list[Bin]:
    """The non-empty equal-width bins, in order."""
    p, y = as_vector(confidences, "confidences"), as_vector(labels, "labels")
    index, edges = bin_index(p, bins, closed), np.linspace(0, 1, bins + 1)
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (p, y)]
    return [
        Bin(float(edges[b]), float(edges[b + 1]), int(n), *(float(total[b] / n) for total in sums))
        for b, n in enumerate(counts)
        if n
    ]


def bin_index(p: np.ndarray, bins: int, closed: Closed = "right") -> np.ndarray:
    """The bin of each confidence, compared with the true edges: flooring p * bins would misplace edges."""
    if bins < 1:
        raise ScoringError(f"bins={bins}: at least one is needed.")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, p, side="left" if closed == "right" else "right")


def row_nll(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row in nats, with the clip named above."""
    clipped = p.clip(NLL_CLIP, 1 - NLL_CLIP)
    return -np.where(y == 1, np.log(clipped), np.log1p(-clipped))


@dataclass(frozen=True)
class Ranking:
    """Confidences sorted once, for any number of weightings of the same rows."""

    order: np.ndarray
    starts: np.ndarray  # first place of each distinct value

    @classmethod
    def of(cls, p: np.ndarray) -> "Ranking":
        """Sort the confidences; equal values form one step."""
        order = np.argsort(p, kind="stable")
        ranked = p[order]
        return cls(order, np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]))

    def auroc(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(B,) areas under the ROC curve for row weights (B, n); NaN where a class has no weight."""
        right = np.add.reduceat(weights[:, self.order] * y[self.order], self.starts, axis=1)
        wrong = np.add.reduceat(weights[:, self.order] * (1 - y[self.order]), self.starts, axis=1)
        below = np.cumsum(wrong, axis=1) - wrong / 2
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, (right * below).sum(axis=1) / pairs, np.nan)
