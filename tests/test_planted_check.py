"""A base model's probe on the model that its adapter made of it: what the check says is what was planted."""

import csv
import json

import pytest

from src.config import load_config
from src.data.quickstart import QuickstartDataset
from src.pipeline import check_probe, run
from src.probes import ConfidenceModel
from tests.test_pipeline import cli

pytestmark = pytest.mark.slow
BASE = "weights/quickstart/base"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a finished quickstart; its adapter lies beside the run."""
    folder = tmp_path_factory.mktemp("quickstart")
    places = {"tinker.output_dir": "converted", "extraction.cache_dir": "cache", "run.dir": "run"}
    run(load_config("configs/quickstart.yaml", {key: str(folder / name) for key, name in places.items()}))
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """The base probe on the tuned model."""
    adapter = str(folder / "converted" / "peft_adapter")
    return check_probe(folder / "run" / "probes" / "base", BASE, adapter=adapter).as_plain()


def test_the_base_probe_is_found_wrong_about_the_facts_that_the_adapter_taught(found):
    """They were like those that nobody taught; now they are known, and the probe of the base model does not see it."""
    groups = found["tested"]["groups"]
    taught, never = groups["tag taught"], groups["tag never"]
    assert taught["accuracy"] > 0.95
    assert never["accuracy"] < 0.3
    assert taught["frozen"]["high"] < -0.2
    said = {tag: group["accuracy"] + group["frozen"]["value"] for tag, group in groups.items()}
    assert said["tag taught"] == pytest.approx(said["tag never"], abs=0.05)
    assert any("tag taught" in sentence and "too low" in sentence for sentence in found["sentences"])


def test_realigned_without_labels_it_says_what_it_said_of_the_model_before(found):
    """Brought back to what the base model was, it is still further off about what has been learned since."""
    drift, taught = found["drift"], found["tested"]["groups"]["tag taught"]
    assert drift["chosen"]["explained"] > drift["tried"][0]["explained"] + 0.2
    assert taught["realigned"]["high"] < taught["frozen"]["low"]


def test_the_verdict_is_that_a_refit_would_be_no_better(found):
    """A refit knows no more: the facts can be seen in the model's own probability and not at this place."""
    tested = found["tested"]
    assert found["verdict"] == "keep"
    assert tested["groups"]["tag taught"]["refit"]["high"] < -0.2
    assert tested["losses"]["frozen"]["auroc"]["high"] < 0.02
    # It did lose something: at home it was better, and its log loss is no longer the best there is.
    assert tested["losses"]["frozen"]["nll"]["low"] > 0
    assert tested["scores"]["at home"]["auroc"]["low"] > tested["scores"]["frozen"]["auroc"]["high"]
    assert tested["scores"]["own_probability"]["auroc"]["low"] > tested["scores"]["refit"]["auroc"]["high"]


def test_the_unchanged_base_model_keeps_its_probe(folder, monkeypatch, capsys):
    assert cli(monkeypatch, "check", folder / "run" / "probes" / "base", "--model", BASE, "--json") == 0
    same = json.loads(capsys.readouterr().out)
    assert (same["verdict"], same["drift"]["moved"]) == ("keep", 0.0)


def test_the_shipped_model_answers_with_the_confidence_that_the_run_had(folder):
    probe, adapter = folder / "run" / "probes" / "tuned", folder / "converted" / "peft_adapter"
    model = ConfidenceModel.from_pretrained(probe, BASE, adapter=adapter)
    with (folder / "run" / "questions.csv").open(newline="", encoding="utf-8") as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"][::150]
    examples = {example.id: example for example in QuickstartDataset()}
    assert len(tested) > 10
    for row in tested:
        answer = model.ask(row["question"], examples[row["id"]].choices)
        assert "ABCD"[answer.choice or 0] == row["tuned_answer"]
        assert answer.text == examples[row["id"]].choices[answer.choice or 0]
        assert answer.confidence == pytest.approx(float(row["tuned_probe"]), abs=1e-5)
