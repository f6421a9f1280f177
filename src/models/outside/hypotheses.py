"""What states from outside may be instead of what they are said to be: each a guess that is computed and compared."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from src.models.extraction.layers import EMBEDDINGS, FINAL_NORM
from src.models.outside.truth import Truth

AS_MEANT = "as meant"
SCALED = "scaled"
OTHER_REQUEST = "another request"
_LAYER = "layer "
# Two guesses that both fit are told apart where one is that many times as far off, and farther than rounding.
_CLEARLY, _ROUNDING = 2.0, 1e-6


@dataclass(frozen=True)
class Evidence:
    """How far the states of one layer of one request lie from every guess.

    Attributes:
        errors: guess -> the largest relative error over the tokens looked at.
        rows: (tokens,) the relative error of each as meant.
        factor: that brings the true states closest to these.
    """

    errors: dict[str, float]
    rows: Tensor
    factor: float


def relative_errors(states: Tensor, expected: Tensor) -> Tensor:
    """(tokens,): the length of the difference as a share of the length expected."""
    tiny = torch.finfo(torch.float32).tiny
    return (states - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(tiny)


def weigh(states: Tensor, truth: Truth, layer: str) -> Evidence:
    """Compare (tokens, d) states that are said to be those of a layer with every guess."""
    true = truth.states[layer]
    factor = float((states * true).sum() / true.square().sum().clamp_min(torch.finfo(torch.float32).tiny))
    errors = {
        guess: float(relative_errors(states[rows], expected).max())
        for guess, expected, rows in _guesses(truth, layer, factor)
        if len(expected)
    }
    return Evidence(errors, relative_errors(states, true), factor)


def _guesses(truth: Truth, layer: str, factor: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, expected states, and of which of the rows."""
    true, tokens = truth.states[layer], torch.tensor(truth.tokens)
    every, follows = torch.arange(len(tokens)), (tokens[1:] == tokens[:-1] + 1).nonzero()[:, 0]
    yield AS_MEANT, true, every
    for name, other in truth.states.items():
        if name != layer:
            yield _LAYER + name, other, every
    below = _layer_below(layer)
    if layer in truth.added:
        yield "feed-forward alone", truth.added[layer], every
        yield "without feed-forward", true - truth.added[layer], every
    if below is not None:
        yield "increment", true - truth.states[below], every
    yield "next token", true[follows + 1], follows
    yield "previous token", true[follows], follows + 1
    yield "first token", true[:1].expand_as(true), every
    yield "last token", true[-1:].expand_as(true), every
    if factor:
        yield SCALED, factor * true, every


def _layer_below(layer: str) -> str | None:
    if layer in (EMBEDDINGS, FINAL_NORM):
        return None
    number = int(layer.removeprefix("block."))
    return f"block.{number - 1}" if number else EMBEDDINGS


def fitting(evidence: list[Evidence], tolerance: float) -> tuple[str, ...]:
    """The guesses that explain a layer of all requests and cannot be told apart, the best first; none: ().

    States that agree as meant are never called scaled by 1.
    """
    common = set.intersection(*(set(one.errors) for one in evidence))
    errors = {guess: max(one.errors[guess] for one in evidence) for guess in common}
    factors = [one.factor for one in evidence]
    if max(abs(factor - factors[0]) for factor in factors) > tolerance * abs(factors[0]):
        errors.pop(SCALED, None)
    if errors[AS_MEANT] <= tolerance:
        errors.pop(SCALED, None)
    fits = {guess: error for guess, error in errors.items() if error <= tolerance}
    best = min(fits.values(), default=0.0)
    alike = [guess for guess, error in fits.items() if error <= max(_CLEARLY * best, _ROUNDING)]
    return tuple(sorted(alike, key=lambda guess: (guess != AS_MEANT, fits[guess], guess)))


def in_words(guess: str, layer: str, factor: float) -> str:
    """What a guess says of a layer, as the second half of a sentence that begins with the layer."""
    if guess.startswith(_LAYER):
        return f"holds the state of {guess.removeprefix(_LAYER)}: {_distance(layer, guess.removeprefix(_LAYER))}"
    return {
        AS_MEANT: "holds what it says",
        SCALED: f"holds its states times {factor:.3g}: a scale was left in, or a cast to another dtype went wrong",
        "feed-forward alone": "holds only what the block's feed-forward part adds, without the residual stream: of the "
        "pair that vLLM's blocks return the second half was not added",
        "without feed-forward": "holds the residual stream without what the block's feed-forward part adds: of the "
        "pair that vLLM's blocks return the first half was not added",
        "increment": "holds only what the block adds, without the residual stream below it",
        "next token": "holds at each token the state of the next one: the states begin one token late",
        "previous token": "holds at each token the state of the one before: the states begin one token early",
        "first token": "holds at every token the state of the first one",
        "last token": "holds at every token the state of the last one",
        OTHER_REQUEST: "holds the states of other requests",
    }[guess]


def _distance(meant: str, held: str) -> str:
    if held == FINAL_NORM:
        return "the final norm was applied, and the state before it is meant"
    if meant == FINAL_NORM:
        return "the final norm was not applied, or another layer was taken"
    steps = _number(held) - _number(meant)
    which = "late" if steps > 0 else "early"
    return f"{abs(steps)} {'layer' if abs(steps) == 1 else 'layers'} too {which}"


def _number(layer: str) -> int:
    return -1 if layer == EMBEDDINGS else int(layer.removeprefix("block."))
