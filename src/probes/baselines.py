"""What a probe of hidden states must beat: confidences from the answer itself, and from what can be seen without it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from src.probes.encoded import Encode, Encoded, Items, fit_encoded

# A subject's accuracy is drawn to the accuracy of all as if it had so many more questions.
_PRIOR_QUESTIONS = 5.0


def fit_signal(
    numbers: np.ndarray, y: np.ndarray, numbers_val: np.ndarray | None = None, y_val: np.ndarray | None = None, *,
    groups: Any = None,
) -> Encoded:  # fmt: skip
    """Logistic regression on one number per answer, such as its entropy; arguments as of `fit_encoded`.

    The ranking stays (or is turned round as a whole), so the AUROC is the number's own; its scale becomes a share.
    Numbers are standardised; infinite ones count as the largest finite one, and NaN (there is none) as the mean.
    """
    return fit_encoded(_standardised, numbers, y, numbers_val, y_val, groups=groups)


def _standardised(numbers: Items) -> Encode:
    every = np.asarray(numbers, dtype=np.float64)
    finite = every[np.isfinite(every)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    there = np.clip(every[~np.isnan(every)], low, high)
    mean, scale = (float(there.mean()), float(there.std()) or 1.0) if there.size else (0.0, 1.0)
    return lambda values: np.nan_to_num((np.clip(values, low, high) - mean) / scale, nan=0.0)[:, None]


Surface = tuple[str, int, str]  # letter or "", length of the prompt in tokens or characters, subject


def fit_surface(
    rows: Sequence[Surface], y: np.ndarray, rows_val: Sequence[Surface] | None = None, y_val: np.ndarray | None = None,
    *, groups: Any = None,
) -> Encoded:  # fmt: skip
    """Logistic regression on what anybody can see: the answer's letter, the prompt's length and the subject.

    A probe may read which letter was chosen, or how long the question is, rather than whether the answer is right. A
    letter or subject that was not in training says nothing. Arguments as of `fit_encoded`.
    """
    return fit_encoded(_seen, rows, y, rows_val, y_val, groups=groups)


def _seen(rows: Items) -> Encode:
    names = {("letter", letter) for letter, _, _ in rows} | {("subject", subject) for _, _, subject in rows}
    columns = {name: place for place, name in enumerate(sorted(names), 1)}
    lengths = np.log([1 + length for _, length, _ in rows])
    mean, scale = float(lengths.mean()), float(lengths.std()) or 1.0

    def encode(some: Items) -> sparse.csr_array:
        features = sparse.lil_array((len(some), len(columns) + 1))
        for place, (letter, length, subject) in enumerate(some):
            features[place, 0] = (np.log(1 + length) - mean) / scale
            for name in (("letter", letter), ("subject", subject)):
                if name in columns:
                    features[place, columns[name]] = 1.0
        return features.tocsr()

    return encode


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
