"""What a probe of hidden states must beat: confidences from the answer itself, and from what can be seen without it."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from src.probes.solver import Fit, fit_path, probability

_GRID = tuple(float(10 ** (k / 2)) for k in range(-6, 7))
# A subject's accuracy is drawn to the accuracy of all as if it had so many more questions.
_PRIOR_QUESTIONS = 5.0


def signal_confidence(
    train: np.ndarray, y: np.ndarray, val: np.ndarray, y_val: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """(n,) P(correct) from one number per answer, such as its entropy: logistic regression on the training rows.

    The ranking stays (or is turned round as a whole), so the AUROC is the number's own; its scale becomes a share.
    Numbers are standardised; infinite ones count as the largest finite one, and NaN (there is none) as the mean.
    """
    finite = train[np.isfinite(train)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    there = np.clip(train[~np.isnan(train)], low, high)
    mean, scale = (float(there.mean()), float(there.std()) or 1.0) if there.size else (0.0, 1.0)

    def feature(values: np.ndarray) -> np.ndarray:
        return np.nan_to_num((np.clip(values, low, high) - mean) / scale, nan=0.0)[:, None]

    fit = fit_path(feature(train), y, feature(val), y_val, grid=_GRID)
    return probability(feature(rows) @ fit.weight + fit.bias)


class SurfaceAssessor:
    """Logistic regression on what anybody can see: the answer's letter, the prompt's length and the subject.

    A probe may read which letter was chosen, or how long the question is, rather than whether the answer is right.
    """

    fit_: Fit

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], int] = {}
        self._mean = self._scale = 0.0

    def fit(
        self, rows: Sequence[tuple[str, int, str]], y: np.ndarray, rows_val: Sequence[tuple[str, int, str]],
        y_val: np.ndarray,
    ) -> "SurfaceAssessor":  # fmt: skip
        """Rows are (letter or "", prompt length in tokens or characters, subject); labels 0 or 1. Returns itself."""
        names = {("letter", letter) for letter, _, _ in rows} | {("subject", subject) for _, _, subject in rows}
        self._columns = {name: place for place, name in enumerate(sorted(names))}
        lengths = np.log([1 + length for _, length, _ in rows])
        self._mean, self._scale = float(lengths.mean()), float(lengths.std()) or 1.0
        self.fit_ = fit_path(self._features(rows), y, self._features(rows_val), y_val, grid=_GRID)
        return self

    def predict(self, rows: Sequence[tuple[str, int, str]]) -> np.ndarray:
        """(n,) float64 P(correct). A letter or subject that was not in training says nothing."""
        return probability(self._features(rows) @ self.fit_.weight + self.fit_.bias)

    def _features(self, rows: Sequence[tuple[str, int, str]]) -> sparse.csr_array:
        features = sparse.lil_array((len(rows), len(self._columns) + 1))
        for place, (letter, length, subject) in enumerate(rows):
            features[place, 0] = (np.log(1 + length) - self._mean) / self._scale
            for name in (("letter", letter), ("subject", subject)):
                if name in self._columns:
                    features[place, 1 + self._columns[name]] = 1.0
        return features.tocsr()


def subject_means(subjects: Sequence[str], y: np.ndarray, asked: Sequence[str]) -> np.ndarray:
    """(n,) the share of right answers in each subject's training questions, drawn to the share of all.

    A subject that was not in training gets the share of all.
    """
    overall = float(np.mean(y))
    sums: dict[str, tuple[float, int]] = {}
    for subject, label in zip(subjects, y, strict=True):
        total, count = sums.get(subject, (0.0, 0))
        sums[subject] = (total + float(label), count + 1)

    def mean(subject: str) -> float:
        total, count = sums.get(subject, (0.0, 0))
        return (total + _PRIOR_QUESTIONS * overall) / (count + _PRIOR_QUESTIONS)

    return np.array([mean(subject) for subject in asked])
