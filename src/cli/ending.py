"""How a command or a script of ours ends: one sentence and an exit code, without a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from src import storage
from src.errors import CredentialsError, DownloadError, IntegrityError, MissingFileError, ProbingError, printable

CODES = (
    "Exit codes: 0 done, 1 a disk or pipe failed under the output, 2 usage or configuration, 3 credentials, 4 network, "
    "5 integrity, 130 interrupted."
)
_CREDENTIALS = 3
DIFFERENT, WRONG = 5, 2  # an adapter that is not what was trained; an installation that does not work
DEBUG = "CONFPROBE_DEBUG"  # set: tracebacks are shown
_CODES = (
    (MissingFileError, 2), (IntegrityError, 5), (DownloadError, 4), (CredentialsError, _CREDENTIALS), (ProbingError, 2),
)  # fmt: skip


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn an error on purpose into "name: message" on stderr and its exit code (SystemExit).

    A failing disk or pipe behind what is printed is said likewise, with code 1; every other error is a fault of ours
    and stays whole, as all do where CONFPROBE_DEBUG is set.
    """
    try:
        yield
    except ProbingError as error:
        if os.environ.get(DEBUG):
            raise
        print(printable(f"{name}: {error}"), file=sys.stderr)
        sys.exit(next(code for kind, code in _CODES if isinstance(error, kind)))
    except OSError as error:  # what is printed goes nowhere: a full disk behind a redirection
        if os.environ.get(DEBUG):
            raise
        of = f" ({error.filename!s:.200})" if error.filename else ""
        print(printable(f"{name}: {str(error.strerror or error).rstrip('.')}{of}."), file=sys.stderr)
        sys.exit(1)
    except storage.unanswered() as error:
        if os.environ.get(DEBUG):
            raise
        print(printable(f"{name}: {error}{'' if str(error).endswith('.') else '.'} {storage.ACCESS}"), file=sys.stderr)
        sys.exit(_CREDENTIALS)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what can go on later with one sentence and code 130.

    Everything of ours is closed by then; threads of torch and others, torn down halfway, abort now and then, so the
    process ends at once.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    print("Interrupted. The same command goes on from here.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
