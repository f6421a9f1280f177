"""How results look: a verdict in words, a table for the terminal, plots, and one HTML file.

Everything here reads the dictionary that lies in results.json (docs/results.md) and computes no metric.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.report.checking import check_sentences, print_check, print_check_plan
    from src.report.compared import render_comparison
    from src.report.conclusions import comparison_verdict, verdict
    from src.report.html import render_html
    from src.report.listing import print_contexts, print_findings, print_plan
    from src.report.notebook import render_summary
    from src.report.planning import print_labels
    from src.report.states import print_states
    from src.report.terminal import print_comparison, print_report
    from src.report.verification import print_verification

__all__ = [
    "check_sentences",
    "comparison_verdict",
    "print_check",
    "print_check_plan",
    "print_comparison",
    "print_contexts",
    "print_findings",
    "print_labels",
    "print_plan",
    "print_report",
    "print_states",
    "print_verification",
    "render_comparison",
    "render_html",
    "render_summary",
    "verdict",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "check_sentences": "checking",
        "comparison_verdict": "conclusions",
        "print_check": "checking",
        "print_check_plan": "checking",
        "print_comparison": "terminal",
        "print_contexts": "listing",
        "print_findings": "listing",
        "print_labels": "planning",
        "print_plan": "listing",
        "print_report": "terminal",
        "print_states": "states",
        "print_verification": "verification",
        "render_comparison": "compared",
        "render_html": "html",
        "render_summary": "notebook",
        "verdict": "conclusions",
    },
)
