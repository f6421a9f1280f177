"""Train a LoRA with Tinker: a loop that is shuffled by a seed, leaves checkpoints, and goes on where it was stopped.

    trainer = Trainer.new(client, "Qwen/Qwen3-8B", rank=32, seed=0)
    train(trainer, texts, Schedule(steps=200), Record.opened(folder / "training.json", settings))

What is trained on is a pure function of the texts, the schedule and the step, so a run that was stopped and resumed
sees the same batches as one that was not.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from src import files, machine
from src.errors import ConfigError, DataError
from src.tinker.client import TinkerClient
from src.tinker.sdk import result


@dataclass(frozen=True)
class Text:
    """A text to learn from.

    Attributes:
        ids: its tokens, two or more.
        answer_from: the index of the first token that counts in the loss, at least 1: all before it are the question.
    """

    ids: tuple[int, ...]
    answer_from: int

    def __post_init__(self) -> None:
        if not 1 <= self.answer_from < len(self.ids):
            raise DataError(
                f"A text of {len(self.ids)} tokens cannot have its answer from token {self.answer_from} on: the answer "
                "needs a token of its own, and one before it."
            )

    @property
    def weights(self) -> np.ndarray:
        """(len(ids) - 1,) float32: 1 where the token to be predicted belongs to the answer, else 0."""
        return (np.arange(1, len(self.ids)) >= self.answer_from).astype(np.float32)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the learning rate falls in a line to 0 at the last step."""

    steps: int
    batch_size: int = 16
    learning_rate: float = 2e-4
    save_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate={self.learning_rate}: a number between 0 and 1 is needed, such as 2e-4.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * (1 - step / self.steps)

    def batch(self, step: int, n_texts: int) -> list[int]:
        """Which texts a step learns from: each epoch deals all of them once, in an order of its own."""
        first = step * self.batch_size
        places = range(first, first + self.batch_size)
        return [self._order(place // n_texts, n_texts)[place % n_texts] for place in places]

    def used(self, n_texts: int) -> list[int]:
        """Every text that some step learns from, ascending."""
        if self.steps * self.batch_size >= n_texts:
            return list(range(n_texts))
        return sorted({row for step in range(self.steps) for row in self.batch(step, n_texts)})

    def _order(self, epoch: int, n_texts: int) -> list[int]:
        order = list(range(n_texts))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order


@dataclass(frozen=True)
class Record:
    """How far a training has come, kept in a file so that the same command goes on.

    Attributes:
        path: the file.
        settings: what the training is determined by; another training in the same place is refused.
        step: how many steps are done and saved.
        state: the tinker:// path of the weights and the optimizer after them.
        losses: of each of these steps.
        sampling, download: tinker:// paths of the finished weights, to ask log-probabilities of and to fetch.
    """

    path: Path
    settings: Mapping[str, Any]
    step: int = 0
    state: str | None = None
    losses: tuple[float, ...] = ()
    sampling: str | None = None
    download: str | None = None

    @classmethod
    def opened(cls, path: Path, settings: Mapping[str, Any]) -> "Record":
        """What the file says, or the beginning where there is none.

        Raises:
            ConfigError: the file belongs to another training, or is none of ours.
        """
        if not path.exists():
            return cls(path, dict(settings))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            record = cls(path, **(found | {"losses": tuple(map(float, found["losses"]))}))
            others = [key for key in {**record.settings, **settings} if record.settings.get(key) != settings.get(key)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no record of a training. Choose another folder.") from error
        if others:
            key = others[0]
            raise ConfigError(
                f"{path.parent} holds a training with {key}={record.settings.get(key)!r}, and now it is "
                f"{settings.get(key)!r}. Choose another folder, or the same settings to go on."
            )
        return record

    def write(self) -> None:
        """Keep it, whole or not at all. Raises StorageError."""
        with machine.writing(self.path.parent, setting="folder"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(self.path, {key: value for key, value in vars(self).items() if key != "path"})


class Learner(Protocol):
    """What `train` needs: `Trainer` is one."""

    def step(self, texts: Sequence[Text], learning_rate: float) -> float:
        """Learn from a batch; the mean loss of its answers' tokens before that, in nats."""
        ...

    def save(self, name: str) -> str:
        """Keep weights and optimizer; a tinker:// path to go on from."""
        ...


class Trainer:
    """A LoRA in training at Tinker. Every call has the client's `build_timeout`, and raises as the client's do."""

    def __init__(self, client: TinkerClient, trainer: Any):
        self._client, self._trainer = client, trainer

    @classmethod
    def new(cls, client: TinkerClient, base_model: str, *, rank: int, seed: int) -> "Trainer":
        """An untrained LoRA."""
        return cls(client, client.create_training_client(base_model, rank=rank, seed=seed))

    @classmethod
    def resumed(cls, client: TinkerClient, path: str) -> "Trainer":
        """With the weights and the optimizer that `save` kept."""

        def call() -> Any:
            service = client._sdk.ServiceClient(api_key=client._api_key)
            return result(service.create_training_client_from_state_with_optimizer(path), client.build_timeout)

        return cls(client, client._within(client.build_timeout, f"going on from {path}", call))

    def step(self, texts: Sequence[Text], learning_rate: float) -> float:
        """See `Learner`."""
        sdk = self._client._sdk
        batch = [
            sdk.Datum(
                model_input=sdk.ModelInput.from_ints(list(text.ids[:-1])),
                loss_fn_inputs={"target_tokens": np.array(text.ids[1:]), "weights": text.weights},
            )
            for text in texts
        ]

        def call() -> float:
            # Both are sent before either is waited for, so that the service does them in one turn.
            gradients = self._trainer.forward_backward(batch, "cross_entropy")
            update = self._trainer.optim_step(sdk.AdamParams(learning_rate=learning_rate))
            outputs = result(gradients, self._client.build_timeout).loss_fn_outputs
            result(update, self._client.build_timeout)
            return mean_loss(texts, [np.ravel(output["logprobs"].to_numpy()) for output in outputs])

        return self._client._within(self._client.build_timeout, "training a step", call)

    def save(self, name: str) -> str:
        """See `Learner`."""
        return self._saved("save_state", name)

    def save_for_sampling(self, name: str) -> str:
        """Keep the weights; a tinker:// path whose log-probabilities can be asked for."""
        return self._saved("save_weights_for_sampler", name)

    def save_for_download(self, name: str) -> str:
        """Keep the weights; a tinker:// path that can be downloaded."""
        return self._saved("save_weights_external", name)

    def _saved(self, method: str, name: str) -> str:
        limit = self._client.build_timeout
        save = getattr(self._trainer, method)
        return self._client._within(limit, f"saving {name}", lambda: result(save(name), limit).path)


def train(learner: Learner, texts: Sequence[Text], schedule: Schedule, record: Record) -> Record:
    """Learn until the schedule's end, from where `record` says.

    Every `save_every` steps, and at the end, the learner is saved and the record rewritten.

    Raises:
        DataError: no texts, or the loss is no number any more.
        and whatever the learner raises; the record then holds the last save.
    """
    if not texts:
        raise DataError("There is no text to train on.")
    losses = list(record.losses)
    with tqdm(total=schedule.steps, initial=record.step, desc="training", unit="step", disable=None) as bar:
        for step in range(record.step, schedule.steps):
            batch = [texts[row] for row in schedule.batch(step, len(texts))]
            losses.append(learner.step(batch, schedule.rate(step)))
            if not math.isfinite(losses[-1]):
                raise DataError(f"The loss of step {step} is {losses[-1]}: training diverged. Lower the learning rate.")
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
            bar.update()
            done = step + 1
            if done % schedule.save_every == 0 or done == schedule.steps:
                record = replace(record, step=done, losses=tuple(losses), state=learner.save(f"step-{done}"))
                record.write()
    return record


def mean_loss(texts: Sequence[Text], logprobs: Sequence[np.ndarray]) -> float:
    """Negative mean log-probability of the answers' tokens, of all texts together."""
    answers = np.concatenate([row[text.answer_from - 1 :] for text, row in zip(texts, logprobs, strict=True)])
    return -float(answers.mean())
