"""One answer, and the states the model had while it gave it: they are read in the passes of generation itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.errors import DataError, ModelError
from src.models.answer_states import EVERY, AnswerPosition, Reading, Span
from src.models.decoding import generate
from src.models.extraction.capture import watching
from src.models.extraction.layers import anatomy, layer_names
from src.models.extraction.tokens import context_length, tokenize
from src.models.generation import FreeAnswers, end_ids, prompt_limit, spoken
from src.models.reading import Reader, Thinking, thinking_marks


@dataclass(frozen=True)
class LiveAnswer:
    """What a model said, and one layer's states while it did.

    Attributes:
        answers: the one answer.
        states: (1 + tokens, d) in the model's dtype: at the prompt's last token, then at each token that followed.
    """

    answers: FreeAnswers
    states: Tensor

    @property
    def text(self) -> str:
        """The answer."""
        return self.answers.texts[0]

    def state(self, tokenizer: Any, position: AnswerPosition, span: Span | None = None) -> np.ndarray:
        """(1, d) float32: what `answer_states` would read with another pass.

        Args:
            tokenizer: the model's.
            position: as there.
            span: of the exact answer in the text, for positions that need it.
        """
        return self._read(Reading.of(tokenizer, self.answers, 0, position, span)).mean(0, keepdim=True).cpu().numpy()

    def tokens(self, tokenizer: Any) -> np.ndarray:
        """(t, d) float32: of each token of the answer; of one without a token that of the last before it."""
        return self._read(Reading.of(tokenizer, self.answers, 0, EVERY, None)).cpu().numpy()

    def _read(self, reading: Reading) -> Tensor:
        before = len(self.answers.prompt_ids[0]) - 1
        return torch.stack([
            self.states[first - before : last + 1 - before].float().mean(0) for first, last in reading.places
        ])  # fmt: skip


def answer_live(
    model: Any,
    tokenizer: Any,
    prompt: str,
    layer: int | str,
    *,
    stop: Sequence[str] = (),
    max_new_tokens: int = 256,
    thinking: Thinking | None = None,
) -> LiveAnswer:
    """Generate one greedy answer, as `answer_freely` does, and keep a layer's states on the way.

    Generation goes on for one token after the answer's last where nothing else makes the model look at that token:
    after a stop string, and at the token limit.

    Args:
        model, tokenizer: from `ModelLoader.load`.
        prompt: it ends right before the answer.
        layer: as in `HiddenStateExtractor.extract`, one of them.
        stop, max_new_tokens, thinking: as in `answer_freely`.

    Raises:
        DataError: an empty or over-long prompt, or a stop string that the tokenizer cannot write.
        ModelError: no such layer, or one that is not passed once for every token.
    """
    parts, marks = anatomy(model), thinking_marks(tokenizer, thinking)
    (name,) = layer_names([layer], len(parts.blocks))
    context = context_length(model)
    tokens = tokenize(tokenizer, [prompt], limit=prompt_limit(model, max_new_tokens))
    (ids,) = tokens.ids
    room = min(max_new_tokens, context - len(ids)) if context else max_new_tokens
    criteria = [_OneTokenLater(tokenizer, stop)] if stop and not thinking else []
    seen: list[Tensor] = []
    try:
        with watching(parts, name, lambda states: seen.append(states[0, -1].clone())):
            said = generate(model, tokenizer, [ids], room + 1, (), width=room + 1, sampling=None, criteria=criteria)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"A prompt of {len(ids):,} tokens and its answer do not fit into the GPU's memory beside the model. Allow "
            "shorter answers, or use a quantised or smaller model."
        ) from error
    new, log_probabilities = spoken(said[0][0], said[1][0])
    if len(seen) != len(new):
        raise ModelError(
            f"{type(model).__name__} looked {len(seen)} times at {name} for {len(new)} tokens: it is not known which "
            "state belongs to which token. Choose a layer that every token passes once."
        )
    reader = Reader(tokenizer, end_ids(model, tokenizer, stop), stop, marks)
    one = reader.read(ids, new[:room], log_probabilities[:room])
    answers = FreeAnswers(
        texts=(one.text,),
        log_probabilities=np.array([one.mean]),
        least_log_probabilities=np.array([one.least]),
        finished=np.array([one.finished]),
        truncated=(),
        prompt_ids=(ids,),
        thought_ids=(one.thought,),
        answer_ids=(one.ids,),
        cut_while_thinking=np.array([one.cut_while_thinking]),
    )
    return LiveAnswer(answers, torch.stack(seen))


class _OneTokenLater:
    """A stopping criterion: the text has held a stop string since the token before."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        from transformers import StopStringCriteria

        try:
            self._criterion: Any = StopStringCriteria(tokenizer, list(stop))
        except ValueError as error:
            raise DataError(f"The tokenizer cannot write one of the stop strings {list(stop)!r:.200}.") from error
        self._held: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """(1,) whether to end."""
        before, held = self._held, self._criterion(input_ids, scores)
        self._held = held
        return torch.zeros_like(held) if before is None else before
