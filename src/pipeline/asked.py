"""What one model said: handed from the asking to the probing."""

from dataclasses import dataclass

import numpy as np

from src.data.scoring import Mark


@dataclass(frozen=True)
class Asked:
    """What one model said about every question; labels belong to the model.

    Attributes:
        answers: a letter, or the answer's text.
        correct: (n,) 1.0 where the answer is right.
        confidence: (n,) the model's own probability: of the chosen one among the choices, or per token.
        signals: other numbers about the answers that may tell right from wrong, name -> (n,): of choices "entropy"
            (nats, of the choices' shares), "margin" (of the best over the second share) and "choice_mass"; of free
            answers "least_log_probability" and "perplexity"; where configured "p_true" and "self_consistency".
        layers: names of the layers, in the order of `hidden`.
        hidden: (n, layers, d) float32 at the configured position.
        status: of each answer: "answered", "nothing found", "cut at the token limit" or "cut while thinking".
        marks: how each free answer was judged; empty where choices were scored.
        elsewhere: how many answers had no token at the configured position, so that the answer's (or the prompt's)
            last token was read.
        truncated: how many prompts were cut.
    """

    answers: tuple[str, ...]
    correct: np.ndarray
    confidence: np.ndarray
    signals: dict[str, np.ndarray]
    layers: tuple[str, ...]
    hidden: np.ndarray
    status: tuple[str, ...]
    marks: tuple[Mark, ...]
    elsewhere: int
    truncated: int
