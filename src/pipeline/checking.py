"""`confprobe check`: does a saved probe still hold on another model, adapter or quantisation?"""

import gc
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Config
from src.data.example import Example
from src.data.splits import Splits
from src.models.adapter_switch import switched_to
from src.pipeline.asked import Asked
from src.pipeline.asking import ask
from src.pipeline.check_numbers import Labelled, with_labels
from src.pipeline.check_plan import CheckPlan, Named, linear_weights, other_questions, plan_check
from src.pipeline.holding import FROZEN, REALIGNED, REFIT, Margins, Verdict
from src.pipeline.plan import Plan, model_loader
from src.pipeline.probing import answered_splits
from src.pipeline.results import strict
from src.pipeline.sharing import metrics_of, training_ids
from src.probes.artifact import SavedProbe, check_folder
from src.probes.drift import Realignment, realign
from src.probes.origin import ModelIdentity

_SAVED_AS = {"keep": FROZEN, "realign": REALIGNED, "label": REFIT}


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        verdict: "keep", "realign", "label" (more questions of the new model), "cannot tell" (with so few), or "not
            judged" (without labels).
        plan: which probe, models and questions.
        other: the model that it was checked on.
        unchanged: whether both models' states and answers are the same, bit for bit.
        splits: of the questions that count.
        realignment: what the states say, without labels.
        tested: what the labels say; None without them.
        labels: see `Judgement`.
        saved_in: where the probe for the new model was written; None: nowhere.
        not_saved: why it was not, where that was asked for, or "".
    """

    verdict: Verdict
    plan: CheckPlan
    other: ModelIdentity
    unchanged: bool
    splits: Splits
    realignment: Realignment
    tested: Labelled | None
    labels: int | None = None
    saved_in: Path | None = None
    not_saved: str = ""

    def as_plain(self) -> dict[str, Any]:
        """Everything, as values for JSON and for `print_check`."""
        from src.report import check_sentences

        drift = self.realignment
        plain = strict(
            {
                "verdict": self.verdict,
                "labels": self.labels,
                "unchanged": self.unchanged,
                **self.plan.facts(),
                "after_identity": asdict(self.other),
                "drift": {
                    "n": drift.n,
                    "moved": drift.moved,
                    "chosen": _plain_map(drift.chosen),
                    "tried": [_plain_map(one) for one in drift.tried],
                    "repairable": drift.repairable,
                },
                "tested": self.tested and self.tested.as_plain(),
                "saved_in": self.saved_in and str(self.saved_in),
                "not_saved": self.not_saved,
            }
        )
        return plain | {"sentences": check_sentences(plain)}


def check_probe(
    probe: SavedProbe | str | Path, model: str, *, adapter: str | None = None, quantization: Any = None,
    dtype: str | None = None, own: Named | None = None, config: str | Path | Config | None = None,
    margins: Margins | None = None, labelled: bool = True, save: str | Path | None = None,
) -> Check:  # fmt: skip
    """Check a probe on a model.

    Args:
        probe: a saved probe, its folder, or the id of its hub repository.
        model: a hub id or folder: what it is checked on.
        adapter: a PEFT folder to load with it.
        quantization, dtype: how it is loaded; None: without quantisation, and in the probe's precision.
        own: the model that the probe was fitted on; None: as the run's configuration says.
        config: of the run that fitted the probe; None: the one it lies in.
        margins: what a probe may lose to a refit and still hold.
        labelled: False: no label is looked at, and the verdict is "not judged" unless states and answers are the same.
        save: a folder that gets the probe for the new model, as the verdict says: kept, realigned or refitted.

    Raises:
        ProbingError: as `plan_check`; the model is not the one that the probe was fitted on; or one that cannot be
            loaded or asked.
    """
    plan = plan_check(probe, Named(model, adapter, quantization, dtype), own=own, config=config)
    return run_check(plan, margins=margins, labelled=labelled, save=save)


def run_check(
    plan: CheckPlan, *, margins: Margins | None = None, labelled: bool = True, save: str | Path | None = None
) -> Check:
    """As `check_probe`, of what was planned."""
    if save is not None:
        check_folder(save)
    before, after, identity = _asked(plan)
    saved, splits = plan.probe, plan.own_plan.task.splits
    if plan.other.data.unparsed == "drop":
        fitted = answered_splits(splits, {"before": before})["before"]
        plan = replace(plan, notes=(*plan.notes, *other_questions(saved, plan.own_plan.task.questions, fitted)))
        splits = answered_splits(splits, {"after": after})["after"]
    rows = np.concatenate([splits.train, splits.val])
    drift = realign(linear_weights(saved), before.hidden[rows, 0], after.hidden[rows, 0], groups=splits.groups[rows])
    realigned = None if drift.chosen.method == "unchanged" else replace(saved, weights=drift.weights)
    # Layers above the probe's may have changed, and with them the answers.
    unchanged = np.array_equal(before.hidden, after.hidden) and before.answers == after.answers
    found: Labelled | None = None
    if labelled:
        found = with_labels(
            saved, realigned, before, after, splits, _groups(plan.other_plan.task.questions.examples),
            settings=plan.other.evaluation, margins=margins or Margins(), seed=plan.other.experiment.seed,
        )  # fmt: skip
    verdict, labels = _verdict(found, unchanged=unchanged)
    check = Check(verdict, plan, identity, unchanged, splits, drift, found, labels)
    return _saved(check, save) if save is not None else check


def _verdict(found: Labelled | None, *, unchanged: bool) -> tuple[Verdict, int | None]:
    """What to do, and how many labels that takes."""
    if unchanged:  # whatever the probe was worth, it still is
        return "keep", None
    if found is None:
        return "not judged", None
    judgement = found.judgement
    return ("cannot tell", None) if judgement is None else (judgement.verdict, judgement.labels)


def _asked(plan: CheckPlan) -> tuple[Asked, Asked, ModelIdentity]:
    """What both models say, at the probe's layer and position, and which the second one is."""
    own, other = plan.own.adapter_folders, plan.other.adapter_folders
    if plan.one_model:
        model, tokenizer = model_loader(plan.own, own or other).load()
        with switched_to(model, 0 if own else None):
            plan.probe.check_fits(model)
            before = _ask(model, tokenizer, plan.own_plan, plan.own, "before")
        with switched_to(model, 0 if other else None):
            identity = ModelIdentity.of(model)
            after = _ask(model, tokenizer, plan.other_plan, plan.other, "after")
        return before, after, identity
    model, tokenizer = model_loader(plan.own, own).load()
    plan.probe.check_fits(model)
    before = _ask(model, tokenizer, plan.own_plan, plan.own, "before")
    del model
    gc.collect()  # two models need not fit into memory at once
    model, tokenizer = model_loader(plan.other, other).load()
    return before, _ask(model, tokenizer, plan.other_plan, plan.other, "after"), ModelIdentity.of(model)


def _ask(model: Any, tokenizer: Any, plan: Plan, settings: Config, label: str) -> Asked:
    return ask(model, tokenizer, plan.task.questions, settings, layers=plan.layers, label=label)


def _groups(examples: tuple[Example, ...]) -> dict[str, np.ndarray]:
    """Tag and subject -> (n,) the questions that have it, where there are several."""
    found = {}
    for name in ("tag", "subject"):
        values = np.array([getattr(example, name) for example in examples])
        names = sorted(set(values) - {""})
        found |= {f"{name} {one}": values == one for one in names if len(set(values)) > 1}
    return found


def _plain_map(one: Any) -> dict[str, Any]:
    return asdict(one) | {"in_words": str(one)}


def _saved(check: Check, folder: str | Path) -> Check:
    """Write the probe for the new model, where the verdict names one; thresholds with a guarantee are the old one's."""
    kind, tested = _SAVED_AS.get(check.verdict), check.tested
    if kind is None:
        return replace(check, not_saved=f"the verdict is {check.verdict!r}, which names no probe for this model")
    plan, saved, fitted = check.plan, check.plan.probe, tested and tested.refit
    # Without labels only an unchanged model's probe is kept, and that is worth what it was.
    metrics = metrics_of(tested.scores[kind]) if tested else saved.origin.metrics
    origin = replace(saved.origin, model=check.other, metrics=metrics)
    if kind == REFIT and fitted is not None:
        ids = training_ids(plan.other_plan.task.questions, check.splits)
        new = SavedProbe(fitted.weights_, replace(origin, family="logistic", training_ids=ids, C=fitted.C_))
    else:
        weights = saved.weights if kind == FROZEN else check.realignment.weights
        promises = saved.promises if check.unchanged else ()
        new = replace(saved, weights=weights, origin=origin, promises=promises)
    return replace(check, saved_in=new.save_pretrained(folder))
