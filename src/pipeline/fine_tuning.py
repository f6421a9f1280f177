"""Workflow 2 up to the adapter: fine-tune with Tinker on questions, download, convert, verify.

What was trained on is kept beside the adapter (trained_on.json), so that nobody tests on it later.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src import files, machine
from src.data.example import LETTERS, Example
from src.data.gsm8k import GSM8KDataset
from src.data.mmlu import MMLUDataset
from src.data.trained_on import FILE_NAME as TRAINED_ON
from src.errors import ConfigError
from src.tinker import TinkerClient
from src.tinker.training import Record, Schedule, Text, Trainer, train


@dataclass(frozen=True)
class Lessons:
    """Questions to learn from, with the answers as the model should write them.

    Attributes:
        dataset: where they are from: "mmlu" or "gsm8k".
        examples: the questions.
        answers: the texts that follow the prompts, each with the space it begins with.
    """

    dataset: str
    examples: tuple[Example, ...]
    answers: tuple[str, ...]

    def texts(self, tokenizer: Any) -> list[Text]:
        """Prompt and answer of each as one text; the loss counts the answer's tokens and the end of the text."""
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        return [_text(tokenizer, e.prompt, answer, end) for e, answer in zip(self.examples, self.answers, strict=True)]


def read_lessons(
    dataset: str, *, path: str | Path | None = None, category: str | None = None, limit: int | None = None
) -> Lessons:
    """The training split: of MMLU dev and val together with letters, of GSM8K with worked solutions.

    Raises:
        ConfigError: another data set, or a category of GSM8K.
        DataError, DownloadError: it cannot be read.
    """
    if dataset == "mmlu":
        examples = tuple(MMLUDataset("train", category, path=path)[:limit])
        return Lessons(dataset, examples, tuple(e.continuations[LETTERS.index(e.target)] for e in examples))
    if dataset != "gsm8k" or category:
        raise ConfigError(f"dataset={dataset!r}, category={category!r}: choose mmlu, or gsm8k without a category.")
    questions = GSM8KDataset("train", path=path)
    return Lessons(dataset, tuple(questions[:limit]), tuple(f" {text}" for text in questions.solutions()[:limit]))


def fine_tune(
    lessons: Lessons,
    tokenizer: Any,
    *,
    base_model: str,
    output_dir: str | Path,
    schedule: Schedule,
    rank: int = 32,
    client: TinkerClient | None = None,
) -> Record:
    """Train a LoRA, or go on with one, and save it for sampling and for download.

    Nothing is asked of Tinker where the training in `output_dir` is finished already.

    Args:
        lessons: what to learn.
        tokenizer: the base model's.
        base_model: the name that Tinker knows the base model by.
        output_dir: gets training.json (how far it is) and trained_on.json (ids of the questions).
        schedule: steps, batches and learning rate.
        rank: of the LoRA.
        client: a connection to Tinker; None: a new one.

    Raises:
        ConfigError: output_dir holds another training.
        CredentialsError, DownloadError, MissingExtraError: Tinker refuses, or does not answer.
        DataError: nothing to train on, or the training diverged.
        StorageError: output_dir cannot be written.
    """
    folder = Path(output_dir)
    texts = lessons.texts(tokenizer)
    settings = {"base_model": base_model, "rank": rank, "dataset": lessons.dataset, **asdict(schedule)}
    settings["texts_sha256"] = files.sha256_of_json([[text.ids, text.answer_from] for text in texts])
    record = Record.opened(folder / "training.json", settings)
    if record.download:
        return record
    client = client or TinkerClient()
    if record.state:
        trainer = Trainer.resumed(client, record.state)
    else:
        trainer = Trainer.new(client, base_model, rank=rank, seed=schedule.seed)
    record = train(trainer, texts, schedule, record)
    with machine.writing(folder, setting="output_dir"):
        ids = [lessons.examples[row].id for row in schedule.used(len(texts))]
        files.write_json(folder / TRAINED_ON, {"dataset": lessons.dataset, "ids": ids})
    record = replace(
        record, sampling=trainer.save_for_sampling("final-sampler"), download=trainer.save_for_download("final")
    )
    record.write()
    return record


def _text(tokenizer: Any, prompt: str, answer: str, end: Sequence[int]) -> Text:
    """Tokenised as one text, as the model will see it; a token that holds the border belongs to the answer."""
    before, whole = tokenizer([prompt, prompt + answer], verbose=False)["input_ids"]
    common = next((place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    return Text((*whole, *end), max(1, min(common, len(whole) - 1)))
