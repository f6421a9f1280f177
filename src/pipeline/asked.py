"""What one model said: handed from the asking to the probing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from src.data.scoring import Mark
from src.probes.sweep import Place
from src.probes.tokens import TokenStates

ANSWERED = "answered"


@dataclass(frozen=True)
class Asked:
    """What one model said about every question; labels belong to the model.

    Attributes:
        answers: a letter, or the answer's text.
        correct: (n,) 1.0 where the answer is right.
        confidence: (n,) the model's own probability: of the chosen one among the choices, or per token.
        signals: other numbers about the answers that may tell right from wrong, name -> (n,): of choices "entropy"
            (nats, of the choices' shares), "margin" (of the best over the second share) and "choice_mass"; of free
            answers "least_log_probability" and "perplexity"; where configured "p_true", "stated" and
            "self_consistency". NaN: the model said nothing of the kind.
        places: position and layer of each state, in the order of `hidden` and then of `tokens`.
        hidden: (n, places, d) float32, of the places that are read at one token, or as one mean.
        status: of each answer: "answered", "nothing found", "cut at the token limit" or "cut while thinking".
        marks: how each free answer was judged; empty where choices were scored.
        elsewhere: position -> how many answers had no such token, so that the answer's (or the prompt's) last one was
            read; only positions where there were some.
        truncated: how many prompts were cut.
        shortened: signal -> of how many prompts that asked again the beginning was cut off; only where there were some.
        tokens: of the n answers, (m, places, d) float32, where every token is read; None: nowhere.
    """

    answers: tuple[str, ...]
    correct: np.ndarray
    confidence: np.ndarray
    signals: dict[str, np.ndarray]
    places: tuple[Place, ...]
    hidden: np.ndarray
    status: tuple[str, ...]
    marks: tuple[Mark, ...]
    elsewhere: dict[str, int]
    truncated: int
    tokens: TokenStates | None = None
    shortened: Mapping[str, int] = field(default_factory=dict)

    @property
    def answered(self) -> np.ndarray:
        """(n,) True where there was something to mark: a choice, or an answer in which something was found."""
        if not self.marks:
            return np.ones(len(self.answers), dtype=bool)
        return np.array([mark.extracted is not None for mark in self.marks])
