"""`ConfidenceModel`: ask a question, get an answer with the probe's confidence, read while the model answers."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from src.data import prompts
from src.data.example import LETTERS, Example
from src.data.scoring import mark
from src.errors import DataError, ModelError
from src.models.answer_states import AnswerPosition, Span
from src.models.answering import answer_choices
from src.models.live import answer_live
from src.models.loader import DTYPES, ModelLoader
from src.probes.artifact import SavedProbe
from src.probes.attention import ATTENTION
from src.probes.origin import Asking
from src.probes.solver import probability
from src.probes.tokens import TokenStates

# A right answer that every marking rule can read; what a rule finds in an answer does not depend on it, but for one.
_ANY_TARGET = {"letter": "A"}
_NEEDS_TARGET = "contains"


@dataclass(frozen=True)
class Answer:
    """What the model says, and how sure one can be; `text, confidence = answer` takes the two apart.

    Attributes:
        text: the answer; of choices the text of the one that was chosen. It is there even where `abstained`.
        confidence: P(the answer is right), of the probe, recalibrated where the probe is.
        abstained: whether it is below the threshold that was asked for.
        choice: its index among the choices, where these were given and one of them was picked by likelihood.
        finished: False where the token limit ended the answer.
    """

    text: str
    confidence: float
    abstained: bool = False
    choice: int | None = None
    finished: bool = True

    def __iter__(self) -> Iterator[Any]:
        return iter((self.text, self.confidence))


@dataclass(frozen=True)
class ConfidenceModel:
    """A language model with a probe of its own: `from_pretrained` makes one.

    Attributes:
        probe: which was fitted on states of this very model.
        model, tokenizer: as `ModelLoader.load` gives them. The adapter must stay switched as it was.
    """

    probe: SavedProbe
    model: Any
    tokenizer: Any

    @classmethod
    def from_pretrained(
        cls,
        probe: SavedProbe | str | Path,
        model: Any,
        tokenizer: Any = None,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
    ) -> "ConfidenceModel":
        """Put a probe and its model together.

        Args:
            probe: the probe, its folder, or the id of its hub repository.
            model: a loaded model; or a hub id or folder, which is loaded in the probe's dtype and quantisation.
            tokenizer: of a loaded model.
            adapter: the PEFT folder to load with a model that is named.
            revision: of the probe's repository.

        Raises:
            ModelError: not the model that the probe was fitted on (both are named), or a loaded model without its
                tokenizer.
            DataError: a probe that cannot be read while the model answers.
            MissingFileError, DownloadError, CredentialsError, IntegrityError: as `SavedProbe.from_pretrained`.
        """
        probe = probe if isinstance(probe, SavedProbe) else SavedProbe.from_pretrained(probe, revision)
        _check_position(probe)
        if isinstance(model, str | Path):
            of = probe.origin.model
            dtype = of.dtype if of.dtype in DTYPES else "auto"
            model, tokenizer = ModelLoader(str(model), adapter, of.quantization, dtype=dtype).load()
        if tokenizer is None:
            raise ModelError("A loaded model needs its tokenizer: from_pretrained(probe, model, tokenizer).")
        if probe.origin.asking.chat and not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "The probe was fitted on chats, and this tokenizer has no chat template. Give the model's."
            )
        probe.check_fits(model)
        return cls(probe, model, tokenizer)

    def ask(
        self, question: str, choices: Sequence[str] | None = None, *, subject: str = "", abstain: bool = False,
        risk: float = 0.05,
    ) -> Answer:  # fmt: skip
        """Put a question as those were put that the probe was fitted on.

        Args:
            question: the question alone.
            choices: the texts to choose from, where the probe was fitted on such questions.
            subject: what it is about, as the prompt writes it ("high school biology"), where it does.
            abstain: compare with the probe's threshold for this risk, see `guaranteed_threshold`: where the confidence
                is below it, or nothing can be promised, `Answer.abstained` is True.
            risk: the most answers that may be wrong of those above the threshold.

        Raises:
            DataError: a question or choices that cannot be asked, or a probe that knows no form of the prompt.
            ScoringError: the probe has no threshold for this risk.
        """
        asking, choices = self.probe.origin.asking, tuple(choices or ())
        if asking.template is None:
            raise DataError(
                "This probe does not know how its questions were put (solved examples before each, or answers from "
                "outside). Give the whole prompt: ask_prompt(prompt)."
            )
        _check_choices(asking, choices)
        if not subject and re.search(r"\{\{\s*subject\b", asking.template):
            raise DataError("The prompts that this probe was fitted on name the subject: ask(..., subject=...).")
        example = Example(question, "", choices, subject)
        example = prompts.from_template(example, asking.template, answer_by_letter=asking.by == "letters")
        if asking.by == "choices":
            example = replace(example, continuations=tuple(f" {text}" for text in choices))
        if asking.chat:
            example = prompts.as_chat(example, self.tokenizer)
        return self._answer(example, abstain=abstain, risk=risk)

    def ask_prompt(
        self, prompt: str, choices: Sequence[str] | None = None, *, abstain: bool = False, risk: float = 0.05
    ) -> Answer:
        """As `ask`, of a whole prompt, which ends right before the answer.

        Args:
            prompt: the text that the model is given, chat template included.
            choices: where the answer is chosen, the texts that may continue the prompt, each with the space it begins
                with, such as [" A", " B"].
            abstain, risk: as in `ask`.
        """
        choices = tuple(choices or ())
        _check_choices(self.probe.origin.asking, choices)
        return self._answer(Example(prompt, "", choices, "", prompt, choices), abstain=abstain, risk=risk)

    def _answer(self, example: Example, *, abstain: bool, risk: float) -> Answer:
        promise = self.probe.promise(risk) if abstain else None
        said, state = self._generated(example) if self._generates else self._chosen(example)
        # Promises were made of the confidences before recalibration.
        own = probability(self.probe.decision_function(state))[0]
        below = promise is not None and bool(own < promise.threshold)
        return replace(said, confidence=float(self.probe.predict(state)[0]), abstained=below)

    @property
    def _generates(self) -> bool:
        return self.probe.origin.asking.by == "generation"

    def _generated(self, example: Example) -> tuple[Answer, Any]:
        origin = self.probe.origin
        asking = origin.asking
        live = answer_live(
            self.model, self.tokenizer, example.prompt, origin.layer, stop=asking.stop,
            max_new_tokens=asking.max_new_tokens, thinking=asking.thinking,
        )  # fmt: skip
        if origin.position == ATTENTION:
            tokens = live.tokens(self.tokenizer)
            state = TokenStates.of(tokens, np.zeros(len(tokens), dtype=np.int64))
        else:
            state = live.state(self.tokenizer, _in_words(origin.position), self._span(live.text, example))
        return Answer(live.text, float("nan"), finished=bool(live.answers.finished[0])), state

    def _span(self, text: str, example: Example) -> Span | None:
        """Where the exact answer stands, by the rule that marked the answers the probe was fitted on."""
        origin = self.probe.origin
        if "exact_answer" not in _in_words(origin.position):
            return None
        rule = origin.asking.marking
        return mark(text, _ANY_TARGET.get(rule, "0"), rule=rule, choices=example.choices).span

    def _chosen(self, example: Example) -> tuple[Answer, np.ndarray]:
        found = answer_choices(
            self.model, self.tokenizer, [example.prompt], [example.continuations], layers=[self.probe.origin.layer]
        )
        choice = int(found.chosen[0])
        return Answer(example.choices[choice].strip(), float("nan"), choice=choice), found.hidden[:, 0]


def _in_words(position: str) -> Any:
    """In words, the letter is what the marking rule found."""
    return "exact_answer_last" if position == "answer_letter" else position


def _check_position(probe: SavedProbe) -> None:
    """Raises DataError where the wanted tokens are not looked at while the model answers."""
    position, asking = probe.origin.position, probe.origin.asking
    if asking.by != "generation" and position != "last_prompt":
        raise DataError(
            f"The probe reads {position!r}, after the answer was chosen by likelihood: that takes a second pass. Fit "
            "one at 'last_prompt', or use HiddenStateExtractor and SavedProbe.predict."
        )
    if asking.by == "generation" and _in_words(position) not in (*get_args(AnswerPosition), ATTENTION):
        known = ", ".join((*get_args(AnswerPosition), ATTENTION))
        raise DataError(f"The probe reads {position!r}, which is no token of a generated answer: {known}.")
    if position == "mean_prompt":
        raise DataError(
            "The probe reads 'mean_prompt', and of a prompt only the last token is kept while the model answers. Fit "
            "one at 'last_prompt' or 'mean_answer', or use HiddenStateExtractor and SavedProbe.predict."
        )
    if "exact_answer" in _in_words(position) and asking.marking == _NEEDS_TARGET:
        raise DataError(
            f"The probe reads {position!r} as marked by {_NEEDS_TARGET!r}: where an exact answer stands is known only "
            "beside the right one. Fit one at 'last_answer' or 'mean_answer'."
        )


def _check_choices(asking: Asking, choices: tuple[str, ...]) -> None:
    if asking.by == "generation" and asking.marking != "letter":
        if choices:
            raise DataError("This probe was fitted on answers in words: ask without choices.")
    elif not 2 <= len(choices) <= len(LETTERS):
        raise DataError(
            f"This probe was fitted on questions with choices: give 2 to {len(LETTERS)} of them, not {len(choices)}."
        )
