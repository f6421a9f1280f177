"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school arithmetic in words, free answers.

>>> GSM8KDataset("test", path="data/gsm8k")[0]
Example(question='Janet’s ducks lay 16 eggs per day. ...', target='18', ...)
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.data import prompts
from src.data.example import Example, ExampleDataset
from src.data.jsonl import read_jsonl
from src.errors import DataError

HUB_NAME = "openai/gsm8k"
# The seed that lm-evaluation-harness draws shots with.
_SHOT_SEED = 1234


class GSM8KDataset(ExampleDataset):
    """A sequence of `Example`s; `target` is the number after "####".

    Args:
        split: "train" (7,473 questions) or "test" (1,319).
        path: a folder with train.jsonl and test.jsonl, or a hub name or hub-like folder. None: the hub.
        shots: solved examples before each question, with their calculator marks (<<..>>): drawn from the training
            split as lm-evaluation-harness 0.4.13 draws them, others for every question, so that they depend on its
            place in the split.

    Raises:
        DataError: an unknown split, a missing file, or a row without a final answer.
    """

    marking = "numeric"
    stop = ("Question:", "</s>", "<|im_end|>")
    max_new_tokens = 256

    def __init__(self, split: str, *, path: str | Path | None = None, shots: int = 0):
        if split not in ("train", "test"):
            raise DataError(f"GSM8K has no split {split!r}. Choose train or test.")
        if shots and split == "train":
            raise DataError("Few-shot examples come from the training split: use shots=0 with it.")
        self.split, self.path, self.shots = split, path, shots

    def _read(self) -> list[Example]:
        return [
            Example(
                question=question,
                target=final_answer(answer),
                subject="gsm8k",
                prompt=prompts.with_shots(prompts.free_answer(question), shots),
            )
            for (question, answer), shots in zip(self._rows(self.split), self._drawn(), strict=False)
        ]

    def solutions(self) -> list[str]:
        """Of every example in order the worked solution in words, with its calculator marks (<<..>>) and "#### 18"."""
        return [answer for _, answer in self._rows(self.split)]

    def _drawn(self) -> Iterator[list[tuple[str, str]]]:
        """Solved examples of each question in turn, from one stream of random numbers."""
        if not self.shots:
            yield from itertools.repeat([])
        solved = [(prompts.free_answer(question), answer) for question, answer in self._rows("train")]
        if self.shots > len(solved):
            raise DataError(f"shots={self.shots}, but the training split has {len(solved)} questions.")
        stream = random.Random(_SHOT_SEED)
        while True:
            yield stream.sample(solved, self.shots)

    def _rows(self, split: str) -> Iterator[tuple[str, str]]:
        for number, row in self._raw_rows(split):
            question, answer = row.get("question"), row.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str):
                raise DataError(f"GSM8K {split}, row {number}: question and answer must be texts, found {row!r:.120}.")
            yield question, answer

    def _raw_rows(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.path is not None and (file := Path(self.path) / f"{split}.jsonl").is_file():
            yield from read_jsonl(file)
        else:
            from src.data.hub import load_rows

            yield from enumerate(load_rows(str(self.path or HUB_NAME), "main", split), 1)


def final_answer(solution: str) -> str:
    """What follows the last "####". Raises DataError where there is none."""
    _, marker, final = solution.rpartition("####")
    if not marker or not final.strip():
        raise DataError(f"A GSM8K answer has no final number after '####': {solution[-80:]!r}")
    return final.strip()
