"""A configuration is either understood whole or refused with key, value and what is allowed."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from src.config import Config, load_config, parse_override
from src.config.reading import write_yaml
from src.errors import ConfigError

BASE = {"model": {"name": "m"}, "data": {"name": "mmlu"}, "run": {"dir": "r"}}


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads_and_survives_being_written(path):
    config = load_config(path)
    assert load_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
    assert len(path.read_text().splitlines()) <= 40


def test_every_field_and_section_has_a_sentence():
    for name, section in Config.model_fields.items():
        assert section.description, name
    for definition in Config.model_json_schema()["$defs"].values():
        for key, field in definition["properties"].items():
            assert field.get("description", "").endswith("."), key


@pytest.mark.parametrize("page", ["design.md", "guide.md"])
def test_the_yaml_of_the_design_and_of_the_guide_loads_as_it_stands(shared, page):
    blocks = re.findall(r"```yaml\n(.*?)```", (shared / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    config = load_config(yaml.safe_load(blocks[0]))
    assert config.adapter_folders == (f"{config.tinker.output_dir}/peft_adapter",)
    assert config.extraction.layers == (8, 16, 24, 31)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.nmae", "x", "Unknown key 'model.nmae'. Did you mean 'model.name'?"),
        ("modle.name", "x", "Unknown key 'modle'. Did you mean 'model'?"),
        ("cache_dir", "x", "Unknown key 'cache_dir'. Did you mean 'extraction.cache_dir'?"),
        ("run.zzz", "x", "Unknown key 'run.zzz'. Known here: dir, engine, workers, worker_gpus, generator, if_exists."),
        ("data.columns", {"qestion": "q"}, "Unknown key 'data.columns.qestion'. Did you mean 'data.columns.question'?"),
        ("data.limit", True, "data.limit is true, but a whole number is needed. (Use the first so many questions"),
        ("data.limit", 1.5, "data.limit is 1.5, but a whole number is needed."),
        ("data.limit", "010", "data.limit is '010', but a whole number is needed."),
        ("data.limit", 0, "data.limit is 0, but at least 1 is needed."),
        ("data.truncation", "middle", "data.truncation is 'middle', but allowed is 'left' or 'right'."),
        (
            "data.name",
            "mmlu2",
            "data.name is 'mmlu2', but allowed is 'mmlu', 'gsm8k', 'quickstart', 'custom' or 'answered'.",
        ),
        ("data.name", "custom", "data.name is custom, but data.path (the file of questions) is not given."),
        ("data", "mmlu", "data is 'mmlu', but a section is needed: keys below it, indented."),
        ("model.revision", 2024, "model.revision is 2024, but a text is needed (quote it to make it one)."),
        ("model.name", "", "model.name is '', but it must not be empty."),
        ("model.name", None, "model.name is null, but a text is needed"),
        ("model.adapters", ["a", "./a"], "model.adapters names one folder twice: 'a' and './a'. Leave one out."),
        ("model.adapters", ["tinker://x/external_weights/y"], "make one with confprobe download CHECKPOINT m FOLDER"),
        ("model.adapters", "a", "model.adapters is 'a', but a list is needed, such as [a]."),
        ("model.quantization", "16bit", "model.quantization is '16bit', but allowed is '8bit' or '4bit'."),
        ("run.workers", 2, "run.workers is 2, and the local engine has one: set run.engine: ray, or leave it out."),
        ("run.worker_gpus", 2, "run.worker_gpus is of Ray's workers: set run.engine: ray, or leave it out."),
        ("extraction.layers", [1, True], "extraction.layers is [1, True], but True is no layer: a list of block"),
        ("extraction.layers", [1, 1.0], "1.0 is no layer"),
        ("extraction.layers", [3, 3], "the layer 3 is named twice."),
        ("extraction.layers", ["all"], "'all' is no layer"),
        ("extraction.layers", [], "extraction.layers is [], but a list of block numbers such as"),
        ("tinker.enabled", "no", "tinker.enabled is 'no', but true or false is needed. (false: this section"),
        ("tinker.enabled", True, "tinker.output_dir (where the adapter goes) is not given."),
        ("tinker.output_dir", "w", "tinker.checkpoint_path is not given: name the checkpoint, or set"),
        ("evaluation.bins", "many", "evaluation.bins is 'many', but a whole number is needed."),
        ("run.dir", "$HOME/runs", "run.dir is '$HOME/runs', but environment variables are not filled in here"),
        ("run.dir", "  ", "run.dir is '  ', but the path of a folder is needed."),
        ("extraction.layer_ids", ["a"], "extraction.layer_ids.0 is 'a', but a whole number is needed. (The layers of"),
        ("data.columns", {"question": 3}, "data.columns.question is 3, but a text is needed"),
        ("run.dir", "~nobody-of-that-name/x", "there is no such user's home folder."),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(BASE, {key: value})


def test_what_is_overridden_stays_as_it_is_for_the_caller():
    given = {"model": {"name": "m"}, "data": {"columns": {"question": "q"}}, "transfer": {"data": []}}
    assert load_config(given, {"data.columns.question": "other"}).data.columns.question == "other"
    assert given == {"model": {"name": "m"}, "data": {"columns": {"question": "q"}}, "transfer": {"data": []}}


def test_a_missing_key_is_named_with_what_it_is_for():
    with pytest.raises(ConfigError, match=re.escape("The key 'model.name' is missing. (Hub id or local folder.)")):
        load_config({"model": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", r"Line 1: the YAML tag 'tag:yaml.org,2002:python/object/apply"),
        ("a: 1\nb: !x 2", "Line 2: the YAML tag '!x' is not allowed"),
        ("a: &x [1]\nb: *x", "Line 2: YAML aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "Line 2: YAML aliases"),
        ("model: {name: a}\nmodel: {name: b}", "'model' stands on line 1 and again on line 2. Keep one"),
        ("? [a]\n: b", "Line 1: a key must be a text"),
        ("1: b", "Line 1: a key must be a text"),
        ("", r"holds nothing \(line 1\)"),
        ("- a", "holds a list"),
        ("just words", "holds a str"),
        ("a:\n\t- b", "not plain YAML: line 2: found character"),
        ("a: [", "not plain YAML: line 1"),
        ("a: \x07", "not plain YAML"),
        ("[" * 20_000, "nested too deeply"),
        ("# " + "x" * (1 << 20), "at most 1,048,576"),
    ],
)
def test_yaml_that_could_surprise_is_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, "a\0b", "~nobody-of-that-name/c.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
    (tmp_path / "latin.yaml").write_bytes("model: {name: é}".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(tmp_path / "latin.yaml")


def test_a_bom_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: {name: m}\r\ndata: {name: mmlu}\r\nrun: {dir: r}\r\n")
    assert load_config(path) == load_config(BASE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2.50", -2.5), (".5", 0.5), ("12", 12), ("-0", 0), ("+3", 3),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("on", "on"), ("y", "y"), ("010", "010"), ("0x1F", "0x1F"), ("1_000", "1_000"),
        ("12:30", "12:30"), ("2024-01-31", "2024-01-31"), ("1.2.3", "1.2.3"), ("1e", "1e"), ("<<", "<<"),
        ("'12'", "12"), ("[1, no]", [1, "no"]),
    ],
)  # fmt: skip
def test_a_scalar_is_the_number_meant_or_text_and_never_another_value(text, value):
    found = parse_override(f"a.b={text}")[1]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["no", "010", "2024-01-31", "1_000", "12:30"])
def test_text_that_looks_like_something_else_stays_text_where_text_is_meant(text):
    assert load_config(BASE, dict([parse_override(f"experiment.name={text}")])).experiment.name == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tinker.api_key", "tml-abcdefgh12345678"),
        ("api_key", "x"),
        ("model.hf_token", "hf_abcdefgh12345678abcdefgh12345678"),
        ("model.revision", "hf_abcdefgh12345678abcdefgh12345678"),
        ("tinker.checkpoint_path", "https://files.example/a.tar?X-Amz-Signature=deadbeef"),
        ("data.path", "https://somebody:abcdefgh@files.example/a.jsonl"),
        ("extraction.cache_dir", "sftp://somebody:abcdefgh@files.example/cache"),
        ("run.dir", "abfs://files/run?sig=deadbeef"),
        ("run.dir", "S3://somebody:abcdefgh@bucket/run"),
        ("extraction.cache_dir", "s3://AKIA:abcd/efgh+ij@bucket/cache"),
        ("extraction.cache_dir", "ftp://:abcdefgh@files.example/cache"),
        ("extraction.cache_dir", "ftp://files.example/cache?x=1&password=abcdefgh"),
        ("extraction.cache_dir", "s3://bucket/cache?api_key=abcdefgh"),
    ],
)
def test_a_secret_is_refused_without_being_repeated(key, value):
    with pytest.raises(ConfigError) as refused:
        load_config(BASE, {key: value})
    assert key in str(refused.value)
    assert "TINKER_API_KEY" in str(refused.value)
    assert "abcdefgh" not in str(refused.value)
    assert "deadbeef" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["multitask-finetuned-model", "task-vectors-baseline", "my_hf_transformers_x1", "disk-x"]
)
def test_an_ordinary_name_is_no_secret(name):
    assert load_config(BASE, {"experiment.name": name, "model.name": f"org/{name}"}).experiment.name == name


@pytest.mark.parametrize(
    "text", ["12e4567", "1e5", "1.5e3", "-.5", "no", "010", "2024-01-31", "~x", "null", "a: b", "é"]
)
def test_what_is_written_is_read_back_as_the_same(tmp_path, text):
    config = load_config(BASE, {"model.revision": text, "experiment.name": text})
    (tmp_path / "c.yaml").write_text(write_yaml(config.model_dump(mode="json")), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == config


def test_numbers_too_long_to_read_are_refused():
    with pytest.raises(ConfigError, match="holds a value that is none"):
        parse_override(f"data.limit={'9' * 5000}")


def test_home_is_expanded_and_a_run_without_a_folder_gets_one_by_its_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(BASE, {"run.dir": "~/runs/x", "extraction.cache_dir": "~/cache", "model.name": "~/models/m"})
    assert config.folder == Path("/home/somebody/runs/x")
    assert config.extraction.cache_dir == "/home/somebody/cache"
    assert config.model.name == "/home/somebody/models/m"
    assert load_config({"model": {"name": "m"}}).folder == Path("runs/experiment")
    assert load_config({"model": {"name": "m"}, "experiment": {"name": "../a b/ü"}}).folder == Path("runs/a-b-ü")


def test_overrides_come_last_and_are_yaml():
    overrides = dict(parse_override(text) for text in ("data.limit=7", "extraction.layers=[0, -1]", "model.name=a=b"))
    config = load_config(BASE, overrides)
    assert (config.data.limit, config.extraction.layers, config.model.name) == (7, (0, -1), "a=b")
    with pytest.raises(ConfigError, match=r"not of the form a\.b=value"):
        parse_override("data.limit")
    with pytest.raises(ConfigError, match="is a value, not a section"):
        load_config(BASE, {"model.name.x": 1})
    with pytest.raises(ConfigError, match=r"--set a\.b is not plain YAML"):
        parse_override("a.b=[")


def test_a_source_is_not_changed_by_reading_it():
    source = {"model": {"name": "m"}}
    load_config(source, {"data.limit": 3, "model.dtype": "float32"})
    assert source == {"model": {"name": "m"}}


def test_the_ways_to_name_an_adapter_must_agree():
    tinker = {"checkpoint_path": "c.tar", "output_dir": "weights/x"}
    assert load_config(BASE | {"tinker": tinker}).adapter_folders == (str(Path("weights/x/peft_adapter")),)
    assert load_config(BASE, {"model.adapters": ["a"]}).adapter_folders == ("a",)
    assert load_config(BASE, {"model.adapters": ["b", "a"]}).adapter_folders == ("b", "a")
    with pytest.raises(ConfigError, match="Make them agree"):
        load_config(BASE | {"tinker": tinker}, {"model.tinker_lora_path": "elsewhere"})
    off = load_config(BASE | {"tinker": tinker | {"enabled": False}}, {"model.tinker_lora_path": "elsewhere"})
    assert off.adapter_folders == ("elsewhere",)
    made = {"output_dir": "weights/x", "download_weights": False}
    assert load_config(BASE | {"tinker": made}).adapter_folders == (str(Path("weights/x/peft_adapter")),)
    assert load_config(BASE).adapter_folders == ()
    assert load_config(Config.model_validate(BASE)) == load_config(BASE)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("middle", "'middle' is no position: allowed are last_prompt, "),
        (["last_prompt", "foo"], "'foo' is no position"),
        ([], "a position or a list of them is needed"),
        ([["last_prompt"]], r"\['last_prompt'\] is no position"),
        (["last_prompt", "last_prompt"], "'last_prompt' is named twice"),
    ],
)
def test_positions_are_one_or_a_list(position, message):
    with pytest.raises(ConfigError, match=rf"extraction\.position is .*{message}"):
        load_config(BASE | {"extraction": {"position": position}})
    one, several = (load_config(BASE | {"extraction": {"position": p}}).extraction.position for p in
                    ("last_prompt", ["last_answer", "last_prompt"]))  # fmt: skip
    assert (one, several) == (("last_prompt",), ("last_answer", "last_prompt"))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("forest", "'forest' is no family: allowed are logistic, mean_difference, mlp"),
        ([], "a family or a list of them is needed"),
        (["mlp", "mlp"], "'mlp' is named twice"),
    ],
)
def test_families_are_one_or_a_list(family, message):
    with pytest.raises(ConfigError, match=rf"probe\.family is .*{message}"):
        load_config(BASE | {"probe": {"family": family}})
    one, several = (load_config(BASE | {"probe": {"family": f}}).probe.family for f in ("mlp", ["mlp", "logistic"]))
    assert (one, several) == (("mlp",), ("mlp", "logistic"))


def test_the_configuration_names_the_families_that_the_sweep_knows():
    from src.config.values import Family, Position
    from src.probes import sweep

    assert (*get_args(Family), "attention") == get_args(sweep.Family)
    assert sweep.ATTENTION in get_args(Position)
