"""Where the Tinker SDK would find credentials, looked up without it and without a network.

The order is the SDK's own (0.38): the argument, TINKER_API_KEY, the command in TINKER_CREDENTIAL_CMD, and the
login stored by `tinker auth login`.
"""

import json
import os
from pathlib import Path

from src.errors import CredentialsError

_PREFIXES = ("tml-", "eyJ")
_STORED = Path("~/.tinker/credentials.json")


def credentials_source(api_key: str | None = None) -> str | None:
    """Which source the SDK would use: "the argument", "TINKER_API_KEY", ...; None where there is none.

    Raises:
        CredentialsError: a key that cannot be one, and no command to fall back on. The key is not repeated.
    """
    named = {"the argument": api_key, "TINKER_API_KEY": os.environ.get("TINKER_API_KEY")}
    source, key = next(((source, key) for source, key in named.items() if key), (None, ""))
    if key and key.startswith(_PREFIXES):
        return source
    if os.environ.get("TINKER_CREDENTIAL_CMD"):
        return "TINKER_CREDENTIAL_CMD"
    if source:
        raise CredentialsError(
            f"The Tinker key from {source} does not start with tml-, so it cannot be one ({len(key or '')} characters "
            "were given). Copy it again from the Tinker console."
        )
    return f"the login stored in {_STORED}" if _has_login(_STORED.expanduser()) else None


def check_credentials(api_key: str | None = None) -> str:
    """As `credentials_source`, but finding none is an error.

    Raises:
        CredentialsError: no credentials, or a key that cannot be one.
    """
    source = credentials_source(api_key)
    if source is None:
        raise CredentialsError(
            "TINKER_API_KEY not found. Set it (export TINKER_API_KEY=tml-...), pass TinkerClient(api_key=...), set "
            "TINKER_CREDENTIAL_CMD, or log in with `tinker auth login`."
        )
    return source


def _has_login(path: Path) -> bool:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return bool(stored["keys"][stored["default"]]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
