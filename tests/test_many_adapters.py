"""Several adapters on one loaded base: each is what it is alone, in any order, and is named by its folder."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from src.adapters import read_adapter
from src.config import load_config
from src.data.custom import QADataset
from src.data.trained_on import FILE_NAME
from src.errors import AdapterError, ConfigError, DataError
from src.models import ModelLoader
from src.models.adapter_switch import adapter_name, switched_to
from src.models.adapters_in_force import attach_adapter, check_in_force
from src.pipeline import run
from src.pipeline.asking import ask_all
from src.pipeline.check_plan import Named, plan_check
from src.pipeline.comparing import compare_runs
from src.pipeline.folder import read_results
from src.pipeline.naming import steps_of, variant_names
from src.pipeline.plan import make_plan, model_loader
from tests.conftest import lora_tensors, random_llama, write_adapter
from tests.test_adapters import moe_checkpoint, qwen3_moe
from tests.test_data import write_lines
from tests.test_spreading import ray_alone, spread  # noqa: F401 (ray_alone is a fixture)

PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def training(tokenizer, tmp_path_factory):
    """Three checkpoints of other ranks, modules and scales, as a training would leave them."""
    folder, model = tmp_path_factory.mktemp("training"), random_llama(len(tokenizer))
    every = lora_tensors(model, seed=2, rank=6, head="lm_head")
    made = {
        "checkpoint-100": (lora_tensors(model, seed=1), {}),
        "checkpoint-200": ({n: t for n, t in every.items() if ".mlp." not in n}, {"r": 6, "lora_alpha": 12}),
        "checkpoint-300": ({n: t for n, t in lora_tensors(model, seed=3).items() if "q_proj" in n}, {"lora_alpha": 64}),
    }
    for name, (tensors, changes) in made.items():
        (folder / name).mkdir()
        write_adapter(folder / name, tensors, **changes)
    return {name: str(folder / name) for name in made}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [
        {"question": f"Which is number {n}?", "choices": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)]}
        for n in range(150)
    ]
    return write_lines(tmp_path_factory.mktemp("questions") / "choices.jsonl", *rows)


def settings(tmp_path, model_folder, questions, adapters, **sections):
    return {
        "model": {"name": str(model_folder), "adapters": list(adapters)},
        "data": {"name": "custom", "path": str(questions)},
        "extraction": {"layers": [0, -1]},
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(tmp_path / "run")},
    } | sections


def asked(config):
    """What every model of a configuration says."""
    config = load_config(config)
    plan = make_plan(config)
    model, tokenizer = model_loader(config, config.adapter_folders).load()
    names, questions = tuple(plan.adapters), plan.task.questions
    return ask_all(model, tokenizer, questions, config, name="toy", layers=plan.layers, adapters=names)


def assert_the_same(one, other):
    assert one.answers == other.answers
    for name in ("correct", "confidence", "hidden"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name, values in one.signals.items():
        np.testing.assert_array_equal(values, other.signals[name])


@pytest.mark.parametrize("free", [False, True], ids=["choices", "in words"])
def test_each_adapter_of_several_says_bit_for_bit_what_it_says_alone_in_any_order(
    tmp_path, model_folder, training, questions, free
):
    data = {"name": "custom", "path": str(questions), "limit": 60}
    data |= {"answer_by": "generation", "max_new_tokens": 4} if free else {}

    def said(*names):
        return asked(settings(tmp_path, model_folder, questions, [training[name] for name in names], data=data))

    forwards, backwards = said(*training), said(*reversed(training))
    assert list(forwards) == ["base", *training]
    assert list(backwards) == ["base", *reversed(training)]
    for name in training:
        alone = said(name)
        assert_the_same(forwards[name], alone["tuned"])
        assert_the_same(backwards[name], alone["tuned"])
        assert_the_same(forwards["base"], alone["base"])
        assert not np.array_equal(forwards[name].hidden, forwards["base"].hidden)
    assert len({forwards[name].confidence.tobytes() for name in forwards}) == 4


def test_what_a_run_of_one_adapter_read_a_run_of_several_reads_from_the_cache(
    tmp_path, model_folder, training, questions, monkeypatch
):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    extraction = {"layers": [0, -1], "cache_dir": str(tmp_path / "cache")}
    first, second, third = training.values()
    for adapters in ([second], [third, first]):
        asked(settings(tmp_path, model_folder, questions, adapters, extraction=extraction))
    passes, forward = [], LlamaDecoderLayer.forward
    monkeypatch.setattr(
        "src.pipeline.asking.switched_to", lambda model, place: passes.append(place) or switched_to(model, place)
    )
    monkeypatch.setattr(
        LlamaDecoderLayer, "forward", lambda *a, **k: (passes and passes.append("pass")) or forward(*a, **k)
    )
    asked(settings(tmp_path, model_folder, questions, [first, second, third], extraction=extraction))
    assert passes == [None, 0, 1, 2]


def test_a_switch_gives_one_adapter_or_the_base_and_puts_back_what_was(model_folder, training, tokenizer):
    model, _ = ModelLoader(str(model_folder), adapters=list(training.values())).load()
    plain = random_llama(len(tokenizer))
    ids = torch.arange(3, 20)[None]

    def said(of):
        with torch.inference_mode():
            return of(input_ids=ids).logits

    alone = [said(ModelLoader(str(model_folder), folder).load()[0]) for folder in training.values()]
    with switched_to(model, 2):
        with switched_to(model, None):
            assert torch.equal(said(model), said(plain))
        with switched_to(model, 1):
            assert torch.equal(said(model), alone[1])
        assert torch.equal(said(model), alone[2])
    assert torch.equal(said(model), alone[0])
    with pytest.raises(RuntimeError, match="inside"), switched_to(model, 1):
        raise RuntimeError("inside")
    assert torch.equal(said(model), alone[0])
    with switched_to(plain, None):
        assert said(plain).shape == (1, 17, len(tokenizer))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda q, name: q.lora_B[name].weight.data[0, 0].add_(1e-3), r"q_proj\.lora_B\S+ differs"),
        (lambda q, name: q.scaling.update({name: 1.0}), r"q_proj is scaled by 1\.0"),
        (lambda q, name: q.lora_A.pop(name), r"differ in 1 tensors, the first \S+q_proj"),
        (lambda q, name: q.lora_A.update({"stray": torch.nn.Linear(32, 2)}), "differ in 2 tensors"),
    ],
)
def test_of_several_adapters_each_is_verified_and_only_the_damaged_one_found(training, tokenizer, damage, message):
    adapters = [read_adapter(folder) for folder in training.values()]
    model = attach_adapter(random_llama(len(tokenizer)), *adapters)
    stray = "2 tensors" in message
    with torch.no_grad():
        damage(model.get_submodule(f"{PREFIX}model.layers.1.self_attn.q_proj"), adapter_name(1))
    for place, adapter in enumerate(adapters):
        if place == 1 or stray:
            with pytest.raises(AdapterError, match=message):
                check_in_force(model, adapter, place)
        else:
            check_in_force(model, adapter, place)


def test_an_adapter_that_disturbs_an_earlier_one_is_found_when_all_are_attached(training, tokenizer, monkeypatch):
    from peft import PeftModel

    load = PeftModel.load_adapter

    def disturbing(model, folder, name, **options):
        found = load(model, folder, name, **options)
        if name == adapter_name(1):
            q_proj = model.get_submodule(f"{PREFIX}model.layers.1.self_attn.q_proj")
            q_proj.lora_B[adapter_name(0)].weight.data.mul_(2)
        return found

    monkeypatch.setattr(PeftModel, "load_adapter", disturbing)
    first, second, _ = map(read_adapter, training.values())
    with pytest.raises(AdapterError, match=r"q_proj\.lora_B\S+ differs from the file"):
        attach_adapter(random_llama(len(tokenizer)), first, second)


def test_several_adapters_of_experts_are_each_what_they_are_alone(tmp_path):
    from src.tinker.convert import convert_adapter

    adapters = []
    for seed in (1, 2):
        source, made = tmp_path / f"source{seed}", tmp_path / f"made{seed}"
        source.mkdir()
        made.mkdir()
        changed = {name: tensor * seed for name, tensor in moe_checkpoint(qwen3_moe()).items()}
        write_adapter(source, changed)
        adapters.append(convert_adapter(source, made, "base").adapter)
    both, ids = attach_adapter(qwen3_moe(), *adapters), torch.arange(1, 12)[None]
    for place, adapter in enumerate(adapters):
        alone = attach_adapter(qwen3_moe(), adapter)
        with torch.inference_mode(), switched_to(both, place):
            assert torch.equal(both(input_ids=ids).logits, alone(input_ids=ids).logits)


def test_peft_never_sees_the_configuration_file_of_any_of_them(tmp_path, tokenizer, training):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    model = random_llama(len(tokenizer))
    write_adapter(hostile, lora_tensors(model, seed=7), target_modules="(.*.*.*.*.*.*.*.*.*.*)+x", task_type="SEQ_CLS")
    both = attach_adapter(model, read_adapter(training["checkpoint-100"]), read_adapter(hostile))
    assert not any("*" in target for target in both.peft_config[adapter_name(1)].target_modules)
    assert both.peft_config[adapter_name(1)].task_type == "CAUSAL_LM"


def test_one_update_under_two_names_is_an_error_that_names_both(tmp_path, model_folder, training):
    first, *_ = training.values()
    copy = shutil.copytree(first, tmp_path / "final")
    with pytest.raises(AdapterError, match=rf"{first} and {copy} are the same adapter"):
        ModelLoader(str(model_folder), adapters=[*training.values(), copy]).skeleton()
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))  # another scale is another update
    ModelLoader(str(model_folder), adapters=[first, copy]).skeleton()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ([], []),
        (["w/checkpoint-100"], ["tuned"]),
        (["w/checkpoint-100", "w/checkpoint-200/"], ["checkpoint-100", "checkpoint-200"]),
        (["w/000100/peft_adapter", "w/final/peft_adapter"], ["000100", "final"]),
        (["r1/checkpoint-1", "r2/checkpoint-1", "r1/x"], ["r1-checkpoint-1", "r2-checkpoint-1", "r1-x"]),
        (["w/base", "w/new"], ["w-base", "w-new"]),
        (["w/a-b/c", "w/a/b-c"], ["c", "b-c"]),
        (["/a-b/c", "/a/b-c", "/c", "/x/c"], ["adapter-1", "adapter-2", "adapter-3", "adapter-4"]),
        (["/a/lora", "/a/adapter"], ["adapter-1", "adapter-2"]),
        (["/w/a/..", "/w/b/."], ["w", "b"]),
        ([f"/{letter * 250}/{'m' * 250}" for letter in "kn"], ["adapter-1", "adapter-2"]),
        (["/w/\x1b[31mred", "/w/b"], ["adapter-1", "adapter-2"]),
    ],
)
def test_adapters_are_called_by_the_shortest_end_of_their_paths_that_tells_them_apart(folders, names):
    assert list(variant_names(folders)) == names


@pytest.mark.parametrize(
    ("folders", "numbers", "source"),
    [
        (["w/checkpoint-900", "w/checkpoint-1000"], (900, 1000), "name"),
        (["w/step_000100/peft_adapter", "w/step_000050/peft_adapter"], (100, 50), "name"),
        (["000100", "000200"], (100, 200), "name"),
        (["w/checkpoint-900"], (900,), "name"),
        (["w/checkpoint-900", "w/final"], (1, 2), "place"),
        (["w/checkpoint-900", "w/epoch-3"], (1, 2), "place"),
        (["r1/checkpoint-900", "r2/checkpoint-900"], (1, 2), "place"),
        (["w/" + "9" * 200, "w/" + "8" * 200], (1, 2), "place"),
        ([], (), "place"),
    ],
)
def test_steps_are_the_numbers_at_the_end_of_names_that_count_the_same_thing(folders, numbers, source):
    found = steps_of(folders)
    assert (found.numbers, found.source) == (numbers, source)


def test_steps_that_no_name_tells_are_those_of_the_converted_checkpoints(tmp_path):
    folders = []
    for name, step in (("late", "000400"), ("early", "000050")):
        folders.append(str(tmp_path / name / "peft_adapter"))
        (tmp_path / name / "peft_adapter").mkdir(parents=True)
        info = {"tinker_path": f"tinker://run/sampler_weights/{step}"}
        (tmp_path / name / "checkpoint_info.json").write_text(json.dumps(info))
    assert (steps_of(folders).numbers, steps_of(folders).source) == ((400, 50), "checkpoint_info.json")
    for broken in ("[]", "{", '{"tinker_path": 3}', "{}"):
        (tmp_path / "late" / "checkpoint_info.json").write_text(broken)
        assert steps_of(folders).source == "place"


def test_what_any_of_the_adapters_was_trained_on_is_refused_or_tagged(tmp_path, model_folder, training, questions):
    examples = list(QADataset(questions))
    copies = [shutil.copytree(folder, tmp_path / name) for name, folder in training.items()]
    for place in (1, 2):
        ids = [examples[place].id, examples[9].id]
        (copies[place] / FILE_NAME).write_text(json.dumps({"ids": ids}))

    def plan(rule):
        data = {"name": "custom", "path": str(questions), "trained_on": rule}
        return make_plan(load_config(settings(tmp_path, model_folder, questions, map(str, copies), data=data)))

    with pytest.raises(DataError, match=rf"2 of 150 .*{copies[1]}"):
        plan("refuse")
    tags = [example.tag for example in plan("mark").task.questions.examples]
    assert [place for place, tag in enumerate(tags) if tag == "fine-tuned on"] == [1, 2, 9]
    assert set(tags) == {"fine-tuned on", "new"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, training, questions):
    """The folder of a run of the first two."""
    folder = tmp_path_factory.mktemp("finished")
    run(settings(folder, model_folder, questions, list(training.values())[:2]))
    return folder / "run"


@pytest.mark.slow
def test_the_numbers_of_each_are_those_of_a_run_of_its_own(finished, tmp_path, model_folder, training, questions):
    every = read_results(finished)
    alone = run(settings(tmp_path, model_folder, questions, [training["checkpoint-200"]])).results
    for name, own in (("base", "base"), ("checkpoint-200", "tuned")):
        assert every["variants"][name] == alone["variants"][own]
    found, own = every["comparisons"]["checkpoint-200"], alone["comparisons"]["tuned"]
    assert (found["flips"], found["disagreement"]) == (own["flips"], own["disagreement"])
    corrected = 0
    for scorer, parts in own["scores"].items():
        for metric, change in parts["all"].items():
            other = found["scores"][scorer]["all"][metric]
            assert {key: other[key] for key in other if key != "p_holm"} == {
                key: change[key] for key in change if key != "p_holm"
            }
            assert other["p_holm"] is None or other["p_holm"] >= change["p_holm"]
            corrected += other["p_holm"] != change["p_holm"]
    assert corrected


@pytest.mark.slow
@pytest.mark.usefixtures("ray_alone")
def test_workers_ask_every_adapter_as_one_process_does(finished, tmp_path, model_folder, training, questions):
    from pandas import read_parquet

    extraction = {"layers": [0, -1], "cache_dir": str(tmp_path / "cache")}
    config = settings(tmp_path, model_folder, questions, list(training.values())[:2], extraction=extraction)
    config["run"] |= {"engine": "ray", "workers": 2}
    spread(config)
    theirs, ours = (read_parquet(folder / "answers.parquet") for folder in (tmp_path / "run", finished))
    for column in ("model", "id", "answer", "correct"):
        assert theirs[column].equals(ours[column])
    np.testing.assert_allclose(theirs["own_probability"], ours["own_probability"], atol=1e-5)


def test_every_file_of_a_run_follows_the_names(finished, training):
    from pyarrow import parquet

    folder, names = finished, ["base", *list(training)[:2]]
    results = read_results(folder)
    assert list(results["variants"]) == names
    assert list(results["comparisons"]) == names[1:]
    assert results["model"]["adapters"] == {
        name: {"folder": training[name], "step": int(name[-3:])} for name in names[1:]
    }
    assert results["model"]["steps_from"] == "name"
    with (folder / "questions.csv").open() as file:
        columns = next(csv.reader(file))
    assert [column for column in columns if column.endswith("_own_probability")] == [
        f"{name}_own_probability" for name in names
    ]
    models = parquet.read_table(folder / "answers.parquet")["model"].to_pylist()
    assert {name: models.count(name) for name in names} == dict.fromkeys(names, 150)
    saved = {path.parent.name for path in (folder / "probes").glob("*/probe.json")}
    assert saved == {name for name in names if results["variants"][name]["selected"]}
    sides = compare_runs([folder])["sides"]
    assert [side["variant"] for side in sides] == names
    assert [side["adapter"] for side in sides] == [None, *(training[name] for name in names[1:])]


def test_a_check_takes_the_adapter_that_the_probe_is_called_after(finished, training, model_folder, tmp_path):
    probes = finished / "probes"
    plan = plan_check(probes / "checkpoint-200", Named(str(model_folder)))
    assert plan.own.adapter_folders == (training["checkpoint-200"],)
    assert plan_check(probes / "base", Named(str(model_folder))).own.adapter_folders == ()
    renamed = shutil.copytree(probes / "checkpoint-200", tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"one of several adapters \(checkpoint-100, .*--from-adapter"):
        plan_check(renamed, Named(str(model_folder)), config=finished / "config.yaml")


def test_a_plan_counts_every_adapter(tmp_path, model_folder, training, questions):
    def facts(adapters):
        config = load_config(settings(tmp_path, model_folder, questions, adapters))
        return make_plan(config).facts(config)

    none, every = facts([]), facts(training.values())
    assert (none["models"], every["models"]) == (1, 4)
    assert every["state_bytes"] == 4 * none["state_bytes"]
    assert every["adapters"] == training


def test_results_from_when_there_was_one_adapter_at_most_are_read(finished, tmp_path):
    now = read_results(finished)
    comparison = now["comparisons"]["checkpoint-100"]
    old = now | {"schema": 3, "comparison": comparison}
    old["model"] = {"name": "m", "parameters": 1, "adapter": "a/checkpoint-3"}
    del old["comparisons"]
    (tmp_path / "results.json").write_text(json.dumps(old))
    read = read_results(tmp_path)
    assert read["comparisons"] == {"tuned": comparison}
    assert read["model"]["adapters"] == {"tuned": {"folder": "a/checkpoint-3", "step": 1}}
    old |= {"comparison": None, "model": {"name": "m", "parameters": 1, "adapter": None}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert (read_results(tmp_path)["comparisons"], read_results(tmp_path)["model"]["adapters"]) == ({}, {})
