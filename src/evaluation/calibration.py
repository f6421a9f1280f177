"""Calibration of P(the answer is correct), on one sample.

The reading is the event's own: in each bin, how often the answer was right against the mean confidence.
(Other libraries compare with max(p, 1 - p), which hides a bias that is symmetric around .5.)
"""

import logging
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from src.errors import ScoringError
from src.evaluation.binning import DEFAULT_BINS, Bins, Closed, Scheme, equal_width_ece
from src.evaluation.inputs import as_flags, as_probabilities, as_vector, check_same_length
from src.evaluation.intervals import calibrated_null
from src.evaluation.ranking import Ranked
from src.evaluation.smooth import smooth_ece
from src.evaluation.table import as_html

log = logging.getLogger(__name__)
_NULL_LABELS = 10_000_000  # drawn at most to show a table


@dataclass(frozen=True)
class Corp:
    """Brier = mcb - dsc + unc: miscalibration, discrimination, and the uncertainty of the labels."""

    mcb: float
    dsc: float
    unc: float


@dataclass(frozen=True)
class Murphy:
    """Reliability, resolution and uncertainty of binned confidences."""

    rel: float
    res: float
    unc: float


class CalibrationMetrics:
    """Metrics of one set of confidences. The rows are sorted once, when the first metric needs it.

    Args:
        predictions: (n,) 0/1, the confidences cut at a threshold; they feed accuracy, F1 and the confusion matrix only.
        confidences: (n,) P(label = 1), within [0, 1]; numpy, torch or a list.
        labels: (n,) 1 where the model's answer was correct, else 0.

    Raises:
        ScoringError (a ValueError): NaN, infinity, values outside their range, lengths that differ, nothing
            at all; or predictions that are no threshold of the confidences while some 0 has a confidence
            above .5, so that the confidences may be meant for the predicted class.
    """

    def __init__(self, predictions: Any, confidences: Any, labels: Any):
        self.predictions = as_flags(predictions, "predictions")
        self.confidences = as_probabilities(confidences)
        self.labels = as_flags(labels, "labels")
        check_same_length(predictions=self.predictions, confidences=self.confidences, labels=self.labels)
        self._check_reading()

    @classmethod
    def from_top_label(cls, predicted: Any, confidences: Any, true: Any) -> "CalibrationMetrics":
        """The other reading: each confidence is that of the predicted class, which is right or not.

        Args:
            predicted, true: (n,) classes, as whole numbers.
            confidences: (n,) of the predicted class.
        """
        predicted, true = as_vector(predicted, "predicted"), as_vector(true, "true")
        check_same_length(predicted=predicted, true=true)
        return cls(np.ones(predicted.size), confidences, predicted == true)

    def _check_reading(self) -> None:
        confident = self.confidences > 0.5
        if not (confident & ~self.predictions).any() or not self.predictions.any():
            return
        if self.confidences[~self.predictions].max() > self.confidences[self.predictions].min():
            raise ScoringError(
                "The predictions are no threshold of the confidences, and some predicted 0 have a confidence "
                "above .5. If a confidence is P(label = 1), pass CalibrationMetrics(confidences > 0.5, "
                "confidences, labels); if it belongs to the predicted class, use "
                "CalibrationMetrics.from_top_label(predicted, confidences, true)."
            )

    @cached_property
    def ranked(self) -> Ranked:
        """The rows by confidence."""
        return Ranked.of(self.confidences, self.labels)

    def bins(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "width", closed: Closed = "right") -> Bins:
        """The rows in bins, those without rows left out; see `Ranked.bins`."""
        if bins < 1:
            raise ScoringError(f"bins={bins}: at least one is needed.")
        found = self.ranked.bins(bins, scheme=scheme, closed=closed)
        if found.outside:
            log.warning("%d of %d confidences are exactly 1: in no bin of %r.", found.outside, self.labels.size, scheme)
        return found

    def ece(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "width", closed: Closed = "right") -> float:
        """Expected calibration error: mean over rows of |mean confidence - accuracy| of the row's bin.

        Guo et al. 2017 (arXiv 1706.04599). A perfectly calibrated model does not score 0: see
        `src.evaluation.intervals.calibrated_null`.

        Args:
            bins: how many.
            scheme: "width": equal-width bins with edges `numpy.linspace(0, 1, bins + 1)`; "mass": as many rows in each,
                equal confidences together; "quantile": edges at quantiles, [a, b).
            closed: equal-width bins are (a, b], the first also holds 0; or [a, b), the last holds 1.
        """
        if scheme == "width":
            return equal_width_ece(self.confidences, self.labels, bins, closed)
        return self.bins(bins, scheme=scheme).ece()

    def ace(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "width", closed: Closed = "right") -> float:
        """As `ece`, as a mean over bins: with scheme="quantile" the figure of Plaut et al. (arXiv 2402.13213)."""
        return self.bins(bins, scheme=scheme, closed=closed).ace()

    def mce(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "width", closed: Closed = "right") -> tuple[float, int]:
        """The largest gap of a bin, and how many rows that bin holds: of few rows it says little."""
        return self.bins(bins, scheme=scheme, closed=closed).mce()

    def l2_debiased(self, bins: int = DEFAULT_BINS, *, scheme: Scheme = "mass") -> float:
        """Root mean squared gap, less its value for a calibrated model (Kumar et al. 2019, arXiv 1909.10155)."""
        return self.bins(bins, scheme=scheme).l2_debiased()

    def sweep_ece(self) -> tuple[float, int]:
        """ECE with as many equal-mass bins as keep accuracy rising, and their number (arXiv 2012.08668)."""
        return self.ranked.sweep()

    def smooth_ece(self) -> float:
        """Calibration error without bins (Blasiok and Nakkiran 2023, arXiv 2309.12236), as its exact fixed point."""
        residuals = self.ranked.n * self.ranked.values
        residuals -= self.ranked.right
        return smooth_ece(self.ranked.values, residuals, self.ranked.total)

    def ks(self) -> float:
        """Kolmogorov-Smirnov calibration error (arXiv 2006.12800), at distinct confidences."""
        return self.ranked.ks()

    def brier(self) -> float:
        """Mean squared difference between confidence and label (Brier 1950)."""
        return self.ranked.brier()

    def murphy(self, bins: int = DEFAULT_BINS) -> Murphy:
        """Reliability, resolution, uncertainty of equal-width bins (Murphy 1973): Brier but for the spread in bins."""
        return Murphy(*self.bins(bins).murphy())

    def corp(self) -> Corp:
        """The exact decomposition of Brier by isotonic regression (Dimitriadis et al. 2021, arXiv 2008.03033)."""
        return Corp(*self.ranked.corp())

    def nll(self) -> float:
        """Mean negative log-likelihood in nats; confidences are clipped to [1e-15, 1 - 1e-15]."""
        return self.ranked.nll()

    def auroc(self) -> float:
        """P(a correct answer has the higher confidence), ties counting half.

        NaN, with a warning that names the class, where all answers are right or all are wrong.
        """
        return self._of_two_classes("AUROC", self.ranked.auroc())

    def auprc(self) -> float:
        """Average precision of finding the right answers; NaN with a warning as `auroc`."""
        return self._of_two_classes("AUPRC", self.ranked.auprc())

    def _of_two_classes(self, name: str, value: float) -> float:
        if np.isnan(value):
            warnings.warn(f"{name} is undefined: every label is {int(self.labels[0])}.", stacklevel=3)
        return value

    def aurc(self) -> float:
        """Mean share of wrong answers among the k most confident, over all k (arXiv 1805.08206); lower is better."""
        return self.ranked.aurc()

    def e_aurc(self) -> float:
        """`aurc` less that of the ideal ranking."""
        return self.ranked.aurc() - self.ranked.aurc_of_ideal()

    def prr(self) -> float:
        """Prediction-rejection ratio: how much of the way from random to ideal the ranking comes (arXiv 2104.04236).

        1 is ideal, 0 random; NaN where all answers are right or all are wrong.
        """
        return self.ranked.prr()

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy where only this share of the questions, the most confident ones, is answered.

        Raises:
            ScoringError: a coverage outside (0, 1].
        """
        if not 0 < coverage <= 1:
            raise ScoringError(f"coverage={coverage}: a share above 0 and up to 1 is needed.")
        return self.ranked.accuracy_at(coverage)

    def coverage_at(self, risk: float) -> float:
        """The largest share that can be answered with at most this share of it wrong, on these very rows.

        A threshold chosen so promises nothing for other rows: see `src.evaluation.selective`.
        """
        return self.ranked.coverage_at(risk)

    def accuracy(self) -> float:
        """Share of rows whose prediction equals the label."""
        return float(np.mean(self.predictions == self.labels))

    def confusion(self) -> np.ndarray:
        """(2, 2) counts: [label, prediction]."""
        return np.array(
            [
                [
                    np.count_nonzero((self.labels == label) & (self.predictions == predicted))
                    for predicted in (False, True)
                ]
                for label in (False, True)
            ]
        )

    def f1(self) -> float:
        """Harmonic mean of precision and recall of the predictions; NaN where nothing is right or predicted right."""
        (_, false), (missed, hits) = self.confusion()
        return float(2 * hits / (2 * hits + false + missed)) if hits + false + missed else float("nan")

    def summary(self) -> dict[str, float]:
        """Every metric under its name; of one class, AUROC, AUPRC and PRR are NaN.

        Beside them: `n`, `base_rate` (the share that is right), `mce_n` and `sweep_bins` (counts of `mce` and
        `sweep_ece`). A note is logged where there are fewer rows than bins.
        """
        n = self.labels.size
        if n < DEFAULT_BINS:
            log.warning("%d rows in %d bins: most bins hold single rows, and ECE says little.", n, DEFAULT_BINS)
        width, mass = self.bins(), self.bins(scheme="mass")
        (mce, mce_n), (sweep, sweep_bins) = width.mce(), self.sweep_ece()
        aurc, ideal, random = self.ranked.aurc(), self.ranked.aurc_of_ideal(), 1 - self.ranked.base_rate
        return {
            "n": n,
            "base_rate": self.ranked.base_rate,
            "accuracy": self.accuracy(),
            "f1": self.f1(),
            "auroc": self.ranked.auroc(),
            "auprc": self.ranked.auprc(),
            "brier": self.brier(),
            "nll": self.nll(),
            "ece": width.ece(),
            "ece_mass": mass.ece(),
            "mce": mce,
            "mce_n": mce_n,
            "l2_debiased": mass.l2_debiased(),
            "sweep_ece": sweep,
            "sweep_bins": sweep_bins,
            "smooth_ece": self.smooth_ece(),
            "ks": self.ks(),
            "aurc": aurc,
            "e_aurc": aurc - ideal,
            "prr": float("nan") if self.ranked.one_class else (random - aurc) / (random - ideal),
            **{f"accuracy_at_{share}": self.accuracy_at(share / 100) for share in (50, 80, 90)},
            **asdict(self.corp()),
        }

    def __repr__(self) -> str:
        return f"CalibrationMetrics(n={self.labels.size}, ece={self.ece():.4f}, brier={self.brier():.4f})"

    def _repr_html_(self) -> str:
        """A table of the main metrics, beside what a perfectly calibrated model would score on average."""
        draws = min(500, _NULL_LABELS // self.labels.size)
        # Of over a million rows a perfect model scores next to nothing, and it would take long to say how much.
        null = calibrated_null(self.confidences, draws=draws) if draws >= 10 else {}
        return as_html(self.summary(), {name: found.mean for name, found in null.items()})
