"""Probes on the Hugging Face hub, through its own client."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from src.errors import CredentialsError, DownloadError, MissingFileError

if TYPE_CHECKING:
    from src.probes.artifact import SavedProbe

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_REFUSED = (401, 403)


def fetch(repo_id: str, revision: str | None, names: list[str]) -> Path:
    """Download these files of a repository and nothing else.

    Returns:
        the folder in the hub's cache.

    Raises:
        MissingFileError: neither a folder nor the name of a repository.
        DownloadError, CredentialsError: the hub does not give them.
    """
    from huggingface_hub import hf_hub_download

    if not _REPOSITORY.fullmatch(repo_id):
        raise MissingFileError(f"There is no folder {repo_id!r:.200}, and it is no hub repository (user/name) either.")
    with _hub_errors(repo_id):
        paths = [Path(hf_hub_download(repo_id, name, revision=revision)) for name in names]
    return paths[0].parent


def upload(probe: "SavedProbe", repo_id: str, *, private: bool, token: str | None) -> str:
    """Save a probe and upload its folder; raises as `SavedProbe.push_to_hub`. Returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as scratch, _hub_errors(repo_id):
        folder = probe.save_pretrained(Path(scratch) / "probe")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Probe of confidence")
    return str(commit.commit_url)


@contextlib.contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise DownloadError(f"{repo_id!r:.200} is no name of a hub repository: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _REFUSED:
            raise CredentialsError(
                f"The hub refuses {repo_id!r} (HTTP {status}): log in with `hf auth login`, or set HF_TOKEN."
            ) from error
        raise DownloadError(f"The hub has no probe {repo_id!r}, or did not take it (HTTP {status}).") from error
    except (LocalEntryNotFoundError, HTTPError) as error:
        raise DownloadError(
            f"The probe {repo_id!r} is no local folder, and the Hugging Face hub cannot be reached. Check the name and "
            "the network."
        ) from error
