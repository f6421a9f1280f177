"""Every way to name a checkpoint ends in the same adapter, or in one sentence; and nothing of the user's is touched."""

import concurrent.futures
import datetime
import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from src import files
from src.adapters import read_adapter
from src.errors import AdapterError, ConfigError, DownloadError, IntegrityError
from src.tinker import TinkerClient, download_and_convert_weights
from src.tinker.transfer import Patience
from tests.file_server import serving
from tests.test_tinker_and_loading import TINKER_CONFIG, checkpoint, pack
from tests.tinker_server import CHECKPOINT, EXPORT, MODEL, RUN, running

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
]
STATE = f"tinker://{RUN}/weights/step-1"
SAMPLER = f"tinker://{RUN}/sampler_weights/final"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("src.tinker.transfer.PATIENCE", Patience(sleep=lambda _: None))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """An unpacked checkpoint."""
    made = tmp_path / "unpacked"
    made.mkdir()
    for name, content in checkpoint(tokenizer).items():
        (made / name).write_bytes(content)
    return made


@pytest.fixture
def service(folder, monkeypatch):
    with running(folder) as standing:
        for name, value in standing.environment().items():
            monkeypatch.setenv(name, value)
        yield standing


@pytest.fixture
def old_sdk(service, monkeypatch):
    """An SDK of before 0.36 around the real one's errors: archives, and no RestClient to construct."""
    import tinker

    def archive(_, path):
        service.seen.append(("SDK", path, True))
        done = concurrent.futures.Future()
        failure = service.status.pop("archive", None)
        if failure:
            done.set_exception(failure)
        else:
            url = f"{service.url}/files/{service.archive}?signature=secret"
            done.set_result(types.SimpleNamespace(url=url, expires=datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)))
        return done

    def recorded(_, path):
        return types.SimpleNamespace(base_model=MODEL)

    methods = {"get_checkpoint_archive_url_from_tinker_path": archive, "get_weights_info_by_tinker_path": recorded}
    rest = type("Rest", (), methods)
    errors = {name: getattr(tinker, name) for name in dir(tinker) if name.endswith("Error")}
    models = types.SimpleNamespace(supported_models=[types.SimpleNamespace(model_name=MODEL)])
    services = types.SimpleNamespace(create_rest_client=rest, get_server_capabilities=lambda: models)
    sdk = types.SimpleNamespace(__version__="0.35.0", ServiceClient=lambda **_: services, **errors)
    monkeypatch.setattr("src.tinker.sdk.import_sdk", lambda: sdk)
    monkeypatch.setattr("src.tinker.client.import_sdk", lambda: sdk)
    pack(service.folder / "archive.tar", {path.name: path.read_bytes() for path in list(service.folder.iterdir())})


def info(out: Path) -> dict:
    return json.loads((out / "checkpoint_info.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def converted(folder: Path, tmp_path: Path) -> bytes:
    made = download_and_convert_weights(folder, MODEL, tmp_path / "expected")
    return (Path(made) / WEIGHTS).read_bytes()


def test_every_source_gives_the_same_adapter_and_says_where_it_came_from(tmp_path, folder, service, old_sdk):
    weights = converted(folder, tmp_path)
    archive = folder / "archive.tar"
    with serving(body=archive.read_bytes()) as host:
        sources = {
            "archive": (archive, "archive.tar", None),
            "folder": (folder, "unpacked", None),
            "address": (f"{host.url}/mine/c.tar?sig=secret", f"{host.url}/mine/c.tar", None),
            "sampler_weights": (SAMPLER, SAMPLER, RUN),
            "weights": (STATE, STATE, RUN),
        }
        for kind, (source, shown, run) in sources.items():
            out = tmp_path / kind
            made = Path(download_and_convert_weights(source, MODEL, out))
            assert (made / WEIGHTS).read_bytes() == weights
            said = info(out)
            assert (said["source"], said["tinker_path"], said["run"], said["source_kind"]) == (shown, shown, run, kind)
            assert "secret" not in json.dumps(said)
            assert sorted(path.name for path in out.iterdir()) == ["checkpoint_info.json", "peft_adapter"]


def test_real_external_weights_give_the_servers_log_probabilities(tmp_path, shared, monkeypatch):
    import torch

    from src.models import ModelLoader

    golden = shared / "tinker" / "goldens" / "qwen3-sdk0.38.0"
    base = str(golden / "tiny-qwen3")
    with running(golden / "external_weights") as service:
        for name, value in service.environment().items():
            monkeypatch.setenv(name, value)
        made = download_and_convert_weights(CHECKPOINT, base, tmp_path / "out")
    model, _ = ModelLoader(base, made, dtype="float32").load()
    served = json.loads((golden / "expected.json").read_text())
    for ids, expected in zip(served["token_ids"], served["server_forward_logprobs"], strict=True):
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        ours = scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert (ours - torch.tensor(expected[: len(ids) - 1])).abs().max() < 1e-5


def test_what_is_written_about_a_checkpoint_is_true(tmp_path, folder):
    made = Path(download_and_convert_weights(folder, MODEL, tmp_path / "out"))
    said = info(tmp_path / "out")
    assert said["files"] == {name: files.sha256_of_file(made / name) for name in ("adapter_config.json", WEIGHTS)}
    assert said["source_files"] == {path.name: files.sha256_of_file(path) for path in folder.iterdir()}
    assert (said["rank"], said["alpha"], said["alpha_source"], said["base_model"]) == (4, 32, "file", MODEL)
    assert set(said["versions"]) <= {"tinker", "safetensors"}
    assert datetime.datetime.fromisoformat(said["converted"]).tzinfo is not None


@pytest.mark.parametrize("cleanup", [True, False])
def test_nothing_of_the_users_is_deleted_or_changed(tmp_path, folder, cleanup):
    archive = pack(tmp_path / "mine.tar", {path.name: path.read_bytes() for path in folder.iterdir()})
    for source in (archive, folder):
        before = content(folder) | {"archive": archive.read_bytes()}
        download_and_convert_weights(source, MODEL, tmp_path / "out", cleanup)
        assert content(folder) | {"archive": archive.read_bytes()} == before
        assert not (tmp_path / "out" / "downloaded").exists()


class TestTrainingCheckpoint:
    def test_it_goes_through_an_export_that_is_short_and_deleted(self, tmp_path, folder, service):
        service.saved = EXPORT
        weights = converted(folder, tmp_path)
        made = download_and_convert_weights(STATE, MODEL, tmp_path / "out", allow_export=True)
        assert (Path(made) / WEIGHTS).read_bytes() == weights
        export = EXPORT.rpartition("/")[2]
        steps = ("load_weights", "save_weights_external", "external_weights_urls", "/ttl", WEIGHTS, export, "/finish")
        assert [step for _, step in service.asked(*steps)] == list(steps)
        assert service.asked(export) == [("DELETE", export)]
        assert service.bodies["save_weights_external"]["ttl_seconds"] == 3600
        assert service.bodies["load_weights"]["path"] == STATE
        assert info(tmp_path / "out")["source"] == STATE

    def test_the_export_is_deleted_also_where_the_download_fails(self, tmp_path, service):
        service.saved, service.status = EXPORT, {WEIGHTS: 404}
        with pytest.raises(DownloadError, match="HTTP status 404"):
            download_and_convert_weights(STATE, MODEL, tmp_path / "out", allow_export=True)
        assert service.asked("download-0", "/finish") == [("DELETE", "download-0"), ("POST", "/finish")]

    def test_an_export_that_cannot_be_deleted_is_a_warning_that_says_when_it_ends(self, tmp_path, service, caplog):
        service.saved, service.status = EXPORT, {"download-0": 404}
        download_and_convert_weights(STATE, MODEL, tmp_path / "out", allow_export=True)
        assert f"The temporary export {EXPORT} could not be deleted" in caplog.text
        assert "expires within an hour" in caplog.text


class TestSdkWithArchives:
    def test_its_models_are_asked_where_it_has_them(self, service, old_sdk):
        assert TinkerClient().get_supported_models() == [MODEL]

    def test_an_archive_that_is_still_built_is_asked_for_again(self, tmp_path, service, old_sdk):
        import httpx
        import tinker

        answer = httpx.Response(503, request=httpx.Request("GET", "http://127.0.0.1/"))
        service.status["archive"] = tinker.InternalServerError("building", response=answer, body=None)
        download_and_convert_weights(SAMPLER, MODEL, tmp_path / "out")
        assert len(service.asked("sampler_weights/final")) == 2

    def test_the_archive_is_kept_if_asked(self, tmp_path, service, old_sdk):
        download_and_convert_weights(SAMPLER, MODEL, tmp_path / "out", cleanup_archive=False)
        kept = tmp_path / "out" / "downloaded" / "archive.tar"
        assert kept.read_bytes() == (service.folder / "archive.tar").read_bytes()

    def test_an_expired_address_of_an_archive_is_signed_again(self, tmp_path, service, old_sdk):
        service.status["archive.tar"] = 403
        with pytest.raises(DownloadError, match=r"archive\.tar could not be downloaded: HTTP status 403"):
            download_and_convert_weights(SAMPLER, MODEL, tmp_path / "out")
        assert len(service.asked("sampler_weights/final")) == 2


class TestAddress:
    @pytest.fixture
    def host(self, tmp_path, folder):
        archive = pack(tmp_path / "a.tar", {path.name: path.read_bytes() for path in folder.iterdir()})
        with serving(body=archive.read_bytes()) as standing:
            yield standing

    def test_it_is_fetched_once_and_another_query_is_another_file(self, tmp_path, host):
        for _ in range(2):
            download_and_convert_weights(f"{host.url}/get?id=1", MODEL, tmp_path / "out")
        assert host.paths == ["/get?id=1"]
        download_and_convert_weights(f"{host.url}/get?id=2", MODEL, tmp_path / "out")
        assert host.paths[1:] == ["/get?id=2"]

    def test_an_alpha_nobody_recorded_is_asked_for(self, tmp_path, tokenizer, host):
        archive = pack(tmp_path / "b.tar", checkpoint(tokenizer, config=None))
        host.body = archive.read_bytes()
        with pytest.raises(AdapterError, match="Pass lora_alpha="):
            download_and_convert_weights(f"{host.url}/c.tar", MODEL, tmp_path / "out")
        made = download_and_convert_weights(f"{host.url}/c.tar", MODEL, tmp_path / "out", lora_alpha=8)
        assert read_adapter(made).config["lora_alpha"] == 8

    @pytest.mark.parametrize("body", [b"<!DOCTYPE html>", b'{"error": "denied"}', b"PK\x03\x04", b"x" * 600])
    def test_what_is_no_archive_is_named_without_the_query(self, tmp_path, host, body):
        host.body = body
        with pytest.raises(IntegrityError, match=r"it is (an HTML page|JSON|a zip file|torn or no tar)") as caught:
            download_and_convert_weights(f"{host.url}/c.tar?sig=secret", MODEL, tmp_path / "out")
        assert "secret" not in f"{caught.value!r}{caught.value.__cause__!r}"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "text", ["ftp://h/x?secret", "https://user:secret@h/x", "http://example.org/x?secret", "s3://b/secret"[:5]]
    )
    def test_an_address_that_cannot_be_followed_is_refused_at_once(self, tmp_path, text):
        with pytest.raises(DownloadError, match=r"is no checkpoint|only https") as caught:
            download_and_convert_weights(text, MODEL, tmp_path / "out")
        assert "secret" not in str(caught.value)


class TestFolder:
    @pytest.mark.parametrize("name", ["adapter_model.bin", "adapter.pt"])
    def test_weights_that_are_a_pickle_are_refused_with_what_to_do(self, tmp_path, folder, name):
        (folder / WEIGHTS).rename(folder / name)
        with pytest.raises(AdapterError, match=rf"{name}.*never opened.*save_pretrained"):
            download_and_convert_weights(folder, MODEL, tmp_path / "out")

    def test_a_folder_without_an_adapter_is_refused(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(IntegrityError, match=r"holds no adapter_model\.safetensors"):
            download_and_convert_weights(tmp_path / "empty", MODEL, tmp_path / "out")

    def test_called_again_it_is_converted_only_if_it_changed(self, tmp_path, folder, monkeypatch):
        made = download_and_convert_weights(folder, MODEL, tmp_path / "out")
        first = (Path(made) / "confprobe.json").stat().st_mtime_ns
        download_and_convert_weights(folder, MODEL, tmp_path / "out")
        assert (Path(made) / "confprobe.json").stat().st_mtime_ns == first
        (folder / "adapter_config.json").write_text(json.dumps(TINKER_CONFIG | {"lora_alpha": 64}))
        download_and_convert_weights(folder, MODEL, tmp_path / "out")
        assert read_adapter(made).config["lora_alpha"] == 64

    def test_an_output_that_is_a_link_is_refused(self, tmp_path, folder):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "peft_adapter").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(IntegrityError, match="not made by this library"):
            download_and_convert_weights(folder, MODEL, tmp_path / "out")
        assert list((tmp_path / "elsewhere").iterdir()) == []


class TestBaseModel:
    def test_what_the_checkpoint_itself_says_is_compared_too(self, tmp_path, folder):
        config = TINKER_CONFIG | {"base_model_name_or_path": "Qwen/Qwen3-8B"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=r"trained on 'Qwen/Qwen3-8B', not on 'meta-llama/Llama-3\.1-8B'"):
            download_and_convert_weights(folder, MODEL, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        download_and_convert_weights(folder, "qwen/qwen3-8b", tmp_path / "same")
        download_and_convert_weights(folder, MODEL, tmp_path / "out", check_base_model=False)

    def test_what_tinker_says_can_be_overruled(self, tmp_path, service):
        with pytest.raises(ConfigError, match="check_base_model=False"):
            download_and_convert_weights(CHECKPOINT, "Qwen/Qwen3-8B", tmp_path / "out")
        assert not service.asked(WEIGHTS)
        download_and_convert_weights(CHECKPOINT, "Qwen/Qwen3-8B", tmp_path / "out", check_base_model=False)


def test_command_and_configuration_pass_on_what_was_allowed(tmp_path, monkeypatch, capsys):
    from src.config import load_config
    from src.pipeline.job import _prepare_adapters
    from tests.test_cli import cli

    passed = []
    monkeypatch.setattr(
        "src.tinker.download.download_and_convert_weights", lambda *_, **options: passed.append(options) or "made"
    )
    options = ("--allow-export", "--no-check-base-model", "--lora-alpha", "8")
    assert cli(monkeypatch, "download", STATE, MODEL, tmp_path, *options) == 0
    tinker = {"checkpoint_path": STATE, "output_dir": str(tmp_path), "allow_export": True}
    assert _prepare_adapters(load_config({"model": {"name": MODEL}, "tinker": tinker})) == ("made",)
    assert passed == [
        {"lora_alpha": 8, "allow_export": True, "check_base_model": False},
        {"allow_export": True},
    ]


def test_what_killed_calls_left_is_swept_also_when_there_is_nothing_to_do(tmp_path, folder):
    out = tmp_path / "out"
    download_and_convert_weights(folder, MODEL, out)
    left = out / ".download.123.0123456789ab.tmp"
    (left / "unpacked").mkdir(parents=True)
    os.utime(left, (0, time.time() - 7200))
    download_and_convert_weights(folder, MODEL, out)
    assert not left.exists()


class TestExternalWeights:
    def test_addresses_that_run_out_are_signed_again_for_each_file(self, tmp_path, service):
        service.expires = 10
        download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
        assert len(service.asked("external_weights_urls")) == 1 + len(list(service.folder.iterdir()))

    def test_only_files_of_an_adapter_are_fetched(self, tmp_path, service):
        for name in ("training_args.bin", "evil.py"):
            (service.folder / name).write_text("x")
        download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out", cleanup_archive=False)
        assert not service.asked("training_args.bin", "evil.py")
        kept = {path.name for path in (tmp_path / "out" / "downloaded").iterdir()}
        assert kept == {"adapter_config.json", WEIGHTS, "checkpoint_complete"}

    def test_encrypted_weights_are_named(self, tmp_path, service):
        (service.folder / WEIGHTS).rename(service.folder / f"{WEIGHTS}.age")
        with pytest.raises(IntegrityError, match=r"is encrypted .*holds no adapter that can be read"):
            download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")

    def test_a_torn_download_goes_on_and_leaves_only_what_it_can_go_on_with(self, tmp_path, service, caplog):
        caplog.set_level(logging.DEBUG)
        out = tmp_path / "out"
        size = (service.folder / WEIGHTS).stat().st_size
        service.cut = 3000
        with pytest.raises(IntegrityError, match=r"ended after 3,000 of .*it goes on after 3,000 bytes"):
            download_and_convert_weights(CHECKPOINT, MODEL, out)
        left = sorted(path.name for path in out.rglob("*") if path.is_file())
        assert f"{WEIGHTS}@{size}@{size}.part" in left
        assert all(name.endswith(".part") for name in left)
        service.cut, before = None, len(service.ranges)
        download_and_convert_weights(CHECKPOINT, MODEL, out)
        assert "bytes=3000-" in service.ranges[before:]
        assert sorted(path.name for path in out.iterdir()) == ["checkpoint_info.json", "peft_adapter"]
        everything = caplog.text + "".join(content(out)) + str(b"".join(content(out).values()))
        assert "signature=secret" not in everything
        assert service.key not in everything


@pytest.mark.slow
def test_the_command_that_was_killed_goes_on_where_it_was(tmp_path, tokenizer, service):
    noise = {"README.md": b"r" * 10, **checkpoint(tokenizer)}
    for name, data in noise.items():
        (service.folder / name).write_bytes(data)
    service.cut, service.hold = len(noise[WEIGHTS]) // 2, threading.Event()
    command = [sys.executable, "-m", "confprobe", "download", CHECKPOINT, MODEL, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    parts = tmp_path / "out"
    try:
        while not any(path.stat().st_size for path in parts.rglob(f"{WEIGHTS}@*.part")):
            assert child.poll() is None, child.communicate()
            time.sleep(0.02)
    finally:
        child.kill()
        child.communicate()
        service.hold.set()
    service.hold = service.cut = None
    (part,) = parts.rglob(f"{WEIGHTS}@*.part")
    size, before = part.stat().st_size, len(service.ranges)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert f"bytes={size}-" in service.ranges[before:]
    assert "secret" not in done.stderr + done.stdout
    undisturbed = download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "whole")
    assert (tmp_path / "out" / "peft_adapter" / WEIGHTS).read_bytes() == (Path(undisturbed) / WEIGHTS).read_bytes()
    left = [path.name for path in (tmp_path / "out").iterdir() if not files.is_temporary(path.name)]
    assert sorted(left) == ["checkpoint_info.json", "peft_adapter"]
