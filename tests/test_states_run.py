"""A run with states from outside is the run with the model's own, or stops and says which layer is off."""

import json
import random

import pytest
import torch

from src.errors import ConfigError, DataError
from src.models import ModelLoader
from src.models.extraction.engine import as_array, read_rows
from src.pipeline import run
from tests.test_data import write_lines
from tests.test_foreign_states import write_vllm
from tests.test_pipeline import choices, cli, config  # noqa: F401 (choices is a fixture)

BLOCKS = ("block.0", "block.1", "block.2")
QUICK = {"evaluation": {"bootstrap": 100, "repeats": 2}, "transfer": {"subjects": False}}


@pytest.fixture(scope="module")
def loaded(model_folder):
    return ModelLoader(str(model_folder)).load()


def extracted(folder, loaded, texts, *, ids=(1, 2, 3), held=BLOCKS):
    """The states of all tokens of these texts, in an order that is nobody's."""
    model, tokenizer = loaded
    sequences = sorted({tuple(tokenizer(text)["input_ids"]) for text in texts}, key=lambda ids: ids[::-1])
    windows = [tuple((t, t) for t in range(len(one))) for one in sequences]
    rows = torch.from_numpy(as_array(read_rows(model, sequences, windows=windows, layers=held).states))
    states = [part.transpose(0, 1) for part in rows.split([len(one) for one in sequences])]
    return write_vllm(folder, sequences, states, ids=ids)


def prompts(path):
    from src.config import load_config
    from src.pipeline.questions import load_questions

    data = load_config({"model": {"name": "m"}, "data": {"name": "custom", "path": str(path)}}).data
    return [example.prompt for example in load_questions(data).examples]


def given(path, n=120):
    """Answers with a confidence each, as another program gave them."""
    rng = random.Random(0)
    rows = [{"prompt": f"Question: what is {i}?\nAnswer:", "response": f" {rng.randrange(99)} 345",
             "correct": rng.random() < 0.5, "confidence": rng.random()} for i in range(n)]  # fmt: skip
    return write_lines(path, *rows), [row["prompt"] + row["response"] for row in rows]


def test_choices_are_probed_as_if_the_states_had_been_read_here(tmp_path, model_folder, loaded, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices, **QUICK)
    settings["extraction"]["layers"] = [1]
    own = run(settings).results
    folder = extracted(tmp_path / "states", loaded, prompts(choices))
    extraction = settings["extraction"] | {"states": str(folder)}
    found = run(settings | {"extraction": extraction, "run": {"dir": str(tmp_path / "other")}}).results
    assert own["states_from"] is None
    assert found["states_from"]["verified"]
    assert found["states_from"]["layers"] == list(BLOCKS)
    assert [one["layer"] for one in found["variants"]["base"]["layers"]] == ["block.1"]
    for scorer in ("probe", "own_probability"):
        for metric in ("auroc", "nll"):
            ours, theirs = (one["variants"]["base"]["scores"][scorer]["all"][metric] for one in (own, found))
            assert theirs["value"] == pytest.approx(ours["value"], abs=1e-4)
    assert (tmp_path / "other" / "probes").is_dir()


def test_answers_and_states_from_outside_need_no_weights(tmp_path, model_folder, loaded, monkeypatch):
    path, texts = given(tmp_path / "answers.jsonl")
    folder = extracted(tmp_path / "states", loaded, texts, ids=(2, 3), held=BLOCKS[1:])
    settings = {
        "model": {"name": str(model_folder)},
        "data": {"name": "answered", "path": str(path)},
        "extraction": {"position": "last_answer", "states": str(folder)},
        "run": {"dir": str(tmp_path / "run")},
    } | QUICK  # fmt: skip
    own = run(settings).results

    def refuse(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(ModelLoader, "load", refuse)
    settings["extraction"]["verify_rows"] = 0
    found = run(settings | {"run": {"dir": str(tmp_path / "other")}}).results
    assert found["states_from"]["verified"] is False
    assert "not compared with the model" in found["states_from"]["sentences"][0]
    assert found["variants"]["base"]["scores"]["probe"] == own["variants"]["base"]["scores"]["probe"]
    assert {one["layer"] for one in found["variants"]["base"]["layers"]} == set(BLOCKS[1:])
    # A saved probe names its model by its weights, which nobody has seen.
    assert not (tmp_path / "other" / "probes").exists()


def test_states_that_are_not_the_models_stop_the_run(tmp_path, model_folder, loaded, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    wrong = extracted(tmp_path / "states", loaded, prompts(choices), held=("block.1", "block.0", "block.2"))
    settings["extraction"]["states"] = str(wrong)
    with pytest.raises(DataError, match=r"block\.0 holds the state of block\.1: 1 layer too late"):
        run(settings)
    # A run that came to nothing is in nobody's way: what it said to correct can be corrected.
    assert not (tmp_path / "run").exists()
    (wrong / "layer_ids.json").write_text("[2, 1, 3]")
    assert run(settings).results["states_from"]["verified"]


def test_states_of_another_width_are_refused_before_anything_is_loaded(tmp_path, model_folder, monkeypatch):
    path, _ = given(tmp_path / "answers.jsonl", 40)
    folder = write_vllm(tmp_path / "states", [[5, 6]], [torch.ones(1, 2, 16)], ids=(1,))
    monkeypatch.setattr(ModelLoader, "load", None)
    extraction = {"states": str(folder), "verify_rows": 0}
    settings = config(tmp_path, model_folder, path, extraction=extraction, data={"name": "answered", "path": str(path)})
    with pytest.raises(DataError, match=r"have width 16, those of .* 32: they are of another model"):
        run(settings)


@pytest.mark.parametrize(
    ("extraction", "message"),
    [
        ({"layer_ids": [1]}, "extraction.layer_ids belongs to extraction.states"),
        ({"states": "s", "verify_rows": 0}, "extraction.verify_rows is 0, so that the model is not loaded"),
    ],
)
def test_settings_that_make_no_sense_together_are_named(tmp_path, model_folder, choices, extraction, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path, model_folder, choices, extraction=extraction))


def test_states_of_two_models_are_refused(tmp_path, model_folder, adapter_folder, choices):  # noqa: F811
    model = {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}
    with pytest.raises(ConfigError, match="an adapter makes two"):
        run(config(tmp_path, model_folder, choices, model=model, extraction={"states": "s"}))


def test_a_layer_that_was_not_extracted_is_found_before_the_model_is_loaded(
    tmp_path, model_folder, loaded, choices, monkeypatch  # noqa: F811
):  # fmt: skip
    folder = extracted(tmp_path / "states", loaded, prompts(choices)[:2], ids=(1,), held=("block.0",))
    monkeypatch.setattr(ModelLoader, "load", None)
    extraction = {"states": str(folder), "layers": [0, 1]}
    with pytest.raises(DataError, match=r"does not hold the states of block\.1"):
        run(config(tmp_path, model_folder, choices, extraction=extraction))


def test_the_command_says_what_holds_and_ends_with_5_where_it_does_not(
    tmp_path, model_folder, loaded, monkeypatch, capsys
):
    texts = [f"What is the capital of France {n}?" for n in range(4)]
    right = extracted(tmp_path / "right", loaded, texts)
    assert cli(monkeypatch, "verify-states", right, "--model", model_folder) == 0
    assert "The states hold." in capsys.readouterr().out
    (right / "layer_ids.json").unlink()
    assert cli(monkeypatch, "verify-states", right, "--model", model_folder, "--layer-ids", "0,1,2", "--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in found["layers"]] == ["named"] * 3
    assert "1 layer too late" in found["sentences"][0]
    assert cli(monkeypatch, "verify-states", right) == 2
    assert "Give --model, or --config." in capsys.readouterr().err
    settings = tmp_path / "c.json"
    settings.write_text(
        json.dumps({"model": {"name": str(model_folder)}, "extraction": {"states": "x", "layer_ids": [1, 2, 3]}})
    )
    assert cli(monkeypatch, "verify-states", right, "--config", settings, "--rows", "2") == 0
    assert "of 2 requests" in capsys.readouterr().out


def test_people_are_told_where_states_come_from(capsys):
    from src.report.html import render_html
    from src.report.terminal import print_report
    from tests.report_examples import example_results

    states = {
        "folder": "/states/<b>",
        "files": 3,
        "layers": ["block.1"],
        "verified": False,
        "sentences": ["Unseen & new."],
    }
    told = example_results() | {"states_from": states}
    page = render_html(told)
    assert "/states/&lt;b&gt;" in page
    assert "Unseen &amp; new." in page
    print_report(told)
    assert "The hidden states are from /states/<b>, not compared with the model." in capsys.readouterr().out
