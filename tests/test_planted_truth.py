"""The quickstart's world is planted, so what the tool says about it can be checked."""

import pytest

from src.config import load_config
from src.pipeline import run
from tests.test_pipeline import without_times

pytestmark = pytest.mark.slow
FACTS, SUMS = ("people", "places"), ("addition", "subtraction")
ORDER = ("quickstart arithmetic", "quickstart facts")


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


def test_the_probe_adds_what_the_probability_leaves_out(results):
    """How hard a sum is shows in the states and less in the probability; of facts the probability says nearly all."""
    for variant in results["variants"].values():
        gain = {name: part["gain"] for name, part in variant["gain"].items()}
        assert all(gain[subject]["low"] > 0 for subject in ("all", "addition", "subtraction"))
        assert all(
            gain[subject]["value"] < min(gain["addition"]["low"], gain["subtraction"]["low"]) for subject in FACTS
        )


def test_where_only_one_model_is_right_the_text_is_blind_and_the_tuned_model_knows(results):
    found, flips = (results["comparisons"]["tuned"][key] for key in ("disagreement", "flips"))
    assert found["n"] == flips["gained"] + flips["lost"]
    assert all(holds(found[name]["text_only"], 0.5) for name in ("base", "tuned"))
    assert found["tuned"]["own_probability"]["low"] > 0.7
    # The base model does not know of what it will be taught that it does not know it.
    assert holds(found["base"]["own_probability"], 0.5)


def auroc_from(found, trained, tested):
    names = [group["name"] for group in found["groups"]]
    return found["matrix"]["auroc"][names.index(trained)][names.index(tested)]


def test_what_tells_of_sums_does_not_tell_of_facts(results):
    """How hard a sum is has nothing to do with whether a fact was taught."""
    for variant in results["variants"].values():
        found = variant["held_out"]["subjects"]
        for fact in FACTS:
            own = auroc_from(found, fact, fact)
            assert all(auroc_from(found, sums, fact)["value"] < own["value"] - 0.04 for sums in SUMS)
        assert found["all"]["differences"]["probe"]["auroc"]["high"] < 0
    base = results["variants"]["base"]["held_out"]["subjects"]
    assert all(
        auroc_from(base, sums, fact)["high"] < auroc_from(base, fact, fact)["low"] for sums in SUMS for fact in FACTS
    )
    assert holds(auroc_from(base, "subtraction", "places"), 0.5)
    # One kind of fact does tell of the other, and one kind of sum.
    for kind in (FACTS, SUMS):
        assert all(auroc_from(base, a, b)["low"] > 0.65 for a in kind for b in kind)
    text = " ".join(results["verdict"])
    assert "On subjects it was not trained on, a probe tells right from wrong less well than one that was" in text
    assert "subtraction → places" in text


def test_of_data_sets_the_report_says_that_sums_do_not_teach_facts(settings, results):
    values = settings.model_dump(mode="json")
    values["data"]["category"] = "facts"
    values["transfer"] = {"data": [{"name": "quickstart", "category": "arithmetic"}]}
    values["run"]["dir"] += "-of-data-sets"
    apart = run(values).results
    for variant in apart["variants"].values():
        found = variant["held_out"]["data"]
        assert [group["name"] for group in found["groups"]] == ["quickstart facts", "quickstart arithmetic"]
        assert all(group["differences"]["probe"]["auroc"]["high"] < 0 for group in found["groups"])
        # Both are the same questions as in the whole world, in the same splits.
        assert sum(group["n"] for group in found["groups"]) == results["data"]["splits"]["test"]
    assert holds(auroc_from(apart["variants"]["tuned"]["held_out"]["data"], *ORDER), 0.5)
    assert "at chance, where one of its own knows, in 1 of 2: quickstart arithmetic → quickstart facts" in " ".join(
        apart["verdict"]
    )


def test_promises_hold_on_the_test_questions_within_their_chance(results):
    for variant in results["variants"].values():
        kept = [entry for entries in variant["selective"].values() for entry in entries if entry["test"]]
        assert kept
        assert all(entry["test"]["risk"]["low"] <= entry["risk"] for entry in kept)
        assert all(entry["wrong"] <= entry["risk"] * entry["answered"] for entry in kept)


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
