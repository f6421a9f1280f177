"""The quickstart's world is planted, so what the tool says about it can be checked."""

import pytest

from src.config import load_config
from src.pipeline import run
from tests.test_pipeline import without_times

pytestmark = pytest.mark.slow
FACTS = ("people", "places")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    places = {"tinker.output_dir": "converted", "extraction.cache_dir": "cache", "run.dir": "run"}
    return load_config("configs/quickstart.yaml", {key: str(folder / name) for key, name in places.items()})


@pytest.fixture(scope="module")
def results(settings):
    return run(settings).results


def holds(number, value):
    return number["low"] <= value <= number["high"]


def test_the_model_knows_a_part(results):
    base = results["variants"]["base"]
    assert 0.4 <= base["accuracy_all_questions"] <= 0.7
    assert base["accuracy"]["all"]["low"] > results["data"]["chance"]


@pytest.mark.parametrize("subject", FACTS)
def test_no_text_tells_whether_a_fact_is_known_but_the_hidden_state_does(results, subject):
    for variant in results["variants"].values():
        assert holds(variant["scores"]["text_only"][subject]["auroc"], 0.5)
        assert variant["scores"]["probe"][subject]["auroc"]["low"] > 0.5


def test_the_text_of_a_sum_tells_a_lot(results):
    scores = results["variants"]["base"]["scores"]["text_only"]
    assert all(part["auroc"]["low"] > 0.5 for name, part in scores.items() if name not in ("all", *FACTS))


def test_shuffled_labels_say_nothing_anywhere(results):
    for variant in results["variants"].values():
        assert all(holds(part["auroc"], 0.5) for part in variant["scores"]["shuffled_labels"].values())


def test_the_adapter_taught_what_it_was_to_teach(results):
    base, tuned = (results["variants"][name]["tags"] for name in ("base", "tuned"))
    assert base["taught"]["accuracy"]["high"] < 0.4
    assert tuned["taught"]["accuracy"]["low"] > 0.8
    assert holds(tuned["never"]["accuracy"], 0.25)
    assert base["often"]["accuracy"]["value"] > base["rare"]["accuracy"]["value"] > base["never"]["accuracy"]["value"]


def test_the_verdict_says_what_fine_tuning_did(results):
    text = " ".join(results["verdict"])
    assert "Fine-tuning" in results["verdict"][0]
    assert "ECE" in text
    assert "its own probability does" in text


def test_a_second_run_takes_all_from_the_cache_and_says_the_same(settings, results, monkeypatch):
    def no_forward(*_):
        raise AssertionError("computed again")

    for room in ("capture", "packed"):
        monkeypatch.setattr(f"src.models.extraction.{room}.forward", no_forward)
    assert without_times(run(settings).results) == without_times(results)
