"""Cache and results in storage beyond this machine: whole or not at all, and the same as on a disk."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from src import files, storage
from src.errors import ConfigError, StorageError
from src.models.extraction.cache import ActivationCache, shards
from src.models.extraction.maintenance import compact, contexts, prune, verify
from src.models.extraction.shard import ShardReader, read_header, write_shard
from src.pipeline import read_results, run
from src.probes import SavedProbe
from tests.test_pipeline import choices, cli, config, without_times  # noqa: F401 (choices is a fixture)

ROWS = {"block.1": [torch.arange(6.0).reshape(3, 2)]}
KEYS = [bytes([number]) * 32 for number in range(3)]


@pytest.fixture(scope="module")
def s3():
    """A bucket of an S3 server on this machine."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "no_proxy": "127.0.0.1",
    }.items():  # fmt: skip
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    patch.undo()
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, tmp_path):
    """A new folder's URL."""
    name = tmp_path.name
    if request.param == "file":
        return f"file://{tmp_path}"
    return f"memory://{name}" if request.param == "memory" else f"{request.getfixturevalue('s3')}/{name}"


pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_what_is_written_is_read(place):
    folder = storage.place(place)
    path = folder / "a" / "b.bin"
    storage.make_folder(path.parent)
    data = os.urandom(100_000)
    files.write_pieces(path, [data[:10], memoryview(data)[10:]])
    assert storage.read(path) == data
    assert storage.read(path, 1000) == data[:1000]
    assert storage.read(path, 10**9) == data
    storage.remove_folder(folder / "a")
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        storage.read(path)


def test_a_shard_is_what_it_is_on_a_disk(place, tmp_path):
    folder = storage.place(place) / "context"
    storage.make_folder(folder)
    made, there = write_shard(tmp_path, KEYS, ROWS), write_shard(folder, KEYS, ROWS)
    assert made.read_bytes() == storage.read(there)
    assert read_header(there) == read_header(made)
    found = ShardReader().verified(there)
    assert found is not None
    assert torch.equal(found["block.1"], ROWS["block.1"][0])
    assert [path.name for path in shards(folder)] == [made.name]


def test_a_torn_shard_is_set_aside(place, caplog):
    cache = ActivationCache(place, {"weights": "1"})
    cache.write(KEYS, ROWS)
    (shard,) = shards(cache.folder)
    files.write_bytes(shard, storage.read(shard)[:-1])
    assert verify(place) == (1, [shard])
    assert shards(cache.folder) == []
    assert "damaged" in caplog.text
    assert prune(place)[0] == 1
    assert verify(place) == (0, [])


def test_small_shards_are_merged(place):
    cache = ActivationCache(place, {"weights": "1"})
    for number in range(3):
        cache.write([KEYS[number]], {"block.1": [ROWS["block.1"][0][number : number + 1]]})
    assert compact(place) == (3, 1)
    (context,) = contexts(place)
    assert (context.rows, context.shards, context.damaged) == (3, 1, 0)


@pytest.mark.slow
def test_a_run_there_is_the_run_on_a_disk(place, tmp_path, model_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    there = settings | {
        "extraction": settings["extraction"] | {"cache_dir": f"{place}/cache"},
        "run": settings["run"] | {"dir": f"{place}/run"},
    }
    here = run(settings)
    away = run(there)
    assert _numbers(away.results) == _numbers(here.results)
    assert _numbers(read_results(f"{place}/run")) == _numbers(here.results)
    again = run(there)
    assert _numbers(again.results) == _numbers(here.results)
    probe, other = (
        SavedProbe.from_pretrained(f"{place}/run/probes/base"),
        SavedProbe.from_pretrained(here.folder / "probes" / "base"),
    )
    assert probe.weights.weight.tobytes() == other.weights.weight.tobytes()
    with pytest.raises(ConfigError, match=r"data\.limit was None and is 100"):
        run(there | {"data": settings["data"] | {"limit": 100}})


def test_a_saved_probe_of_two_times_is_refused_where_a_folder_cannot_be_exchanged(
    tmp_path,
    model_folder,
    choices,  # noqa: F811
):
    from src.errors import IntegrityError

    settings = config(tmp_path, model_folder, choices) | {"run": {"dir": f"memory://{tmp_path.name}/run"}}
    folder = run(settings).folder / "probes" / "base"
    arrays = storage.read(folder / "probe.safetensors")
    files.write_bytes(folder / "probe.safetensors", arrays[:-8] + b"\0" * 8)
    with pytest.raises(IntegrityError, match="torn"):
        SavedProbe.from_pretrained(str(folder))


def test_a_folder_of_this_machine_is_meant_by_a_file_url_and_none_of_another(tmp_path):
    assert storage.place(f"file://{tmp_path}") == storage.place(f"file://localhost{tmp_path}") == tmp_path
    for url in ("file://host/tmp", "file://runs/x"):
        with pytest.raises(StorageError, match="names a host, or no whole path"):
            storage.place(url)
    assert str(storage.place("~nobody-of-that-name/x")) == "~nobody-of-that-name/x"


def test_a_removed_folder_is_gone_or_the_error_is_the_systems(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    link = tmp_path / "link"
    link.symlink_to(target)
    storage.remove_folder(link)
    assert not link.is_symlink()
    assert (target / "kept").exists()
    monkeypatch.setattr("os.rmdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        storage.remove_folder(target)
    monkeypatch.undo()
    storage.remove_folder(target)
    storage.remove_folder(target)
    assert not target.exists()


def test_storage_that_cannot_be_used_is_one_sentence(tmp_path, model_folder, choices, monkeypatch, capsys):  # noqa: F811
    with pytest.raises(StorageError, match=r"nowhere://x is in no storage that can be used from here"):
        storage.place("nowhere://x")
    settings = config(tmp_path, model_folder, choices) | {"run": {"dir": "s3://bucket/run"}}
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"cannot be used: .*[Cc]redentials"):
        run(settings)
    with pytest.raises(OSError, match=r"Unable to locate credentials\. Credentials are read from"):
        read_results("s3://bucket/run")
    commands = "cache ls s3://bucket/c", "report s3://bucket/run", "check s3://bucket/p --model m"
    for command in map(str.split, commands):
        assert cli(monkeypatch, *command) in (1, 3)
        said = capsys.readouterr().err
        assert "Unable to locate credentials. Credentials are read from" in said
        assert "Traceback" not in said


def _numbers(results):
    plain = without_times(json.loads(json.dumps(results)))
    del plain["config"]["run"], plain["config"]["extraction"]["cache_dir"]
    return plain


def test_a_store_that_does_not_answer_is_an_os_error_whatever_its_client_raises(monkeypatch):
    class Unreached(Exception):
        pass

    monkeypatch.setitem(sys.modules, "httpx", SimpleNamespace(TransportError=Unreached))
    with pytest.raises(OSError, match=r"^no such host\. Credentials are read"), storage.as_os_error():
        raise Unreached("no such host.")


@pytest.mark.parametrize(
    "url",
    ["data://x", "dir://x", "tar://x::/etc/passwd", "s3://", "arrow_hdfs://x", "A_B://x", "s3://KEY:PASSWORD@b/x"],
)
def test_an_address_that_is_no_place_for_files_is_one_error(url):
    with pytest.raises(StorageError) as caught:
        storage.place(url)
    assert "PASSWORD" not in str(caught.value)
