"""The folder of a run: claimed before anything else, so that two different runs never mix in one."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src import files, machine, storage
from src.config import Config, load_config
from src.config.reading import write_yaml
from src.errors import ConfigError
from src.pipeline.naming import TUNED
from src.pipeline.results import SCHEMA, git_commit, versions

CONFIG, RESULTS, REPORT = "config.yaml", "results.json", "report.html"
QUESTIONS, ANSWERS, PROBES = "questions.csv", "answers.parquet", "probes"
_FIRST_LINE = "# Repeat this run: confprobe run config.yaml"
_BEFORE = 3  # the schema that had `comparison` and `model.adapter`
_NEEDED = {"config", "data", "model", "name", "variants", "verdict"}


def folder_state(config: Config) -> str:
    """What this run would find in its folder: "new", "unfinished" or "finished" (the same run), or "replaced".

    Raises:
        ConfigError: the folder holds another run (the difference is named), any run where run.if_exists is fail,
            or files that are not of a run.
        StorageError: the folder cannot be looked into.
    """
    folder, rule = config.folder, config.run.if_exists
    with writing(folder):
        for place in (folder, *folder.parents) if storage.is_local(folder) else (folder,):
            if place.exists() and not place.is_dir():
                is_below = "" if place == folder else f"lies below {place}, which "
                raise ConfigError(f"run.dir {folder} {is_below}is a file. Choose another folder.")
        strangers = _strangers(folder)
        holds_run = _begins_like_ours(folder / CONFIG)
    if not holds_run:
        if strangers:
            raise ConfigError(
                f"run.dir {folder} holds {strangers[0]!r}, so it is not the folder of a run. Choose another folder."
            )
        return "new"
    if rule == "fail":
        raise ConfigError(f"run.dir {folder} holds a run already. Choose another folder, or run.if_exists: resume.")
    if rule == "replace":
        return "replaced"
    if difference := _difference(folder / CONFIG, config):
        raise ConfigError(
            f"run.dir {folder} holds a run with other settings: {difference}. Choose another run.dir, or start anew "
            "with run.if_exists: replace."
        )
    return "finished" if (folder / RESULTS).is_file() else "unfinished"


@contextlib.contextmanager
def claimed_folder(config: Config) -> Iterator[Path]:
    """Write the resolved configuration into the run's folder, then let the block prepare the run.

    Where the block does not end well, the folder is left as it was found: a run that could not start is in nobody's
    way. A run that is replaced is removed when the new one is ready to start.

    Raises:
        ConfigError: as `folder_state`.
        StorageError: the folder cannot be written.
    """
    state, folder = folder_state(config), config.folder
    made = [path for path in (folder, *folder.parents) if not path.exists()] if storage.is_local(folder) else []
    started = False
    try:
        with writing(folder):
            storage.make_folder(folder)
            files.sweep_temporaries(folder)
            if state == "new":
                files.write_text(folder / CONFIG, _as_yaml(config))
        yield folder
        started = True
    finally:
        if not started and state == "new":
            with contextlib.suppress(OSError):
                (folder / CONFIG).unlink(missing_ok=True)
                for path in made:
                    path.rmdir()
    with writing(folder):
        if state == "replaced":
            for name in (RESULTS, QUESTIONS, ANSWERS, REPORT):
                (folder / name).unlink(missing_ok=True)
            storage.remove_folder(folder / PROBES)
        files.write_text(folder / CONFIG, _as_yaml(config))


def give_back(config: Config) -> None:
    """Free the folder of a run that came to nothing: other settings may take it. What was computed is in the cache.

    A folder that holds more, or another run's configuration, stays as it is.
    """
    folder = config.folder
    with contextlib.suppress(OSError), storage.as_os_error():
        if _strangers(folder) == [CONFIG] and not _difference(folder / CONFIG, config):
            (folder / CONFIG).unlink()
            if storage.is_local(folder):
                folder.rmdir()


def check_still_ours(config: Config) -> None:
    """Raise ConfigError where another run has taken the folder since this one started."""
    if difference := _difference(config.folder / CONFIG, config):
        raise ConfigError(
            f"Another run took {config.folder} meanwhile ({difference}): nothing of this one was written. Run it again "
            "with another run.dir; what it computed is in the cache."
        )


def writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Turn a failed write into one sentence that names the setting to change."""
    return machine.writing(folder, setting="run.dir")


def read_results(folder: str | Path) -> dict[str, Any]:
    """results.json of a finished run (see docs/results.md).

    Raises:
        ConfigError: the folder holds none, or one that this version does not read.
    """
    path = storage.place(folder) / RESULTS
    if not storage.is_file(path):
        raise ConfigError(f"{folder} holds no {RESULTS}: give the folder of a finished run.")
    try:
        results = json.loads(storage.read(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}). Run it again.") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema == _BEFORE:
        results, schema = _with_adapters(results), SCHEMA
    if schema != SCHEMA:
        raise ConfigError(f"{path} has schema {schema!r}, and this version reads {_BEFORE} and {SCHEMA}. Run it again.")
    if missing := _NEEDED - results.keys():
        raise ConfigError(f"{path} lacks {min(missing)!r}, so it is not the whole of a run. Run it again.")
    return results


def _with_adapters(results: dict[str, Any]) -> dict[str, Any]:
    """What was written when a run had one adapter at most, in the shape of today."""
    model, comparison = dict(results.get("model", {})), results.get("comparison")
    folder = model.pop("adapter", None)
    adapters = {TUNED: {"folder": folder, "step": 1}} if folder else {}
    return results | {
        "schema": SCHEMA,
        "model": model | {"adapters": adapters, "steps_from": "place" if folder else None},
        "comparisons": {TUNED: comparison} if comparison else {},
    }


def write_report(folder: str | Path, results: Mapping[str, Any]) -> Path:
    """Write report.html into a run's folder. Raises StorageError."""
    from src.report import render_html

    page = storage.place(folder) / REPORT
    with writing(page.parent):
        files.write_text(page, render_html(results))
    return page


def _strangers(folder: Path) -> list[str]:
    """Files that no run leaves behind. Hidden ones (a torn temporary of ours, a file manager's) do not count."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _begins_like_ours(path: Path) -> bool:
    return path.is_file() and storage.read(path).startswith(_FIRST_LINE.encode())


def _difference(path: Path, config: Config) -> str:
    try:
        old = load_config(path)
    except ConfigError as error:
        return f"its {CONFIG} was written by another version ({error})"
    old_values, new_values = _flat(old), _flat(config)
    changed = [key for key in new_values | old_values if old_values.get(key) != new_values.get(key)]
    shown = [f"{key} was {old_values.get(key)!r} and is {new_values.get(key)!r}" for key in changed[:3]]
    more = [f"{len(changed) - 3} more"] if len(changed) > 3 else []
    return "; ".join(shown + more)


def _flat(config: Config) -> dict[str, Any]:
    """Every setting that makes it this run, as {"data.limit": 7}: all but where and how the work is done."""
    how = {"dir", "engine", "workers", "worker_gpus", "if_exists"}
    values = config.model_dump(mode="json", exclude={"run": how, "extraction": {"cache_dir"}})
    flat: dict[str, Any] = {}
    for section, settings in values.items():
        flat |= {f"{section}.{key}": value for key, value in (settings or {}).items()}
    return flat


def _as_yaml(config: Config) -> str:
    """The whole configuration, below what else the numbers depend on."""
    about = ", ".join(f"{package} {version}" for package, version in versions().items())
    return f"{_FIRST_LINE}\n# git {git_commit()}; {about}\n{write_yaml(config.model_dump(mode='json'))}"
