"""The command `confprobe`: parses and calls, holds no logic.

One module for each kind of thing that can be done, `command.py` lists them; `ending.py` says how a command ends.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.cli.command import main
    from src.cli.ending import interruptible, plain_errors

__all__ = ["interruptible", "main", "plain_errors"]

__getattr__ = lazy_exports(__name__, {"interruptible": "ending", "main": "command", "plain_errors": "ending"})
