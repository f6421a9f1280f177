"""An archive is an adapter's four files and nothing else, or it is refused before anything is written."""

import gzip
import io
import os
import random
import stat
import tarfile
import time
import tracemalloc

import pytest

from src.errors import AdapterError, DownloadError, IntegrityError, ProbingError, UnsafeArchiveError
from src.tinker import archive as archive_module
from src.tinker.archive import unpack

GOOD = {
    "adapter_config.json": b'{"r": 4}',
    "adapter_model.safetensors": bytes(range(256)) * 8,
    "checkpoint_complete": b"",
}


def member(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def packed(files=GOOD, *extra, form=tarfile.GNU_FORMAT):
    """The bytes of a tar of {name: content}, then of the members given."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for name, content in files.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in extra:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return raw.getvalue()


def header(name, kind, claimed):
    """One header block that claims a size, as no writer would make it."""
    return member(name, kind, size=claimed).tobuf(tarfile.GNU_FORMAT)


@pytest.fixture
def unpacked(tmp_path):
    """Unpack bytes and return what is there; nothing may ever appear elsewhere."""
    target = tmp_path / "inner" / "to"
    target.mkdir(parents=True)

    def call(data: bytes):
        (tmp_path / "c.tar").write_bytes(data)
        unpack(tmp_path / "c.tar", target)
        return {path.name: path.read_bytes() for path in target.iterdir()}

    yield call
    assert sorted(path.name for path in tmp_path.rglob("*") if target not in path.parents) == ["c.tar", "inner", "to"]


def refused(unpacked, data, kind: type[ProbingError] = UnsafeArchiveError, message: str | None = None):
    with pytest.raises(kind, match=message):
        unpacked(data)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_adapter_comes_out_as_it_went_in(unpacked, form, compress):
    assert unpacked(compress(packed(form=form))) == GOOD


# Fault 1


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../b", "/abs", "C:\\x", "c:/x", "a\\b", "d/" * 40 + "x", "n" * 300, "../" * 20 + "x", "é" * 200],
)
def test_a_name_that_could_lead_out_is_refused(unpacked, name):
    refused(unpacked, packed(GOOD, member(name)), message="could lead out of the folder")
    assert unpacked_nothing(unpacked)


def unpacked_nothing(unpacked):
    """A good archive can still be unpacked: the folder is as empty as it was."""
    return unpacked(packed()) == GOOD


def test_a_name_with_nul_is_refused(unpacked):
    info = member("x")
    info.pax_headers = {"path": "adapter\0model"}
    refused(unpacked, packed(GOOD, info, form=tarfile.PAX_FORMAT), message="could lead out")


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_root_folder_entry_is_skipped(unpacked, name):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.addfile(member(name, tarfile.DIRTYPE, mode=0o700))
        for key, content in GOOD.items():
            tar.addfile(member(key, size=len(content)), io.BytesIO(content))
    assert unpacked(gzip.compress(raw.getvalue())) == GOOD


# Fault 2


@pytest.mark.parametrize(
    "info",
    [
        member("link", tarfile.SYMTYPE, linkname="adapter_config.json"),
        member("out", tarfile.SYMTYPE, linkname="../../evil"),
        member("hard", tarfile.LNKTYPE, linkname="adapter_config.json"),
        member("pipe", tarfile.FIFOTYPE), member("char", tarfile.CHRTYPE), member("block", tarfile.BLKTYPE),
        member("sparse", tarfile.GNUTYPE_SPARSE), member("unknown", b"Z"),
    ],
    ids=lambda info: info.name,
)  # fmt: skip
def test_what_is_no_regular_file_is_refused(unpacked, info):
    refused(unpacked, packed(GOOD, info), message="no regular file: links and devices")


@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.size", "size"])
def test_sparse_files_and_second_sizes_in_pax_headers_are_refused(unpacked, key):
    info = member("x")
    info.pax_headers = {key: "1"}
    refused(unpacked, packed(GOOD, info, form=tarfile.PAX_FORMAT), message=f"sets '{key}' in an extended header")


# Fault 3


def test_modes_and_owners_of_the_archive_count_for_nothing(unpacked, tmp_path):
    data = packed({}, *(member(name, mode=0o4777, uid=12345, gid=12345, size=1) for name in GOOD))
    unpacked(data)
    for path in (tmp_path / "inner" / "to").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.stat().st_uid == os.getuid()


# Fault 4


@pytest.mark.parametrize(
    "names", [("README.md", "README.md"), ("README.md", "readme.MD"), ("é", "e\u0301"), ("ß", "SS")]
)
def test_names_that_are_one_on_some_disk_are_refused(unpacked, names):
    refused(unpacked, packed(GOOD, *map(member, names)), message="occurs twice")


def test_one_file_in_two_folders_is_refused(unpacked):
    refused(unpacked, packed(GOOD, member("a/adapter_config.json")), message="occurs in two folders")


# Fault 5


def test_too_many_members_are_refused(unpacked):
    refused(unpacked, packed(GOOD, *(member(f"f{n}") for n in range(62))), message="over 64 members")


def test_sizes_over_the_limit_are_refused_from_the_header_alone(unpacked, monkeypatch):
    huge = header("adapter_model.safetensors", tarfile.REGTYPE, 17 << 30)
    refused(unpacked, packed()[:4096] + huge + bytes(1024), message="brings the archive to .* over the limit")
    refused(unpacked, packed(GOOD | {"README.md": b""}, member("d/README.md", size=17 << 20)), message="over the limit")
    monkeypatch.setattr(archive_module, "MAX_TOTAL_BYTES", 2000)
    refused(unpacked, packed(), message="over the limit")


def test_a_gzip_that_grows_twentyfold_is_refused_without_growing(unpacked):
    bomb = gzip.compress(packed({"adapter_model.safetensors": bytes(64 << 20)}))
    tracemalloc.start()
    refused(unpacked, bomb, message="over 20 times its size")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    random.seed(0)
    weights = random.randbytes(1 << 20)
    assert (
        unpacked(gzip.compress(packed({"adapter_model.safetensors": weights})))["adapter_model.safetensors"] == weights
    )


# Fault 6


@pytest.mark.parametrize(
    "kind",
    [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE],
)
@pytest.mark.parametrize("claimed", [3 << 30, (64 << 10) + 1])
def test_a_huge_header_is_refused_before_it_is_read(unpacked, kind, claimed):
    tracemalloc.start()
    refused(unpacked, header("x", kind, claimed) + bytes(2048), message=f"header of {claimed:,} bytes")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_header_hidden_where_two_readers_disagree_is_not_reached(unpacked):
    """Inside the bytes of a link, which tarfile does not skip, lies a header that claims 3 GiB."""
    hidden = header("x", tarfile.GNUTYPE_LONGNAME, 3 << 30) + bytes(1024)
    link = header("a", tarfile.SYMTYPE, len(hidden))
    refused(unpacked, link + hidden + bytes(1024), message="no regular file")
    folder = header("a", tarfile.DIRTYPE, len(hidden))
    refused(unpacked, folder + hidden + bytes(1024), message="header of 3,221,225,472 bytes")


def test_a_negative_size_is_refused(unpacked):
    block = bytearray(header("x", tarfile.REGTYPE, 0))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    refused(unpacked, bytes(block) + bytes(1024), message="claims to have -512 bytes")


# Fault 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"), (b"<!DOCTYPE html><p>404", "an HTML page"), (b"\n <html>", "an HTML page"),
        (b"PK\x03\x04....", "a zip file"), (b'{"error": 1}', "JSON"), (b"BZh9", "bzip2"),
        (b"x" * 900, "torn or no tar"),
        (gzip.compress(b"no tar" * 200), "torn or no tar"), (packed()[:4096], "lacks the mark of its end"),
        (packed()[:1500], "torn"), (gzip.compress(packed())[:-300], "torn"), (bytes(10240), "an empty archive"),
        (packed({}), "an empty archive"), (packed({"notes.txt": b"x"}), r"no adapter_model\.safetensors"),
        (packed({"adapter_config.json": b"{}"}), r"no adapter_model\.safetensors"),
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_whole_archive_of_an_adapter_is_named(unpacked, data, message):
    refused(unpacked, data, IntegrityError, message)


@pytest.mark.parametrize("place", [0, 600, 1100])
def test_a_flipped_bit_in_a_header_is_noticed(unpacked, place):
    """tarfile takes a broken header for the end of the archive, and what follows is lost without a word."""
    data = bytearray(packed())
    data[place // 512 * 512 + 3] ^= 1
    if place == 600:  # content, not a header: nothing in a plain tar can tell
        assert unpacked(bytes(data)).keys() == GOOD.keys()
    else:
        refused(unpacked, bytes(data), IntegrityError)


def test_a_flipped_bit_in_a_gzip_is_noticed_wherever_it_is(unpacked):
    random.seed(0)
    whole = gzip.compress(packed({"adapter_model.safetensors": random.randbytes(4000)}))
    for place in range(12, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 16
        refused(unpacked, bytes(data), IntegrityError)


def test_an_archive_that_is_not_there_or_a_folder_is_named(tmp_path):
    (tmp_path / "to").mkdir()
    with pytest.raises(DownloadError, match="There is no archive"):
        unpack(tmp_path / "no.tar", tmp_path / "to")
    with pytest.raises(IntegrityError, match="it is a folder"):
        unpack(tmp_path / "to", tmp_path / "to")


# Fault 8


def test_a_nested_folder_is_flattened_and_other_files_stay_out(unpacked):
    nested = {f"top/{name}": content for name, content in GOOD.items()}
    other = {"top/training_args.bin": b"\x80\x04", "top/evil.py": b"", "top/pytorch_model.bin": b""}
    assert unpacked(packed(nested | other)) == GOOD


def test_weights_that_are_only_a_pickle_are_refused_with_what_to_do(unpacked):
    data = packed({"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x04"})
    refused(unpacked, data, AdapterError, r"adapter_model\.bin.*save_pretrained")


# Fault 9


def test_only_an_empty_folder_is_unpacked_into(tmp_path):
    (tmp_path / "c.tar").write_bytes(packed())
    full, link, file, empty = (tmp_path / name for name in ("full", "link", "file", "empty"))
    for folder in (full, empty):
        folder.mkdir()
    (full / "thesis.txt").write_text("precious")
    link.symlink_to(empty)
    file.write_text("")
    for destination in (full, link, file, tmp_path / "nowhere"):
        with pytest.raises(UnsafeArchiveError, match="is not an empty folder"):
            unpack(tmp_path / "c.tar", destination)
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]
    assert list(empty.iterdir()) == []


# Mutants


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A tar with some bytes changed, often in headers, sometimes with its checksums made right again."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        block = chance.randrange(len(changed) // 512) * 512
        start, length = chance.choice(
            [(0, 100), (100, 24), (124, 12), (148, 8), (156, 1), (157, 100), (257, 255), (0, 512)]
        )
        place = min(block + start + chance.randrange(length), len(changed) - 1)
        action = chance.randrange(5)
        if action == 0:
            changed[place] = chance.randrange(256)
        elif action == 1:
            changed[place : place + 8] = chance.choice(
                [b"../../ev", b"7777777\0", b"\x80" + bytes(7), b"\xff" * 8, b"/etc/pas"]
            )
        elif action == 2:
            changed[block + 156 : block + 157] = chance.choice(
                [b"L", b"K", b"x", b"g", b"1", b"2", b"5", b"S", b"7", b"\0"]
            )
        elif action == 3:
            del changed[place : place + chance.choice([1, 512, 700])]
        else:
            changed[block:block] = changed[: chance.choice([512, 1024])]
        if len(changed) < 1024:
            return bytes(changed)
    if chance.random() < 0.8:
        for block in range(0, len(changed) - 511, 512):
            if changed[block + 257 : block + 262] == b"ustar":
                total = sum(changed[block : block + 148]) + sum(changed[block + 156 : block + 512]) + 8 * 32
                changed[block + 148 : block + 156] = b"%06o\0 " % total
    return bytes(changed)


def fuzz(folder, seconds: float, rounds: int) -> int:
    chance = random.Random(6)
    seeds = [packed(form=form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)]
    long = member("long/" + "n" * 150 + "/README.md", size=700)
    seeds += [packed(GOOD, long, form=form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    (folder / "in").mkdir()
    archive, done, end = folder / "c.tar", 0, time.monotonic() + seconds
    while done < rounds and time.monotonic() < end:
        data = mutated(chance.choice(seeds), chance)
        archive.write_bytes(gzip.compress(data, 1) if done % 4 == 0 else data)
        target = folder / "in" / "to"
        target.mkdir()
        try:
            unpack(archive, target)
            found = {path.name for path in target.iterdir()}
            assert "adapter_model.safetensors" in found <= {*GOOD, "README.md"}
            assert all(path.is_file() and not path.is_symlink() for path in target.iterdir())
        except ProbingError:
            pass
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
        assert sorted(path.name for path in folder.iterdir()) == ["c.tar", "in"]
        done += 1
    return done


def test_a_damaged_archive_ends_in_an_error_of_ours_or_an_adapter(tmp_path):
    assert fuzz(tmp_path, 60, 300) == 300


@pytest.mark.slow
def test_damaged_archives_for_as_long_as_asked(tmp_path):
    assert fuzz(tmp_path, float(os.environ.get("CONFPROBE_FUZZ_SECONDS", "20")), 1 << 60) > 100
