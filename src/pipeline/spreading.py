"""Engine "ray": the same questions asked by several workers, whose rows meet in the cache.

A worker builds its model from the configuration and runs the very asking of one machine on a batch of questions;
all that it computes goes to the content-named shards of the cache, so that a batch that is asked twice, by a worker
that was killed and by its successor, is harmless. What the workers say is thrown away: afterwards the run goes on as
it does on one machine, and finds every row there. Queue, retries, back-pressure, autoscaling and progress are Ray's.
"""

import contextlib
import functools
import logging
import os
import secrets
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from src import errors, files, machine, storage
from src.config import Config, load_config
from src.errors import CacheError, ConfigError, ProbingError
from src.pipeline.asking import ask_all
from src.pipeline.plan import Plan, model_loader
from src.pipeline.questions import Task

# Small enough that workers end together and a killed one loses little, large enough to pack and to share beginnings.
_MOST_QUESTIONS, _BATCHES = 512, 8
# Of a logical CPU: workers that take all of them would starve Ray's own read tasks, and wait for ever.
_CPUS = 0.5
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def ask_spread(plan: Plan, config: Config, folders: tuple[str, ...]) -> None:
    """Have workers ask every question, so that all rows of this run lie in the cache.

    Args:
        plan: questions and layers.
        config: of the run; `run.workers` is how many.
        folders: the adapters', which every worker must find under these names.

    Raises:
        ProbingError: what a worker raised of ours.
        CacheError: a worker does not reach the cache, or rows are missing.
        ConfigError: the cluster cannot be reached.
    """
    cache = storage.place(config.extraction.cache_dir or "")
    marker = f"workers-{uuid.uuid4().hex[:12]}.txt"
    with machine.writing(cache, setting="extraction.cache_dir"):
        storage.make_folder(cache)
        files.write_text(cache / marker, "Workers look whether they see the same folder.\n")
    try:
        with _cluster(config.run.workers):
            done = _mapped(plan, config, folders, marker)
    finally:
        (cache / marker).unlink(missing_ok=True)
    if missing := sum(len(task.questions.examples) for task in plan.tasks) - np.unique(done).size:
        raise CacheError(f"Workers left out {missing} questions. Run it again: what is in the cache is used.")


@dataclass(frozen=True)
class Spec:
    """What a worker builds its model from: plain values, never a model.

    Attributes:
        config: of the run, as plain values.
        adapters: name -> folder.
        layers: canonical names.
        tasks: where Ray keeps all questions.
        marker: the name of a file that lies in the cache.
    """

    config: dict[str, Any]
    adapters: dict[str, str]
    layers: tuple[str, ...]
    tasks: Any
    marker: str


class Worker:
    """An actor: one loaded model, asked batch after batch."""

    def __init__(self, spec: Spec):
        self._spec, self._config = spec, load_config(spec.config)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Ask the questions of these numbers; nothing but the numbers comes back, or an error of ours.

        Ray would try again what raises, and hand its text over in a chain of its own errors.
        """
        problem = ""
        try:
            model, tokenizer, tasks = self._ready
            for task, rows in zip(tasks, _apart(batch["id"], tasks), strict=True):
                if rows.size:
                    some = replace(task, questions=task.questions.only(rows))
                    ask_all(model, tokenizer, some, layers=self._spec.layers, adapters=tuple(self._spec.adapters))
        except ProbingError as error:
            problem = f"{type(error).__name__}: {error}"
        return {"id": batch["id"], "problem": np.full(len(batch["id"]), problem, dtype=object)}

    @functools.cached_property
    def _ready(self) -> tuple[Any, Any, tuple[Task, ...]]:
        import ray

        from src.models.extraction.fingerprint import weights_stay

        if not (storage.place(self._config.extraction.cache_dir or "") / self._spec.marker).exists():
            raise CacheError(
                f"A worker does not see what the driver wrote into {self._config.extraction.cache_dir}: "
                "extraction.cache_dir must be storage that all machines share."
            )
        model, tokenizer = model_loader(self._config, tuple(self._spec.adapters.values())).load()
        weights_stay(model)
        return model, tokenizer, ray.get(self._spec.tasks)


def _apart(numbers: np.ndarray, tasks: tuple[Task, ...]) -> list[np.ndarray]:
    """Of questions that are counted through all data sets: for each data set, which of its own they are."""
    starts = np.cumsum([0, *(len(task.questions.examples) for task in tasks)])
    return [numbers[(numbers >= low) & (numbers < high)] - low for low, high in pairwise(starts)]


def _mapped(plan: Plan, config: Config, folders: tuple[str, ...], marker: str) -> np.ndarray:
    """The numbers of the questions that were asked, in any order. Raises what a worker raised of ours."""
    import ray

    n, workers = sum(len(task.questions.examples) for task in plan.tasks), config.run.workers
    size = max(1, min(_MOST_QUESTIONS, -(-n // (workers * _BATCHES))))
    adapters = dict(zip(plan.adapters, folders, strict=True))
    spec = Spec(config.model_dump(mode="json"), adapters, plan.layers, ray.put(plan.tasks), marker)
    with_gpu = ray.cluster_resources().get("GPU", 0) >= workers
    done = ray.data.range(n, override_num_blocks=-(-n // size)).map_batches(
        Worker, fn_constructor_kwargs={"spec": spec}, batch_size=size, num_cpus=_CPUS,
        num_gpus=1 if with_gpu else None, compute=ray.data.ActorPoolStrategy(size=workers),
    )  # fmt: skip
    asked = []
    for batch in done.iter_batches(batch_size=None):
        if problem := next(filter(None, batch["problem"]), None):
            name, _, message = problem.partition(": ")
            raise getattr(errors, name)(message)
        asked.append(batch["id"])
    return np.concatenate(asked)


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """The cluster of RAY_ADDRESS or of this process; else one on this machine, shut down when the block ends."""
    before = {name: os.environ.get(name) for name in (*_LOCAL, "RAY_AUTH_TOKEN")}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.update(_LOCAL, RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    ours = not ray.is_initialized()
    try:
        if ours:
            _start(address, workers)
        yield
    finally:
        if ours:
            ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(address: str | None, workers: int) -> None:
    import ray.data
    import ray.exceptions

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    cpus = max(os.cpu_count() or 1, workers)
    here: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": cpus}
    try:
        ray.init(address=address or "local", log_to_driver=False, **here)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise ConfigError(f"The Ray cluster {address or 'on this machine'} cannot be reached: {error}") from error
