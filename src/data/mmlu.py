"""MMLU (Hendrycks et al. 2021, arXiv 2009.03300): four choices, 57 subjects.

>>> MMLUDataset("test", path="data/mmlu")[0]
Example(question='Find the degree for the given field extension ...', target='B',
        choices=('0', '4', '2', '6'), subject='abstract_algebra', ...)
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.data import prompts
from src.data.example import LETTERS, Example, ExampleDataset
from src.data.mmlu_subjects import subjects_of
from src.errors import DataError

HUB_NAME = "cais/mmlu"
SPLITS = {
    "train": ("dev", "val"),
    "dev": ("dev",),
    "val": ("val",),
    "test": ("test",),
    "auxiliary_train": ("auxiliary_train",),
}
_HUB_SPLITS = {"val": "validation"}

Row = tuple[str, tuple[str, ...], str, str]  # question, choices, letter, subject


class MMLUDataset(ExampleDataset):
    """A sequence of `Example`s.

    Args:
        split: "test" (14,042 questions), "val" (1,531), "dev" (285, the few-shot pool), "train" (dev and
            val together, 1,816: MMLU has no training split of its own), or "auxiliary_train" (99,842
            questions of other data sets, without subjects; on the hub only).
        category: "STEM", "humanities", "social sciences", "other" (case does not matter), a subcategory
            such as "physics", a single subject, or None for all.
        path: a folder of the original CSV files (dev/, val/, test/), or a hub name or hub-like folder.
            None: `cais/mmlu` from the hub.
        shots: solved examples before each question: the first ones of the subject's dev set, in order,
            as in lm-evaluation-harness.

    Raises:
        DataError: an unknown split or category, a missing file, or a row that is not a question.
    """

    def __init__(self, split: str, category: str | None = None, *, path: str | Path | None = None,
                 shots: int = 0):  # fmt: skip
        if split not in SPLITS:
            raise DataError(f"MMLU has no split {split!r}. Choose one of {', '.join(SPLITS)}.")
        if not 0 <= shots <= 5:
            raise DataError(f"shots={shots}: MMLU's dev set has 5 solved examples a subject. Choose 0 to 5.")
        self.split, self.category, self.path, self.shots = split, category, path, shots
        self._subjects = subjects_of(category)

    def _read(self) -> list[Example]:
        rows = [row for part in SPLITS[self.split] for row in self._rows(part)]
        solved = self._solved() if self.shots else {}
        return [self._example(row, solved.get(row[3], [])) for row in rows]

    def _example(self, row: Row, shots: list[tuple[str, str]]) -> Example:
        question, choices, letter, subject = row
        prompt = prompts.with_shots(prompts.multiple_choice(question, choices), shots, _description(subject))
        return Example(question.strip(), letter, choices, subject, prompt, prompts.letters(choices))

    def _solved(self) -> dict[str, list[tuple[str, str]]]:
        shots: dict[str, list[tuple[str, str]]] = {}
        for question, choices, letter, subject in self._rows("dev"):
            shots.setdefault(subject, []).append((prompts.multiple_choice(question, choices), letter))
        return {subject: solved[: self.shots] for subject, solved in shots.items()}

    def _rows(self, part: str) -> Iterator[Row]:
        folder = Path(self.path or HUB_NAME)
        rows = _csv_rows(folder, part) if (folder / "test").is_dir() else self._hub_rows(part)
        wanted = self._subjects
        return (row for row in rows if wanted is None or row[3] in wanted)

    def _hub_rows(self, part: str) -> Iterator[Row]:
        from src.data.hub import load_rows

        for row in load_rows(str(self.path or HUB_NAME), "all", _HUB_SPLITS.get(part, part)):
            yield _checked_hub_row(row)


def _description(subject: str) -> str:
    if not subject:
        return ""
    name = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {name}.\n\n"


def _checked_hub_row(row: dict[str, Any]) -> Row:
    try:
        question, choices, answer, subject = (row[name] for name in ("question", "choices", "answer", "subject"))
    except KeyError as error:
        raise _no_question(row) from error
    texts = [question, subject, *choices] if isinstance(choices, list | tuple) else [None]
    if len(texts) != 6 or not all(isinstance(text, str) for text in texts) or answer not in range(4) or answer is True:
        raise _no_question(row)
    return question, tuple(choices), LETTERS[int(answer)], subject


def _no_question(row: dict[str, Any]) -> DataError:
    return DataError(
        f"A row does not look like MMLU: {row!r:.200}. It needs question, subject, four choices and an answer, 0 to 3."
    )


def _numbered(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            yield number, fields
    except csv.Error as error:
        raise DataError(f"{path.name}, after row {number}: not CSV ({error}).") from error


def _broken(text: str) -> bool:
    """Whether bytes that are not UTF-8 were carried over into `text`."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def _csv_rows(folder: Path, part: str) -> Iterator[Row]:
    # The csv module and not pandas: read_csv turns the answer text "None" into a missing value.
    paths = sorted((folder / part).glob(f"*_{part}.csv"))
    if not paths:
        raise DataError(f"{folder / part} holds no *_{part}.csv files. Give the folder with dev/, val/, test/.")
    for path in paths:
        subject = path.stem.removesuffix(f"_{part}")
        with path.open(encoding="utf-8", newline="", errors="surrogateescape") as file:
            for number, fields in _numbered(csv.reader(file), path):
                if any(not field.isascii() and _broken(field) for field in fields):
                    raise DataError(f"{path.name}, row {number}: not UTF-8 text. Save the file as UTF-8.")
                if len(fields) != 6 or fields[5] not in LETTERS[:4]:
                    raise DataError(
                        f"{path.name}, row {number}: expected question, four choices and a letter A-D, "
                        f"found {len(fields)} fields ending in {fields[-1:]}."
                    )
                yield fields[0], tuple(fields[1:5]), fields[5], subject
