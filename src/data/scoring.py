"""Is a free answer right? Stated rules, one per name; nothing found is a category of its own."""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from src.data.splits import normalised
from src.errors import ScoringError

RULES = ("exact", "contains", "numeric", "gsm8k_strict", "gsm8k_flexible")

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


@dataclass(frozen=True)
class Mark:
    """How one answer was judged. `extracted` is None where the rule found nothing to compare."""

    correct: bool
    extracted: str | None


def mark(text: str, target: str, *, rule: str) -> Mark:
    """Judge an answer's text against the right answer.

    Rules:
        exact: equal after lower case, no punctuation and no article (SQuAD's normalisation).
        contains: the normalised target stands in the normalised text, as whole words.
        numeric: the number after "####" or else the last number, compared by value (18 = 18.0 = $18).
        gsm8k_strict, gsm8k_flexible: the extractors of lm-evaluation-harness 0.4.13, compared as strings.

    Raises:
        ScoringError: an unknown rule, or a target that the rule cannot read.
    """
    if rule in ("exact", "contains"):
        return _mark_words(text, target, whole=rule == "exact")
    if rule == "numeric":
        return _mark_number(text, target)
    if rule in ("gsm8k_strict", "gsm8k_flexible"):
        return _mark_like_lm_eval(text, target, strict=rule == "gsm8k_strict")
    raise ScoringError(f"There is no marking rule {rule!r}. Choose one of {', '.join(RULES)}.")


def _words(text: str) -> str:
    return " ".join(word for word in normalised(text).split() if word not in ("a", "an", "the"))


def _mark_words(text: str, target: str, *, whole: bool) -> Mark:
    found, wanted = _words(text), _words(target)
    if not text.strip():
        return Mark(correct=False, extracted=None)
    correct = found == wanted if whole else f" {wanted} " in f" {found} "
    return Mark(correct, text.strip())


def as_number(text: str) -> Decimal | None:
    """The value of a number as people write it ($1,000.50, −5), or None."""
    bare = text.replace("−", "-").replace(",", "").replace("$", "").replace(" ", "").rstrip(".")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _mark_number(text: str, target: str) -> Mark:
    wanted = as_number(target)
    if wanted is None:
        raise ScoringError(f"The rule 'numeric' needs a number as the right answer, not {target!r}.")
    final = text.replace("−", "-").rpartition("####")[2]
    numbers = _NUMBER.findall(final)
    if not numbers:
        return Mark(correct=False, extracted=None)
    # After "####" the first number is the answer; in running text the last one is.
    extracted = numbers[0] if "####" in text else numbers[-1]
    return Mark(as_number(extracted) == wanted, extracted)


def _mark_like_lm_eval(text: str, target: str, *, strict: bool) -> Mark:
    if strict:
        match = _STRICT.search(text)
        extracted = match.group(1) if match else None
    else:
        matches = _FLEXIBLE.findall(text)
        extracted = next((group for group in matches[-1] if group), None) if matches else None
    if extracted is None:
        return Mark(correct=False, extracted=None)
    return Mark(_lm_eval_form(extracted) == _lm_eval_form(target), extracted)


def _lm_eval_form(text: str) -> str:
    text = text.replace(",", "").replace("$", "")
    text = re.sub(r"(?s).*#### ", "", text)
    return re.sub(r"\.$", "", text).lower().strip()
