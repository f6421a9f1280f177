"""`AttentionProbe`: where in the answer to look is learnt too."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from src.probes.choice import Choice
from src.probes.folds import cross_validated
from src.probes.probe import Probe
from src.probes.scaling import Scaling
from src.probes.solver import HALF_DECADES, Path, Step, mean_nll
from src.probes.states import Sample, States
from src.probes.tokens import Tokens, TokenStates

ATTENTION = "attention_answer"  # the position at which every token is read, by this family and no other
_MOST_STEPS = 100


@dataclass(frozen=True)
class AttentionWeights:
    """log-odds = weight . sum_t a_t x_t + bias with a = softmax_t(query . x_t), of standardised tokens x; float64.

    Attributes:
        weight, query: (d,).
        bias: log-odds of an answer whose tokens are all at the training mean.
        mean, scale: (d,) of the training answers' tokens.
    """

    weight: np.ndarray
    query: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray

    def logit_of(self, tokens: TokenStates) -> np.ndarray:
        """(n,) float64 log-odds that the answer is correct."""
        # Standardised or not, the weights of the tokens add up to 1, and a softmax does not see a shift.
        both = np.stack([self.weight, self.query], axis=1) / self.scale[:, None]
        seen = np.concatenate([np.empty((0, 2)), *_in_blocks(tokens.states, both)])
        return _attended(seen, tokens)[0] + self.bias - self.mean @ both[:, 0]


class AttentionProbe(Probe):
    """Predicts P(correct) from the states of all tokens of an answer, weighted by how well each fits a learnt query.

    Standardised over the tokens (every answer counts the same), L2 penalty on weight and query alike. At each C it
    starts from the logistic regression of the answers' means, which is a query of 0, so that what is minimised can only
    gain by attending. X is `TokenStates` (m, d) everywhere.

    Args:
        input_dim: the width d of the states.

    Attributes:
        weights_: the fitted `AttentionWeights`.
        C_: the inverse L2 strength that scored best on the validation rows, from half decades 1e-6 to 1.
        val_nll_: its validation loss in nats.
    """

    family = "attention"
    weights_: AttentionWeights
    C_: float

    def _fit(self, train: Sample, val: Sample | None, groups: Any) -> np.ndarray | None:
        out_of_fold = None
        if val is None:
            best, self.val_nll_, out_of_fold = cross_validated(train, groups, _along_the_path)
        else:
            losses = [mean_nll(z, val.y, val.weight) for z in _along_the_path(train, val)]
            best = int(np.argmin(losses))
            self.val_nll_ = losses[best]
        self.C_ = HALF_DECADES[best]
        self.weights_ = _Rows.of(train).fitted(self.C_)
        return out_of_fold

    def _read(self, X: Any, name: str) -> States:
        return Tokens(X, name, self.input_dim)

    def _logits(self, states: States) -> np.ndarray:
        return self.weights_.logit_of(_tokens_of(states))


def _along_the_path(fitted: Sample, held_out: Sample) -> list[np.ndarray]:
    """Log-odds of the held-out answers at each C, up to where they have become clearly worse."""
    rows, tokens = _Rows.of(fitted), _tokens_of(held_out.states, held_out.rows)
    said: list[np.ndarray] = []
    choice = Choice(fitted.weight.sum())
    for C in HALF_DECADES:
        said.append(rows.fitted(C).logit_of(tokens))
        if choice.ends(mean_nll(said[-1], held_out.y, held_out.weight)):
            break
    return said


@dataclass(frozen=True)
class _Rows:
    """Standardised tokens to fit to, their answers' targets (n,) and shares (n,), and the path of their means."""

    tokens: TokenStates
    y: np.ndarray
    share: np.ndarray
    scaling: Scaling
    path: Path

    @classmethod
    def of(cls, sample: Sample) -> "_Rows":
        tokens = _tokens_of(sample.states, sample.rows)
        # Long answers count no more than short ones.
        weight = np.repeat(sample.weight / tokens.lengths, tokens.lengths)
        states = States(tokens.states, "X", tokens.states.shape[1])
        every = Sample(states, np.arange(len(states)), np.zeros(len(states)), weight)
        scaling = Scaling.of(every)
        X = scaling.apply(every)
        means = np.add.reduceat(X, tokens.begins, axis=0) / tokens.lengths[:, None].astype(X.dtype)
        path = Path(means, sample.y, sample.weight)
        return cls(TokenStates(X, tokens.ends), sample.y, sample.weight, scaling, path)

    def fitted(self, C: float) -> AttentionWeights:
        self.path.descend(C)
        start = self.path.finished(Step(C, self.path.point, np.nan), 1e-6)
        d = start.weight.size
        v = np.concatenate([start.weight, np.zeros(d), [start.bias]])
        options = {"maxiter": _MOST_STEPS, "maxcor": 10, "gtol": 1e-5, "ftol": 1e-9}
        found = minimize(self.objective, v, (1 / (C * self.share.sum()),), "L-BFGS-B", jac=True, options=options).x
        return AttentionWeights(found[:d], found[d:-1], float(found[-1]), self.scaling.mean, self.scaling.scale)

    def objective(self, v: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        """Mean loss and penalty, and their gradient: two products with the tokens, of two columns each."""
        X, d = self.tokens.states, (v.size - 1) // 2
        weights = v[:-1].reshape(2, d)
        seen = (X @ weights.T.astype(X.dtype)).astype(np.float64)
        at_mean, attention = _attended(seen, self.tokens)
        z, share = at_mean + v[-1], self.share / self.share.sum()
        residual = share * (expit(z) - self.y)
        of_token = attention * np.repeat(residual, self.tokens.lengths)
        slopes = np.stack([of_token, of_token * (seen[:, 0] - np.repeat(at_mean, self.tokens.lengths))])
        gradient = (slopes.astype(X.dtype) @ X).astype(np.float64) + penalty * weights
        loss = mean_nll(z, self.y, share) + penalty / 2 * float(np.square(weights).sum())
        return loss, np.append(gradient.ravel(), residual.sum())


def _attended(seen: np.ndarray, tokens: TokenStates) -> tuple[np.ndarray, np.ndarray]:
    """From (m, 2), what weight and query make of each token: (n,) the attended sums, and (m,) the attention."""
    if not len(tokens):
        return np.empty(0), np.empty(0)
    begins, lengths = tokens.begins, tokens.lengths
    raised = np.exp(seen[:, 1] - np.repeat(np.maximum.reduceat(seen[:, 1], begins), lengths))
    attention = raised / np.repeat(np.add.reduceat(raised, begins), lengths)
    return np.add.reduceat(attention * seen[:, 0], begins), attention


def _in_blocks(states: Any, weights: np.ndarray) -> list[np.ndarray]:
    every = States(states, "X", weights.shape[0])
    return [block @ weights for _, block in every.blocks(dtype=np.float64)]


def _tokens_of(states: States, rows: np.ndarray | None = None) -> TokenStates:
    return cast("Tokens", states).tokens(rows)  # made by `_read`
