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
import platform
import re
import secrets
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src import __version__, errors, files, machine, storage
from src.config import Config, load_config
from src.errors import CacheError, ConfigError, ProbingError, WorkersError
from src.pipeline.asking import ask_all
from src.pipeline.generators import answer_as_configured
from src.pipeline.plan import Plan, model_loader
from src.pipeline.questions import Questions, Task

log = logging.getLogger(__name__)

# Small enough that workers end together and a killed one loses little, large enough to pack and to share beginnings.
_MOST_QUESTIONS, _PORTIONS = 512, 8
# Of a logical CPU: workers that take all of them would starve Ray's own read tasks, and wait for ever.
_CPUS = 0.5
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")  # as the first word of a line
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# A killed worker is replaced as often as it takes; a portion that takes its worker with it is given up.
_TRIES_AGAIN = 3


def ask_spread(plan: Plan, config: Config, folders: tuple[str, ...]) -> None:
    """Have workers ask every question, so that all rows of this run lie in the cache.

    Args:
        plan: questions and layers.
        config: of the run; `run.workers` is how many.
        folders: the adapters', which every worker must find under these names.

    Raises:
        ProbingError: what a worker raised of ours.
        CacheError: a worker does not reach the cache, or questions were left out.
        WorkersError: the cluster cannot be reached, or gave up.
    """
    cache = storage.place(config.extraction.cache_dir or "")
    marker = f"workers-{uuid.uuid4().hex[:12]}.txt"
    with machine.writing(cache, setting="extraction.cache_dir"):
        storage.make_folder(cache)
        files.write_text(cache / marker, "Workers look whether they see the same folder.\n")
    try:
        with _cluster(config.run.workers) as is_ours:
            adapters = dict(zip(plan.adapters, folders, strict=True))
            spec = Spec(config.model_dump(mode="json"), adapters, plan.layers, marker)
            portions = list(_portions(plan.tasks, config.run.workers))
            gpus = gpus_of_each(config.run.workers, config.run.worker_gpus, may_grow=not is_ours)
            spread(portions, Worker, spec, workers=config.run.workers, gpus=gpus)
    finally:
        (cache / marker).unlink(missing_ok=True)


@dataclass(frozen=True)
class Spec:
    """What a worker builds its model from: plain values, never a model.

    Attributes:
        config: of the run, as plain values.
        adapters: name -> folder.
        layers: canonical names.
        marker: the name of a file that lies in the cache.
        version: of this library.
    """

    config: dict[str, Any]
    adapters: dict[str, str]
    layers: tuple[str, ...]
    marker: str
    version: str = __version__


@dataclass(frozen=True)
class Portion:
    """Some questions of a task, which a worker asks at once.

    Attributes:
        name: of the data set.
        config: of the task, as plain values.
        questions: what is asked.
    """

    name: str
    config: dict[str, Any]
    questions: Questions


class Worker:
    """An actor: one loaded model, asked portion after portion."""

    def __init__(self, spec: Spec):
        self._spec = spec

    def __call__(self, portion: Portion) -> None:
        """Ask these questions; what is computed goes to the cache. Raises ProbingError."""
        model, tokenizer = self._model
        ask_all(
            model, tokenizer, portion.questions, load_config(portion.config), name=portion.name,
            layers=self._spec.layers, adapters=tuple(self._spec.adapters),
        )  # fmt: skip

    @functools.cached_property
    def _model(self) -> tuple[Any, Any]:
        from src.models.extraction.fingerprint import weights_stay

        config = load_config(self._spec.config)
        if self._spec.version != __version__:
            raise ConfigError(
                f"A worker on {platform.node()} has llm-confidence-probing {__version__}, and this run is of "
                f"{self._spec.version}: install the same version on every node."
            )
        if not (storage.place(config.extraction.cache_dir or "") / self._spec.marker).exists():
            raise CacheError(
                f"A worker on {platform.node()} does not see what was written into {config.extraction.cache_dir}: "
                "extraction.cache_dir must be storage that all nodes share."
            )
        model, tokenizer = model_loader(config, tuple(self._spec.adapters.values())).load()
        weights_stay(model)
        answer_as_configured(model, config, tuple(self._spec.adapters.values()))
        return model, tokenizer


def gpus_of_each(workers: int, wanted: int | None, *, may_grow: bool) -> int:
    """How many GPUs each worker gets; where none are wanted in particular, one where there is one for each.

    Raises:
        WorkersError: the cluster has fewer than are wanted, and will not have more.
    """
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if wanted is None:
        if 0 < there < workers:
            log.warning("The cluster has %d GPUs and there are %d workers: they run without any.", there, workers)
        return int(there >= workers)
    if wanted * workers > there:
        said = (
            f"{workers} workers of {wanted} GPUs each (run.worker_gpus) need {wanted * workers}, and {there} are there"
        )
        if not may_grow:
            raise WorkersError(f"{said}. Use fewer workers, or fewer GPUs for each.")
        log.warning("%s: those without wait until the cluster grows.", said)
    return wanted


def spread(portions: Sequence[Any], worker: type, spec: Any, *, workers: int, gpus: int = 0) -> None:
    """Have `workers` actors, each `worker(spec)`, called with every portion; portions are kept by Ray until then.

    Args:
        gpus: of each worker.

    Raises:
        ProbingError: what a worker raised of ours.
        WorkersError: Ray gave up.
        CacheError: a portion was left out.
    """
    import ray
    import ray.exceptions

    rows = [{"number": number, "portion": portion} for number, portion in enumerate(portions)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_task_retries has no other way in yet
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor, fn_constructor_args=(worker, spec, gpus), batch_size=1, num_cpus=_CPUS,
            num_gpus=gpus or None, compute=ray.data.ActorPoolStrategy(size=workers),
            max_task_retries=_TRIES_AGAIN,
        )  # fmt: skip
    seen = np.zeros(len(rows), dtype=bool)
    try:
        for batch in done.iter_batches(batch_size=None):
            if problem := next(filter(None, batch["problem"]), None):
                name, _, message = problem.partition(": ")
                raise getattr(errors, name)(message)
            seen[batch["number"]] = True
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours in a worker
    except ray.exceptions.RayError as error:
        lines = str(error).splitlines()
        said = "".join([line for line in lines if _ERROR.match(line)][-1:] or lines[:1]).rstrip(".")
        raise WorkersError(
            f"Ray's workers ended with {type(error).__name__}: {said}. Where they lack memory, use fewer. "
            "What they had asked is in the cache, and the same command goes on from there."
        ) from error
    if not seen.all():
        raise CacheError(f"Workers left out {(~seen).sum()} of {seen.size} portions of the questions. Run it again.")


class _Actor:
    """A worker as Ray Data calls one: with a batch of portions. An error of ours comes back as data.

    Ray would try again what raises, and hand its text over in a chain of its own errors.
    """

    def __init__(self, worker: type, spec: Any, gpus: int):
        if not gpus:  # Ray leaves all of a node's GPUs visible to whoever asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._worker = worker(spec)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        problem = ""
        try:
            for portion in batch["portion"]:
                self._worker(portion)
        except ProbingError as error:
            problem = f"{type(error).__name__}: {error}"
        return {"number": batch["number"], "problem": np.full(len(batch["number"]), problem, dtype=object)}


def _portions(tasks: Sequence[Task], workers: int) -> Iterator[Portion]:
    total = sum(len(task.questions.examples) for task in tasks)
    size = max(1, min(_MOST_QUESTIONS, -(-total // (workers * _PORTIONS))))
    for task in tasks:
        settings, n = task.config.model_dump(mode="json"), len(task.questions.examples)
        settings["extraction"]["cache"] = "required"  # what a worker cannot keep would be computed again by the driver
        for start in range(0, n, size):
            yield Portion(task.name, settings, task.questions.only(range(start, min(start + size, n))))


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[bool]:
    """The cluster of RAY_ADDRESS or of this process; else one on this machine, shut down when the block ends.

    It says whether the cluster is such a one of ours.
    """
    address = os.environ.get("RAY_ADDRESS")
    with machine.environment({} if address else _LOCAL | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        import ray

        if ray.is_initialized():
            yield False
            return
        _start(address, workers)
        try:
            yield not address
        finally:
            ray.shutdown()


def _start(address: str | None, workers: int) -> None:
    import ray.data
    import ray.exceptions

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    cpus = max(os.cpu_count() or 1, workers)
    here: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": cpus}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **here)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise WorkersError(f"The Ray cluster {address or 'on this machine'} cannot be reached: {error}") from error
