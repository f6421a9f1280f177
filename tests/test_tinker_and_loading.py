"""A checkpoint becomes a sound adapter that is in force, or an error and nothing on disk."""

import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from src.adapters import parse_config, read_adapter
from src.errors import (
    AdapterError,
    ConfigError,
    DownloadError,
    IntegrityError,
    ModelError,
    UnsafeArchiveError,
)
from src.models import ModelLoader
from src.models.loader import attach_adapter
from src.tinker import download_and_convert_weights
from tests.conftest import lora_tensors, random_llama, write_adapter

PREFIX = "base_model.model."
TINKER_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 32, "target_modules": "all-linear"}


def pack(path, files, *, mode="w", folder=""):
    """A tar of {name: bytes or TarInfo}."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(folder + name)
            member.size, member.mode = len(content), 0o777
            tar.addfile(member, io.BytesIO(content))
    return path


def checkpoint(tokenizer, *, config=TINKER_CONFIG, head="model.unembed_tokens", tensors=None, **changes):
    """The files of a Tinker checkpoint for the random Llama; `changes` replace or (None) drop tensors."""
    tensors = (tensors or lora_tensors(random_llama(len(tokenizer)), head=head)) | changes
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    files = {"adapter_model.safetensors": save(tensors), "checkpoint_complete": b""}
    return files if config is None else files | {"adapter_config.json": json.dumps(config).encode()}


@pytest.mark.parametrize(("mode", "folder"), [("w", ""), ("w:gz", ""), ("w", "nested/")])
def test_a_tinker_archive_becomes_a_peft_folder_that_gives_the_right_logits(
    tmp_path, tokenizer, model_folder, mode, folder
):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer), mode=mode, folder=folder)
    made = download_and_convert_weights(str(archive), str(model_folder), str(tmp_path / "out"))
    assert made == str(tmp_path / "out" / "peft_adapter")
    assert archive.exists()  # an archive of the user's is never deleted
    model, _ = ModelLoader(str(model_folder), made).load()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        got = model(input_ids=ids).logits
        expected = merged_by_hand(tokenizer)(input_ids=ids).logits
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


def merged_by_hand(tokenizer):
    """W + alpha / r · B A for every module, the head included."""
    model = random_llama(len(tokenizer))
    tensors = lora_tensors(model, head="lm_head")
    with torch.no_grad():
        for name, module in model.named_modules():
            if f"{PREFIX}{name}.lora_A.weight" in tensors:
                a, b = (tensors[f"{PREFIX}{name}.lora_{half}.weight"] for half in "AB")
                module.weight += 32 / 4 * b @ a
    return model


def test_the_result_says_where_it_came_from_and_is_made_once(tmp_path, tokenizer, monkeypatch):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
    out = tmp_path / "out"
    download_and_convert_weights(archive, "base", out)
    info = json.loads((out / "checkpoint_info.json").read_text())
    assert {"tinker_path", "base_model", "training_dataset", "training_date", "local_path"} <= set(info)
    assert (info["rank"], info["alpha"], info["alpha_source"]) == (4, 32, "file")
    config = json.loads((out / "peft_adapter" / "adapter_config.json").read_text())
    assert "lm_head" in config["target_modules"]
    config["lora_alpha"] = 16
    (out / "peft_adapter" / "adapter_config.json").write_text(json.dumps(config))
    (out / "checkpoint_info.json").write_text("{}")

    def not_again(*_):
        raise AssertionError("unpacked again")

    monkeypatch.setattr("src.tinker.obtain.unpack", not_again)
    download_and_convert_weights(archive, "base", out)
    assert json.loads((out / "peft_adapter" / "adapter_config.json").read_text())["lora_alpha"] == 16
    assert (out / "checkpoint_info.json").read_text() == "{}"
    with pytest.raises(AssertionError, match="unpacked again"):
        download_and_convert_weights(archive, "another base", out)


def test_the_archive_in_tinkers_real_layout_loses_no_tensor(tmp_path, shared):
    made = download_and_convert_weights(
        shared / "tinker" / "archive_layout" / "checkpoint.tar", "stories260K", tmp_path / "out"
    )
    names = set(load_file(f"{made}/adapter_model.safetensors"))
    assert len(names) == 72
    assert f"{PREFIX}lm_head.lora_A.weight" in names


def test_a_real_servers_adapter_gives_the_servers_log_probabilities(tmp_path, shared):
    golden = shared / "tinker" / "goldens" / "llama-sdk0.18.2"
    base = golden / "tiny-llama"
    made = download_and_convert_weights(golden / "archive.tar", str(base), tmp_path / "out")
    model, _ = ModelLoader(str(base), made, dtype="float32").load()
    expected = json.loads((golden / "expected.json").read_text())
    for ids, served in zip(expected["token_ids"], expected["server_forward_logprobs"], strict=True):
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        ours = scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert np.abs(ours.numpy() - np.array(served)[: len(ids) - 1]).max() < 1e-5


def member(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"), member("/abs"), member("a/../../b"), member("C:\\x"), member("d/" * 40 + "x"),
        member("n" * 300), member("link", tarfile.SYMTYPE, linkname="adapter_config.json"),
        member("hard", tarfile.LNKTYPE, linkname="adapter_config.json"), member("pipe", tarfile.FIFOTYPE),
        member("null", tarfile.CHRTYPE), member("ADAPTER_config.json"),
    ],
    ids=lambda info: info.name[:20],
)  # fmt: skip
def test_a_hostile_member_is_refused_and_nothing_is_left(tmp_path, tokenizer, bad):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer) | {"bad": bad})
    with pytest.raises(UnsafeArchiveError):
        download_and_convert_weights(archive, "base", tmp_path / "out" / "x")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["c.tar"]


def test_too_many_members_are_refused(tmp_path, tokenizer):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer) | {f"f{n}": b"" for n in range(70)})
    with pytest.raises(UnsafeArchiveError, match="over 64 members"):
        download_and_convert_weights(archive, "base", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><p>404", "an HTML page"),
        (b"PK\x03\x04....", "a zip file"),
        (b"x" * 900, "no tar"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, content, message):
    (tmp_path / "c.tar").write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        download_and_convert_weights(tmp_path / "c.tar", "base", tmp_path / "out")


def test_a_truncated_archive_is_refused(tmp_path, tokenizer):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(IntegrityError):
        download_and_convert_weights(archive, "base", tmp_path / "out")
    assert not (tmp_path / "out" / "peft_adapter").exists()


def test_converted_weights_that_changed_are_noticed_and_an_edited_configuration_is_kept(
    tmp_path, tokenizer, model_folder
):
    made = Path(download_and_convert_weights(pack(tmp_path / "c.tar", checkpoint(tokenizer)), "base", tmp_path / "out"))
    settings = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 16}))
    assert read_adapter(made).config["lora_alpha"] == 16
    weights = made / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="is not what was converted"):
        ModelLoader(str(model_folder), made).load()


def test_another_alpha_converts_again_and_a_missing_archive_does_not(tmp_path, tokenizer):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
    made = download_and_convert_weights(archive, "base", tmp_path / "out")

    def alpha():
        return json.loads((tmp_path / "out" / "peft_adapter" / "adapter_config.json").read_text())["lora_alpha"]

    assert alpha() == 32
    download_and_convert_weights(archive, "base", tmp_path / "out", lora_alpha=64)
    assert alpha() == 64
    assert json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())["alpha_source"] == "argument"
    (tmp_path / "out" / "checkpoint_info.json").unlink()
    archive.unlink()
    assert download_and_convert_weights(archive, "base", tmp_path / "out") == made
    assert json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())["alpha"] == 64
    (tmp_path / "out" / "peft_adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(DownloadError, match="no checkpoint archive"):
        download_and_convert_weights(archive, "base", tmp_path / "out")


@pytest.mark.parametrize("marker", ["{", "[]", "{}", '{"files": 1}'])
def test_a_marker_that_is_not_ours_is_refused(tmp_path, tokenizer, marker):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
    made = download_and_convert_weights(archive, "base", tmp_path / "out")
    (Path(made) / "confprobe.json").write_text(marker)
    with pytest.raises(IntegrityError, match="is not what this library wrote"):
        download_and_convert_weights(archive, "base", tmp_path / "out")


def test_a_model_whose_file_lacks_tensors_is_refused(tmp_path, model_folder):
    import shutil

    shutil.copytree(model_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(
        ModelError, match=r"no weights for \d+ tensors .* 'model\.layers\.3\.\S+': they would be random"
    ):
        ModelLoader(str(tmp_path / "m")).load()


@pytest.mark.parametrize("change", [{"hidden_size": "abc"}, {"num_attention_heads": 0}, {"dtype": "nope"},
                                    {"hidden_size": 64}, {"model_type": "nope"}])  # fmt: skip
def test_a_configuration_that_is_nonsense_is_one_error(tmp_path, model_folder, change):
    import shutil

    shutil.copytree(model_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match="could not be loaded"):
        ModelLoader(str(tmp_path / "m")).load()


def test_missing_remote_and_foreign_places_are_named(tmp_path, tokenizer):
    with pytest.raises(DownloadError, match="no checkpoint archive"):
        download_and_convert_weights(tmp_path / "no.tar", "base", tmp_path / "out")
    with pytest.raises(DownloadError, match="is no checkpoint") as caught:
        download_and_convert_weights("s3://host/x.tar?sig=SECRET", "base", tmp_path / "out")
    assert "SECRET" not in str(caught.value)
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
    (tmp_path / "out" / "peft_adapter").mkdir(parents=True)
    (tmp_path / "out" / "peft_adapter" / "mine.txt").write_text("precious")
    with pytest.raises(IntegrityError, match="not made by this library"):
        download_and_convert_weights(archive, "base", tmp_path / "out")


Q = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({f"{Q}B.weight": None}, TINKER_CONFIG, "q_proj.lora_B.weight is missing"),
        (
            {f"{Q}A.weight": torch.full((4, 32), float("nan"))},
            TINKER_CONFIG,
            "q_proj.lora_A.weight holds NaN",
        ),
        (
            {f"{PREFIX}model.layers.0.mlp.experts.w1.lora_A.weight": torch.ones(1, 4, 32)},
            TINKER_CONFIG,
            r"experts\.w1",
        ),
        (
            {f"{PREFIX}model.layers.0.linear_attn.in_proj_q.lora_A.weight": torch.ones(4, 32)},
            TINKER_CONFIG,
            "in_proj_q",
        ),
        ({"model.layers.0.x.lora_A.weight": torch.ones(4, 32)}, TINKER_CONFIG, "not understood"),
        ({f"{PREFIX}lm_head.lora_A.weight": torch.ones(4, 32)}, TINKER_CONFIG, "Two tensors"),
        ({}, TINKER_CONFIG | {"r": 8}, "tensors have rank 4, adapter_config.json says 8"),
        ({}, {"peft_type": "LORA", "r": 4}, "lora_alpha is not in adapter_config.json"),
        ({}, None, "adapter_config.json not found, and lora_alpha cannot be read"),
        ({}, TINKER_CONFIG | {"use_dora": True}, "use_dora=True"),
        ({}, TINKER_CONFIG | {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({}, TINKER_CONFIG | {"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({}, TINKER_CONFIG | {"use_rslora": True}, "use_rslora=True"),
        ({}, TINKER_CONFIG | {"modules_to_save": ["x"]}, "modules_to_save"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, tokenizer, changes, config, message):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer, config=config, **changes))
    with pytest.raises(AdapterError, match=message):
        download_and_convert_weights(archive, "base", tmp_path / "out")
    assert not (tmp_path / "out" / "peft_adapter").exists()


def test_alpha_can_be_given(tmp_path, tokenizer):
    archive = pack(tmp_path / "c.tar", checkpoint(tokenizer, config=None))
    made = download_and_convert_weights(archive, "base", tmp_path / "out", lora_alpha=16)
    assert read_adapter(made).config["lora_alpha"] == 16
    assert json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())["alpha_source"] == "argument"


@pytest.mark.parametrize(
    "text", ['{"r": NaN}', '{"r": 1, "r": 2}', "[1]", "{", "[" * 10_000, " " * 2_000_000, '{"bias": "all"}']
)
def test_a_hostile_configuration_is_an_adapter_error(text):
    with pytest.raises(AdapterError):
        parse_config(text)


def test_an_adapter_for_another_model_names_the_first_mismatch(tokenizer, adapter_folder):
    adapter = read_adapter(adapter_folder)
    with pytest.raises(AdapterError, match=r"no module 'model\.layers\.2"):
        attach_adapter(random_llama(len(tokenizer), num_hidden_layers=2), adapter)
    with pytest.raises(AdapterError, match="made for 48 -> 32 features, the base model has 40 -> 32"):
        attach_adapter(random_llama(len(tokenizer), intermediate_size=40), adapter)


def test_an_adapter_that_peft_would_drop_silently_is_an_error(tmp_path, tokenizer):
    model = random_llama(len(tokenizer))
    write_adapter(tmp_path, lora_tensors(model), target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="leaves out 36 tensors"):
        attach_adapter(model, read_adapter(tmp_path))


def test_an_adapter_without_effect_is_a_warning(tmp_path, tokenizer, caplog):
    model = random_llama(len(tokenizer))
    write_adapter(tmp_path, {n: t * (".lora_A" in n) for n, t in lora_tensors(model).items()})
    with caplog.at_level(logging.WARNING):
        attach_adapter(model, read_adapter(tmp_path))
    assert "changes nothing" in caplog.text


def test_folders_that_are_no_adapter_are_named(tmp_path):
    with pytest.raises(AdapterError, match=r"adapter_config\.json not found"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(TINKER_CONFIG))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin is a pickle and is not opened"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        read_adapter(tmp_path)
    save_file({"whatever.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"Unexpected tensor 'whatever\.weight'"):
        read_adapter(tmp_path)


def test_the_loader_names_what_is_wrong(tmp_path, model_folder):
    with pytest.raises(ConfigError, match=r"quantization='8bit' and load\(\) '4bit'"):
        ModelLoader(str(model_folder), quantization="8bit").load("4bit")
    with pytest.raises(ConfigError, match="'16bit' is unknown"):
        ModelLoader(str(model_folder)).load("16bit")  # pyright: ignore
    with pytest.raises(ConfigError, match="dtype='half'"):
        ModelLoader(str(model_folder), dtype="half").load()
    with pytest.raises(ModelError, match="no model folder"):
        ModelLoader(str(tmp_path / "nowhere")).load()
    with pytest.raises(ModelError, match=r"no config\.json"):
        ModelLoader(str(tmp_path)).load()


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_with_an_adapter_loads_and_differs_little(tmp_path, tokenizer, quantization):
    pytest.importorskip("bitsandbytes")
    from src.models import HiddenStateExtractor
    from src.models.extraction.fingerprint import fingerprint

    wide = random_llama(len(tokenizer), hidden_size=128, intermediate_size=256, initializer_range=0.1)
    wide.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_adapter(adapter, lora_tensors(wide))
    full, _ = ModelLoader(str(tmp_path), adapter).load()
    small, _ = ModelLoader(str(tmp_path), adapter).load(quantization=quantization)
    unread = fingerprint(small)
    texts = ["What is the capital of France?", "Answer:"]
    expected = HiddenStateExtractor(full, tokenizer).extract(texts, [1])
    got = HiddenStateExtractor(small, tokenizer).extract(texts, [1])
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.5
    assert fingerprint(small)["quantization"] == quantization
    assert fingerprint(small)["weights"] != fingerprint(full)["weights"]
    assert fingerprint(small) == unread  # a pass moves what lies beside the weights
    rounded = small.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    scales = rounded.state.SCB if quantization == "8bit" else rounded.weight.quant_state.absmax
    with torch.inference_mode():
        scales.mul_(2)
        assert fingerprint(small)["weights"] != unread["weights"]  # the same rounded numbers mean others
        scales.div_(2)
    if quantization == "8bit":  # batch-independent: one text at a time
        np.testing.assert_array_equal(HiddenStateExtractor(small, tokenizer).extract(texts[1:], [1]), got[1:])
