"""How a question becomes the text that the model is given.

The formats are those of lm-evaluation-harness 0.4.13, so that accuracies can be compared. A prompt ends
right before the answer, without a trailing space: " A" and "A" are different tokens, and the answer's
continuation starts with the space.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jinja2
import jinja2.nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from src.data.example import LETTERS, Example
from src.errors import ConfigError


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


def from_template(example: Example, template: str, *, answer_by_letter: bool) -> Example:
    """The example with a prompt made by a user's Jinja text, in which question, choices and subject can be named.

    `choices` are (letter, text) pairs. What ends the text is cut: the answer's continuation starts with a space.

    Raises:
        ConfigError: a text that is not Jinja, names something else, or leaves the question out.
    """
    values = {
        "question": example.question,
        "choices": list(zip(LETTERS, example.choices, strict=False)),
        "subject": example.subject,
    }
    try:
        _check_template(template)
        prompt = _filled(template, values).rstrip()
    except (jinja2.TemplateError, SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"data.template cannot be filled in: {reason}. It may name question, choices (letter, text) and subject."
        ) from error
    if example.question.strip() not in prompt:
        raise ConfigError(f"data.template leaves the question out: {prompt[:80]!r}. Put {{{{ question }}}} into it.")
    missing = [text for text in example.choices if text not in prompt] if answer_by_letter else []
    if missing:
        raise ConfigError(
            f"data.template leaves the choice {missing[0]!r} out. Put a line such as "
            "{% for letter, text in choices %}{{ letter }}. {{ text }}{% endfor %} into it."
        )
    return replace(example, prompt=prompt, continuations=letters(example.choices))


_FILTERS = ("capitalize", "default", "first", "last", "length", "lower", "title", "trim", "upper")
# What could multiply a text again and again, or call itself.
_REFUSED = {"Macro": "macros", "Assign": "set", "AssignBlock": "set", "CallBlock": "calls", "Concat": "~", "Add": "+"}
_MOST_NESTED = 2
_LONGEST_TEMPLATE, _LONGEST_PROMPT = 1 << 16, 1 << 24  # characters


class _Environment(ImmutableSandboxedEnvironment):
    """Templates are input from outside: they cannot reach into Python, run for ever, or fill the memory."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError(f"the operator {operator} is not possible in a template")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return isinstance(obj, LoopContext) and super().is_safe_attribute(obj, attr, value)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    return environment


def _filled(template: str, values: dict[str, Any]) -> str:
    """Piece by piece, so that what would fill the memory is noticed before it does."""
    pieces, length = [], 0
    for piece in _environment().from_string(template).generate(values):
        length += len(piece)
        if length > _LONGEST_PROMPT:
            raise SecurityError(f"the prompt would have more than {_LONGEST_PROMPT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def _check_template(template: str) -> None:
    """Raises jinja2.TemplateError where it is no template, or holds what could run for ever."""
    if len(template) > _LONGEST_TEMPLATE:
        raise SecurityError(f"it has {len(template):,} characters, and at most {_LONGEST_TEMPLATE:,} are read")
    tree = _environment().parse(template)
    for kind, name in _REFUSED.items():
        if tree.find(getattr(jinja2.nodes, kind)):
            raise SecurityError(f"{name} is not possible in a template")
    if any(loop.recursive for loop in tree.find_all(jinja2.nodes.For)):
        raise SecurityError("a loop that calls itself is not possible in a template")
    if _nested(tree) > _MOST_NESTED:
        raise SecurityError(f"at most {_MOST_NESTED} loops may stand in each other")
    if not all(_over_choices(loop.iter) for loop in tree.find_all(jinja2.nodes.For)):
        raise SecurityError("a loop can go over choices only")


def _over_choices(what: jinja2.nodes.Node) -> bool:
    """Whether this is choices, one pair of it or a part of it, and not the letters of a text, which may be many."""
    node = what.node if isinstance(what, jinja2.nodes.Getitem) else what
    return isinstance(node, jinja2.nodes.Name) and node.name == "choices"


def _nested(node: jinja2.nodes.Node) -> int:
    inner = max(map(_nested, node.iter_child_nodes()), default=0)
    return inner + isinstance(node, jinja2.nodes.For)


def as_chat(example: Example, tokenizer: Any) -> Example:
    """The example's prompt as a user's message, up to where the assistant's answer begins.

    Continuations lose the space they begin with: the answer begins a new turn.
    """
    prompt = _turns([example.prompt], tokenizer)
    return replace(example, prompt=prompt, continuations=tuple(text.lstrip() for text in example.continuations))


def follow_up(prompt: str, answer: str, question: str, *, cue: str) -> str:
    """A prompt with its answer, a question about that, and the words before the new answer.

    Args:
        prompt: as it was given.
        answer: with the space it begins with.
        question: what is asked next.
        cue: its last line, such as "Answer:".
    """
    return f"{prompt}{answer}\n\n{question}\n{cue}"


def chat_follow_up(message: str, answer: str, question: str, tokenizer: Any) -> str:
    """The same as turns of a chat; `message` is the prompt without the template."""
    return _turns([message, answer.strip(), question], tokenizer)


def _turns(texts: Sequence[str], tokenizer: Any) -> str:
    """The user's and the assistant's texts in turn, up to where the assistant speaks next.

    Where the tokenizer puts its own beginning-of-sequence token before every text, the template's is left out, so that
    there are not two.
    """
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    prompt: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    begin = tokenizer.bos_token
    if begin and prompt.startswith(begin) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        return prompt.removeprefix(begin)
    return prompt
