"""The command `confprobe`, and `import confprobe`: is the `src` that Python finds this library's?

`src` is a common name for a folder. Where Python finds another one first, every import from this library fails
with "No module named 'src....'"; this module, which lies outside `src`, says which folder was found.
"""

import importlib.util
import sys
from pathlib import Path


def check_src() -> None:
    """Raise ImportError where `import src` finds a package that is not this library."""
    spec = importlib.util.find_spec("src")
    if spec is None:
        raise ImportError("llm-confidence-probing is not installed here: there is no package `src`. Install it again.")
    found = Path(spec.origin).parent if spec.origin else None
    if found is None or not (found / "pipeline" / "job.py").is_file():
        where = found or ", ".join(spec.submodule_search_locations or [])
        raise ImportError(
            f"`import src` finds {where}, which is not llm-confidence-probing. Start Python in another folder, take "
            "that folder's parent off sys.path (or PYTHONPATH), or rename it."
        )


def main() -> None:
    """Run the command."""
    try:
        check_src()
    except ImportError as error:
        sys.exit(f"confprobe: {error}")
    from src.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
elif Path(sys.argv[0]).stem != "confprobe":  # the command itself says it in one sentence, in main()
    check_src()
