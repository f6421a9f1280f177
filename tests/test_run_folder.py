"""A run's folder holds one run: the same one goes on, another is refused, and a failed start leaves nothing."""

import errno
import json
import os
import re
import shutil

import pytest
import yaml

from src import files
from src.config import load_config
from src.errors import ConfigError, DataError, ModelError, StorageError
from src.pipeline import make_plan, run
from src.pipeline.folder import _as_yaml, claimed_folder, folder_state
from tests.test_pipeline import choices, config, without_times  # noqa: F401 (choices is a fixture)

FEW = {"data.limit": 24}  # too few for a probe, where there need not be one


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, choices):  # noqa: F811
    """A finished run and the cache that it filled."""
    folder = tmp_path_factory.mktemp("finished")
    run(config(folder, model_folder, choices))
    return folder


@pytest.fixture
def settings(tmp_path, model_folder, choices, finished):  # noqa: F811
    """As of the finished run, in a folder that is not there yet."""
    return config(tmp_path, model_folder, choices, extraction=config(finished, "", "")["extraction"])


@pytest.fixture
def ran(settings, finished, tmp_path):
    """The settings, with the finished run lying in their folder."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return settings


def test_the_resolved_configuration_is_there_before_anything_else(settings, tmp_path, monkeypatch):
    from src.pipeline import job

    seen = []
    monkeypatch.setattr(
        job, "make_plan", lambda _: seen.append((tmp_path / "run" / "config.yaml").read_text()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run(settings)
    assert re.search(r"^# git .*; llm-confidence-probing 0\.1\.0, python 3\.\S+, torch", seen[0], re.MULTILINE)
    assert load_config(yaml.safe_load(seen[0])) == load_config(settings)


def test_the_same_run_goes_on_and_another_is_refused_with_the_difference(ran, tmp_path):
    settings, first = ran, json.loads((tmp_path / "run" / "results.json").read_text())
    first["config"]["run"]["dir"] = settings["run"]["dir"]
    assert without_times(run(settings).results) == without_times(first)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    other = settings | {"data": settings["data"] | {"limit": 24}, "experiment": {"seed": 1}}
    with pytest.raises(
        ConfigError, match=r"other settings: experiment\.seed was 42 and is 1; data\.limit was None and"
    ):
        run(other)
    with pytest.raises(ConfigError, match=r"holds a run already"):
        run(settings | {"run": settings["run"] | {"if_exists": "fail"}})
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    replaced = run(other | {"run": settings["run"] | {"if_exists": "replace"}})
    assert replaced.results["data"]["n"] == 24
    assert load_config(tmp_path / "run" / "config.yaml").data.limit == 24


def test_where_the_folder_lies_does_not_make_it_another_run(ran, tmp_path):
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = load_config(ran, {"run.dir": str(tmp_path / "moved")})
    assert folder_state(moved) == "finished"
    (tmp_path / "moved" / "results.json").unlink()
    assert folder_state(moved) == "unfinished"


def test_a_run_that_cannot_start_leaves_the_folder_as_it_was(settings, finished, tmp_path):
    wrong = settings | {"model": {"name": str(tmp_path / "nowhere")}}
    with pytest.raises(ModelError, match="no model folder"):
        run(wrong)
    assert not (tmp_path / "run").exists()
    shutil.copytree(finished / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ModelError):
        run(wrong | {"run": settings["run"] | {"if_exists": "replace"}})
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_not_written_to(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds 'thesis\.txt', so it is not the folder of a run"):
        run(settings)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        run(settings | {"run": {"dir": str(tmp_path / "file")}})
    with pytest.raises(ConfigError, match=r"lies below .*file, which is a file"):
        folder_state(load_config(settings, {"run.dir": str(tmp_path / "file" / "run" / "of mine")}))


@pytest.mark.parametrize("rule", ["resume", "replace"])
def test_a_configuration_of_the_users_is_not_taken_for_a_runs(settings, tmp_path, rule):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("# my notes\nmodel: {name: m}\n")
    (folder / "questions.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'config\.yaml', so it is not the folder of a run"):
        run(settings | {"run": {"dir": str(folder), "if_exists": rule}})
    assert (folder / "config.yaml").read_text().startswith("# my notes")
    assert (folder / "questions.csv").read_text() == "mine"


def test_an_interrupt_while_planning_leaves_the_folder_as_it_was(settings, finished, tmp_path):
    nested = settings | {"run": {"dir": str(tmp_path / "a" / "b")}}
    with pytest.raises(KeyboardInterrupt), claimed_folder(load_config(nested)):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists()
    shutil.copytree(finished / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    other = load_config(settings, {"experiment.seed": 7, "run.if_exists": "replace"})
    with pytest.raises(KeyboardInterrupt), claimed_folder(other):
        raise KeyboardInterrupt
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_whose_folder_was_taken_meanwhile_publishes_nothing(settings, tmp_path, monkeypatch):
    from src.pipeline import job

    def taken(*arguments, **options):
        with claimed_folder(load_config(settings, {"experiment.seed": 7, "run.if_exists": "replace"})):
            pass
        return fit(*arguments, **options)

    fit = job.fit_scorers
    monkeypatch.setattr(job, "fit_scorers", taken)
    with pytest.raises(ConfigError, match="Another run took"):
        run(load_config(settings, FEW))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_what_a_killed_process_tore_is_no_obstacle_and_is_swept_later(settings, tmp_path):
    (tmp_path / "run").mkdir()
    torn = [tmp_path / "run" / f".config.yaml.{n}.0123456789ab.tmp" for n in (1, 2)]
    for path in torn:
        path.write_text("to")
    os.utime(torn[0], (0, 0))
    with claimed_folder(load_config(settings)):
        pass
    assert [path.exists() for path in torn] == [False, True]


def test_another_versions_configuration_is_not_guessed_at(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "# Repeat this run: confprobe run config.yaml\nmodel: {name: m}\nfuture: {key: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"was written by another version .*Unknown key 'future'"):
        run(settings)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_sentence(settings, tmp_path, monkeypatch, error):
    def failing(path, data):
        if path.name == "results.json":
            raise OSError(error, os.strerror(error))
        return write(path, data)

    write = files.write_bytes
    monkeypatch.setattr(files, "write_bytes", failing)
    with pytest.raises(StorageError, match=rf"{os.strerror(error)} \(.* are free there\). Choose another run\.dir"):
        run(load_config(settings, FEW))


def test_a_plan_says_what_would_be_done_and_writes_nothing(settings, tmp_path, adapter_folder):
    tuned = settings | {"model": settings["model"] | {"tinker_lora_path": str(adapter_folder)}}
    loaded = load_config(tuned, FEW)
    before = sorted(tmp_path.rglob("*"))
    plan = make_plan(loaded)
    facts = json.loads(json.dumps(plan.facts(loaded)))
    assert sorted(tmp_path.rglob("*")) == before
    assert facts["folder_state"] == "new"
    assert facts["questions"] == 24 == sum(facts["splits"].values())
    assert facts["layers"] == ["block.0", "block.2"]
    assert facts["state_bytes"] == 2 * 24 * 2 * 32 * 4
    result = run(loaded)
    assert result.results["model"]["parameters"] == facts["parameters"]
    assert make_plan(loaded).facts(loaded)["folder_state"] == "finished"


@pytest.mark.parametrize(
    ("section", "change", "error", "message"),
    [
        (
            "extraction",
            {"layers": [0, 7]},
            ConfigError,
            r"extraction\.layers: Layer 7 is out of range: .* 0 to 2, or -1",
        ),
        ("extraction", {"layers": [2, -1]}, ConfigError, r"name block\.2 twice"),
        ("model", {"tinker_lora_path": "nowhere"}, ValueError, "adapter_config.json not found in nowhere"),
        ("tinker", {"checkpoint_path": "no.tar", "output_dir": "w"}, OSError, "no checkpoint archive or folder no.tar"),
    ],
)
def test_what_would_stop_a_run_later_is_found_before_weights_are_loaded(
    settings, section, change, error, message, monkeypatch
):
    import transformers

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(error, match=message):
        make_plan(load_config(settings | {section: settings.get(section, {}) | change}))


def test_an_adapter_of_another_model_is_noticed_before_weights_are_loaded(settings, tokenizer, tmp_path, monkeypatch):
    import transformers

    from tests.conftest import lora_tensors, random_llama, write_adapter

    (tmp_path / "wide").mkdir()
    write_adapter(tmp_path / "wide", lora_tensors(random_llama(len(tokenizer), hidden_size=64)))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    wrong = settings | {"model": settings["model"] | {"tinker_lora_path": str(tmp_path / "wide")}}
    with pytest.raises(ValueError, match=r"(?s)64.*32"):
        make_plan(load_config(wrong))


def test_little_room_is_noted(settings, monkeypatch):
    from src import machine

    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    monkeypatch.setattr(machine, "free_disk", lambda _: 10)
    notes = make_plan(load_config(settings)).notes
    assert "the run may be killed" in notes[0]
    assert "without keeping the rest" in notes[1]


def test_nothing_saved_names_a_module_of_ours(finished):
    written = [path for path in finished.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".safetensors", ".json", ".yaml", ".csv", ".parquet"}
    assert len(written) > 5
    for path in written:
        assert not re.search(rb"\bsrc\.[a-z]", path.read_bytes()), path


def test_a_plan_says_where_an_adapter_was_trained_on_another_base_and_what_will_be_gone(
    settings, tmp_path, adapter_folder
):
    copy = shutil.copytree(adapter_folder, tmp_path / "adapter")
    about = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": "meta-llama/Other-8B"}))
    changes = {"model.tinker_lora_path": str(copy), "run.dir": "memory://r/x", "extraction.cache_dir": "memory://c"}
    notes = " ".join(make_plan(load_config(settings, changes)).notes)
    assert (
        f"{copy} says that it was trained on meta-llama/Other-8B, and is used on {settings['model']['name']}" in notes
    )
    assert "run.dir is memory://r/x, which lives in this process only" in notes
    same = about | {"base_model_name_or_path": "org/" + settings["model"]["name"].rpartition("/")[2]}
    (copy / "adapter_config.json").write_text(json.dumps(same))
    assert not make_plan(load_config(settings, {"model.tinker_lora_path": str(copy)})).notes


def test_a_run_that_was_refused_or_failed_leaves_what_another_process_began(settings, tmp_path, monkeypatch):
    from src.pipeline import job

    (tmp_path / "run").mkdir()
    begun = tmp_path / "run" / "config.yaml"
    begun.write_text(_as_yaml(load_config(settings)))
    with pytest.raises(ConfigError, match="holds a run already"):
        run(settings | {"run": settings["run"] | {"if_exists": "fail"}})
    monkeypatch.setattr(job, "ask_all", lambda *_, **__: (_ for _ in ()).throw(DataError("no")))
    with pytest.raises(DataError, match="no"):
        run(settings)
    assert load_config(begun) == load_config(settings)
    begun.unlink()
    with pytest.raises(DataError, match="no"):
        run(settings)
    assert not begun.exists()


def test_a_cache_that_is_required_has_a_place(settings):
    with pytest.raises(ConfigError, match=r"extraction\.cache is required, and extraction\.cache_dir is null"):
        make_plan(load_config(settings, {"extraction.cache": "required", "extraction.cache_dir": None}))
