"""Saved probes: bit-equal in another process, whole or not at all, and refused where they do not fit."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from src import files
from src.errors import (
    CredentialsError,
    DownloadError,
    IntegrityError,
    MissingFileError,
    ModelError,
    ScoringError,
    StorageError,
)
from src.evaluation.selective import Promise
from src.probes import (
    Asking,
    AttentionProbe,
    LinearProbe,
    MeanDifferenceProbe,
    MLPProbe,
    ModelIdentity,
    Origin,
    SavedProbe,
    TokenStates,
)
from src.probes.artifact import ARRAYS, CARD, HEADER
from src.probes.linear import ProbeWeights
from tests.conftest import random_llama

MODEL = ModelIdentity("maker/model-1", "ab" * 20, "12" * 16, None, "bfloat16", None)
PROMISES = (Promise(0.75, 0.1, 0.95, 0.4, 40, 1), Promise(float("inf"), 0.01, 0.95, 0.0, 0, 0))


def rows(n=200, d=8, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(np.float32)
    return X, (rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)


def fitted(d=8):
    X, y = rows(d=d)
    return LinearProbe(d).fit(X[:100], y[:100], X[100:], y[100:])


def saved(**changes):
    origin = Origin(MODEL, "block.1", "last_prompt", training_ids="0" * 64, C=0.01, metrics={"auroc": 0.8, "ece": None})
    return SavedProbe(**({"weights": fitted().weights_, "origin": origin, "promises": PROMISES} | changes))


@pytest.fixture
def folder(tmp_path):
    return saved().calibrated(*rows(seed=1), method="isotonic").save_pretrained(tmp_path / "probe")


def rewritten(folder, **changes):
    """The header with changed entries; "..." removes one."""
    header = json.loads((folder / HEADER).read_text())
    for key, value in changes.items():
        inner = header
        *path, last = key.split("__")
        for name in path:
            inner = inner[name]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    (folder / HEADER).write_text(json.dumps(header))
    return folder


def with_arrays(folder, data):
    """Other bytes in place of the arrays, and a header that vouches for them."""
    (folder / ARRAYS).write_bytes(data)
    return rewritten(folder, sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_saved_probe_comes_back_as_it_was(tmp_path, method):
    probe = saved().calibrated(*rows(seed=1), method=method)
    again = SavedProbe.from_pretrained(probe.save_pretrained(tmp_path / "probe"))
    X, _ = rows(seed=2)
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))
    np.testing.assert_array_equal(again.decision_function(X), probe.decision_function(X))
    assert (again.origin, again.recalibration, again.promises) == (probe.origin, probe.recalibration, probe.promises)


def network():
    """A fitted small network, and its origin."""
    X, y = rows()
    return MLPProbe(8).fit(X[:100], y[:100], X[100:], y[100:]), Origin(MODEL, "block.1", "last_prompt", family="mlp")


def test_a_fresh_process_predicts_bit_equal(folder, tmp_path):
    X, y = rows(seed=3)
    np.save(tmp_path / "X.npy", X)
    probe, origin = network()
    units = probe.frozen(origin).calibrated(X, y).save_pretrained(tmp_path / "network")
    code = (
        "import sys, numpy as np; from src.probes import SavedProbe; X = np.load(sys.argv[1])\n"
        "for folder in sys.argv[2:]: print(SavedProbe.from_pretrained(folder).predict(X).tobytes().hex())"
    )
    root = Path(__file__).resolve().parents[1]
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "X.npy"), str(folder), str(units)],
        capture_output=True, text=True, check=True, cwd=root, timeout=120,
    )  # fmt: skip
    here = [folder, units]
    assert said.stdout.split() == [SavedProbe.from_pretrained(one).predict(X).tobytes().hex() for one in here]


def test_a_small_network_is_saved_and_says_what_it_is(tmp_path):
    probe, origin = network()
    X, _ = rows(seed=4)
    folder = probe.frozen(origin).save_pretrained(tmp_path / "probe")
    again = SavedProbe.from_pretrained(folder)
    np.testing.assert_array_equal(again.decision_function(X), probe.decision_function(X))
    assert (again.origin, again.input_dim) == (origin, 8)
    assert "A small network with one hidden layer, of 64 units, of standardised states" in (folder / CARD).read_text()
    length = struct.unpack("<Q", (folder / ARRAYS).read_bytes()[:8])[0]
    described = json.loads((folder / ARRAYS).read_bytes()[8 : 8 + length])
    assert described["into"]["shape"] == [8, 64]
    with pytest.raises(IntegrityError, match=r"bytes; a probe's has at most|weight, bias, mean and scale of 8 numbers"):
        SavedProbe.from_pretrained(rewritten(folder, origin__family="logistic"))


def of_network(**changes):
    from safetensors.numpy import save

    values = {"into": np.ones((8, 64)), "offset": np.ones(64), "out": np.ones(64), "bias": np.ones(1),
              "mean": np.ones(8), "scale": np.ones(8)} | changes  # fmt: skip
    return save({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (of_network(out=None), "into, offset, out, bias, mean and scale of 8 numbers in F64 are needed"),
        (of_network(weight=np.ones(8)), "into, offset, out, bias, mean and scale of 8 numbers"),
        (of_network(into=np.ones((64, 8))), "of 8 numbers in F64 are needed"),
        (of_network(into=np.ones(512)), "of 8 numbers in F64 are needed"),
        (of_network(into=np.ones((8, 32)), offset=np.ones(32), out=np.ones(32)), "of 8 numbers in F64 are needed"),
        (of_network(out=np.ones(64, np.float32)), "F32"),
        (of_network(into=np.full((8, 64), np.nan)), "into holds NaN"),
        (of_network(scale=np.zeros(8)), "scale that is not above 0"),
        (of_network(into=np.ones((8, 6400))), r"bytes; a probe's has at most"),
    ],
)
def test_arrays_that_no_small_network_has_are_refused(tmp_path, data, message):
    probe, origin = network()
    folder = probe.frozen(origin).save_pretrained(tmp_path / "probe")
    with pytest.raises(IntegrityError, match=message):
        SavedProbe.from_pretrained(with_arrays(folder, data))


def test_a_frozen_probe_predicts_as_the_fitted_one():
    probe, (X, y) = fitted(), rows(seed=2)
    np.testing.assert_array_equal(probe.frozen(saved().origin).predict(X), probe.predict(X))
    other = probe.calibrated(X, y, method="platt")
    np.testing.assert_array_equal(other.frozen(saved().origin).predict(X), other.predict(X))
    np.testing.assert_array_equal(probe.calibrated(probe.predict(X), y, method="platt").predict(X), other.predict(X))
    np.testing.assert_array_equal(other.decision_function(X), probe.decision_function(X))
    assert not np.array_equal(other.predict(X), probe.predict(X))
    assert probe.recalibration_ is None
    again = other.calibrated(X, y, method="platt")  # not on top of the one before
    assert again.recalibration_ == other.recalibration_
    assert other.fit(X, y, X, y).recalibration_ is None


def test_the_files_hold_no_pickle_and_no_module_of_ours(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([ARRAYS, HEADER, CARD])
    length = struct.unpack("<Q", (folder / ARRAYS).read_bytes()[:8])[0]
    names = json.loads((folder / ARRAYS).read_bytes()[8 : 8 + length])
    assert set(names) - {"__metadata__"} == {"weight", "bias", "mean", "scale"}
    assert "src." not in (folder / HEADER).read_text()
    header = json.loads((folder / HEADER).read_text())
    assert header["origin"]["layer"] == "block.1"
    assert header["promises"][1]["threshold"] is None


def test_saving_twice_gives_the_same_bytes(tmp_path):
    first, second = (saved().save_pretrained(tmp_path / name) for name in "ab")
    for name in (ARRAYS, HEADER, CARD):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    saved(promises=()).save_pretrained(first)  # a probe that was there is replaced
    assert SavedProbe.from_pretrained(first).promises == ()


def test_a_save_that_fails_leaves_the_old_probe(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = files.write_text

    def full(path, text):
        if path.name == CARD:
            raise OSError(28, "No space left on device")
        written(path, text)

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(StorageError, match="No space left on device"):
        saved(promises=()).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"holds 'thesis.tex', so it is not the folder of a probe"):
        saved().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    one = np.ones(3)
    broken = ProbeWeights(np.array([1.0, np.nan, 0.0]), 0.0, one, one)
    with pytest.raises(ScoringError, match="The probe's weight holds NaN or infinity"):
        saved(weights=broken).save_pretrained(tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "confprobe-probe-3"}, "has format 'confprobe-probe-3', and this version reads confprobe-probe-2"),
        ({"format": ...}, "has format None"),
        ({"input_dim": ...}, r"'input_dim': Field required"),
        ({"more": 1}, "'more': Unexpected"),
        ({"origin__more": 1}, "'origin.more': Unexpected"),
        ({"input_dim": "8"}, "'input_dim': Input should be a valid integer"),
        ({"input_dim": True}, "'input_dim': Input should be a valid integer"),
        ({"input_dim": 0}, "'input_dim': Input should be greater than or equal to 1"),
        ({"input_dim": 1 << 40}, "'input_dim': Input should be less than or equal"),
        ({"input_dim": 9}, "weight, bias, mean and scale of 9 numbers in F64 are needed"),
        ({"sha256": "0" * 64}, "is torn, or not the file that probe.json belongs to"),
        ({"origin__layer": "block.1; import os"}, "'origin.layer': String should match"),
        ({"origin__position": "last\nprompt"}, "'origin.position': String should match"),
        ({"origin__model__weights": "../../etc"}, "'origin.model.weights': String should match"),
        ({"origin__model__quantization": "2bit"}, "'origin.model.quantization': Input should be '8bit' or '4bit'"),
        ({"origin__model": ...}, "'origin.model': Field required"),
        ({"origin__asking__max_new_tokens": 10**9}, "'origin.asking.max_new_tokens'"),
        ({"origin__metrics": {"auroc": "high"}}, "'origin.metrics.auroc': Input should be a valid number"),
        ({"promises": [{"threshold": 0.5}]}, "'promises.0.risk': Field required"),
        ({"promises": {}}, "'promises': Input should be a valid array"),
        ({"recalibration": {"method": "os.system"}}, "The recalibration's method is 'os.system'"),
        ({"recalibration": {"method": "temperature", "temperature": -1.0}}, "temperature is -1.0"),
        ({"recalibration": [1]}, "'recalibration': Input should be"),
    ],
)
def test_a_header_that_no_probe_has_is_refused(folder, changes, message):
    with pytest.raises(IntegrityError, match=message):
        SavedProbe.from_pretrained(rewritten(folder, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion|Expecting value"),
        ("[]", "has format None"),
        ('{"format": "confprobe-probe-1", "format": "x"}', "the key 'format' occurs twice"),
        ('{"format": "confprobe-probe-1", "input_dim": NaN}', "NaN is no number"),
        ('{"format": "confprobe-probe-1", "x": 1e999}', "'input_dim': Field required|'x'"),
        (b"\xff\xfe", "invalid start byte"),
    ],
)
def test_a_header_that_is_no_json_is_refused(folder, text, message):
    (folder / HEADER).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(IntegrityError, match=message):
        SavedProbe.from_pretrained(folder)


def test_numbers_that_would_overflow_and_promises_that_cannot_be_are_refused(folder):
    for changes in ({"weight": np.full(8, 1e308)}, {"scale": np.full(8, 5e-324)}):
        with pytest.raises(IntegrityError, match="a number that no fit gives"):
            SavedProbe.from_pretrained(with_arrays(folder, arrays(**changes)))
    with_arrays(folder, arrays())
    promise = {"threshold": 0.5, "risk": 0.1, "certainty": 0.95, "coverage": 0.5, "answered": 1, "wrong": 3}
    rewritten(folder, promises=[promise])
    with pytest.raises(IntegrityError, match="a promise on 1 answers, 3 of them wrong"):
        SavedProbe.from_pretrained(folder)


def test_infinity_in_a_header_is_refused(folder):
    text = (folder / HEADER).read_text()
    (folder / HEADER).write_text(text.replace('"auroc": 0.8', '"auroc": 1e999'))
    with pytest.raises(IntegrityError, match=r"'origin.metrics.auroc': Input should be a finite number"):
        SavedProbe.from_pretrained(folder)


def arrays(**changes):
    from safetensors.numpy import save

    values = {"weight": np.ones(8), "bias": np.ones(1), "mean": np.ones(8), "scale": np.ones(8)} | changes
    return save({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (arrays(weight=None), "weight, bias, mean and scale of 8 numbers"),
        (arrays(more=np.ones(1)), "weight, bias, mean and scale of 8 numbers"),
        (arrays(weight=np.ones(8, np.float32)), "F32"),
        (arrays(weight=np.ones(8, np.int64)), "I64"),
        (arrays(weight=np.ones((8, 1))), "weight, bias, mean and scale of 8 numbers"),
        (arrays(weight=np.ones(7)), "weight, bias, mean and scale of 8 numbers"),
        (arrays(mean=np.full(8, np.nan)), "mean holds NaN"),
        (arrays(bias=np.array([np.inf])), "bias holds NaN, infinity"),
        (arrays(scale=np.zeros(8)), "scale that is not above 0"),
        (arrays(scale=-np.ones(8)), "scale that is not above 0"),
        (arrays()[:-8], "(?i)incomplete|invalid|buffer"),
        (b"\x80\x04\x95", "(?i)header"),
        (struct.pack("<Q", 1 << 60) + b"{}", "(?i)header"),
        (arrays(weight=np.ones(100_000)), r"has 800,\d+ bytes; a probe's has at most"),
    ],
)
def test_arrays_that_no_probe_has_are_refused(folder, data, message):
    with pytest.raises(IntegrityError, match=message):
        SavedProbe.from_pretrained(with_arrays(folder, data))


def test_the_header_of_another_probe_is_refused(folder, tmp_path):
    other = SavedProbe(ProbeWeights(np.ones(8), 1.0, np.ones(8), np.ones(8)), saved().origin)
    shutil.copy(other.save_pretrained(tmp_path / "other") / HEADER, folder / HEADER)
    with pytest.raises(IntegrityError, match=r"not the file that probe.json belongs to"):
        SavedProbe.from_pretrained(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    (folder / ARRAYS).unlink()
    with pytest.raises(MissingFileError, match=r"no probe.safetensors in"):
        SavedProbe.from_pretrained(folder)
    with pytest.raises(MissingFileError, match=r"no probe.json in"):
        SavedProbe.from_pretrained(tmp_path)
    for name in (str(tmp_path / "nowhere"), "../x", "one-part", "a/b/c", "user/pro be", "user/x\n"):
        with pytest.raises(MissingFileError, match="There is no folder"):
            SavedProbe.from_pretrained(name)


def test_a_header_too_large_is_not_read(folder):
    os.truncate(folder / HEADER, (16 << 20) + 1)
    with pytest.raises(IntegrityError, match=r"has 16,777,217 bytes"):
        SavedProbe.from_pretrained(folder)


def test_the_card_quotes_what_comes_from_elsewhere(tmp_path):
    name = "maker/`x` | [click](http://evil)"
    model = ModelIdentity(name, None, "12" * 16, None, "float32", "4bit")
    origin = Origin(model, "block.1", "last_prompt", metrics={"auroc": 0.8123, "ece": None, "a|b`c": 1.0})
    card = (saved(origin=origin).save_pretrained(tmp_path / "probe") / CARD).read_text()
    assert card.startswith("---\nlibrary_name: llm-confidence-probing\n")
    assert "`maker/'x' / [click](http://evil) float32 4bit`" in card
    assert "| `auroc` | 0.8123 |" in card
    assert "| `ece` | undefined |" in card
    assert "| `a/b'c` | 1 |" in card
    assert f"base_model: {json.dumps(name)}" in card


def of_model(model, layer="block.1", d=32, **changes):
    identity = ModelIdentity.of(model)
    values = {name: changes.get(name, getattr(identity, name)) for name in identity.__dataclass_fields__}
    return SavedProbe(fitted(d).weights_, Origin(ModelIdentity(**values), layer, "last_prompt"))


def test_the_model_that_it_was_fitted_on_is_accepted(model):
    of_model(model).check_fits(model)
    of_model(model, layer="final_norm").check_fits(model)
    of_model(model, name="called/otherwise", revision="main").check_fits(model)


def test_another_model_layer_or_width_is_an_error_that_names_both(model, tokenizer):
    other = random_llama(len(tokenizer), seed=5)
    with pytest.raises(ModelError, match=r"reads block.1 of one float32, and this model is a model .* \(weights"):
        of_model(model, name="one").check_fits(other)
    with pytest.raises(ModelError, match=r"reads block.7 of .* has blocks 0 to 2"):
        of_model(model, layer="block.7").check_fits(model)
    with pytest.raises(ModelError, match=r"whose states have 8 numbers; those of .* have 32"):
        of_model(model, d=8).check_fits(model)
    for field, value, message in (
        ("adapter", "ab" * 16, "adapter none, not abababababab"),
        ("quantization", "8bit", "quantization none, not 8bit"),
        ("dtype", "bfloat16", "dtype float32, not bfloat16"),
    ):
        with pytest.raises(ModelError, match=message):
            of_model(model, **{field: value}).check_fits(model)


def test_an_identity_says_nothing_of_this_machine(model_folder, adapter_folder):
    from src.models import ModelLoader

    model, _ = ModelLoader(str(model_folder), adapter_folder).load()
    tuned = ModelIdentity.of(model)
    with model.disable_adapter():
        base = ModelIdentity.of(model)
    assert tuned.name == base.name == model_folder.name
    assert tuned.adapter is not None
    assert base.adapter is None
    assert base.differences(tuned) == [f"adapter {tuned.adapter[:12]}, not none"]
    with pytest.raises(ModelError, match="has no weights to be known by"):
        ModelIdentity.of(ModelLoader(str(model_folder)).skeleton())


class Hub:
    """A stand-in for the hub: a folder for each repository."""

    def __init__(self, root):
        self.root, self.asked, self.status = root, [], 200

    def __call__(self, token=None):  # HfApi(token=...)
        self.token = token
        return self

    def _answer(self):
        from huggingface_hub.errors import HfHubHTTPError

        if self.status != 200:
            response = httpx.Response(self.status, request=httpx.Request("GET", "https://hub.invalid"))
            raise HfHubHTTPError("no", response=response)

    def create_repo(self, repo_id, *, private, exist_ok):
        self._answer()
        self.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        self.commit_url = f"https://hub.invalid/{repo_id}/commit/1"
        return self

    def hf_hub_download(self, repo_id, name, *, revision):
        self._answer()
        self.asked.append((repo_id, name, revision))
        return str(self.root / repo_id / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand_in.hf_hub_download)
    return stand_in


def test_a_probe_goes_to_the_hub_and_back(hub):
    probe, (X, _) = saved(), rows()
    assert probe.push_to_hub("me/probe", private=True, token="t") == "https://hub.invalid/me/probe/commit/1"
    assert (hub.private, hub.token) == (True, "t")
    assert sorted(path.name for path in (hub.root / "me/probe").iterdir()) == sorted([ARRAYS, HEADER, CARD])
    np.testing.assert_array_equal(SavedProbe.from_pretrained("me/probe", "v1").predict(X), probe.predict(X))
    assert hub.asked == [("me/probe", ARRAYS, "v1"), ("me/probe", HEADER, "v1")]  # and nothing else is fetched


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(401, CredentialsError, "log in with `hf auth login`"), (404, DownloadError, "has no probe 'me/probe'")],
)
def test_what_the_hub_refuses_is_said(hub, status, error, message):
    hub.status = status
    with pytest.raises(error, match=message):
        SavedProbe.from_pretrained("me/probe")
    with pytest.raises(error, match=message):
        saved().push_to_hub("me/probe")


def test_promises_are_found_by_their_risk():
    assert saved().promise(0.1).threshold == 0.75
    with pytest.raises(ScoringError, match=r"no threshold for risk 0.2; it has 0.1, 0.01"):
        saved().promise(0.2)


def test_a_probe_of_the_first_format_is_read_as_the_logistic_one_it_is(folder):
    expected = SavedProbe.from_pretrained(folder)
    found = SavedProbe.from_pretrained(rewritten(folder, format="confprobe-probe-1", origin__family=...))
    assert found.origin == expected.origin
    np.testing.assert_array_equal(found.predict(rows()[0]), expected.predict(rows()[0]))


def test_a_difference_of_means_is_saved_and_says_what_it_is(tmp_path):
    X, y = rows()
    probe = MeanDifferenceProbe(8).fit(X[:100], y[:100], X[100:], y[100:])
    origin = Origin(MODEL, "block.1", "last_prompt", family="mean_difference")
    folder = probe.frozen(origin).save_pretrained(tmp_path / "probe")
    again = SavedProbe.from_pretrained(folder)
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))
    assert again.origin.family == "mean_difference"
    assert "The difference of the class means of standardised states" in (folder / CARD).read_text()


def attending(d=8):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, 120)
    tokens = TokenStates.of(rng.standard_normal((lengths.sum(), d)), np.repeat(np.arange(120), lengths))
    y = (tokens.states[tokens.begins, 0] > 0).astype(float)
    return AttentionProbe(d).fit(tokens, y, groups=np.arange(120)), tokens, y


def test_a_probe_that_attends_is_saved_with_its_query(tmp_path):
    probe, tokens, y = attending()
    origin = Origin(MODEL, "block.1", "attention_answer", family="attention")
    saved = probe.frozen(origin)
    folder = saved.calibrated(tokens, y).save_pretrained(tmp_path / "probe")
    again = SavedProbe.from_pretrained(folder)
    np.testing.assert_array_equal(again.decision_function(tokens), probe.decision_function(tokens))
    np.testing.assert_array_equal(again.predict(tokens), saved.calibrated(probe.predict(tokens), y).predict(tokens))
    with pytest.raises(ScoringError, match="X is no TokenStates"):
        again.predict(tokens.states)
    for change in ({"origin__family": "logistic"}, {"origin__position": "last_answer"}):
        with pytest.raises(IntegrityError, match=r"a probe of (logistic|attention) that reads (attention|last)_answer"):
            SavedProbe.from_pretrained(rewritten(shutil.copytree(folder, tmp_path / next(iter(change))), **change))
    both = {"origin__family": "logistic", "origin__position": "last_answer"}
    with pytest.raises(
        IntegrityError, match=r"probe\.safetensors has .* bytes|weight, bias, mean and scale of 8 numbers"
    ):
        SavedProbe.from_pretrained(rewritten(folder, **both))


@pytest.mark.parametrize("kind", [LinearProbe, MeanDifferenceProbe, MLPProbe])
def test_a_frozen_probe_knows_its_own_family_and_c(kind, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6))
    y = (X[:, 0] + rng.standard_normal(200) > 0).astype(float)
    origin = saved().origin
    probe = kind(6).fit(X[:150], y[:150], X[150:], y[150:])
    back = SavedProbe.from_pretrained(
        probe.frozen(replace(origin, family="logistic", C=None)).save_pretrained(tmp_path / "probe")
    )
    assert back.origin.family == kind.family
    assert getattr(probe, "C_", None) == back.origin.C
    np.testing.assert_array_equal(back.predict(X), probe.predict(X))
    with pytest.raises(ScoringError, match="has not been fitted"):
        kind(6).frozen(origin)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 4}, r"cannot be saved: 'origin\.layer': Input should be a valid string"),
        (
            {"asking": Asking(by="leters")},
            r"'origin\.asking\.by': Input should be 'generation', 'letters' or 'choices'",
        ),
        ({"position": "attention_answer"}, "a probe of logistic that reads attention_answer"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(changes, message, tmp_path):
    probe = saved()
    with pytest.raises(ScoringError, match=message):
        replace(probe, origin=replace(probe.origin, **changes)).save_pretrained(tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize("stop", [[""], ["a"] * 101, ["a" * 1001]])
def test_stop_strings_of_a_stranger_are_few_short_and_not_empty(folder, stop):
    header = json.loads((folder / HEADER).read_text())
    header["origin"]["asking"]["stop"] = stop
    (folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(IntegrityError, match=r"origin\.asking\.stop"):
        SavedProbe.from_pretrained(folder)
