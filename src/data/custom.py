"""A user's own questions, one a row.

{"question": "What is the capital of France?", "answer": "Paris"}
{"question": "2 + 2 = ?", "choices": ["3", "4"], "answer": "B", "subject": "sums"}
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src import files
from src.data import prompts
from src.data.example import LETTERS, Example, ExampleDataset
from src.data.jsonl import row_error
from src.data.rows import is_text, read_rows, read_subject
from src.errors import DataError

FIELDS = ("question", "answer", "choices", "subject")


class QADataset(ExampleDataset):
    """A sequence of `Example`s from a JSONL, CSV or parquet file, or a data set of the hub.

    Args:
        path: the file or data set, see `src.data.rows.read_rows`; rows have `question`, `answer` and, if wanted,
            `choices` (a list of texts) and `subject`.
        columns: the file's own names for these fields, e.g. {"question": "q", "answer": "a"}.
        marking: how free answers are judged (see `src.data.scoring.mark`). With choices, the answer is a
            letter, or the text of one of the choices.
        split: of a data set of the hub; None: test.

    Raises:
        DataError: a missing file or field or a malformed row, with the file's name and the row number.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        marking: str = "exact",
        split: str | None = None,
    ):
        self.path, self.marking = Path(path), marking
        self.columns = {field: field for field in FIELDS} | dict(columns or {})
        self._named = {name for field, name in (columns or {}).items() if name != field}
        self._seen: set[str] = set()
        self._rows = read_rows(path, split=split)
        if unknown := set(self.columns) - set(FIELDS):
            raise DataError(f"Unknown field(s) in columns: {sorted(unknown)}. Known: {', '.join(FIELDS)}.")

    def _read(self) -> list[Example]:
        examples = [self._example(row, number) for number, row in self._rows]
        if not examples:
            raise DataError(f"{self.path} holds no questions.")
        if absent := self._named - self._seen:
            raise DataError(
                f"No row of {self.path.name} has {sorted(absent)[0]!r}, which data.columns names. The rows have "
                f"{', '.join(sorted(self._seen))}."
            )
        if len({bool(example.choices) for example in examples}) > 1:
            raise DataError(f"{self.path} mixes questions with and without choices: split it into two files.")
        return examples

    def _example(self, row: dict[str, Any], number: int) -> Example:
        self._seen |= row.keys()
        question, answer = self._text(row, "question", number), self._text(row, "answer", number)
        subject = read_subject(self.path, number, row.get(self.columns["subject"]))
        choices = row.get(self.columns["choices"])
        if choices is None or (isinstance(choices, str | list | tuple) and not choices):
            return Example(question, answer, subject=subject, prompt=prompts.free_answer(question))
        choices = self._checked_choices(choices, number)
        letter = self._letter(answer, choices, number)
        prompt = prompts.multiple_choice(question, choices)
        return Example(question, letter, choices, subject, prompt, prompts.letters(choices))

    def _text(self, row: dict[str, Any], field: str, number: int) -> str:
        value = row.get(self.columns[field])
        if not is_text(value) or not str(value).strip():
            name = self.columns[field]
            if value is None:
                there = f"{name!r} is missing; the row has {sorted(row)}"
                what = f"{there}. Name the columns: --set data.columns='{{question: q, answer: a}}'"
            else:
                what = f"{name!r} is no text: {value!r:.80}"
            raise row_error(self.path, number, what)
        return str(value).strip()

    def _checked_choices(self, choices: Any, number: int) -> tuple[str, ...]:
        if isinstance(choices, str):  # a cell of a CSV file
            with contextlib.suppress(ValueError, RecursionError):
                choices = files.strict_json(choices)
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            raise row_error(
                self.path, number, f"choices must be a list of 2 to {len(LETTERS)} texts, not {choices!r:.80}"
            )
        for choice in choices:
            if not is_text(choice) or not str(choice).strip():
                raise row_error(self.path, number, f"the choice {choice!r:.80} is no text")
        texts = tuple(str(choice).strip() for choice in choices)
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise row_error(self.path, number, f"the choice {twice!r} stands there twice")
        return texts

    def _letter(self, answer: str, choices: tuple[str, ...], number: int) -> str:
        letters = LETTERS[: len(choices)]
        if answer in choices:
            return letters[choices.index(answer)]
        if len(answer) == 1 and answer.upper() in letters:
            return answer.upper()
        raise row_error(
            self.path, number, f"the answer {answer!r} is neither a letter {letters[0]}-{letters[-1]} nor a choice"
        )
