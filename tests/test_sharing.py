"""A run leaves its probes behind, and they say live what the run said."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from src.config import load_config
from src.data.example import Example
from src.data.mmlu import MMLUDataset
from src.data.quickstart import QuickstartDataset
from src.pipeline import run
from src.pipeline.questions import Questions
from src.pipeline.sharing import CHOICES, FREE, MMLU, how_asked, save_probes
from src.probes import ConfidenceModel, ModelIdentity, SavedProbe, TokenStates
from src.probes.sweep import PlaceResult, Sweep, new_probe
from tests.test_pipeline import choices, config  # noqa: F401


@pytest.mark.slow
def test_a_runs_probe_asks_and_is_as_sure_as_the_run_was(tmp_path, model_folder, adapter_folder, choices):  # noqa: F811
    model = {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}
    results = run(config(tmp_path, model_folder, choices, model=model)).results
    base, tuned = (SavedProbe.from_pretrained(tmp_path / "run" / "probes" / name) for name in ("base", "tuned"))
    for name, probe in (("base", base), ("tuned", tuned)):
        said = results["variants"][name]
        selected = {"position": probe.origin.position, "layer": probe.origin.layer, "C": probe.origin.C}
        assert said["selected"].items() >= selected.items()
        assert probe.origin.metrics["auroc"] == said["scores"]["probe"]["all"]["auroc"]["value"]
        thresholds = [one["threshold"] for one in said["selective"]["probe"]]
        assert [one.threshold if one.kept else None for one in probe.promises] == thresholds
        assert probe.origin.model.name == model_folder.name
    assert base.origin.training_ids == tuned.origin.training_ids
    assert base.origin.model.differences(tuned.origin.model) != []
    confident = ConfidenceModel.from_pretrained(tuned, model_folder, adapter=adapter_folder)
    with (tmp_path / "run" / "questions.csv").open(newline="") as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"][:3]
    for row in tested:
        answer = confident.ask(row["question"], ["x", "y", "z"])
        assert "ABC"[answer.choice or 0] == row["tuned_answer"]
        assert answer.confidence == pytest.approx(float(row["tuned_probe"]), abs=1e-5)


def questions(*examples, **settings):
    return Questions(
        examples, **({"marking": "letter", "stop": (), "max_new_tokens": 8, "with_choices": True} | settings)
    )


def asked(tmp_path, some, **data):
    data = {"name": "custom", "path": str(tmp_path)} | data
    return how_asked(some, load_config({"model": {"name": "m"}, "data": data}))


def test_the_prompts_own_form_is_found(tmp_path, shared):
    mmlu = MMLUDataset("test", "anatomy", path=str(shared / "data" / "mmlu"))[:60]
    found = asked(tmp_path, questions(*mmlu))
    assert (found.by, found.template) == ("letters", MMLU)
    assert asked(tmp_path, questions(replace(mmlu[0], prompt="Solved.\n\n" + mmlu[0].prompt))).template is None


def test_free_answers_choices_and_the_cloze_form(tmp_path):
    cloze = asked(tmp_path, questions(*QuickstartDataset()[:5]))
    assert (cloze.by, cloze.template) == ("choices", FREE)
    free = Example("  What?  ", "x", prompt="Question: What?\nAnswer:")
    found = asked(tmp_path, questions(free, with_choices=False, marking="exact", stop=("\n",)))
    assert (found.by, found.template, found.stop, found.marking) == ("generation", FREE, ("\n",), "exact")
    lettered = Example("What?", "A", ("x", "y"), prompt="What?\nA. x\nB. y\nAnswer:", continuations=(" A", " B"))
    assert asked(tmp_path, questions(lettered)).template == CHOICES
    own = "{{ question }} So:{% for letter, text in choices %} {{ text }}{% endfor %}"
    assert asked(tmp_path, questions(lettered), template=own).template == own
    chat = asked(
        tmp_path, questions(replace(lettered, prompt="<user>..."), messages=(lettered.prompt,)), template="chat"
    )
    assert (chat.chat, chat.template) == (True, CHOICES)


@pytest.mark.parametrize("family", ["logistic", "mean_difference", "mlp", "attention"])
def test_a_runs_probe_of_every_family_is_saved_as_what_it_is(tmp_path, family):
    rng = np.random.default_rng(0)
    tokens = TokenStates.of(rng.standard_normal((60, 4)), np.arange(60) // 2)
    states, y = tokens.states[::2], (tokens.states[::2, 0] > 0).astype(float)
    position = "attention_answer" if family == "attention" else "last_answer"
    X = tokens if family == "attention" else states
    probe = new_probe(family, 4).fit(X, y, groups=np.arange(30))
    result = PlaceResult(position, "block.1", family, 0.6, 0.7, 0.6, 0.8, getattr(probe, "C_", None))
    splits = SimpleNamespace(train=np.array([0]), val=np.array([], dtype=int))
    probed = SimpleNamespace(sweep=Sweep((result,), 0, 0, probe), splits=splits)
    some = questions(Example("What?", "x", prompt="Question: What?\nAnswer:"), with_choices=False)
    settings = load_config({"model": {"name": "m"}, "data": {"name": "custom", "path": str(tmp_path)}})
    model = ModelIdentity("maker/model", None, "12" * 16, None, "float32", None)
    said = {"scores": {"probe": {"all": {"n": 30}}}, "selective": {"probe": []}}
    save_probes(tmp_path, {"base": probed}, {"base": model}, some, settings, {"base": said})
    again = SavedProbe.from_pretrained(tmp_path / "probes" / "base")
    assert (again.origin.family, again.origin.position) == (family, position)
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))
