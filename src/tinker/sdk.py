"""The Tinker SDK itself: where it is imported, which version it is, and what its errors mean.

This is the only module that imports it.
"""

import contextlib
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.errors import CredentialsError, DownloadError, MissingExtraError, ProbingError


def import_sdk() -> Any:
    """The module `tinker`. Raises MissingExtraError: it is not installed, or something else of that name was found."""
    try:
        import tinker
    except ImportError as error:
        raise MissingExtraError(
            "The Tinker SDK is not installed. Install it with: pip install 'tinker>=0.31'"
        ) from error
    if notice := own_package_instead(tinker.__file__):
        raise MissingExtraError(notice)
    if not hasattr(tinker, "ServiceClient"):
        raise MissingExtraError(
            f"`import tinker` finds {tinker.__file__ or 'a folder of that name'}, which is not the Tinker SDK (it has "
            "no ServiceClient). Take it off sys.path, or install the SDK with: pip install 'tinker>=0.31'"
        )
    return tinker


def sdk_gives_archives() -> bool:
    """Whether the installed SDK has the archives of before 0.36; False where none is installed."""
    try:
        sdk = import_sdk()
    except MissingExtraError:
        return False
    # The class moved to the front in the version that lost the archives.
    return not hasattr(sdk, "RestClient") or hasattr(sdk.RestClient, "get_checkpoint_archive_url_from_tinker_path")


def own_package_instead(found: str | None) -> str:
    """A sentence where `import tinker` found this folder of ours and not the SDK; "" otherwise."""
    room = Path(__file__).resolve().parents[1]
    if not found or not Path(found).resolve().is_relative_to(room):
        return ""
    return (
        f"`import tinker` finds {found}, a part of this library, instead of the Tinker SDK, because {room} is on "
        "sys.path. Take it off (do not start Python in that folder)."
    )


def result(value: Any, timeout: float) -> Any:
    """Of a future; older SDKs return some values at once."""
    return value.result(timeout=timeout) if hasattr(value, "result") else value


def _without_queries(text: str) -> str:
    """Addresses without what is signed."""
    return re.sub(r"(https?://[^\s?]+)\?\S*", r"\1?...", " ".join(text.split()))


@contextlib.contextmanager
def translated(sdk: Any, credentials: str, what: str) -> Iterator[None]:
    """Errors of the SDK as ours, in a sentence.

    Args:
        sdk: the module.
        credentials: where they came from; the key itself is never shown.
        what: what is being done, such as "asking for the supported models".
    """
    try:
        yield
    except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
        raise CredentialsError(
            f"Tinker refused the credentials from {credentials} while {what}. Check the key in the console."
        ) from error
    except (TimeoutError, multiprocessing.TimeoutError) as error:
        raise DownloadError(
            f"Tinker gave no answer in time while {what}, with credentials from {credentials}. The SDK "
            "retries a lost connection, a failing server and an unpaid bill without a word: check the network, the "
            "service's status page, your billing and the key."
        ) from error
    except sdk.NotFoundError as error:
        raise DownloadError(f"Tinker knows no such thing while {what}. Check the name.") from error
    except sdk.APIConnectionError as error:
        raise DownloadError(f"Tinker could not be reached while {what}. Check the network.") from error
    except sdk.TinkerError as error:
        text = _without_queries(str(error))
        # Without the cause: its own text may hold what was left out here.
        if "api_key" in text or "CREDENTIAL_CMD" in text:
            raise CredentialsError(f"The credentials from {credentials} do not work: {text}") from None
        raise DownloadError(f"Tinker failed while {what}: {text:.300}") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ProbingError):
            raise
        # Such as a stored login that the SDK cannot read: its message repeats the key.
        raise DownloadError(
            f"The Tinker SDK failed with {type(error).__name__} while {what}, with credentials from "
            f"{credentials}. If that is a stored login, log in again with `tinker auth login`."
        ) from None
