"""What the question's text alone says about whether it will be answered right.

A probe that does no better has read the question's difficulty, not the model's knowledge.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from src.probes.solver import Fit, fit_path, probability

# Weaker penalties than a probe of hidden states needs: rows of a TF-IDF matrix have length 1.
_WORD = r"(?u)\b\w+\b"  # one-character words count: in arithmetic they are the numbers
_GRID = tuple(float(10 ** (k / 2)) for k in range(-6, 7))


class TextOnlyAssessor:
    """TF-IDF of words and word pairs, and a logistic regression whose C is chosen on validation."""

    fit_: Fit

    def __init__(self) -> None:
        self.vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD, sublinear_tf=True,
                                          max_features=50_000)  # fmt: skip

    def fit(
        self, texts: Sequence[str], y: np.ndarray, texts_val: Sequence[str], y_val: np.ndarray
    ) -> "TextOnlyAssessor":
        """Fit on training texts; labels as in `LinearProbe.fit`. Returns itself."""
        X = self.vectorizer.fit_transform(texts)
        self.fit_ = fit_path(X, y, self.vectorizer.transform(texts_val), y_val, grid=_GRID)
        return self

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) float64 P(correct)."""
        return probability(self.vectorizer.transform(texts) @ self.fit_.weight + self.fit_.bias)
