"""Stage 7: the chosen probe of each model, saved so that it can be shared and used (`src.probes.artifact`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src import files
from src.config import Config
from src.data import prompts
from src.data.example import Example
from src.data.splits import Splits
from src.evaluation.selective import Promise
from src.pipeline.asking import each_variant
from src.pipeline.folder import PROBES
from src.pipeline.probing import PROBE, Probed
from src.pipeline.questions import CHAT, Questions
from src.probes.origin import Asking, ModelIdentity, Origin

FREE = "Question: {{ question | trim }}\nAnswer:"
CHOICES = "{{ question | trim }}\n{% for letter, text in choices %}{{ letter }}. {{ text }}\n{% endfor %}Answer:"
MMLU = "The following are multiple choice questions (with answers) about {{ subject }}.\n\n" + CHOICES
_METRICS = ("auroc", "brier", "nll", "ece")
_TRIED = 50  # questions that a template has to reproduce


def identities(model: Any, adapters: Sequence[str]) -> dict[str, ModelIdentity]:
    """Of the loaded base model, and with each of its adapters; arguments as in `ask_all`."""
    found = {}
    for name, switched in each_variant(model, adapters):
        with switched:
            found[name] = ModelIdentity.of(model)
    return found


def save_probes(
    folder: Path, probed: Mapping[str, Probed], models: Mapping[str, ModelIdentity], questions: Questions,
    config: Config, variants: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write probes/VARIANT for every model that has a probe.

    Args:
        folder: of the run.
        probed: model -> its probe.
        models: model -> which it is.
        questions: all of them.
        config: of the run.
        variants: model -> its numbers, as in results.json.

    Raises:
        StorageError: it cannot be written.
    """
    asking = how_asked(questions, config)
    for name, one in probed.items():
        if one.sweep is None:
            continue
        chosen, said = one.sweep.chosen, variants[name]
        origin = Origin(
            model=models[name],
            layer=chosen.layer,
            position=chosen.position,
            asking=asking,
            family=chosen.family,
            data=config.data.name,
            training_ids=training_ids(questions, one.splits),
            C=chosen.C,
            metrics=metrics_of(said["scores"][PROBE]["all"]),
        )
        promises = tuple(_promise(promise) for promise in said["selective"][PROBE])
        replace(one.sweep.probe.frozen(origin), promises=promises).save_pretrained(folder / PROBES / name)


def training_ids(questions: Questions, splits: Splits) -> str:
    """SHA-256 of the sorted ids of the questions that fit a probe or choose anything of it."""
    fitted = [*splits.train, *splits.val]
    return files.sha256_of_json(sorted({questions.examples[row].id for row in fitted}))


def how_asked(questions: Questions, config: Config) -> Asking:
    """How a new question is put likewise."""
    first = questions.examples[0]
    in_cloze_form = first.continuations == tuple(f" {choice}" for choice in first.choices)
    return Asking(
        by="generation" if not questions.with_choices else "choices" if in_cloze_form else "letters",
        template=_template(questions, config.data.template),
        chat=config.data.template == CHAT,
        stop=questions.stop,
        max_new_tokens=questions.max_new_tokens,
        thinking=config.data.thinking,
        marking=questions.marking,
    )


def _template(questions: Questions, own: str | None) -> str | None:
    """The first that makes these very prompts; None where none does (solved examples, answers from outside)."""
    if questions.given:
        return None
    examples = questions.examples[:_TRIED]
    wanted = list(questions.messages or (example.prompt for example in questions.examples))[:_TRIED]
    if own not in (None, CHAT):
        return own
    spaced = [replace(example, subject=example.subject.replace("_", " ")) for example in examples]
    return next((one for one in (FREE, CHOICES, MMLU) if [_filled(one, example) for example in spaced] == wanted), None)


def _filled(template: str, example: Example) -> str:
    return prompts.from_template(example, template, answer_by_letter=False).prompt


def metrics_of(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """As a saved probe records them, from numbers of results.json's form."""
    found: dict[str, float | None] = {"n": float(scores["n"])}
    for name in _METRICS:
        number = scores.get(name, {})
        found |= {name + end: number.get(key) for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}
    return found


def _promise(plain: Mapping[str, Any]) -> Promise:
    values = {name: plain[name] for name in ("risk", "certainty", "coverage", "answered", "wrong")}
    return Promise(threshold=float("inf") if plain["threshold"] is None else plain["threshold"], **values)
