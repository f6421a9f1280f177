"""Writes are whole or absent; errors are one tree."""

import contextlib
import errno
import inspect
import itertools
import json
import os
import pickle

import pytest

from src import errors, files
from src.errors import holds_secret, printable


class FailingFs:
    """Passes calls through to the real namespace; call k raises."""

    def __init__(self, real, k, error):
        self.real, self.k, self.error, self.calls = real, k, error, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.k:
                raise OSError(self.error, os.strerror(self.error))
            return getattr(self.real, name)(*args, **kwargs)

        return call


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_any_single_failure_leaves_the_old_or_the_new_content(tmp_path, monkeypatch, error):
    real, target = files._sys, tmp_path / "info.json"
    for k in itertools.count(1):
        target.write_bytes(b"old")
        failing = FailingFs(real, k, error)
        monkeypatch.setattr(files, "_sys", failing)
        with contextlib.suppress(OSError):
            files.write_bytes(target, b"new")
        assert target.read_bytes() in (b"old", b"new")
        assert [p.name for p in tmp_path.iterdir()] == ["info.json"]
        if failing.calls < k:
            assert target.read_bytes() == b"new"
            break


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []

    class Recorder(FailingFs):
        def __getattr__(self, name):
            seen.append(name)
            return super().__getattr__(name)

    monkeypatch.setattr(files, "_sys", Recorder(files._sys, 0, errno.EIO))
    files.write_bytes(tmp_path / "a", b"x")
    assert seen.index("fsync") < seen.index("replace")


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real = files._sys
    monkeypatch.setattr(files._sys, "write", lambda handle, data: os.write(handle, bytes(data[:3])))
    files.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert files._sys is real


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made"

    def fail_in_the_middle():
        with files.staged_directory(target) as staging:
            (staging / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with files.staged_directory(target) as staging:
            (staging / "a").write_text(text)
        assert (target / "a").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    files.write_json(tmp_path / "a.json", {"x": "é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": "é"}


def test_every_error_is_also_a_stdlib_error_and_survives_pickling():
    tree = [e for _, e in inspect.getmembers(errors, inspect.isclass) if e is not errors.ProbingError]
    assert len(tree) >= 11
    for error in tree:
        assert issubclass(error, errors.ProbingError)
        assert any(base in (ValueError, OSError, RuntimeError, ImportError) for base in error.__mro__)
        copy = pickle.loads(pickle.dumps(error("what happened")))  # noqa: S301
        assert type(copy) is error
        assert str(copy) == "what happened"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file at s3://KEY:PASS/word@b/x.", "no file at (an address with a secret)"),
        (
            "There is no folder https:/u:SECRETPASS@h/x of states",
            "There is no folder (an address with a secret) of states",
        ),
        ("https://h/a?b=c&X-Amz-Signature=dead", "(an address with a secret)"),
        ("token hf_" + "a" * 34, "token (a key)"),
        ("s3://bucket/x https://h:80/x abfs://container@account.net/x", None),
    ],
)
def test_what_lets_somebody_in_is_never_printed(text, shown):
    assert printable(text) == (text if shown is None else shown)
    assert holds_secret(text) == (shown is not None)


def test_looking_for_secrets_takes_no_longer_than_the_text():
    """Patterns that look back from every place would take hours for these."""
    for unit in ("a://?", "a://", "?token", "ab:/?", "hf_", "eyJ", "&secret", "a"):
        assert not holds_secret(unit * (200_000 // len(unit)))
