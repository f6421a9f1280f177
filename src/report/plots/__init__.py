"""Figures, each drawn on an Axes given or made: `(..., ax=None) -> Axes`.

Every one reads a part of results.json (docs/results.md) and computes no metric:

    results = json.load(open("runs/quickstart/results.json"))
    risk_coverage(results["variants"]).figure
"""

from src.report.plots.adapters import over_adapters
from src.report.plots.confidence import confidence_by_correctness, reliability_diagram
from src.report.plots.layers import layer_curve, layer_map
from src.report.plots.risk import risk_coverage
from src.report.plots.scores import base_against_tuned, subject_dots
from src.report.plots.sides import sides
from src.report.plots.transfer import transfer_map

__all__ = [
    "base_against_tuned",
    "confidence_by_correctness",
    "layer_curve",
    "layer_map",
    "over_adapters",
    "reliability_diagram",
    "risk_coverage",
    "sides",
    "subject_dots",
    "transfer_map",
]
