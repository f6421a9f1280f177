"""What the question's text alone says about whether it will be answered right.

A probe that does no better has read the question's difficulty, not the model's knowledge.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.probes.encoded import Encode, Encoded, Items, fit_encoded

_WORD = r"(?u)\b\w+\b"  # one-character words count: in arithmetic they are the numbers


def fit_text_only(
    texts: Sequence[str], y: np.ndarray, texts_val: Sequence[str] | None = None, y_val: np.ndarray | None = None, *,
    groups: Any = None,
) -> Encoded:  # fmt: skip
    """TF-IDF of words and word pairs, and a logistic regression; arguments as of `fit_encoded`."""
    return fit_encoded(_words, texts, y, texts_val, y_val, groups=groups)


def _words(texts: Items) -> Encode:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD, sublinear_tf=True, max_features=50_000)
    return vectorizer.fit(texts).transform
