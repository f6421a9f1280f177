"""The client against a stand-in service on 127.0.0.1, with the real SDK: limits, errors, and nothing secret shown."""

import json
import logging
from pathlib import Path

import pytest

from src.errors import ConfigError, CredentialsError, DownloadError, IntegrityError, MissingExtraError
from src.tinker import TinkerClient, download_and_convert_weights
from src.tinker.credentials import credentials_source
from src.tinker.transfer import Patience
from tests.test_tinker_and_loading import TINKER_CONFIG, checkpoint
from tests.tinker_server import CHECKPOINT, MODEL, running

KEY = "tml-a-key-that-is-not-used"
SDK_WARNS = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
local_server = [pytest.mark.allow_hosts(["127.0.0.1"]), SDK_WARNS]


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr("src.tinker.transfer.PATIENCE", Patience(sleep=lambda _: None))


@pytest.fixture
def service(tmp_path, tokenizer, monkeypatch):
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in checkpoint(tokenizer).items():
        (folder / name).write_bytes(content)
    with running(folder) as standing:
        for name, value in standing.environment().items():
            monkeypatch.setenv(name, value)
        yield standing


def log_in(home, key=KEY):
    (home / ".tinker").mkdir(parents=True)
    stored = {"default": "k", "keys": {"k": {"key": key}}}
    (home / ".tinker" / "credentials.json").write_text(json.dumps(stored))


def test_credentials_are_found_in_the_order_of_the_sdk(monkeypatch, tmp_path):
    assert credentials_source() is None
    log_in(tmp_path / "home")
    assert "stored" in credentials_source()
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "print-a-key")
    assert credentials_source() == "TINKER_CREDENTIAL_CMD"
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    assert credentials_source() == "TINKER_API_KEY"
    assert credentials_source("tml-another") == "the argument"
    assert credentials_source("not-a-key") == "TINKER_CREDENTIAL_CMD"  # as in the SDK


def test_no_credentials_and_no_key_are_said_without_a_network():
    with pytest.raises(CredentialsError, match=r"^TINKER_API_KEY not found\. Set it"):
        TinkerClient()
    with pytest.raises(CredentialsError, match="does not start with tml-") as refused:
        TinkerClient(api_key="my-very-secret-text")
    assert "secret" not in str(refused.value)
    with pytest.raises(CredentialsError, match=r"^TINKER_API_KEY not found"):
        download_and_convert_weights(CHECKPOINT, MODEL, "out")


def test_a_missing_sdk_and_a_module_of_ours_in_its_place_are_named(monkeypatch):
    import sys

    import src.tinker

    monkeypatch.setitem(sys.modules, "tinker", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinker>=0\.31'"):
        TinkerClient(api_key=KEY)
    monkeypatch.setitem(sys.modules, "tinker", src.tinker)
    with pytest.raises(MissingExtraError, match=r"a part of this library.*on sys\.path"):
        TinkerClient(api_key=KEY)


def test_a_path_that_cannot_be_downloaded_says_what_to_save_instead(tmp_path):
    with pytest.raises(DownloadError, match=r"^[^.]*0\.36[^.]*training_client\.save_weights_external\(name\)[^.]*\.$"):
        download_and_convert_weights("tinker://run/sampler_weights/final", MODEL, tmp_path / "out")
    with pytest.raises(
        DownloadError, match=r"charges for that\. Allow it with allow_export=True .*save_weights_external"
    ):
        download_and_convert_weights("tinker://run/weights/step-1", MODEL, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_that_only_has_the_name_of_the_sdk_is_named(monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "tinker", types.SimpleNamespace(__file__=None))
    with pytest.raises(MissingExtraError, match=r"finds a folder of that name, which is not the Tinker SDK"):
        TinkerClient(api_key=KEY)


class TestWithService:
    pytestmark = local_server

    def test_models_are_asked_and_the_key_is_not_shown(self, service):
        client = TinkerClient()
        assert client.get_supported_models() == [MODEL]
        assert service.key not in repr(client)
        recorded = {"base_model": MODEL, "is_lora": True, "lora_rank": 4, "train_unembed": None}
        assert client.checkpoint_info(CHECKPOINT) == recorded

    def test_a_training_client_is_ready_when_it_is_returned(self, service):
        training = TinkerClient(api_key=service.key).create_training_client(MODEL, rank=4)
        assert training.save_weights_external("final").result(timeout=20).path == CHECKPOINT

    @pytest.mark.parametrize(
        ("status", "error", "message"),
        [
            (401, CredentialsError, "refused the credentials from TINKER_API_KEY"),
            (403, CredentialsError, "refused the credentials"),
            (404, DownloadError, "knows no such thing while asking for the supported models"),
            (422, DownloadError, "Tinker failed while asking"),
            (500, DownloadError, "gave no answer in time.*, with credentials from TINKER_API_KEY.*retries"),
            (402, DownloadError, "gave no answer in time.*unpaid bill"),
        ],
    )
    def test_each_failure_of_the_service_is_one_sentence_in_time(self, service, status, error, message):
        service.status["get_server_capabilities"] = status
        with pytest.raises(error, match=message):
            TinkerClient(timeout=1.5).get_supported_models()

    def test_a_path_without_a_list_of_files_is_named_without_asking(self, service):
        with pytest.raises(DownloadError, match="tinker://r/weights/n has no list of files"):
            TinkerClient().list_files("tinker://r/weights/n")
        assert service.seen == []

    def test_archives_are_refused_where_the_sdk_has_none(self, service):
        with pytest.raises(DownloadError, match=r"tinker 0\.\d+\.\d+ gives no archive .*save_weights_external"):
            TinkerClient().get_checkpoint_archive_url("tinker://path/to/checkpoint")

    def test_external_weights_become_an_adapter_without_showing_key_or_signature(self, service, tmp_path, caplog):
        caplog.set_level(logging.DEBUG, logger="src")
        made = download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
        info = (tmp_path / "out" / "checkpoint_info.json").read_text()
        assert json.loads(info)["tinker_path"] == CHECKPOINT
        assert json.loads(info)["alpha_source"] == "file"
        assert "secret" not in info + caplog.text
        assert service.key not in info + caplog.text
        assert all(not has_key for _, path, has_key in service.seen if path.startswith("/files/"))
        asked = len(service.seen)
        assert download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out") == made
        assert len(service.seen) == asked  # at once: no network
        assert not (tmp_path / "out" / "downloaded").exists()

    def test_a_folder_of_the_users_is_not_replaced_by_what_is_downloaded(self, service, tmp_path):
        (tmp_path / "out" / "downloaded").mkdir(parents=True)
        (tmp_path / "out" / "downloaded" / "thesis.txt").write_text("precious")
        with pytest.raises(DownloadError, match="exists"):
            download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out", cleanup_archive=False)
        assert (tmp_path / "out" / "downloaded" / "thesis.txt").read_text() == "precious"
        assert service.seen == []

    def test_a_finished_download_needs_no_credentials(self, service, tmp_path, monkeypatch):
        made = download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
        monkeypatch.delenv("TINKER_API_KEY")
        assert download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out") == made

    def test_a_stored_login_that_cannot_be_read_does_not_show_its_key(self, service, tmp_path, monkeypatch):
        monkeypatch.delenv("TINKER_API_KEY")
        log_in(tmp_path / "home", key=service.key)
        with pytest.raises(DownloadError, match="log in again") as failed:
            TinkerClient(timeout=5).get_supported_models()
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__

    def test_downloaded_files_are_kept_if_asked(self, service, tmp_path):
        download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out", cleanup_archive=False)
        kept = {path.name: path.read_bytes() for path in (tmp_path / "out" / "downloaded").iterdir()}
        assert kept == {path.name: path.read_bytes() for path in service.folder.iterdir()}

    def test_an_alpha_nobody_recorded_is_tinkers_own_and_said(self, service, tmp_path, caplog):
        (service.folder / "adapter_config.json").unlink()
        made = download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
        assert "adapter_config.json not found: lora_alpha=32 is assumed" in caplog.text
        assert json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())["alpha_source"] == "assumed"
        assert json.loads((Path(made) / "adapter_config.json").read_text())["lora_alpha"] == 32

    def test_another_base_model_is_noticed_before_anything_is_downloaded(self, service, tmp_path):
        with pytest.raises(ConfigError, match=r"was trained on 'meta-llama/Llama-3\.1-8B', not on 'Qwen/Qwen3-8B'"):
            download_and_convert_weights(CHECKPOINT, "Qwen/Qwen3-8B", tmp_path / "out")
        assert not any(path.startswith("/files/") for _, path, _ in service.seen)
        service.status["weights_info"] = 404  # not asked of a service that cannot say
        download_and_convert_weights(CHECKPOINT, "Qwen/Qwen3-8B", tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"cut": 100}, IntegrityError, r"ended after 100 of [\d,]+ bytes"),
            ({"status": {"adapter_model.safetensors": 403}}, DownloadError, "status 403.*expired"),
            ({"status": {"adapter_model.safetensors": 404}}, DownloadError, "HTTP status 404"),
            ({"redirect": "http://elsewhere.example/file"}, DownloadError, "only https"),
            ({"redirect": "file:///etc/passwd"}, DownloadError, "could not be downloaded|only https"),
        ],
    )
    def test_a_bad_download_leaves_nothing(self, service, tmp_path, change, error, message):
        for name, value in change.items():
            setattr(service, name, value)
        (service.folder / "adapter_config.json").write_text(json.dumps(TINKER_CONFIG) + " " * 200)
        with pytest.raises(error, match=message) as failed:
            download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
        assert "secret" not in str(failed.value)
        assert not (tmp_path / "out" / "peft_adapter").exists()

    def test_a_checkpoint_without_an_adapter_is_refused(self, service, tmp_path):
        (service.folder / "adapter_model.safetensors").rename(service.folder / "adapter_model.safetensors.age")
        with pytest.raises(IntegrityError, match="no adapter"):
            download_and_convert_weights(CHECKPOINT, MODEL, tmp_path / "out")
