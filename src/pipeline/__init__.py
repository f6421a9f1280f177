"""The main job, one module per stage; `run` reads like the picture in CLAUDE.md.

from src.pipeline import run
result = run("configs/quickstart.yaml")
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.pipeline.job import RunResult, run

__all__ = ["RunResult", "run"]

__getattr__ = lazy_exports(__name__, {"RunResult": "job", "run": "job"})
