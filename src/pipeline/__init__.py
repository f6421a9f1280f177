"""The main job, one module per stage; `run` reads like the picture in CLAUDE.md.

from src.pipeline import run
result = run("configs/quickstart.yaml")
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.pipeline.checking import Check, check_probe
    from src.pipeline.comparing import compare_runs
    from src.pipeline.folder import read_results, write_report
    from src.pipeline.job import RunResult, run
    from src.pipeline.plan import Plan, make_plan
    from src.pipeline.planning import LabelPlan, plan_labels
    from src.pipeline.verifying import Verification, verify_adapter

__all__ = [
    "Check",
    "LabelPlan",
    "Plan",
    "RunResult",
    "Verification",
    "check_probe",
    "compare_runs",
    "make_plan",
    "plan_labels",
    "read_results",
    "run",
    "verify_adapter",
    "write_report",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Check": "checking",
        "LabelPlan": "planning",
        "Plan": "plan",
        "RunResult": "job",
        "Verification": "verifying",
        "check_probe": "checking",
        "compare_runs": "comparing",
        "make_plan": "plan",
        "plan_labels": "planning",
        "read_results": "folder",
        "run": "job",
        "verify_adapter": "verifying",
        "write_report": "folder",
    },
)
