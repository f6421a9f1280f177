"""`ProbeClassifier`: the logistic probe as a classifier of scikit-learn, for its pipelines and searches."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from src.errors import ScoringError
from src.probes.linear import LinearProbe
from src.probes.solver import probability
from src.probes.states import MIN_ROWS


class ProbeClassifier(ClassifierMixin, BaseEstimator):
    """A `LinearProbe` whose `predict` gives labels, of any two kinds, and whose C comes from 5-fold cross-validation.

    Args:
        tolerance: largest entry of the gradient at the chosen C.

    Attributes:
        classes_: (2,) the labels; the second is the one that counts as 1.
        probe_: the fitted `LinearProbe`.
    """

    classes_: np.ndarray
    probe_: LinearProbe

    def __init__(self, *, tolerance: float = 1e-10):
        self.tolerance = tolerance

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to (n, d) features and n labels of two kinds; arguments and errors as for `LinearProbe.fit`."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=MIN_ROWS)
        check_classification_targets(y)
        if type_of_target(y) == "multiclass":
            raise ScoringError(
                f"Only binary classification is supported. y holds {np.unique(y).size} classes. Pass right and wrong."
            )
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.classes_.size < 2:
            raise ScoringError(f"y holds one class, {self.classes_[0]}: a probe needs right and wrong answers.")
        self.probe_ = LinearProbe(X.shape[1], tolerance=self.tolerance).fit(X, labels, sample_weight=sample_weight)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(n,) float64 log-odds of the second class."""
        check_is_fitted(self)
        return self.probe_.decision_function(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the likelier label."""
        second = self.decision_function(X) > 0
        return self.classes_[second.astype(int)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) float64, columns as in `classes_`."""
        z = self.decision_function(X)
        return np.column_stack([probability(-z), probability(z)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
