"""Stage 5, elsewhere: what probes say of subjects and data sets that they were not trained on. Test questions only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.config import Config
from src.data.example import Example
from src.data.splits import Splits
from src.data.subject_groups import subject_groups
from src.evaluation.resampling import question_weights
from src.pipeline.asked import Asked
from src.pipeline.judging import Judge
from src.pipeline.judging_elsewhere import HELD_OUT, Tried
from src.pipeline.probing import OWN, PROBE, Probed, part_of
from src.pipeline.results import asking_facts
from src.probes.origin import Family
from src.probes.part import Part
from src.probes.sweep import PlaceResult
from src.probes.transfer import Elsewhere, Grouped, on_val, try_elsewhere

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSet:
    """The questions of one data set, as one model answered them.

    Attributes:
        name: what people call it.
        examples: all questions.
        splits: those that count.
        asked: the answers and states.
    """

    name: str
    examples: tuple[Example, ...]
    splits: Splits
    asked: Asked


def judge_elsewhere(
    judge: Judge, data: Sequence[DataSet], probed: Probed, config: Config, *, label: str
) -> dict[str, Any]:
    """Whatever is configured of `on_other_subjects` ("subjects") and `on_other_data` ("data").

    Args:
        judge: the test questions of the first data set, which the headline is about, and their resamples.
        data: all data sets as one model answered them.
        probed: its scorers.
        config: what is wanted, and the families of the probes.
        label: of the model, shown while it works.
    """
    found, families = {}, config.probe.family
    if config.transfer.subjects:
        found["subjects"] = on_other_subjects(judge, data[0].asked, probed, families=families, label=label)
    if len(data) > 1:
        found["data"] = on_other_data(judge, data, families=families, label=label)
    return found


def on_other_subjects(
    judge: Judge, asked: Asked, probed: Probed, *, families: Sequence[Family], label: str
) -> dict[str, Any]:
    """Each subject's test questions by a probe that was trained, and chosen, without that subject.

    Beside it on the same questions: the probe of all subjects and the own probability.

    Args:
        judge: the test questions and their resamples.
        asked: what the model said.
        probed: its scorers.
        families: of the probes.
        label: of the model, shown while it works.
    """
    found = subject_groups(example.subject for example in judge.examples)
    if PROBE not in probed.test or not found.subjects:
        return {"by": found.by, "missing": probed.missing or "all questions are of one subject"}
    place = {subject: number for number, group in enumerate(found.subjects.values()) for subject in group}
    of_row = np.array([place[example.subject] for example in judge.examples])
    splits = probed.splits
    train, val, test = (
        Grouped(part_of(asked, rows, splits.groups), of_row[rows]) for rows in (splits.train, splits.val, splits.test)
    )
    elsewhere = try_elsewhere(
        asked.places, train, val, test, groups=len(found.subjects), families=families,
        alone=None if found.by == "deal" else on_val, progress=f"{label}: other subjects",
    )  # fmt: skip
    tested = Tried(
        groups=test.groups,
        y=test.part.labels,
        said={HELD_OUT: elsewhere.left_out, PROBE: probed.test[PROBE], OWN: probed.test[OWN]},
        alone=elsewhere.alone,
        weights=judge.weights,
        bins=judge.settings.bins,
        seed=judge.seed,
    )
    about = [{"name": name or "(none)", "subjects": list(group)} for name, group in found.subjects.items()]
    return _results(found.by, about, elsewhere.missing, (train, val, test), elsewhere, tested)


def on_other_data(judge: Judge, data: Sequence[DataSet], *, families: Sequence[Family], label: str) -> dict[str, Any]:
    """Each data set's test questions by a probe of all others, beside one of its own and the own probability.

    Args:
        judge: the test questions of the first data set and their resamples.
        data: two or more.
        families: of the probes.
        label: of the model, shown while it works.
    """
    train, val, test = _sides(data)
    elsewhere = try_elsewhere(
        data[0].asked.places, train, val, test, groups=len(data), families=families, progress=f"{label}: other data"
    )
    weights = [judge.weights] + [
        question_weights(one.splits.groups[one.splits.test], len(judge.weights), judge.seed + number)
        for number, one in enumerate(data[1:], 1)
    ]
    tested = Tried(
        groups=test.groups,
        y=test.part.labels,
        said={
            HELD_OUT: elsewhere.left_out,
            PROBE: elsewhere.alone[test.groups, np.arange(test.groups.size)],
            OWN: np.concatenate([one.asked.confidence[one.splits.test] for one in data]),
        },
        alone=elsewhere.alone,
        weights=np.hstack(weights),
        bins=judge.settings.bins,
        seed=judge.seed,
    )
    missing = [away or home for away, home in zip(elsewhere.missing, elsewhere.missing_alone, strict=True)]
    about = [{"name": one.name, "asked": asking_facts(one.asked)} for one in data]
    return _results("data", about, missing, (train, val, test), elsewhere, tested)


def _sides(data: Sequence[DataSet]) -> list[Grouped]:
    """The rows of train, val and test in all data sets, as rows of the same states."""
    every = [Part(one.asked.hidden, one.asked.correct, one.splits.groups, tokens=one.asked.tokens) for one in data]
    whole, starts = Part.joined(every), np.cumsum([0, *map(len, every)])
    sides = []
    for split in _SPLITS:
        rows = [start + getattr(one.splits, split) for start, one in zip(starts, data, strict=False)]
        sizes = [some.size for some in rows]
        sides.append(Grouped(whole.only(np.concatenate(rows)), np.repeat(np.arange(len(data)), sizes)))
    return sides


def _results(
    by: str,
    about: Sequence[dict[str, Any]],
    missing: Sequence[str],
    rows: Sequence[Grouped],
    elsewhere: Elsewhere,
    tested: Tried,
) -> dict[str, Any]:
    """For results.json; `about` and `missing` are of each group, `rows` are those of train, val and test."""
    groups = [
        one
        | {
            "splits": {split: int((side.groups == group).sum()) for split, side in zip(_SPLITS, rows, strict=True)},
            "selected": _selected(elsewhere.chosen[group]),
            "missing": missing[group] or ("" if numbers["n"] else "no test question"),
        }
        | numbers
        for group, (one, numbers) in enumerate(zip(about, tested.by_group(len(about)), strict=True))
    ]
    return {
        "by": by,
        "missing": "",
        "all": tested.whole(),
        "groups": groups,
        "matrix": tested.matrix(elsewhere.missing_alone),
    }


def _selected(chosen: PlaceResult | None) -> dict[str, Any] | None:
    return chosen and {key: getattr(chosen, key) for key in ("position", "layer", "family", "C")}
