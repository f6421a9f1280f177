"""`confprobe check` on random models: what is compared, what is an error, and what is written."""

import json
from dataclasses import replace

import numpy as np
import pytest

from src.config import load_config
from src.errors import ConfigError, ModelError, StorageError
from src.models import ModelLoader
from src.pipeline import asking, check_probe, checking, run
from src.pipeline.check_plan import Named, plan_check
from src.pipeline.holding import Margins
from src.pipeline.sharing import training_ids
from src.probes import SavedProbe
from src.probes.attention import AttentionWeights
from src.probes.mlp import MLPWeights
from tests.conftest import random_llama
from tests.test_data import write_lines
from tests.test_pipeline import cli, config


def lines(path, *, seed, n=150):
    rng = np.random.default_rng(seed)
    return write_lines(
        path, *({"question": f"Which is number {i}?", "choices": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)],
                 "subject": ("one", "two")[i % 2]} for i in range(n))
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, adapter_folder):
    """The folder of a finished run of the random model, and of its adapter."""
    folder = tmp_path_factory.mktemp("check")
    model = {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}
    evaluation = {"bootstrap": 100, "repeats": 2}
    run(config(folder, model_folder, lines(folder / "choices.jsonl", seed=0), model=model, evaluation=evaluation))
    return folder / "run"


@pytest.fixture(scope="module")
def probe(finished):
    return finished / "probes" / "base"


@pytest.fixture(scope="module")
def turned(tokenizer, tmp_path_factory):
    """The same model in other coordinates: its residual stream is turned, and every weight that meets it with it."""
    import torch

    model = random_llama(len(tokenizer))
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(5)))[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.copy_(turn.T @ parameter)
            elif parameter.ndim == 2:
                parameter.copy_(parameter @ turn)
    folder = tmp_path_factory.mktemp("turned")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_unchanged_model_keeps_its_probe_as_it_is(probe, model_folder):
    found = check_probe(probe, str(model_folder))
    plain = found.as_plain()
    assert (plain["verdict"], plain["drift"]["moved"], plain["loaded_once"]) == ("keep", 0.0, True)
    assert plain["tested"]["scores"]["frozen"] == plain["tested"]["scores"]["at home"]
    assert found.realignment.weights is found.plan.probe.weights
    assert "bit for bit the same" in plain["sentences"][0]


def test_a_model_in_other_coordinates_answers_the_same_and_its_probe_is_brought_back(probe, turned):
    found = check_probe(probe, str(turned))
    drift, scores = found.realignment, found.tested.scores
    assert not found.plan.one_model
    assert drift.chosen.method == "rotation"
    assert drift.chosen.explained == pytest.approx(1, abs=1e-4)
    assert drift.frozen.explained < 0.5
    for metric in ("auroc", "nll", "brier"):
        assert scores["realigned"][metric]["value"] == pytest.approx(scores["at home"][metric]["value"], abs=1e-4)
    assert scores["frozen"]["nll"]["value"] != pytest.approx(scores["at home"]["nll"]["value"], abs=1e-6)


def test_an_adapter_is_switched_on_one_loaded_model_and_asked_once(probe, model_folder, adapter_folder, monkeypatch):
    loads = []
    load = ModelLoader.load
    monkeypatch.setattr(ModelLoader, "load", lambda self, *a: loads.append(self) or load(self, *a))
    first = check_probe(probe, str(model_folder), adapter=str(adapter_folder)).as_plain()
    assert len(loads) == 1
    assert first["drift"]["moved"] > 0
    assert first["after_identity"]["adapter"]
    assert set(first["tested"]["groups"]) == {"subject one", "subject two"}
    for room in ("capture", "packed"):
        monkeypatch.setattr(f"src.models.extraction.{room}.forward", None)
    assert check_probe(probe, str(model_folder), adapter=str(adapter_folder)).as_plain() == first


def test_a_probe_of_the_tuned_model_is_checked_on_the_base_model(finished, model_folder):
    found = check_probe(finished / "probes" / "tuned", str(model_folder))
    assert found.plan.one_model
    assert found.other.adapter is None
    assert found.plan.probe.origin.model.adapter is not None
    assert found.realignment.moved > 0


def test_without_labels_nothing_is_said_of_right_and_wrong(
    probe, finished, model_folder, adapter_folder, tmp_path, monkeypatch
):
    """Other right answers, to the same questions, change nothing of what the states say."""
    found = check_probe(probe, str(model_folder), adapter=str(adapter_folder), labelled=False)
    assert (found.verdict, found.tested) == ("not judged", None)
    assert "No label was looked at" in found.as_plain()["sentences"][0]
    other = config(tmp_path, model_folder, lines(tmp_path / "other.jsonl", seed=1))
    again = check_probe(probe, str(model_folder), adapter=str(adapter_folder), labelled=False, config=other)
    assert again.realignment.tried == found.realignment.tried
    assert np.array_equal(again.realignment.weights.weight, found.realignment.weights.weight)
    unchanged = check_probe(probe, str(model_folder), labelled=False, save=tmp_path / "kept")
    assert unchanged.verdict == "keep"
    kept, old = (SavedProbe.from_pretrained(folder) for folder in (unchanged.saved_in, probe))
    assert np.array_equal(kept.weights.weight, old.weights.weight)
    assert kept.origin.metrics == old.origin.metrics
    assert kept.promises == old.promises != ()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    monkeypatch.setattr(checking, "_asked", None)  # before anything is computed
    with pytest.raises(StorageError, match=r"holds 'thesis\.txt'"):
        check_probe(probe, str(model_folder), save=tmp_path / "mine")


@pytest.mark.parametrize("checked_on", ["turned", "model_folder"])
def test_the_probes_own_model_must_be_the_one_it_was_fitted_on(probe, turned, checked_on, request):
    """Whether one loaded model serves both or two are loaded."""
    other = request.getfixturevalue(checked_on)
    assert plan_check(probe, Named(str(other)), own=Named(str(turned))).one_model == (checked_on == "turned")
    with pytest.raises(ModelError, match=r"This probe reads block\.\d of .* and this model is .* \(weights"):
        check_probe(probe, str(other), own=Named(str(turned)))


def test_the_same_states_keep_a_probe_whatever_a_refit_would_gain(probe, finished, model_folder):
    """What was worth nothing is still worth nothing."""
    saved = SavedProbe.from_pretrained(probe)
    worse = replace(saved, weights=replace(saved.weights, weight=-20 * saved.weights.weight))
    found = check_probe(worse, str(model_folder), config=finished / "config.yaml")
    assert found.tested.judgement.verdict != "keep"
    assert (found.verdict, found.labels) == ("keep", None)


def test_what_changed_above_the_probes_layer_is_judged_by_its_answers(probe, tokenizer, tmp_path):
    """The states are the same, the answers are not: whatever the probe was worth, nothing says that it still is."""
    import torch

    model = random_llama(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(tmp_path / "head")
    tokenizer.save_pretrained(tmp_path / "head")
    found = check_probe(probe, str(tmp_path / "head"))
    assert (found.realignment.moved, found.unchanged) == (0, False)
    assert found.verdict == found.tested.judgement.verdict
    assert "not the answers" in found.as_plain()["sentences"][1]
    unlabelled = check_probe(probe, str(tmp_path / "head"), labelled=False)
    assert unlabelled.verdict == "not judged"


def test_who_generated_the_runs_answers_is_said_where_it_is_not_who_generates_here(probe, finished, model_folder):
    how = {"run.generator": "vllm", "run.engine": "ray", "run.workers": 2, "run.worker_gpus": 1}
    settings = load_config(finished / "config.yaml", how | {"model.device_map": "auto"})
    plan = plan_check(probe, Named(str(model_folder)), config=settings)
    assert {(one.run.generator, one.run.engine, one.run.workers) for one in (plan.own, plan.other)} == {
        ("transformers", "local", 1)
    }
    assert {one.model.device_map for one in (plan.own, plan.other)} == {"auto"}
    assert plan.notes == ("The run had vllm generate its answers; here transformers does, of both models.",)


def test_both_models_are_read_also_where_the_run_took_states_from_elsewhere(probe, finished, model_folder, tmp_path):
    with_states = load_config(finished / "config.yaml", {"extraction.states": str(tmp_path)})
    plan = plan_check(probe, Named(str(model_folder)), config=with_states)
    assert [one.extraction.states for one in (plan.own, plan.other)] == [None, None]


def test_a_model_without_the_probes_width_or_layer_is_an_error_that_names_both(probe, tokenizer, tmp_path):
    for name, changes in (("narrow", {"hidden_size": 16}), ("short", {"num_hidden_layers": 1})):
        random_llama(len(tokenizer), **changes).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(ModelError, match=r"states have 32 numbers; those of .*narrow have 16"):
        check_probe(probe, str(tmp_path / "narrow"))
    deep = SavedProbe.from_pretrained(probe)
    deep = replace(deep, origin=replace(deep.origin, layer="block.2"))
    with pytest.raises(ModelError, match=r"reads block\.2 of .* and .*short has blocks 0 to 0"):
        check_probe(deep, str(tmp_path / "short"), config=probe.parents[1] / "config.yaml")


def test_a_probe_outside_of_a_run_needs_its_questions_named(probe, finished, model_folder, tmp_path):
    away = SavedProbe.from_pretrained(probe).save_pretrained(tmp_path / "away")
    with pytest.raises(ConfigError, match=r"does not lie in the folder of a run .* --config"):
        plan_check(away, Named(str(model_folder)))
    assert plan_check(away, Named(str(model_folder)), config=finished / "config.yaml").notes == ()


def test_a_hub_id_does_not_take_the_configuration_that_lies_here(probe, finished, tmp_path, monkeypatch):
    """The id owner/name looks like a folder two levels down, and ./config.yaml may be anybody's."""
    (tmp_path / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    for named in ("owner/name", str(SavedProbe.from_pretrained(probe).save_pretrained(tmp_path / "a" / "name"))):
        monkeypatch.setattr("src.pipeline.check_plan.SavedProbe.from_pretrained", lambda _: SavedProbe)
        monkeypatch.setattr("src.pipeline.check_plan.linear_weights", lambda _: None)
        with pytest.raises(ConfigError, match="does not lie in the folder of a run"):
            plan_check(named, Named("m"))
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)


def test_questions_that_may_have_trained_the_probe_are_pointed_at(probe, model_folder, tmp_path):
    other = config(tmp_path, model_folder, lines(tmp_path / "c.jsonl", seed=0, n=140))
    (note,) = plan_check(probe, Named(str(model_folder)), config=other).notes
    assert "was fitted on other questions" in note
    saved = SavedProbe.from_pretrained(probe)
    unknown = replace(saved, origin=replace(saved.origin, training_ids=None))
    (note,) = plan_check(unknown, Named(str(model_folder)), config=other).notes
    assert "does not say which questions" in note


def test_where_unreadable_answers_are_left_out_the_questions_are_those_that_fitted_the_probe(
    tmp_path, model_folder, monkeypatch
):
    path = write_lines(tmp_path / "n.jsonl", *({"question": f"Say {n}!", "answer": str(n % 7)} for n in range(150)))
    real = asking.answer_freely

    def made_up(model, tokenizer, prompts, **options):
        said = real(model, tokenizer, prompts, **options)
        texts = tuple("hm" if n % 4 == 0 else str(n % 7) if n % 3 else "8" for n in range(len(prompts)))
        return replace(said, texts=texts)

    monkeypatch.setattr(asking, "answer_freely", made_up)
    data = {"name": "custom", "path": str(path), "marking": "numeric", "max_new_tokens": 2, "unparsed": "drop"}
    settings = config(tmp_path, model_folder, path, data=data, evaluation={"bootstrap": 100, "repeats": 2})
    run(settings)
    here = tmp_path / "run" / "probes" / "base"
    found = check_probe(here, str(model_folder))
    assert (found.verdict, found.plan.notes) == ("keep", ())
    ids = SavedProbe.from_pretrained(here).origin.training_ids
    assert training_ids(found.plan.own_plan.task.questions, found.splits) == ids
    assert training_ids(found.plan.own_plan.task.questions, found.plan.own_plan.task.splits) != ids
    fewer = check_probe(here, str(model_folder), config=load_config(settings, {"data.limit": 140}))
    assert "was fitted on other questions" in fewer.plan.notes[0]


def test_answers_from_outside_cannot_be_asked_for_again(probe, model_folder, tmp_path):
    data = write_lines(tmp_path / "given.jsonl", {"prompt": "Q", "response": "A", "correct": True})
    settings = config(tmp_path, model_folder, data, data={"name": "answered", "path": str(data)})
    with pytest.raises(ConfigError, match=r"data\.name is answered"):
        check_probe(probe, str(model_folder), config=settings)


def test_the_test_questions_are_those_of_the_run_and_fit_nothing(probe, finished, model_folder, adapter_folder):
    results = json.loads((finished / "results.json").read_text())
    found = check_probe(probe, str(model_folder), adapter=str(adapter_folder))
    splits = results["data"]["splits"]
    assert found.tested.n == splits["test"]
    assert found.realignment.n == splits["train"] + splits["val"] == found.tested.curve[-1].labels
    said = results["variants"]["base"]["scores"]["probe"]["all"]
    home = found.tested.scores["at home"]
    for metric in ("auroc", "nll", "brier"):
        assert [home[metric][key] for key in ("value", "low", "high")] == pytest.approx(
            [said[metric][key] for key in ("value", "low", "high")], abs=1e-9
        )


def test_what_the_verdict_says_is_saved_for_the_new_model(probe, model_folder, adapter_folder, tmp_path):
    wide = Margins(1.0, 100.0)
    found = check_probe(probe, str(model_folder), adapter=str(adapter_folder), margins=wide, save=tmp_path / "kept")
    assert found.verdict == "keep"
    model, _ = ModelLoader(str(model_folder), adapter_folder, dtype="float32").load()
    old, kept = (SavedProbe.from_pretrained(path) for path in (probe, found.saved_in))
    kept.check_fits(model)
    assert np.array_equal(kept.weights.weight, old.weights.weight)
    assert (kept.promises, kept.origin.training_ids) == ((), old.origin.training_ids)
    assert kept.origin.metrics["auroc"] == found.tested.scores["frozen"]["auroc"]["value"]
    realigned = checking._saved(replace(found, verdict="realign"), tmp_path / "realigned").saved_in
    assert np.array_equal(SavedProbe.from_pretrained(realigned).weights.weight, found.realignment.weights.weight)
    means = replace(old, origin=replace(old.origin, family="mean_difference"))
    of_means = replace(found, verdict="label", plan=replace(found.plan, probe=means))
    fitted = SavedProbe.from_pretrained(checking._saved(of_means, tmp_path / "refitted").saved_in)
    assert np.array_equal(fitted.weights.weight, found.tested.refit.weights_.weight)
    assert (fitted.origin.family, fitted.origin.C) == ("logistic", found.tested.refit.C_)
    assert fitted.origin.training_ids == old.origin.training_ids
    nothing = checking._saved(replace(found, verdict="cannot tell", saved_in=None), tmp_path / "nothing")
    assert nothing.saved_in is None
    assert nothing.not_saved == "the verdict is 'cannot tell', which names no probe for this model"
    assert found.not_saved == ""
    assert not (tmp_path / "nothing").exists()


def test_the_command_says_what_it_would_do_and_what_it_found(
    probe, model_folder, adapter_folder, monkeypatch, capsys, tmp_path
):
    arguments = ["check", probe, "--model", model_folder, "--adapter", adapter_folder]
    assert cli(monkeypatch, *arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "Nothing was computed or written" in printed
    assert "One loaded model serves both" in printed
    assert cli(monkeypatch, *arguments, "--margin-auroc", 1, "--margin-nll", 100, "--save", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "frozen probe" in printed
    assert "Keep the probe: it loses at most the margin (1.000 in AUROC and 100.000 nats)" in printed
    assert (tmp_path / "new" / "probe.json").is_file()
    assert cli(monkeypatch, *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] in ("keep", "realign", "label", "cannot tell")
    assert found["sentences"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check", "nowhere", "--model", "m"], 2, "There is no folder 'nowhere'"),
        (["check", "{probe}"], 2, "Missing option '--model'"),
        (["check", "{probe}", "--model", "./nowhere"], 2, "There is no model folder ./nowhere"),
        (["check", "{probe}", "--model", "{model}", "--adapter", "nowhere"], 2, "nowhere"),
    ],
)
def test_errors_are_one_sentence_and_a_code(probe, model_folder, monkeypatch, capsys, arguments, code, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli(monkeypatch, *(one.format(probe=probe, model=model_folder) for one in arguments)) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_a_probe_that_reads_all_tokens_of_an_answer_is_refused(probe, model_folder):
    saved = SavedProbe.from_pretrained(probe)
    weights = AttentionWeights(
        saved.weights.weight, saved.weights.bias, saved.weights.mean, saved.weights.scale, np.zeros(saved.input_dim)
    )
    with pytest.raises(ConfigError, match="states cannot be compared token by token"):
        plan_check(replace(saved, weights=weights), Named(str(model_folder)))


def test_a_small_network_is_refused(probe, model_folder):
    saved = SavedProbe.from_pretrained(probe)
    one = np.ones(saved.input_dim)
    weights = MLPWeights(np.ones((saved.input_dim, 64)), np.ones(64), np.ones(64), 0.0, one, one)
    with pytest.raises(ConfigError, match=r"is a small network \(mlp\)"):
        plan_check(replace(saved, weights=weights), Named(str(model_folder)))
