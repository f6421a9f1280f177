"""An answer in words is read by stated rules; what was found, by which rule and where, is kept."""

import pytest

from src.data.scoring import NOTHING_FOUND, RULES, mark
from src.errors import ScoringError

CHOICES = ("Paris", "Rome", "Oslo", "New York")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), (" B) Rome", "B"), ("**B**", "B"), ("B: Rome", "B"),
        ("Answer: B because not A", "B"), ("The answer is (b).", "B"), ("the correct option is B, not C", "B"),
        ("A is wrong. The answer is D", "D"), ("Answer: A. No, answer: C.", "C"), ("I choose option C", "C"),
        ("It must be (C)", "C"), ("So it is D.", "D"), ("The answer is **C**.", "C"), ("answer=C", "C"),
        ("It is Rome.", "B"), ("new york", "D"), ("The answer is a city, Oslo", "C"),
        ("I would go with A.", "A"), (r"\boxed{A}", "A"), (r"\boxed{C}", "C"), ("It is not B.", None),
        ("Paris or Rome", None), ("", None), ("E", None), ("(F)", None), ("A city in the north", None),
        ("I don't know", None), ("Berlin", None), ("C'est la vie", None), ("cab", None),
    ],
)  # fmt: skip
def test_a_letter_is_read_as_people_write_it(text, letter):
    found = mark(text, "B", rule="letter", choices=CHOICES)
    assert found.extracted == letter
    assert found.correct == (letter == "B")
    assert bool(found.extractor) == (letter is not None)
    if found.span and len(text[slice(*found.span)]) == 1:
        assert text[slice(*found.span)].upper() == letter


def test_i_is_a_letter_only_where_it_is_no_word():
    many = [f"choice {n}" for n in range(10)]
    assert mark("Answer: I think it is B.", "B", rule="letter", choices=many).extracted == "B"
    assert mark("Answer: I", "I", rule="letter", choices=many).correct


def test_a_letter_needs_choices_and_a_target_among_them():
    with pytest.raises(ScoringError, match="'ABCD'"):
        mark("A", "E", rule="letter", choices=CHOICES)
    with pytest.raises(ScoringError, match="letter"):
        mark("A", "A", rule="letter")


@pytest.mark.parametrize(
    ("text", "target", "rule", "piece", "extractor"),
    [
        ("so 12 and then 1,800 dollars", "1800", "numeric", "1,800", "last number"),
        ("5 #### −18 apples, 4", "-18", "numeric", "−18", "number after ####"),
        ("#### 18 is it", "18", "gsm8k_strict", "18", "strict"),
        ("it is 5 or $18.", "18", "gsm8k_flexible", "$18.", "flexible"),
        ("  It is Paris. ", "paris", "contains", "Paris", "whole text"),
        ("  Paris ", "paris", "exact", "Paris", "whole text"),
        ("The answer is (c), I think", "C", "letter", "c", "the answer is X"),
        ("certainly Oslo!", "C", "letter", "Oslo", "a choice's text"),
        ("Someone said one", "one", "contains", "one", "whole text"),
    ],
)
def test_where_an_answer_stands_is_known(text, target, rule, piece, extractor):
    found = mark(text, target, rule=rule, choices=CHOICES)
    assert found.correct
    assert found.extractor == extractor
    assert text[slice(*found.span)] == piece
    assert found.span[0] == text.rindex(piece)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_found_is_a_category_of_its_own(rule):
    target = {"numeric": "18", "letter": "B"}.get(rule, "18")
    assert mark("  ", target, rule=rule, choices=CHOICES) == NOTHING_FOUND


@pytest.mark.parametrize(
    ("text", "target", "rule", "right"),
    [
        ("Answer: A", "A", "contains", True), ("Answer: B", "A", "contains", False),
        ("The!", "the", "exact", True), ("a", "the", "exact", False), ("what ?", "?", "contains", True),
        ("?", "?", "exact", True), ("what", "?", "contains", False), ("+", "-", "exact", False),
    ],
)  # fmt: skip
def test_targets_of_articles_or_signs_only_can_be_met(text, target, rule, right):
    assert mark(text, target, rule=rule).correct == right
