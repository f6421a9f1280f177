"""Files over HTTP, whole or not at all: retried, gone on with, and counted.

    fetch_all(files, parts, destination)

`requesting` makes one request, `addresses` keeps the signed addresses valid, `partial` is what lies on disk so far;
here is what to do about each answer.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from src import files as file_system
from src import machine
from src.errors import DownloadError, IntegrityError, StorageError
from src.tinker.addresses import Addresses, RemoteFile
from src.tinker.contents import MAX_TOTAL_BYTES, WANTED, most_bytes
from src.tinker.partial import Part, left_over, make_folder, new_part, remove_parts
from src.tinker.requesting import ConnectionLost, Reply, asked

_PROGRESS = 1 << 20  # bytes gained that make a failure the first one again
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long a download is kept up.

    Attributes:
        failures: in a row, with less than a MiB gained between them, after which it is given up.
        seconds: without a MiB gained, after which it is given up.
        longest_wait: seconds of one pause at most, whatever the server asks for.
        sleep: how to pause, in seconds.
        clock: seconds since 1970.
    """

    failures: int = 6
    seconds: float = 900
    longest_wait: float = 120
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time


PATIENCE = Patience()


def fetch_all(
    files: Sequence[RemoteFile],
    parts: Path,
    destination: Path,
    *,
    renew: Callable[[], Sequence[RemoteFile]] | None = None,
    patience: Patience | None = None,
) -> None:
    """Download files into a folder, each under its name.

    Args:
        files: names are safe to use as such (the caller has checked them).
        parts: a folder for what has come so far, on the disk of `destination`. It stays where the download fails or
            is killed, the same call goes on from there, and it is gone at the end.
        destination: an existing folder.
        renew: gives the same files under new addresses.
        patience: how long to keep it up.

    Raises:
        DownloadError: no connection, a refusal, or an address that is not https.
        IntegrityError: other bytes than promised, or another list of files after signing again.
        StorageError: the disk is full; both figures are named and what was begun is removed.
    """
    patience = patience or PATIENCE
    addresses = Addresses(files, renew, patience.clock)
    make_folder(parts)
    try:
        whole = [_Download(file.name, addresses, parts, patience).run() for file in files]
        for part in whole:
            part.move_to(destination / part.name)
        remove_parts(parts)
    finally:
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()


class _Download:
    """One file on its way: what is here, and what has gone wrong since bytes last came."""

    def __init__(self, name: str, addresses: Addresses, parts: Path, patience: Patience):
        self.name, self.addresses, self.parts, self.patience = name, addresses, parts, patience
        self.part = left_over(parts, name)
        self.failures, self.farthest, self.since = 0, self._here(), patience.clock()
        self.started_over = self.signed_again = False

    def run(self) -> Part:
        whole = None
        try:
            while whole is None:
                whole = self._one_request()
            return whole
        finally:
            if whole is None:
                self._drop_what_cannot_go_on()

    def _one_request(self) -> Part | None:
        """The part once it is the whole file."""
        file = self.addresses.valid(self.name)
        tag = self.part.etag if self.part else None
        try:
            with asked(file.url, self.name, start=self._here() if tag else 0, etag=tag) as reply:
                return self._answered(reply, file)
        except ConnectionLost as error:
            self._wait_or_give_up(DownloadError(f"{self.name} could not be downloaded: {error}.{self._kept()}"))
            return None

    def _answered(self, reply: Reply, file: RemoteFile) -> Part | None:
        if reply.status == 200:
            return self._from_the_start(reply, file)
        if reply.status == 206:
            return self._go_on(reply, file)
        if reply.status == 416:
            return self._nothing_after_the_end(file)
        if reply.status == 403 and not self.signed_again and self.addresses.sign_again():
            self.signed_again = True
            return None
        hint = " The signed address has expired: call again with a new one." if reply.status == 403 else ""
        refusal = DownloadError(f"{self.name} could not be downloaded: HTTP status {reply.status}.{hint}")
        if reply.status not in _MAY_PASS:
            raise refusal
        self._wait_or_give_up(refusal, reply.retry_after(self.patience.clock()))
        return None

    def _from_the_start(self, reply: Reply, file: RemoteFile) -> Part | None:
        if reply.encoding != "identity":
            raise IntegrityError(f"{self.name} came compressed ({reply.encoding:.20}), not as it was asked for.")
        if reply.length is None and not reply.is_chunked:
            raise IntegrityError(f"{self.name} came without its length, so a torn file would look like a whole one.")
        if file.size is not None and reply.length not in (None, file.size):
            raise IntegrityError(f"{self.name} has {reply.length:,} bytes, but {file.size:,} were promised.")
        self._check_size(reply.length or 0)
        self._drop_what_cannot_go_on()
        self.part = new_part(self.parts, self.name, reply.etag, file.size or reply.length)
        return self._copy(reply, self.part, 0, file)

    def _go_on(self, reply: Reply, file: RemoteFile) -> Part | None:
        part, here = self.part, self._here()
        if part is None or part.total is None:
            return self._start_over("sent a piece when asked for the whole")
        if reply.content_range != (here, part.total - 1, part.total) or reply.length not in (None, part.total - here):
            return self._start_over(f"sent other bytes than {here}-{part.total - 1}, which were asked for")
        if reply.etag not in (None, part.etag) or reply.encoding != "identity" or file.size not in (None, part.total):
            return self._start_over("sent a piece of other contents")
        return self._copy(reply, part, here, file)

    def _nothing_after_the_end(self, file: RemoteFile) -> Part | None:
        part = self.part
        if part and part.size == part.total and file.size in (None, part.size) and _hash_agrees(part, file):
            return part
        return self._start_over(f"says that there is nothing after {self._here():,} bytes")

    def _start_over(self, what: str) -> None:
        if self.started_over:
            raise IntegrityError(f"{self.name} could not be downloaded: its server {what}, twice. Call again later.")
        self.started_over = True
        if self.part is not None:
            self.part.path.unlink(missing_ok=True)
            self.part = None

    def _copy(self, reply: Reply, part: Part, start: int, file: RemoteFile) -> Part | None:
        """The body into the part."""
        self._check_room(part, start)
        end = start
        bar = tqdm(total=part.total, initial=start, desc=self.name, unit="B", unit_scale=True, disable=None)
        try:
            with machine.writing(self.parts, setting="output_dir"), part.opened(start) as target, bar:
                for block in reply.blocks():
                    end += len(block)
                    self._check_size(end)
                    target.write(block)
                    bar.update(len(block))
                    self._gained(end)
        except StorageError:
            part.path.unlink(missing_ok=True)
            raise
        return self._counted(part, end, file)

    def _counted(self, part: Part, end: int, file: RemoteFile) -> Part | None:
        if part.total is not None and end < part.total:
            self._wait_or_give_up(
                IntegrityError(f"{self.name} ended after {end:,} of {part.total:,} bytes.{self._kept()}")
            )
            return None
        wrong = f"has {end:,} bytes, not {part.total}" if part.total not in (None, end) else ""
        if not wrong and not _hash_agrees(part, file):
            wrong = "has another SHA-256 than the one"
        if wrong:
            part.path.unlink(missing_ok=True)
            raise IntegrityError(f"{self.name} {wrong} that was promised. Call again.")
        return part

    def _check_size(self, size: int) -> None:
        most = most_bytes(self.name) if self.name in WANTED else MAX_TOTAL_BYTES
        if size > most:
            raise IntegrityError(f"{self.name} has over {most:,} bytes, more than an adapter has.")

    def _check_room(self, part: Part, start: int) -> None:
        needed, free = (part.total or 0) - start, machine.free_disk(self.parts)
        if needed > free:
            part.path.unlink(missing_ok=True)
            raise StorageError(
                f"{self.name} needs {needed:,} bytes ({machine.in_words(needed)}), and {free:,} "
                f"({machine.in_words(free)}) are free in {self.parts.parent}. Make room, or choose another output_dir."
            )

    def _gained(self, end: int) -> None:
        """What is beyond all that came before counts; a server that only ever sends the beginning is given up."""
        now = self.patience.clock()
        if end >= self.farthest + _PROGRESS:
            self.failures, self.farthest, self.since, self.signed_again = 0, end, now, False
        elif now - self.since > self.patience.seconds:
            raise DownloadError(
                f"{self.name} comes too slowly: under {_PROGRESS:,} bytes in {now - self.since:,.0f} seconds."
                f"{self._kept()}"
            )

    def _wait_or_give_up(self, error: DownloadError, seconds: float | None = None) -> None:
        self.failures += 1
        if seconds is None:
            seconds = 2.0 ** (self.failures - 2) * (1 + random.random())
        seconds = min(seconds, self.patience.longest_wait)
        out_of_time = self.patience.clock() + seconds - self.since > self.patience.seconds
        if self.failures >= self.patience.failures or out_of_time:
            raise error
        self.patience.sleep(seconds)

    def _here(self) -> int:
        return self.part.size if self.part else 0

    def _kept(self) -> str:
        goes_on = self.part is not None and self.part.etag is not None and self._here()
        return f" Call again: it goes on after {self._here():,} bytes." if goes_on else " Call again."

    def _drop_what_cannot_go_on(self) -> None:
        if self.part is not None and self.part.etag is None:
            self.part.path.unlink(missing_ok=True)


def _hash_agrees(part: Part, file: RemoteFile) -> bool:
    return file.sha256 is None or file_system.sha256_of_file(part.path) == file.sha256
