"""A file over HTTP is whole and exact, or not there; and its address is nowhere but in the request."""

import datetime
import errno
import hashlib
import logging
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from src.errors import DownloadError, IntegrityError, ProbingError, StorageError
from src.tinker import requesting
from src.tinker.addresses import RemoteFile
from src.tinker.partial import left_over, sweep_forgotten
from src.tinker.transfer import Patience, fetch_all
from tests.file_server import BODY, Host, serving

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
SECRET = "sig-6f1c9"
NAME = "adapter_model.safetensors"


@pytest.fixture
def host():
    with serving() as standing:
        yield standing


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "came").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_secret_is_shown(folder, caplog, capfd):
    """After each test: no log, no output and no file holds the signature, nor does an error any test looked at."""
    caplog.set_level(logging.DEBUG)
    yield
    out, err = capfd.readouterr()
    assert SECRET not in caplog.text + out + err
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.now, self.waits = 1_800_000_000.0, []

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def patience(self, **changes):
        return replace(Patience(sleep=self.sleep, clock=lambda: self.now), **changes)


def remote(host: Host, name=NAME, *, seconds=3600.0, clock=None, **known):
    expires = datetime.datetime.fromtimestamp((clock or Clock()).now + seconds, datetime.UTC)
    return RemoteFile(name, f"{host.url}/{name}?X-Signature={SECRET}", expires, **known)


def fetch(host, folder, *, clock=None, renew=None, **known):
    clock = clock or Clock()
    fetch_all([remote(host, clock=clock, **known)], folder / ".download-x", folder / "came", renew=renew,
              patience=clock.patience())  # fmt: skip
    return (folder / "came" / NAME).read_bytes()


def refused(call, kind: type[ProbingError], message: str):
    """The call fails as told, says nothing secret in any form, and what it left is never a file under its name."""
    with pytest.raises(kind, match=message) as caught:
        call()
    error = caught.value
    assert SECRET not in f"{error!r} {error} {error.__cause__!r} {error.args}"
    assert error.__suppress_context__ or error.__context__ is None or SECRET not in repr(error.__context__)


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        (["cut", "cut"], [None, "bytes=1000-", "bytes=2000-"]),
        (["reset", "reset"], [None, "bytes=1000-", "bytes=2000-"]),
        (["cut", "ignore-range"], [None, "bytes=1000-"]),
        (["cut", "wrong-range"], [None, "bytes=1000-", None]),
        (["cut", "long-range"], [None, "bytes=1000-", None]),
        (["cut", "another-etag"], [None, "bytes=1000-", None]),
        (["no-range"], [None, None]),
        (["cut", 416], [None, "bytes=1000-", None]),
        (["cut", 503], [None, "bytes=1000-", "bytes=1000-"]),
        ([500, 502, 504, 429, 408], [None] * 6),
        (["chunked"], [None]),
    ],
    ids=str,
)
def test_whatever_goes_wrong_once_the_bytes_are_exact(host, folder, faults, ranges):
    host.faults[:] = faults
    assert fetch(host, folder) == BODY
    assert host.asked == ranges
    assert left(folder) == [NAME]
    assert not (folder / ".download-x").exists()


def test_no_request_carries_a_key_and_a_resumed_one_names_the_bytes_it_has(host, folder):
    host.faults[:] = ["cut"]
    fetch(host, folder)
    for headers in host.seen:
        assert set(headers) <= {"Accept-Encoding", "Host", "User-Agent", "Connection", "Range", "If-Range"}
        assert headers["Accept-Encoding"] == "identity"
    assert host.seen[1]["If-Range"] == '"v1"'


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted", '"' + "%" * 200 + '"'])
def test_without_a_strong_etag_a_broken_download_starts_over(host, folder, etag):
    host.etag = etag
    host.faults[:] = ["cut"]
    assert fetch(host, folder) == BODY
    assert host.asked == [None, None]
    host.faults[:] = ["cut", 404]
    refused(lambda: fetch(host, folder), DownloadError, "HTTP status 404")
    assert left(folder) == [NAME]  # of the first download: nothing lies about that cannot be gone on with


@pytest.mark.parametrize(
    ("faults", "kind", "message"),
    [
        (["cut", "wrong-range", "cut", "wrong-range"], IntegrityError, "other bytes than 1000-10239.* twice"),
        (["cut", 416, 416], IntegrityError, "nothing after 0 bytes, twice"),
        (["gzip"], IntegrityError, r"came compressed \(gzip\)"),
        (["no-length"], IntegrityError, "came without its length"),
        (["cut"] * 7, IntegrityError, r"ended after 6,000 of 10,240 bytes\. Call again: it goes on after 6,000 bytes"),
        (["reset"] * 7, DownloadError, "could not be downloaded: Connection reset by peer"),
        ([503] * 7, DownloadError, "HTTP status 503"),
        ([404], DownloadError, "HTTP status 404"),
        ([410], DownloadError, "HTTP status 410"),
        ([400], DownloadError, "HTTP status 400"),
        ([403], DownloadError, "HTTP status 403.*expired"),
        ([(302, {"Location": "http://elsewhere.example/x"})], DownloadError, "begins with http:, and only https"),
        ([(302, {"Location": "file:///etc/passwd"})], DownloadError, "only https|in vain"),
        ([(302, {"Location": "ftp://127.0.0.1/x"})], DownloadError, "only https"),
        ([(302, {"Location": "/again?" + SECRET})] * 12, DownloadError, "in vain"),
        ([(302, {})], DownloadError, "HTTP status 302|in vain"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_had_is_one_sentence(host, folder, faults, kind, message):
    host.faults[:] = faults
    refused(lambda: fetch(host, folder), kind, message)
    assert NAME not in left(folder)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_what_is_gone_is_asked_for_once(host, folder, status):
    host.faults[:] = [status]
    refused(lambda: fetch(host, folder), DownloadError, str(status))
    assert len(host.seen) == 1


def test_more_or_other_bytes_than_promised_are_refused(host, folder):
    refused(lambda: fetch(host, folder, size=10_000), IntegrityError, "has 10,240 bytes, but 10,000 were promised")
    host.faults[:] = ["chunked"]
    refused(lambda: fetch(host, folder, size=10_000), IntegrityError, "has 10,240 bytes, not 10000")
    host.faults[:] = ["short-length"]
    refused(lambda: fetch(host, folder, size=len(BODY)), IntegrityError, "has 10,140 bytes, but 10,240 were promised")
    refused(lambda: fetch(host, folder, sha256="0" * 64), IntegrityError, "another SHA-256")
    assert left(folder) == []
    assert fetch(host, folder, size=len(BODY), sha256=hashlib.sha256(BODY).hexdigest()) == BODY


def test_a_pause_is_as_long_as_the_server_asks_but_never_longer_than_the_cap(host, folder):
    clock = Clock()
    date = datetime.datetime.fromtimestamp(clock.now + 30 + 17, datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    host.faults[:] = [(503, {"Retry-After": "17"}), (429, {"Retry-After": date}), (503, {"Retry-After": "86400"})]
    assert fetch(host, folder, clock=clock) == BODY
    assert clock.waits == [17, pytest.approx(30, abs=1), 120]


def test_pauses_grow_and_come_to_an_end(host, folder):
    clock = Clock()
    host.faults[:] = [500] * 9
    refused(lambda: fetch(host, folder, clock=clock), DownloadError, "HTTP status 500")
    assert len(clock.waits) == 5
    assert clock.waits == sorted(clock.waits)
    host.faults[:] = [(503, {"Retry-After": "110"})] * 99
    late = Clock()
    refused(
        lambda: fetch_all([remote(host)], folder / "p", folder / "came", patience=late.patience(failures=99)),
        DownloadError, "HTTP status 503",
    )  # fmt: skip
    assert sum(late.waits) <= 900


def test_failures_count_anew_after_a_mebibyte(folder):
    big = BODY * 820  # 8 MiB
    with serving(body=big) as host:
        host.faults[:] = [503] * 4
        real = host.faults

        class Sometimes(list):  # each second request fails; each other one brings 1 MiB
            def pop(self, _=0):
                return real.pop(0) if real else "ok"

        host.faults = Sometimes([1])
        assert fetch(host, folder) == big


def test_no_bytes_for_a_while_is_a_failure_that_is_tried_again(host, folder, monkeypatch):
    monkeypatch.setattr(requesting, "STALL_SECONDS", 0.2)
    host.faults[:] = ["stall"]
    with_stall = Clock()
    assert fetch(host, folder, clock=with_stall) == BODY
    assert len(with_stall.waits) == 1


def test_bytes_that_come_too_slowly_are_given_up(host, folder):
    clock = Clock()
    ticking = replace(clock.patience(), clock=lambda: clock.sleep(1000) or clock.now)
    refused(
        lambda: fetch_all([replace(remote(host), expires=None)], folder / "p", folder / "came", patience=ticking),
        DownloadError, "comes too slowly",
    )  # fmt: skip


class Signer:
    """Signs again: the address changes, the list only if told."""

    def __init__(self, host, clock, **known):
        self.host, self.clock, self.known, self.times = host, clock, known, 0

    def __call__(self):
        self.times += 1
        return [replace(remote(self.host, clock=self.clock, **self.known), url=f"{self.host.url}/again{self.times}")]


def test_an_address_that_expired_is_signed_again_once_and_the_download_goes_on(host, folder):
    clock = Clock()
    signer = Signer(host, clock)
    host.faults[:] = ["cut", 403, "ok"]
    assert fetch(host, folder, clock=clock, renew=signer) == BODY
    assert host.asked == [None, "bytes=1000-", "bytes=1000-"]
    assert signer.times == 1
    assert host.paths[-1] == "/again1"


def test_a_refusal_of_the_new_address_too_is_an_error(host, folder):
    clock = Clock()
    signer = Signer(host, clock)
    host.faults[:] = [403, 403]
    refused(lambda: fetch(host, folder, clock=clock, renew=signer), DownloadError, "HTTP status 403")
    assert signer.times == 1


@pytest.mark.parametrize(("seconds", "times"), [(299, 1), (301, 0), (-5, 1)])
def test_an_address_with_under_five_minutes_left_is_signed_again_beforehand(host, folder, seconds, times):
    clock = Clock()
    signer = Signer(host, clock)
    assert fetch(host, folder, clock=clock, renew=signer, seconds=seconds) == BODY
    assert signer.times == times


@pytest.mark.parametrize("known", [{"name": "other.safetensors"}, {"size": 7}])
def test_another_list_of_files_after_signing_again_is_an_error(host, folder, known):
    clock = Clock()
    host.faults[:] = [403]
    refused(
        lambda: fetch(host, folder, clock=clock, renew=Signer(host, clock, **known)),
        IntegrityError, "The checkpoint changed while it was downloaded",
    )  # fmt: skip


def test_an_address_is_never_part_of_what_is_shown_of_a_file(host):
    assert SECRET not in repr(remote(host))


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "x", "https://h o/x"]
)
def test_an_address_that_is_not_https_is_not_asked(folder, url):
    file = RemoteFile(NAME, f"{url}?{SECRET}")
    refused(
        lambda: fetch_all([file], folder / "p", folder / "came", patience=Clock().patience()),
        DownloadError, "only https|could not be downloaded",
    )  # fmt: skip


def test_https_never_leads_to_this_machine():
    from src.tinker.addresses import check_address

    with pytest.raises(DownloadError, match="only https"):
        check_address("http://127.0.0.1/x", NAME, came_from="https://files.example/x")


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(host, folder, monkeypatch):
    monkeypatch.setattr("src.machine.free_disk", lambda _: 500)
    refused(lambda: fetch(host, folder), StorageError, r"needs 10,240 bytes \(10.2 kB\), and 500 \(500 B\) are free")
    assert left(folder) == []


def test_a_disk_that_is_full_in_between_leaves_nothing(host, folder, monkeypatch):
    from src.tinker.partial import Part

    real = Part.opened

    def full(part, start):
        target = real(part, start)

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                target.close()

            def write(self, block):
                target.write(block[:100])
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr(Part, "opened", full)
    refused(lambda: fetch(host, folder), StorageError, r"No space left on device \(.* are free there\)")
    assert left(folder) == []


def test_a_later_call_goes_on_where_an_earlier_one_ended(host, folder):
    host.faults[:] = ["cut", 404]
    refused(lambda: fetch(host, folder), DownloadError, "404")
    assert left_over(folder / ".download-x", NAME).size == 1000
    assert fetch(host, folder) == BODY
    assert host.asked[-1] == "bytes=1000-"


def test_a_part_of_other_contents_is_not_gone_on_with(host, folder):
    host.faults[:] = ["cut", 404]
    refused(lambda: fetch(host, folder), DownloadError, "404")
    host.body, host.etag = BODY[::-1], '"v2"'
    assert fetch(host, folder) == BODY[::-1]
    assert host.seen[-1]["If-Range"] == '"v1"'


def test_files_that_are_whole_are_not_fetched_again_when_a_later_one_failed(host, folder):
    files = [remote(host), remote(host, "README.md")]
    host.faults[:] = ["ok", 404]

    def both():
        fetch_all(files, folder / "p", folder / "came", patience=Clock().patience())

    refused(both, DownloadError, "README.md could not be downloaded: HTTP status 404")
    assert NAME not in left(folder)
    both()
    assert host.asked[2:] == [f"bytes={len(BODY)}-", None]  # 416: all is here
    assert left(folder) == ["README.md", NAME]


def test_two_downloads_of_one_file_at_once_never_give_wrong_bytes(host, folder):
    """The part of one is taken by the other: whole bytes, or an error that says so."""
    from src.tinker.partial import new_part

    parts = folder / "p"
    parts.mkdir()
    part = new_part(parts, NAME, '"v1"', len(BODY))
    with part.opened(0) as slow:
        slow.write(BODY[:5000])
        slow.flush()
        fetch_all([remote(host)], parts, folder / "came", patience=Clock().patience())
        slow.write(BODY[5000:])  # writes what is there already, to what is now the other's file
    assert (folder / "came" / NAME).read_bytes() == BODY
    refused(lambda: part.move_to(folder / "mine"), IntegrityError, "taken by another process")


def test_what_nobody_went_on_with_is_swept_and_what_is_not_ours_stays(tmp_path):
    import os

    old, new, mine = (tmp_path / f".download-{n}" for n in ("old", "new", "mine"))
    for parts in (old, new, mine):
        parts.mkdir()
        (parts / f"{NAME}@v1@99.part").write_bytes(b"x")
    (mine / "thesis.txt").write_text("precious")
    for path in (old / f"{NAME}@v1@99.part", old, *mine.iterdir(), mine):
        os.utime(path, (0, time.time() - 8 * 24 * 3600))
    sweep_forgotten(tmp_path, ".download-")
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".download-mine", ".download-new"]
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_folder_for_parts_that_is_a_link_is_refused(host, folder):
    (folder / "p").symlink_to(folder / "came")
    refused(
        lambda: fetch_all([remote(host)], folder / "p", folder / "came", patience=Clock().patience()),
        DownloadError, "it is no folder",
    )  # fmt: skip


CHILD = """
import sys
from pathlib import Path
from src.tinker.addresses import RemoteFile
from src.tinker.transfer import fetch_all
url, folder = sys.argv[1], Path(sys.argv[2])
fetch_all([RemoteFile("adapter_model.safetensors", url)], folder / "p", folder / "came")
"""


def test_a_download_that_is_killed_goes_on_in_the_next_process(folder):
    body = BODY * 10
    with serving(body=body, faults=["hang"]) as host:
        release = hang_after(host, 60_000)
        child = subprocess.Popen([sys.executable, "-c", CHILD, f"{host.url}/x?{SECRET}", str(folder)])
        try:
            while left_over(folder / "p", NAME) is None:
                assert child.poll() is None
                time.sleep(0.01)
        finally:
            child.kill()
            child.wait()
            release()
        assert left(folder) == [f"{NAME}@v1@{len(body)}.part"]
        size = left_over(folder / "p", NAME).size
        fetch_all([remote(host)], folder / "p", folder / "came", patience=Clock().patience())
        assert host.asked == [None, f"bytes={size}-"]
        assert left(folder) == [NAME]
        assert (folder / "came" / NAME).read_bytes() == body


def hang_after(host, count):
    """The first request gets so many bytes and then nothing; what ends that is returned."""
    import threading

    from tests.file_server import Handler

    go = threading.Event()
    real = Handler._file

    def file(self, fault, start, etag):
        if fault != "hang":
            return real(self, fault, start, etag)
        self._head(200, {"ETag": etag, "Content-Length": str(len(host.body))})
        self.wfile.write(host.body[:count])
        self.wfile.flush()
        go.wait(30)

    Handler._file = file

    def release():
        go.set()
        Handler._file = real

    return release
