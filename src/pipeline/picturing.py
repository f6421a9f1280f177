"""What the figures draw, and the answers that are worth reading: of the test questions, as plain values."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from src.data.example import LETTERS, Example
from src.evaluation.ranking import Ranked
from src.evaluation.shares import wilson
from src.pipeline.asked import Asked

MOST_POINTS, MOST_EXAMPLES, MOST_CHARACTERS = 200, 10, 600
_STEPS = 20


def pictures(confidences: Mapping[str, np.ndarray], y: np.ndarray, bins: int) -> dict[str, dict[str, Any]]:
    """Of each scorer's confidences (n_test,) and the labels: "reliability", "risk_coverage" and "histogram"."""
    ranked = {name: Ranked.of(p, y) for name, p in confidences.items()}
    return {
        "reliability": {name: _reliability(one, bins) for name, one in ranked.items()},
        "risk_coverage": {name: _risk_coverage(one) for name, one in ranked.items()},
        "histogram": {name: _histogram(p, y) for name, p in confidences.items()},
    }


def _reliability(ranked: Ranked, bins: int) -> list[dict[str, float]]:
    rows = ranked.bins(bins).rows()
    intervals = [wilson(row["accuracy"] * row["n"], int(row["n"])) for row in rows]
    return [
        row | {"accuracy_low": low, "accuracy_high": high} for row, (low, high) in zip(rows, intervals, strict=True)
    ]


def _risk_coverage(ranked: Ranked) -> dict[str, list[float]]:
    _, coverage, risk = ranked.risk_coverage()
    steps = np.linspace(0, coverage.size - 1, min(MOST_POINTS, coverage.size)).round().astype(np.intp)
    return {"coverage": coverage[steps].tolist(), "risk": risk[steps].tolist()}


def _histogram(p: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    edges = np.linspace(0, 1, _STEPS + 1)
    counts = {name: np.histogram(p[y == side], edges)[0].tolist() for name, side in (("right", 1), ("wrong", 0))}
    return {"edges": edges.tolist()} | counts


def examples_of(
    examples: tuple[Example, ...], rows: np.ndarray, asked: Asked, p: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """The most confident wrong answers ("wrong") and the least confident right ones ("right"), at most 10 each.

    Args:
        examples: all questions.
        rows: (n_test,) the test questions among them.
        asked: what the model said.
        p: (n_test,) confidences.
    """
    y, ascending = asked.correct[rows], np.argsort(p, kind="stable")
    wrong, right = (order[y[order] == side][:MOST_EXAMPLES] for order, side in ((ascending[::-1], 0), (ascending, 1)))

    def entry(place: int) -> dict[str, Any]:
        example = examples[rows[place]]
        return {
            "id": example.id,
            "subject": example.subject,
            "question": _cut(example.question),
            "answer": _cut(_with_text(asked.answers[rows[place]], example)),
            "target": _cut(_with_text(example.target, example)),
            "confidence": float(p[place]),
        }

    return {"wrong": [entry(place) for place in wrong], "right": [entry(place) for place in right]}


def _with_text(answer: str, example: Example) -> str:
    """A letter with the choice that it stands for."""
    place = LETTERS.find(answer) if len(answer) == 1 else -1
    return f"{answer}: {example.choices[place]}" if 0 <= place < len(example.choices) else answer


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
