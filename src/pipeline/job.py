"""The whole job: questions, models, answers and states, probes, numbers, report."""

import contextlib
import datetime
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src import files
from src.config import Config, load_config
from src.data.splits import Splits
from src.errors import ProbingError
from src.models.extraction.fingerprint import weights_stay
from src.pipeline.answers import answers_parquet
from src.pipeline.asked import Asked
from src.pipeline.asking import ask_all
from src.pipeline.contrasting import advantages, compare, gains
from src.pipeline.folder import (
    ANSWERS,
    QUESTIONS,
    REPORT,
    RESULTS,
    check_still_ours,
    claimed_folder,
    folder_state,
    give_back,
    write_report,
    writing,
)
from src.pipeline.generators import answer_as_configured
from src.pipeline.judging import Judge
from src.pipeline.naming import BASE
from src.pipeline.outside import verified_states
from src.pipeline.plan import make_plan, model_loader
from src.pipeline.probing import Probed, answered_splits, fit_scorers
from src.pipeline.questions import Task
from src.pipeline.results import (
    SCHEMA,
    adapter_facts,
    asking_facts,
    data_facts,
    git_commit,
    peak_memory_mb,
    questions_csv,
    strict,
    versions,
)
from src.pipeline.sense import needs_no_weights
from src.pipeline.sharing import identities, save_probes
from src.pipeline.transferring import DataSet, judge_elsewhere

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and everything in results.json (see docs/results.md)."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def verdict(self) -> list[str]:
        """The answer in sentences."""
        return list(self.results["verdict"])

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / REPORT

    def _repr_html_(self) -> str:
        from src.report import render_summary

        return render_summary(self.results, str(self.report))

    def __repr__(self) -> str:
        return f"RunResult({str(self.folder)!r}: {self.results['verdict'][0]})"


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        log.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 2)


def run(config: str | Path | Mapping[str, Any] | Config) -> RunResult:
    """Run everything a configuration asks for.

    Args:
        config: a YAML file, a dictionary of the same shape, or a `Config`.

    Returns:
        the results, which also lie in the run's folder.

    Raises:
        ProbingError: with a message that says what to do; see `src.errors`.
    """
    config = load_config(config)
    state = folder_state(config)
    try:
        return _run(config)
    except ProbingError:
        if state == "new":  # else it is, or may be, a run of somebody who has not ended
            give_back(config)
        raise


def _run(config: Config) -> RunResult:
    started, clock = time.perf_counter(), _Clock()
    with claimed_folder(config) as folder, clock.stage("questions"):
        plan = make_plan(config)
    log.info("Results go to %s", folder.absolute())
    for note in plan.notes:
        log.warning(note)
    questions, splits = plan.task.questions, plan.task.splits
    with clock.stage("weights"):
        adapters = _prepare_adapters(config)
        names = tuple(plan.adapters)
    if config.run.engine == "ray":
        from src.pipeline.spreading import ask_spread

        with clock.stage("workers"):
            ask_spread(plan, config, adapters)
    with clock.stage("weights"):
        loader = model_loader(config, adapters)
        weights = not needs_no_weights(config, questions)
        model, tokenizer = loader.load() if weights else (loader.skeleton(), loader.tokenizer())
        if weights:
            weights_stay(model)
            answer_as_configured(model, config, adapters)
        states = verified_states(model, config)
        models = identities(model, names) if weights else {}
    with clock.stage("answers and states"):
        asked, *elsewhere = (
            ask_all(model, tokenizer, task.questions, task.config, name=task.name, layers=plan.layers, adapters=names)
            for task in plan.tasks
        )
    facts = {"name": config.model.name, "parameters": plan.parameters} | adapter_facts(names, adapters)
    del model
    seed = config.experiment.seed
    with clock.stage("probes"):
        usable = _usable(splits, asked, config)
        probed = {
            name: fit_scorers(
                one,
                questions.examples,
                usable[name],
                seed=seed,
                repeats=config.evaluation.repeats,
                label=name,
                families=config.probe.family,
            )
            for name, one in asked.items()
        }
    with clock.stage("metrics"):
        test = usable[BASE].test
        judge = Judge.of(questions.examples, test, splits.groups, asked.values(), config.evaluation, seed)
        numbers = _judge_all(judge, asked, probed)
    with clock.stage("transfer"):
        data = _data_sets(zip(plan.tasks, (asked, *elsewhere), strict=True))
        for name, variant in numbers["variants"].items():
            variant["held_out"] = judge_elsewhere(judge, data[name], probed[name], config, label=name)
    results = {
        "schema": SCHEMA,
        "name": config.experiment.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_commit": git_commit(),
        "config": config.model_dump(mode="json"),
        "model": facts,
        "states_from": states,
        "data": data_facts(questions, splits),
        "transfer_data": {one.name: data_facts(one.questions, one.splits) for one in plan.tasks[1:]},
        **numbers,
    }
    tables = {
        QUESTIONS: questions_csv(questions.examples, splits, asked, probed).encode(),
        ANSWERS: answers_parquet(plan.tasks, (asked, *elsewhere), probed),
    }
    with clock.stage("report"):
        check_still_ours(config)
        if models:
            save_probes(folder, probed, models, questions, config, results["variants"])
        return _publish(folder, results, tables, clock, started)


def _prepare_adapters(config: Config) -> tuple[str, ...]:
    """The adapters' folders; the one of a checkpoint is converted first if the configuration asks for that."""
    if config.conversion:
        from src.tinker import download_and_convert_weights

        checkpoint, output_dir = config.conversion
        allow_export = bool(config.tinker and config.tinker.allow_export)
        return (download_and_convert_weights(checkpoint, config.model.name, output_dir, allow_export=allow_export),)
    return config.adapter_folders


def _usable(splits: Splits, asked: Mapping[str, Asked], config: Config) -> dict[str, Splits]:
    """For each model, the splits of the questions that count."""
    return answered_splits(splits, asked) if config.data.unparsed == "drop" else dict.fromkeys(asked, splits)


def _data_sets(asked: Iterable[tuple[Task, Mapping[str, Asked]]]) -> dict[str, list[DataSet]]:
    """For each model, all data sets as it answered them."""
    found: dict[str, list[DataSet]] = {}
    for task, answers in asked:
        usable = _usable(task.splits, answers, task.config)
        for name, one in answers.items():
            found.setdefault(name, []).append(DataSet(task.name, task.questions.examples, usable[name], one))
    return found


def _judge_all(judge: Judge, asked: Mapping[str, Asked], probed: Mapping[str, Probed]) -> dict[str, Any]:
    """Numbers of each model, and of each adapter against the base."""
    judged = {name: judge.variant(one, probed[name]) for name, one in asked.items()}
    variants = {
        name: asking_facts(asked[name])
        | one.numbers
        | {"advantages": advantages(judge, one), "gain": gains(judge, one)}
        for name, one in judged.items()
    }
    base = judged.pop(BASE)
    return {"variants": variants, "comparisons": compare(judge, base, judged)}


def _publish(
    folder: Path, results: dict[str, Any], tables: Mapping[str, bytes], clock: _Clock, started: float
) -> RunResult:
    from src.report import verdict

    results = strict(results)
    results["verdict"] = verdict(results)
    results["peak_memory_mb"] = peak_memory_mb()
    results["seconds"] = clock.seconds | {"total": round(time.perf_counter() - started, 2)}
    with writing(folder):
        for name, content in tables.items():
            files.write_bytes(folder / name, content)
    write_report(folder, results)
    with writing(folder):
        files.write_json(folder / RESULTS, results)  # last: its presence means that the run is complete
    return RunResult(folder, results)
