"""Several finished runs on the questions that they share: quantised or not, one checkpoint or the next."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from src import storage
from src.config import load_config
from src.errors import ConfigError
from src.evaluation.comparison import Difference, difference, flips
from src.evaluation.intervals import Scored, calibrated_null, score
from src.evaluation.resampling import METRICS, question_weights
from src.pipeline.contrasting import disagreement
from src.pipeline.folder import ANSWERS, read_results
from src.pipeline.numbers import beyond_floors, honest, number, with_p_values
from src.pipeline.probing import OWN, PROBE, TEXT

SCHEMA = 1
_SCORERS = (PROBE, OWN, TEXT)
_COLUMNS = ("model", "id", "group", "correct", "judged")
_SHOWN = ("auroc", "brier", "nll", "ece")
_NO_SETTING = {"experiment.name", "extraction.cache_dir"}


@dataclass(frozen=True)
class Side:
    """One model of one run.

    Attributes:
        label: tells it from the others.
        about: what docs/results.md lists of a side, but for the numbers.
        settings: of the run, as {"data.limit": 7}.
        rows: question's id -> its row in the columns below, test questions only.
        group, correct: (n,) of the test questions.
        confidences: scorer -> (n,), NaN where there is none.
        bootstrap: how many resamples the run had, and their seed.
        bins: of its ECE.
    """

    label: str
    about: dict[str, Any]
    settings: dict[str, Any]
    rows: dict[str, int]
    group: np.ndarray
    correct: np.ndarray
    confidences: dict[str, np.ndarray]
    bootstrap: tuple[int, int]
    bins: int


def compare_runs(folders: Sequence[str | Path], *, against: str | None = None) -> dict[str, Any]:
    """Every model of every run, on the test questions of them all, and each against one of them (docs/results.md).

    A question is the same where its text, choices, answer and subject are. All models of a run are sides; one that
    says what another says (the base model of several runs) is named, and compared once.

    Args:
        folders: of finished runs; of one run with an adapter too.
        against: the label of a side, or the name of a model that only one run has; None: the first.

    Raises:
        ConfigError: a folder holds no finished run, there are fewer than two models, they share no test question, or
            none is called `against`.
    """
    from src.report import comparison_verdict

    labels = _labels(folders)
    sides = [side for folder in folders for side in _sides(storage.place(folder), labels)]
    if len(sides) < 2:
        raise ConfigError(f"{len(sides)} model cannot be compared: name another run.")
    if against is not None:
        sides.insert(0, sides.pop(_named(sides, against)))
    shared = [name for name in sides[0].rows if all(name in side.rows for side in sides)]
    if not shared:
        raise ConfigError("These runs share no test question: they asked other questions, or another seed split them.")
    sides, same = _distinct(sides, shared)
    places = [np.array([side.rows[name] for name in shared]) for side in sides]
    weights = question_weights(sides[0].group[places[0]], *sides[0].bootstrap)
    correct = [side.correct[rows] for side, rows in zip(sides, places, strict=True)]
    confidences = [_there(side, rows) for side, rows in zip(sides, places, strict=True)]
    scored = [
        {name: score(p, y, weights, bins=sides[0].bins) for name, p in said.items()}
        for said, y in zip(confidences, correct, strict=True)
    ]
    changed = _settings_that_differ(sides)
    numbers = [_numbers(one, said, sides[0].bins) for one, said in zip(scored, confidences, strict=True)]
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "shared": {"n": len(shared)},
        "same": same,
        "sides": [
            side.about | {"settings": {key: side.settings.get(key) for key in changed}} | one
            for side, one in zip(sides, numbers, strict=True)
        ],
        "differences": [
            {
                "label": side.label,
                "against": sides[0].label,
                "flips": asdict(flips(correct[0], correct[place])),
                "scores": change,
                "disagreement": disagreement(
                    {"first": correct[0], "second": correct[place]},
                    {"first": confidences[0], "second": confidences[place]},
                    weights,
                ),
            }
            for place, (side, change) in enumerate(zip(sides[1:], _changes(scored, correct, numbers), strict=True), 1)
        ],
    }
    return found | {"verdict": comparison_verdict(found)}


def _named(sides: Sequence[Side], name: str) -> int:
    places = [place for place, side in enumerate(sides) if name in (side.label, side.about["variant"])]
    if len(places) != 1:
        raise ConfigError(
            f"{'None' if not places else 'More than one'} of these models is called {name!r}: choose one of "
            f"{', '.join(side.label for side in sides)}."
        )
    return places[0]


def _distinct(sides: Sequence[Side], shared: Sequence[str]) -> tuple[list[Side], list[dict[str, str]]]:
    """The sides without those that say what an earlier one says, and which these are; two are compared in any case."""
    kept, same = list(sides[:1]), []
    for place, side in enumerate(sides[1:], 2):
        twin = next((other for other in kept if _says_the_same(other, side, shared)), None)
        if twin is None or len(kept) + len(sides) - place < 2:
            kept.append(side)
        else:
            same.append({"label": side.label, "as": twin.label})
    return kept, same


def _says_the_same(one: Side, other: Side, shared: Sequence[str]) -> bool:
    first, second = (np.array([side.rows[name] for name in shared]) for side in (one, other))
    return np.array_equal(one.correct[first], other.correct[second]) and all(
        np.allclose(one.confidences[name][first], other.confidences[name][second], atol=1e-5, equal_nan=True)
        for name in _SCORERS
    )


def _labels(folders: Sequence[str | Path]) -> dict[Path, str]:
    """What to call each run: its name, its folder's, or the whole path, whichever tells them apart."""
    paths = [storage.place(folder) for folder in folders]
    for names in ([str(read_results(path)["name"]) for path in paths], [path.name for path in paths]):
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {path: str(path) for path in paths}


def _sides(folder: Path, labels: Mapping[Path, str]) -> list[Side]:
    from pyarrow import ArrowException, parquet

    results = read_results(folder)
    if not (folder / ANSWERS).is_file():
        raise ConfigError(f"{folder} holds no {ANSWERS}, which a comparison reads. Run it again.")
    try:
        table = parquet.read_table(io.BytesIO(storage.read(folder / ANSWERS))).to_pandas()
    except ArrowException as error:
        raise ConfigError(f"{folder / ANSWERS} cannot be read ({error!s:.200}). Run it again.") from error
    if missing := sorted({*_COLUMNS, *_SCORERS} - set(table.columns)):
        raise ConfigError(f"{folder / ANSWERS} has no column {missing[0]!r}: another version wrote it. Run it again.")
    model, config = results["config"]["model"], results["config"]
    sides = []
    for variant in results["variants"]:
        rows = table[(table["model"] == variant) & table["judged"]].drop_duplicates("id")
        label = labels[folder] + (f": {variant}" if len(results["variants"]) > 1 else "")
        about = {
            "label": label,
            "run": str(folder),
            "name": results["name"],
            "variant": variant,
            "model": results["model"]["name"],
            "adapter": results["model"]["adapters"].get(variant, {}).get("folder"),
            "quantization": model["quantization"],
            "dtype": model["dtype"],
            "n_test": len(rows),
        }
        sides.append(Side(
            label=label,
            about=about,
            settings=_flat(config),
            rows={name: row for row, name in enumerate(rows["id"])},
            group=rows["group"].to_numpy(),
            correct=_column(rows, "correct", folder),
            confidences={name: _column(rows, name, folder) for name in _SCORERS},
            bootstrap=(config["evaluation"]["bootstrap"], config["experiment"]["seed"]),
            bins=config["evaluation"]["bins"],
        ))  # fmt: skip
    return sides


def _column(rows: Any, name: str, folder: Path) -> np.ndarray:
    """(n,) float64: labels, or confidences, of which only the own probability must be there for every answer.

    Raises:
        ConfigError: anything else.
    """
    try:
        values = rows[name].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(len(rows), np.inf)
    needed = name in ("correct", OWN)
    known = values if needed else values[~np.isnan(values)]
    within = np.isin(known, (0, 1)) if name == "correct" else (known >= 0) & (known <= 1)
    if not within.all():
        raise ConfigError(f"{folder / ANSWERS}: the column {name!r} holds what no run writes there. Run it again.")
    return values


def _there(side: Side, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The confidences of scorers that have one for each of these rows."""
    found = {name: p[rows] for name, p in side.confidences.items()}
    return {name: p for name, p in found.items() if not np.isnan(p).any()}


def _numbers(scored: Mapping[str, Scored], confidences: Mapping[str, np.ndarray], bins: int) -> dict[str, Any]:
    estimates = {name: one.estimates() for name, one in scored.items()}
    scores = {name: {key: number(honest(one[key])) for key in _SHOWN} for name, one in estimates.items()}
    for name, numbers in scores.items():
        null = calibrated_null(confidences[name], metrics=["ece"], bins=bins)["ece"]
        numbers["ece"] |= {"calibrated_mean": null.mean, "calibrated_q95": null.q95}
    return {"accuracy": number(honest(estimates[OWN]["accuracy"])), "scores": scores}


def _changes(
    scored: Sequence[Mapping[str, Scored]], correct: Sequence[np.ndarray], numbers: Sequence[Mapping[str, Any]]
) -> list[dict[str, dict[str, Any]]]:
    """Of each side but the first: scorer -> metric -> difference, corrected for the number of sides and metrics."""
    first, *others = scored
    p_accuracy = [flips(correct[0], y).p_value for y in correct[1:]]
    result: list[dict[str, dict[str, Any]]] = [{} for _ in others]
    for scorer in first:
        having = [place for place, other in enumerate(others) if scorer in other]
        found: dict[tuple[int, str], Difference] = {}
        for place in having:
            found |= {(place, metric): difference(first[scorer], others[place][scorer], metric) for metric in METRICS}
            found[place, "accuracy"] = replace(found[place, "accuracy"], p=p_accuracy[place])
        corrected = with_p_values(found)
        for place, metric in product(having, METRICS):
            change = corrected[place, metric]
            if metric == "ece":
                change = beyond_floors(change, *(numbers[side]["scores"][scorer]["ece"] for side in (0, place + 1)))
            result[place].setdefault(scorer, {})[metric] = change
    return result


def _settings_that_differ(sides: Sequence[Side]) -> list[str]:
    keys = {key for side in sides for key in side.settings} - _NO_SETTING
    return sorted(key for key in keys if len({repr(side.settings.get(key)) for side in sides}) > 1)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as {"data.limit": 7}; those that an older version did not know have their defaults."""
    defaults = load_config({"model": {"name": "any"}}).model_dump(mode="json")
    return {
        f"{section}.{key}": value
        for section, settings in config.items()
        for key, value in ((defaults.get(section) or {}) | (settings or {})).items()
        if section != "run" or key == "generator"
    }
