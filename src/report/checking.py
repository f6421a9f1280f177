"""Whether a probe still holds, as people read it on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from src.report.console import make_console
from src.report.words import bounds, figure, floor, percent, percent_interval, with_interval

_ROWS = {
    "at home": "probe on its own model",
    "frozen": "frozen probe",
    "realigned": "realigned probe",
    "refit": "refitted probe",
    "own_probability": "own probability",
}
_FAR = 0.1  # a group whose confidence is off by more, clearly, is named
_MOST_GROUPS = 4

Plain = Mapping[str, Any]


def print_check(found: Plain, *, console: Console | None = None) -> None:
    """What the states say, what the labels say, and the verdict (`Check.as_plain`)."""
    console = console or make_console()
    _print_models(console, found)
    console.print(_drift_table(found["drift"]))
    tested = found["tested"]
    if tested:
        console.print(_scores_table(tested))
        if named := _far_off(tested):
            console.print(_groups_table(tested, named))
    console.print(found["verdict"].capitalize(), style="bold")
    for sentence in found["sentences"]:
        console.print(f"  • {sentence}")
    if found["saved_in"]:
        console.print(f"The probe for this model: {found['saved_in']}", soft_wrap=True)
    if found["not_saved"]:
        console.print(f"Nothing was saved: {found['not_saved']}.")


def print_check_plan(facts: Plain, *, console: Console | None = None) -> None:
    """What a check would do (`CheckPlan.facts`)."""
    console = console or make_console()
    _print_models(console, facts)
    split = ", ".join(f"{name} {n:,}" for name, n in facts["splits"].items())
    console.print(f"{facts['questions']:,} questions of {facts['data']} ({split}), asked of both models.")
    console.print("One loaded model serves both." if facts["loaded_once"] else "Two models are loaded, one by one.")
    console.print(f"States and answers are kept in {facts['cache_dir'] or 'no cache'}.", soft_wrap=True)
    for note in facts["notes"]:
        console.print(note)
    console.print("Nothing was computed or written.")


def check_sentences(found: Plain) -> list[str]:
    """The verdict and its reasons, in words."""
    said = [_what_to_do(found), *_of_the_states(found["drift"], unchanged=found["unchanged"])]
    if found["tested"]:
        said += _of_the_labels(found["tested"])
    return said + list(found["notes"])


def _print_models(console: Console, facts: Plain) -> None:
    probe = facts["probe"]
    console.print(f"A probe of {probe['layer']} at {probe['position']}, fitted on {probe['model']}.", soft_wrap=True)
    console.print(f"Before: {_model(facts['before'])}. After: {_model(facts['after'])}.", soft_wrap=True)


def _model(one: Plain) -> str:
    parts = [one["model"], one["adapter"] and f"with {one['adapter']}", one["quantization"], one["dtype"]]
    return " ".join(part for part in parts if part)


def _what_to_do(found: Plain) -> str:
    """One sentence: what the verdict asks for."""
    if found["unchanged"]:
        return "Keep the probe: states and answers are bit for bit the same."
    if found["verdict"] == "not judged":
        return "No label was looked at: whether the probe is right about the new model's answers is not known."
    tested = found["tested"]
    if tested["missing"]:
        return f"That cannot be told: no probe can be fitted to the new model ({tested['missing']})."
    margins = f"{figure(tested['margins']['auroc'])} in AUROC and {figure(tested['margins']['nll'])} nats"
    return {
        "keep": f"Keep the probe: it loses at most the margin ({margins}) to one that is fitted anew.",
        "realign": "Realign the probe: brought to the new states without labels it loses at most the margin "
        f"({margins}) to one that is fitted anew; as it is, that is not sure.",
        "label": _label(found["labels"], tested, margins),
        "cannot tell": _cannot_tell(found["labels"], tested, margins),
    }[found["verdict"]]


def _label(labels: int | None, tested: Plain, margins: str) -> str:
    said = (
        f"Label questions of the new model and refit: as it is, and realigned, the probe loses more than the margin "
        f"({margins}) to one that is fitted anew."
    )
    there = tested["curve"][-1]["labels"]
    if labels is None:
        return f"{said} How many are needed cannot be told from {there:,}."
    if labels > there:
        return f"{said} It had {there:,} labels and was still learning: label {labels - there:,} more."
    return f"{said} That had {there:,} labels; {labels:,} are enough."


def _cannot_tell(labels: int | None, tested: Plain, margins: str) -> str:
    said = f"That cannot be told with {tested['n']:,} test questions: an interval reaches across the margin ({margins})"
    return f"{said}, and a million would not settle it." if labels is None else f"{said}. Test {labels:,} more."


def _of_the_states(drift: Plain, *, unchanged: bool) -> list[str]:
    chosen, frozen = drift["chosen"], drift["tried"][0]
    if unchanged:
        return []
    if drift["moved"] == 0:
        return ["The states are bit for bit the same, but not the answers: what changed lies above this layer."]
    said = (
        f"The states moved by {figure(drift['moved'])} deviations; the frozen probe says again "
        f"{_share(frozen['explained'])} of what it said of the old ones"
    )
    if chosen["method"] == "unchanged":
        return [f"{said}: there is nothing to realign."]
    said += f", after realignment ({chosen['in_words']}, without labels) {_share(chosen['explained'])}."
    if not drift["repairable"]:
        said += " That is less than half: what it reads is gone from the new states, and cannot be brought back."
    return [said]


def _of_the_labels(tested: Plain) -> list[str]:
    names = {"frozen": "the frozen probe", "realigned": "the realigned one"}
    lost = [
        f"{names[name]} loses {with_interval(one['auroc'], signed=True)} in AUROC and "
        f"{with_interval(one['nll'], signed=True)} nats"
        for name, one in tested["losses"].items()
    ]
    said = [f"Against a refit on {tested['curve'][-1]['labels']:,} labels: {'; '.join(lost)}."] if lost else []
    said += [_off_sentence(name, tested["groups"][name]) for name in _far_off(tested)]
    if tested["settled"] is False:
        said.append("The refit still gains more than the margin from twice the labels: a better probe can be had.")
    return said


def _off_sentence(name: str, group: Plain) -> str:
    off = group["frozen"]
    way = "too low" if off["value"] < 0 else "too high"
    said = (
        f"On the {group['n']:,} questions of {name}, {percent(group['accuracy'])} of the answers are right: the frozen "
        f"probe is {way} by {figure(abs(off['value']))} there"
    )
    return said + (f", the refitted one by {figure(abs(group['refit']['value']))}." if "refit" in group else ".")


def _far_off(tested: Plain) -> list[str]:
    """Groups in which the frozen probe's confidence is clearly far from the share that is right, the worst first."""

    def least(name: str) -> float:
        off = tested["groups"][name]["frozen"]
        return -1.0 if off["low"] is None else max(off["low"], -off["high"])

    return sorted((name for name in tested["groups"] if least(name) > _FAR), key=least, reverse=True)[:_MOST_GROUPS]


def _drift_table(drift: Plain) -> Table:
    table = _table(
        f"the states of {drift['n']:,} questions, without labels", "brought back by", "of the logit explained"
    )
    best: dict[str, Plain] = {}  # of each kind of map, and the chosen one is one of them
    for one in [*drift["tried"], drift["chosen"]]:
        known = best.get(one["method"])
        if known is None or one["explained"] >= known["explained"] or one == drift["chosen"]:
            best[one["method"]] = one
    for one in best.values():
        table.add_row(f"{one['in_words']}{' (chosen)' if one == drift['chosen'] else ''}", _share(one["explained"]))
    return table


def _scores_table(tested: Plain) -> Table:
    title = f"on {tested['n']:,} test questions; the new model is right in {percent_interval(tested['accuracy'])}"
    table = _table(title, "confidence", "AUROC [95 %]", "NLL [95 %]", "Brier", "ECE [95 %]", "if calibrated")
    for name in (one for one in _ROWS if one in tested["scores"]):
        score = tested["scores"][name]
        shown = (with_interval(score["auroc"]), with_interval(score["nll"]), figure(score["brier"]["value"]))
        table.add_row(_ROWS[name], *shown, with_interval(score["ece"]), floor(score["ece"]))
    return table


def _groups_table(tested: Plain, named: list[str]) -> Table:
    said = [one for one in ("frozen", "realigned", "refit") if one in tested["scores"]]
    table = _table("mean confidence minus accuracy", "questions", "n", "accuracy", *(_ROWS[one] for one in said))
    for name in named:
        group = tested["groups"][name]
        cells = [f"{figure(group[one]['value'], signed=True)} {bounds(group[one], signed=True)}" for one in said]
        table.add_row(name, f"{group['n']:,}", percent(group["accuracy"]), *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if not number else "right", no_wrap=True)
    return table


def _share(explained: float) -> str:
    """Of a variance; below zero it is worse than saying the mean each time."""
    return percent(explained) if explained >= 0 else "nothing"
