"""The folder of a run: claimed before anything else, so that two different runs never mix in one."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from src import files, machine
from src.config import Config, load_config
from src.errors import ConfigError, ProbingError, StorageError
from src.pipeline.results import SCHEMA, git_commit, versions

CONFIG, RESULTS, QUESTIONS, REPORT = "config.yaml", "results.json", "questions.csv", "report.html"


def folder_state(config: Config) -> str:
    """What this run would find in its folder: "new", "unfinished" or "finished" (the same run), or "replaced".

    Raises:
        ConfigError: the folder holds another run (the difference is named), any run where run.if_exists is fail,
            or files that are not of a run.
    """
    folder, rule = config.folder, config.run.if_exists
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run.dir {folder} is a file. Choose another folder.")
    if not (folder / CONFIG).is_file():
        if strangers := _strangers(folder):
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

    Where the block fails, the folder is left as it was found: a run that could not start is in nobody's way.

    Raises:
        ConfigError: as `folder_state`.
        StorageError: the folder cannot be written.
    """
    state, folder = folder_state(config), config.folder
    settings, existed = folder / CONFIG, folder.is_dir()
    before = settings.read_text(encoding="utf-8") if settings.is_file() else None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep_temporaries(folder)
        files.write_text(settings, _as_yaml(config))
    try:
        yield folder
    except ProbingError:
        with contextlib.suppress(OSError):
            if before is not None:
                files.write_text(settings, before)
            else:
                settings.unlink()
                if not existed:
                    folder.rmdir()
        raise
    if state == "replaced":
        with writing(folder):
            for name in (RESULTS, QUESTIONS, REPORT):
                (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write into one sentence that says how much space there is."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ProbingError):
            raise
        raise StorageError(
            f"{folder.absolute()} cannot be written: {error.strerror or error} "
            f"({machine.in_words(machine.free_disk(folder))} are free there). Choose another run.dir, or make room."
        ) from error


def read_results(folder: str | Path) -> dict[str, Any]:
    """results.json of a finished run (see docs/results.md).

    Raises:
        ConfigError: the folder holds none, or one that this version does not read.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise ConfigError(f"{folder} holds no {RESULTS}: give the folder of a finished run.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Run it again.") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ConfigError(f"{path} has schema {schema!r}, and this version reads {SCHEMA}. Run it again.")
    return results


def write_report(folder: str | Path, results: Mapping[str, Any]) -> Path:
    """Write report.html into a run's folder. Raises StorageError."""
    from src.report import render_html

    page = Path(folder) / REPORT
    with writing(Path(folder)):
        files.write_text(page, render_html(results))
    return page


def _strangers(folder: Path) -> list[str]:
    """Files that no run leaves behind; a torn temporary of ours is none."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not files.is_temporary(name)]


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
    """Every setting that the numbers depend on, as {"data.limit": 7}."""
    values = config.model_dump(mode="json", exclude={"run"})
    flat: dict[str, Any] = {}
    for section, settings in values.items():
        flat |= {f"{section}.{key}": value for key, value in (settings or {}).items()}
    return flat


def _as_yaml(config: Config) -> str:
    """The whole configuration, below what else the numbers depend on."""
    about = ", ".join(f"{package} {version}" for package, version in versions().items())
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"# Repeat this run: confprobe run {CONFIG}\n# git {git_commit()}; {about}\n{body}"
