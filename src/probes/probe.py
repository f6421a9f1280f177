"""What every probe of this library can do once its family can fit: checks, probabilities, score."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from src.errors import ScoringError
from src.evaluation.ranking import Ranked
from src.evaluation.recalibration import Recalibration
from src.probes.solver import one_thread, probability
from src.probes.states import Sample, States

if TYPE_CHECKING:
    from src.probes.artifact import SavedProbe
    from src.probes.origin import Family, Origin


class Probe(ABC):
    """Predicts P(the model's answer is correct) from its hidden state.

    Args:
        input_dim: the width d of the states.

    Attributes:
        family: how it is called where families are compared.
        val_nll_: the loss in nats on the rows that something was chosen on.
        out_of_fold_: (n,) P(correct) of the training rows, each said by the fit that did not see its fold; NaN for a
            row that does not count, or whose fold could not be set aside. None where validation rows were given.
    """

    family: ClassVar["Family"]
    weights_: Any
    recalibration_: Recalibration | None = None
    val_nll_: float
    out_of_fold_: np.ndarray | None

    def __init__(self, input_dim: int):
        self.input_dim = input_dim
        self.fitted = False

    @one_thread
    def fit(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None, *, groups: Any = None
    ) -> Self:
        """Fit on the training rows, and choose what is to be chosen on validation rows, or by 5-fold cross-validation.

        Args:
            X, X_val: (n, d) or (n, 1, d) states; numpy, memory-mapped or torch. A fit makes one float32 copy of
                each (float64 of float64).
            y, y_val: (n,) 1 where the answer was correct, else 0; or a share of right answers between.
            sample_weight: (n,) how often each training row counts; None: once.
            groups: (n,) where no validation rows are given: rows of the same group (question) stay in one fold;
                None: equal rows do.

        Returns:
            the probe itself.

        Raises:
            ScoringError (a ValueError): shapes or lengths that do not fit, several layers at once, NaN (with
                the row), targets outside [0, 1], one class only, fewer than 10 rows, or a probe that ranks its own
                training rows the wrong way round.
        """
        train = Sample.of(self._read(X, "X"), y, sample_weight, "X", self.input_dim)
        if (X_val is None) != (y_val is None):
            raise ScoringError("X_val and y_val belong together: pass both, or neither for cross-validation.")
        val = None if X_val is None else Sample.of(self._read(X_val, "X_val"), y_val, None, "X_val", self.input_dim)
        train.check_can_train()
        if val is not None and not val.y.size:
            raise ScoringError("There are no validation rows to choose with: pass some, or neither X_val nor y_val.")
        out_of_fold = self._fit(train, val, groups)
        self.out_of_fold_ = None if out_of_fold is None else probability(out_of_fold)
        self.fitted = True
        return self._checked(train)

    def _checked(self, train: Sample) -> Self:
        """Itself. Raises ScoringError where it ranks these rows, which it was fitted to, the wrong way round."""
        _check_right_way_up(self._logits(train.states)[train.rows], train)
        return self

    @one_thread
    def decision_function(self, X: Any) -> np.ndarray:
        """(n,) float64 log-odds that the answer is correct."""
        self._check_fitted()
        return self._logits(self._read(X, "X"))

    def predict(self, X: Any) -> np.ndarray:
        """(n,) float64 P(correct)."""
        return probability(self.decision_function(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) float64 P(wrong), P(correct)."""
        z = self.decision_function(X)
        return np.column_stack([probability(-z), probability(z)])

    def frozen(self, origin: "Origin") -> "SavedProbe":
        """The fitted probe with where it comes from: to save, to share and to use. See `src.probes.artifact`.

        The family is this probe's, and where `origin` has no C it is too. Raises ScoringError: it is not fitted.
        """
        from src.probes.artifact import SavedProbe

        self._check_fitted()
        C = getattr(self, "C_", None) if origin.C is None else origin.C
        return SavedProbe(self.weights_, replace(origin, family=self.family, C=C), self.recalibration_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of "correct" where P(correct) > .5, as scikit-learn's classifiers score; of shares, its mean."""
        sample = Sample.of(self._read(X, "X"), y, sample_weight, "X", self.input_dim)
        said = self.decision_function(X)[sample.rows] > 0
        return float(np.average(np.where(said, sample.y, 1 - sample.y), weights=sample.weight))

    def _read(self, X: Any, name: str) -> States:
        """The states as they are given, checked."""
        return States(X, name, self.input_dim)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ScoringError("This probe has not been fitted: call fit(X, y, X_val, y_val) first.")

    @abstractmethod
    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> np.ndarray | None:
        """Learn; where `val` is None, choose on `folds(train, groups)`.

        Returns:
            (len(train.states),) log-odds of the rows by fits that did not see them, NaN where there are none; None
            where `val` is given.
        """

    @abstractmethod
    def _logits(self, states: States) -> np.ndarray:
        """(n,) float64."""


def _check_right_way_up(z: np.ndarray, train: Sample) -> None:
    values, which = np.unique(z, return_inverse=True)
    n, right = (np.bincount(which, weights=weights) for weights in (train.weight, train.weight * train.y))
    auroc = Ranked(values, n, right).auroc()
    share = float(right.sum() / n.sum())
    right_ones, wrong_ones = share * len(z), (1 - share) * len(z)
    # Where there is nothing to learn a nearly constant probe may end a little below .5: by chance alone within this.
    chance = np.sqrt((len(z) + 1) / (12 * wrong_ones * right_ones))
    if auroc < 0.5 - 2 * chance:
        raise ScoringError(
            f"The probe ranks its own training rows the wrong way round (AUROC {auroc:.3f}). A few states far from "
            "all others can do that: look for rows of another layer, prompt or model, and for inverted labels."
        )
