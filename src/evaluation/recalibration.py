"""Recalibration: a map from a confidence to a better one, fitted on validation rows and on nothing else.

All three keep the order of the confidences (isotonic may make neighbours equal), so what changes is how far they can be
trusted, not which answer looks better than which. Fitted on the rows that trained a probe they would learn its
overconfidence there; fitted on test rows they would flatter.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression, minimize, root_scalar
from scipy.special import expit, logit

from src.errors import ScoringError
from src.evaluation.inputs import as_labels, as_probabilities, check_same_length
from src.evaluation.ranking import Ranked

log = logging.getLogger(__name__)

Method = Literal["temperature", "platt", "isotonic"]
_EXTREME = 100.0  # temperatures lie between 1 / 100 and 100
_LEAST = 2.0**-53  # 1 - this is the largest number below 1: confidences of exactly 0 and 1 have no log-odds
_MOST_NODES = 1_000_000


@dataclass(frozen=True)
class Temperature:
    """Log-odds divided by a number above 0: more than 1 makes confidences humbler (Guo et al. 2017, 1706.04599)."""

    temperature: float

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, above=0.0)

    def __call__(self, p: Any) -> np.ndarray:
        """(n,) confidences within [0, 1] -> (n,) float64."""
        return expit(_log_odds(as_probabilities(p)) / self.temperature)

    def as_plain(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: see `recalibration_from`."""
        return {"method": "temperature", "temperature": self.temperature}


@dataclass(frozen=True)
class Platt:
    """Log-odds times a slope of at least 0, plus an offset (Platt 1999)."""

    slope: float
    offset: float

    def __post_init__(self) -> None:
        _check("slope", self.slope, least=0.0)
        _check("offset", self.offset)

    def __call__(self, p: Any) -> np.ndarray:
        """(n,) confidences within [0, 1] -> (n,) float64."""
        return expit(self.slope * _log_odds(as_probabilities(p)) + self.offset)

    def as_plain(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: see `recalibration_from`."""
        return {"method": "platt", "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic:
    """The share of right answers, as the rising function of the confidence that fits best (Zadrozny and Elkan 2002).

    Between two confidences that were seen it goes straight from one's share to the other's; below the lowest and above
    the highest it stays at theirs. The ends are often shares of few rows, so exactly 0 or 1 may come out.

    Attributes:
        confidences: (k,) ascending: the ends of the stretches on which the share is the same.
        shares: (k,) of right answers at these, never falling.
    """

    confidences: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        p, y = as_probabilities(self.confidences), as_probabilities(self.shares, "shares")
        check_same_length(confidences=p, shares=y)
        if (np.diff(p) <= 0).any() or (np.diff(y) < 0).any():
            raise ScoringError("An isotonic recalibration needs confidences that rise and shares that do not fall.")

    def __call__(self, p: Any) -> np.ndarray:
        """(n,) confidences within [0, 1] -> (n,) float64."""
        return np.interp(as_probabilities(p), self.confidences, self.shares)

    def as_plain(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: see `recalibration_from`."""
        return {"method": "isotonic", "confidences": list(self.confidences), "shares": list(self.shares)}


Recalibration = Temperature | Platt | Isotonic


def fit_recalibration(confidences: Any, labels: Any, *, method: Method = "temperature") -> Recalibration:
    """Fit one on validation rows.

    Args:
        confidences: (n,) P(the answer is right), within [0, 1]; numpy, torch or a list.
        labels: (n,) 1 where it is, else 0.
        method: "temperature" has one number to fit, "platt" two, "isotonic" many: it needs some hundred rows.

    Raises:
        ScoringError: an unknown method; NaN, values outside their range, lengths that differ, or one class only.
    """
    if method not in _FITS:
        raise ScoringError(f"method={method!r}: choose one of {', '.join(_FITS)}.")
    return _FITS[method](confidences, labels)


def fit_temperature(confidences: Any, labels: Any) -> Temperature:
    """The temperature of least NLL, between 1/100 and 100; arguments and errors as `fit_recalibration`.

    There is a warning where it is one of these ends: the confidences are all on the right side of .5, or say nothing.
    """
    p, y = _rows(confidences, labels)
    z = _log_odds(p)

    def slope_of_loss(inverse: float) -> float:
        return float(np.mean((expit(inverse * z) - y) * z))

    if not z.any():
        return Temperature(1.0)
    for inverse, rising in ((1 / _EXTREME, True), (_EXTREME, False)):
        if (slope_of_loss(inverse) >= 0) == rising:
            log.warning("The temperature is %g, the most extreme there is: look at these confidences.", 1 / inverse)
            return Temperature(1 / inverse)
    # The loss is convex in the inverse temperature, so its slope is 0 in one place.
    return Temperature(1 / root_scalar(slope_of_loss, bracket=(1 / _EXTREME, _EXTREME), xtol=1e-14).root)


def fit_platt(confidences: Any, labels: Any) -> Platt:
    """Slope and offset of least NLL; arguments and errors as `fit_recalibration`.

    As Platt has it, labels count as (n + 1) / (n + 2) of the right and 1 / (n + 2) of the wrong rows, so that there is
    an answer where confidences tell them apart perfectly. A slope below 0 would turn the ranking round: it becomes 0
    with a warning, and every confidence the share of right answers.
    """
    p, y = _rows(confidences, labels)
    right = y.sum()
    target = np.where(y == 1, (right + 1) / (right + 2), 1 / (y.size - right + 2))
    constant = Platt(0.0, float(logit(target.mean())))
    z = _log_odds(p)
    mean, spread = z.mean(), z.std()
    if spread <= 1e-12 * max(abs(mean), 1.0):
        return constant
    X = np.stack([(z - mean) / spread, np.ones_like(z)], axis=1)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = X @ w
        return float(np.mean(np.logaddexp(0, logits) - target * logits)), X.T @ (expit(logits) - target) / y.size

    def curvature(w: np.ndarray) -> np.ndarray:
        q = expit(X @ w)
        return (X * (q * (1 - q))[:, None]).T @ X / y.size

    start = np.array([0.0, constant.offset])
    a, b = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-11}).x
    if a < 0:
        log.warning("Wrong answers have the higher confidences here: every confidence becomes the share that is right.")
        return constant
    return Platt(float(a / spread), float(b - a * mean / spread))


def fit_isotonic(confidences: Any, labels: Any) -> Isotonic:
    """The recalibration of CORP (`CalibrationMetrics.corp`); arguments and errors as `fit_recalibration`."""
    p, y = _rows(confidences, labels)
    ranked = Ranked.of(p, y)
    shares = isotonic_regression(ranked.right / ranked.n, weights=ranked.n).x.clip(0, 1)
    # Of a stretch of equal shares only its ends are needed.
    changes = np.diff(shares) != 0
    ends = np.concatenate([[True], changes]) | np.concatenate([changes, [True]])
    return Isotonic(tuple(ranked.values[ends].tolist()), tuple(shares[ends].tolist()))


def recalibration_from(plain: Mapping[str, Any]) -> Recalibration:
    """What `as_plain` has written, from a file that anybody may have written.

    Raises:
        ScoringError: an unknown method, missing or further entries, or numbers that no recalibration has.
    """
    method = plain.get("method")
    kind = _KINDS.get(method) if isinstance(method, str) else None
    if kind is None:
        raise ScoringError(f"The recalibration's method is {method!r:.80}; {', '.join(_KINDS)} are known.")
    values = {key: value for key, value in plain.items() if key != "method"}
    if values.keys() != kind.__dataclass_fields__.keys():
        wanted = ", ".join(kind.__dataclass_fields__)
        raise ScoringError(f"A recalibration by {method} has {wanted}, and this one {sorted(values)!r:.200}.")
    return kind(**{name: _plain_numbers(name, value) for name, value in values.items()})


_FITS = {"temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}
_KINDS: dict[str, Any] = {"temperature": Temperature, "platt": Platt, "isotonic": Isotonic}


def _rows(confidences: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    p, y = as_probabilities(confidences), as_labels(labels)
    check_same_length(confidences=p, labels=y)
    if y.min() == y.max():
        raise ScoringError(f"All {y.size} labels are {y[0]:.0f}: recalibration needs right and wrong answers.")
    return p, y


def _log_odds(p: np.ndarray) -> np.ndarray:
    return logit(p.clip(_LEAST, 1 - _LEAST))


def _check(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    ok = _is_number(value) and np.isfinite(value)
    if not ok or (above is not None and value <= above) or (least is not None and value < least):
        bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
        raise ScoringError(f"{name} is {value!r:.80}; a finite number{bound} is needed.")


def _is_number(value: Any) -> bool:
    """JSON knows whole numbers that no float holds."""
    return type(value) is float or (type(value) is int and abs(value) < 1e300)


def _plain_numbers(name: str, value: Any) -> Any:
    """A number, or a list of them as a tuple; anything else, such as a text or true, is refused."""
    if _is_number(value):
        return value
    if not isinstance(value, list) or len(value) > _MOST_NODES or not all(map(_is_number, value)):
        raise ScoringError(f"{name} of the recalibration is {value!r:.80}; a number or a list of numbers is needed.")
    return tuple(value)
