"""Subjects that are left out together, to see what a probe says of subjects it was not trained on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from src.data.mmlu_subjects import CATEGORIES

MOST, DEALT = 8, 5


@dataclass(frozen=True)
class SubjectGroups:
    """Groups of whole subjects.

    Attributes:
        by: "category" (of MMLU), "subject" (each is a group), or "deal" (several subjects share a group by their size
            alone).
        subjects: name of the group -> its subjects; empty where there is one subject only.
    """

    by: Literal["category", "subject", "deal"]
    subjects: dict[str, tuple[str, ...]]


def subject_groups(subjects: Iterable[str]) -> SubjectGroups:
    """MMLU's subjects by category, where there are two categories or more; else each subject, or five of over eight.

    Args:
        subjects: of every question.
    """
    counts = Counter(subjects)
    categories = {
        name.split(" (")[0]: tuple(sorted(counts.keys() & " ".join(parts.values()).split()))
        for name, parts in CATEGORIES.items()
    }
    held = {name: found for name, found in categories.items() if found}
    if len(held) > 1 and sum(map(len, held.values())) == len(counts):
        return SubjectGroups("category", held)
    if len(counts) > MOST:
        return SubjectGroups("deal", _dealt(counts))
    return SubjectGroups("subject", {subject: (subject,) for subject in sorted(counts)} if len(counts) > 1 else {})


def _dealt(counts: Counter[str]) -> dict[str, tuple[str, ...]]:
    """The largest first, each to the group that holds the fewest questions."""
    groups: list[list[str]] = [[] for _ in range(DEALT)]
    for subject in sorted(counts, key=lambda subject: (-counts[subject], subject)):
        min(groups, key=lambda group: sum(counts[one] for one in group)).append(subject)
    return {f"group {number}": tuple(sorted(group)) for number, group in enumerate(groups, 1)}
