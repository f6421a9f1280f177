"""What the text that names a checkpoint means: a Tinker path, an address, an archive or a folder."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src import files
from src.adapters import CONFIG_NAME, WEIGHTS_NAME
from src.errors import DownloadError, MissingFileError
from src.storage import local
from src.tinker.addresses import check_address
from src.tinker.contents import check_names

Kind = Literal["external_weights", "weights", "sampler_weights", "address", "archive", "folder"]
_TINKER_KINDS: dict[str, Kind] = {
    "external_weights": "external_weights", "weights": "weights", "sampler_weights": "sampler_weights",
}  # fmt: skip
_TINKER_PATH = re.compile(rf"tinker://([^/\s?#]+)/({'|'.join(_TINKER_KINDS)})/[^/\s?#]+")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from.

    Attributes:
        kind: Tinker's own three kinds of path; "address": a tar behind https; "archive": a local tar; "folder".
        text: as it was given; an address may hold a signature, so this is not shown.
        shown: the same without what is signed; only the name of a local archive or folder.
        run: the training run of a Tinker path.
    """

    kind: Kind
    text: str = field(repr=False)
    shown: str
    run: str | None = None

    @property
    def is_tinker(self) -> bool:
        """Whether it is a path of Tinker's own, whose constants hold."""
        return self.run is not None

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine already, and is the user's."""
        return self.kind in ("archive", "folder")

    @property
    def path(self) -> Path:
        """Of a local source."""
        return local(self.text)

    def fingerprint(self) -> str | None:
        """What tells two sources of one name apart, as hex SHA-256.

        Of an archive: its bytes. Of a folder: its adapter's files. Of an address: the address, whose query may
        choose the file. None for a Tinker path, which is a name of its own, and where nothing is there any more.

        Raises:
            DownloadError: a local source that cannot be read.
        """
        if self.kind == "address":
            return files.sha256_of_json(self.text)
        try:
            if self.kind == "archive" and self.path.is_file():
                return files.sha256_of_file(self.path)
            if self.kind == "folder":
                named = [self.path / name for name in (CONFIG_NAME, WEIGHTS_NAME)]
                return files.sha256_of_json({path.name: files.sha256_of_file(path) for path in named if path.is_file()})
        except OSError as error:
            raise DownloadError(f"{self.text} cannot be read: {error.strerror}. Check its permissions.") from error
        return None


def parse_source(checkpoint: str | Path) -> Source:
    """Read what names a checkpoint. Whether it is there is not looked at, but for a folder.

    Raises:
        DownloadError: a scheme or a Tinker path that means nothing.
    """
    text = str(checkpoint)
    if "://" not in text:
        path = local(text)
        return Source("folder" if path.is_dir() else "archive", text, path.name)
    shown = re.split(r"[?#]", text, maxsplit=1)[0]
    if found := _TINKER_PATH.fullmatch(text):
        return Source(_TINKER_KINDS[found[2]], text, shown, found[1])
    scheme, _, rest = shown.partition("://")
    if scheme not in ("https", "http") or "@" in rest.partition("/")[0]:
        raise DownloadError(
            f"{scheme}://{rest.rpartition('@')[2]} is no checkpoint: tinker://RUN/external_weights/NAME, an https:// "
            "address of a tar, a local archive or a folder is."
        )
    check_address(text, rest.partition("/")[0])
    return Source("address", text, shown)


def check_local(source: Source) -> None:
    """Whether a local checkpoint is there.

    Raises:
        MissingFileError: no such file. DownloadError: a folder without an adapter.
        AdapterError: a folder whose weights are a pickle.
    """
    if source.kind == "folder":
        check_names([path.name for path in source.path.iterdir()], source.text)
    elif not source.path.is_file():
        raise MissingFileError(f"There is no checkpoint archive or folder {source.text}. Check the path.")
