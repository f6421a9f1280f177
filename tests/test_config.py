"""A configuration is either understood whole or refused with key, value and what is allowed."""

from pathlib import Path

import pytest

from src.config import Config, load_config, parse_override
from src.errors import ConfigError

BASE = {"model": {"name": "m"}, "data": {"name": "mmlu"}, "run": {"dir": "r"}}


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    config = load_config(path)
    assert load_config(config.model_dump(mode="json")) == config
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.nmae", "x", r"Unknown key 'model\.nmae'\. Did you mean 'name'\?"),
        ("modle.name", "x", r"Unknown key 'modle'\. Did you mean 'model'\?"),
        ("data.limit", True, r"data\.limit is True, but: Input should be a valid integer"),
        ("data.limit", 0, r"data\.limit is 0, but: .* greater than or equal to 1"),
        ("data.name", "mmlu2", r"data\.name is 'mmlu2', but: Input should be 'mmlu', 'gsm8k'"),
        ("data.name", "custom", r"data\.path \(the JSONL file\) is not given"),
        ("extraction.layers", [1, True], "True"),
        ("model.quantization", "16bit", "'8bit' or '4bit'"),
        ("tinker.enabled", True, r"The key 'tinker\.checkpoint_path' is missing"),
        ("evaluation.bins", "many", r"evaluation\.bins is 'many'"),
    ],
)
def test_a_wrong_key_or_value_is_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(BASE, {key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "not plain YAML"),
        ("a: &x [1]\nb: *x", "Line 2: YAML aliases"),
        ("model: {name: a}\nmodel: {name: b}", "'model' stands on line 1 and again on line 2"),
        ("", "holds nothing"),
        ("- a", "holds a list"),
        ("a:\n\t- b", "not plain YAML"),
        ("# " + "x" * (1 << 20), "at most 1,048,576"),
    ],
)
def test_yaml_that_could_surprise_is_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_a_bom_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: {name: m}\r\ndata: {name: mmlu}\r\nrun: {dir: r}\r\n")
    assert load_config(path) == load_config(BASE)


def test_overrides_come_last_and_are_yaml():
    overrides = dict(parse_override(text) for text in ("data.limit=7", "extraction.layers=[0, -1]", "model.name=a=b"))
    config = load_config(BASE, overrides)
    assert (config.data.limit, config.extraction.layers, config.model.name) == (7, (0, -1), "a=b")
    with pytest.raises(ConfigError, match=r"not of the form a\.b=value"):
        parse_override("data.limit")
    with pytest.raises(ConfigError, match="is a value, not a section"):
        load_config(BASE, {"model.name.x": 1})


def test_the_two_ways_to_name_an_adapter_must_agree():
    tinker = {"checkpoint_path": "c.tar", "output_dir": "weights/x"}
    assert load_config(BASE | {"tinker": tinker}).adapter_folder == str(Path("weights/x/peft_adapter"))
    with pytest.raises(ConfigError, match="make them agree"):
        load_config(BASE | {"tinker": tinker}, {"model.tinker_lora_path": "elsewhere"})
    off = load_config(BASE | {"tinker": tinker | {"enabled": False}}, {"model.tinker_lora_path": "elsewhere"})
    assert off.adapter_folder == "elsewhere"


def test_every_field_has_one_sentence():
    for section in (f.annotation for f in Config.model_fields.values()):
        for candidate in getattr(section, "__args__", (section,)):
            for name, field in getattr(candidate, "model_fields", {}).items():
                assert field.description, name
