"""How a question becomes the text that the model is given.

The formats are those of lm-evaluation-harness 0.4.13, so that accuracies can be compared. A prompt ends
right before the answer, without a trailing space: " A" and "A" are different tokens, and the answer's
continuation starts with the space.
"""

from collections.abc import Sequence

from src.data.example import LETTERS


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """The question, one line per choice, and "Answer:"."""
    lines = [question.strip()]
    lines += [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([*lines, "Answer:"])


def letters(choices: Sequence[str]) -> tuple[str, ...]:
    """The continuations of a multiple-choice prompt: " A", " B", one per choice."""
    return tuple(f" {letter}" for letter in LETTERS[: len(choices)])


def free_answer(question: str) -> str:
    """The question and "Answer:", each on its line."""
    return f"Question: {question.strip()}\nAnswer:"


def with_shots(prompt: str, shots: Sequence[tuple[str, str]], description: str = "") -> str:
    """Put a description and solved examples (prompt, answer) before a prompt, a blank line between all."""
    solved = [f"{shot} {answer}" for shot, answer in shots]
    return description + "\n\n".join([*solved, prompt])
