"""Is a free answer right? Stated rules, one per name; nothing found is a category of its own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from src.data.example import LETTERS
from src.data.splits import normalised
from src.errors import ScoringError

RULES = ("exact", "contains", "numeric", "letter", "gsm8k_strict", "gsm8k_flexible")

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_STATED = re.compile(r"(?<![\w.-])(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})(?!\w)\s*(?:%|(?:/|out of)\s*(\d{1,9}))?")
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Where people and models write a letter, the surest form first; of several matches of one form the last counts.
_LETTER_FORMS = (
    (
        "the answer is X",
        # A small letter that goes on is a word: "the answer is a city".
        re.compile(
            r"(?i:answer|option|choice)(?i:\s+is)?\s*[:=]?\s*\**\(?([A-HJ]|I(?!\s+\w)|[a-j](?=\s*[).,;:]|\s*\Z))(?![\w'’])"
        ),
    ),
    ("X alone", re.compile(r"\A\W*([A-Ja-j])\W*\Z")),
    ("X first", re.compile(r"\A\W*([A-J])\s*[).:,;\n]")),
    ("(X)", re.compile(r"\(([A-J])\)")),
    ("X last", re.compile(r"(?<![\w'’])(?<!not )([A-J])\W*\Z")),
)


@dataclass(frozen=True)
class Mark:
    """How one answer was judged.

    Attributes:
        correct: whether it is right.
        extracted: what was compared; None where the rule found nothing to compare.
        extractor: which part of the rule found it; "" where nothing was found.
        span: where it stands in the answer's text (start, end); None where it does not stand there as it is.
    """

    correct: bool
    extracted: str | None
    extractor: str = ""
    span: tuple[int, int] | None = None


NOTHING_FOUND = Mark(correct=False, extracted=None)


def mark(text: str, target: str, *, rule: str, choices: Sequence[str] = ()) -> Mark:
    """Judge an answer's text against the right answer.

    Rules:
        exact: equal after lower case, no punctuation and no article (SQuAD's normalisation).
        contains: the normalised target stands in the normalised text, as whole words.
        numeric: the number after "####" or else the last number, compared by value (18 = 18.0 = $18).
        letter: the letter that the text names ("B", "(B)", "B.", "Answer: B because not A"), or the one choice whose
            text it holds; letters beyond the choices do not count.
        gsm8k_strict, gsm8k_flexible: the extractors of lm-evaluation-harness 0.4.13, compared as strings.

    Raises:
        ScoringError: an unknown rule, or a target that the rule cannot read.
    """
    if rule in ("exact", "contains"):
        return _mark_words(text, target, whole=rule == "exact")
    if rule == "numeric":
        return _mark_number(text, target)
    if rule == "letter":
        return _mark_letter(text, target, choices)
    if rule in ("gsm8k_strict", "gsm8k_flexible"):
        return _mark_like_lm_eval(text, target, strict=rule == "gsm8k_strict")
    raise ScoringError(f"There is no marking rule {rule!r}. Choose one of {', '.join(RULES)}.")


def _words(text: str) -> str:
    return " ".join(word for word in normalised(text).split() if word not in ("a", "an", "the"))


def _mark_words(text: str, target: str, *, whole: bool) -> Mark:
    if not text.strip():
        return NOTHING_FOUND
    if not re.search(r"\w", target):  # a sign, such as "?" or "+"
        found, wanted = text.strip(), target.strip()
    else:
        form = _words if _words(target) else normalised  # "A" is no article where it is all
        found, wanted = f" {form(text)} ", f" {form(target)} "
    correct = found == wanted if whole else wanted in found
    there = None if whole else _standing(target, text)
    start = len(text) - len(text.lstrip())
    span = there.span() if there else (start, start + len(text.strip()))
    return Mark(correct, text.strip(), "whole text", span)


def _standing(words: str, text: str) -> re.Match[str] | None:
    """Where they stand in a text as whole words; None where they stand there in another form only."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE)


def _mark_letter(text: str, target: str, choices: Sequence[str]) -> Mark:
    letters = LETTERS[: len(choices)]
    if target not in letters or not target:
        raise ScoringError(f"The rule 'letter' needs one of {letters!r} as the right answer, not {target!r}.")
    for extractor, form in _LETTER_FORMS:
        matches = [match for match in form.finditer(text) if match.group(1).upper() in letters]
        if matches:
            letter = matches[-1].group(1).upper()
            return Mark(letter == target, letter, extractor, matches[-1].span(1))
    said = f" {normalised(text)} "
    named = [place for place, choice in enumerate(choices) if f" {normalised(choice)} " in said]
    if len(named) != 1:
        return NOTHING_FOUND
    there = _standing(choices[named[0]], text)
    letter = letters[named[0]]
    return Mark(letter == target, letter, "a choice's text", there.span() if there else None)


def as_number(text: str) -> Decimal | None:
    """The value of a number as people write it ($1,000.50, −5), or None."""
    bare = text.replace("−", "-").replace(",", "").replace("$", "").replace(" ", "").rstrip(".")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def stated_probability(text: str) -> float | None:
    """The probability that a text states: 85%, 85, .85, 85/100 or 9 out of 10; None where it states none.

    The first number counts. Alone, it is a share where it is written as one (0.85, 1.0), else of 100.
    """
    found = _STATED.search(text)
    if found is None:
        return None
    number, of = float(found[1]), float(found[2] or 100)
    if "." in found[1] and number <= 1 and found[2] is None and "%" not in found[0]:
        return number
    return number / of if number <= of and of else None


def _mark_number(text: str, target: str) -> Mark:
    wanted = as_number(target)
    if wanted is None:
        raise ScoringError(f"The rule 'numeric' needs a number as the right answer, not {target!r}.")
    final = text.replace("−", "-").rpartition("####")[2]
    numbers = list(_NUMBER.finditer(final))
    if not numbers:
        return NOTHING_FOUND
    # After "####" the first number is the answer; in running text the last one is.
    marked = "####" in text
    match = numbers[0] if marked else numbers[-1]
    before = len(text) - len(final)
    span = (match.start() + before, match.end() + before)
    extractor = "number after ####" if marked else "last number"
    return Mark(as_number(match.group()) == wanted, match.group(), extractor, span)


def _mark_like_lm_eval(text: str, target: str, *, strict: bool) -> Mark:
    matches = list((_STRICT if strict else _FLEXIBLE).finditer(text))
    if not matches:
        return NOTHING_FOUND
    match = matches[0] if strict else matches[-1]
    group = next((index for index, found in enumerate(match.groups(), 1) if found), 0)
    extracted, extractor = match.group(group), "strict" if strict else "flexible"
    return Mark(_lm_eval_form(extracted) == _lm_eval_form(target), extracted, extractor, match.span(group))


def _lm_eval_form(text: str) -> str:
    text = text.replace(",", "").replace("$", "")
    text = re.sub(r"(?s).*#### ", "", text)
    return re.sub(r"\.$", "", text).lower().strip()
