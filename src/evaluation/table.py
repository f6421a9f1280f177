"""How a notebook shows `CalibrationMetrics`: one small table of HTML, without script or colours of its own."""

from collections.abc import Mapping

import numpy as np

_ROWS = {
    "base_rate": "right answers",
    "accuracy": "accuracy of the predictions",
    "auroc": "AUROC",
    "brier": "Brier",
    "nll": "NLL, nats",
    "ece": "ECE, 15 bins of equal width",
    "ece_mass": "ECE, 15 bins of equal mass",
    "smooth_ece": "smooth ECE",
    "ks": "KS",
    "mcb": "miscalibration (of Brier)",
    "dsc": "discrimination (of Brier)",
    "aurc": "AURC",
    "accuracy_at_80": "right answers among the 80 % most confident",
}


def as_html(summary: Mapping[str, float], perfect: Mapping[str, float]) -> str:
    """The main metrics of a `CalibrationMetrics.summary`, and what a perfectly calibrated model would score."""
    lines = "".join(
        f"<tr><th scope='row' style='text-align:left'>{label}</th><td>{_number(summary[name])}</td>"
        f"<td>{_number(perfect[name]) if name in perfect else ''}</td></tr>"
        for name, label in _ROWS.items()
    )
    return (
        f"<table><caption>Calibration of {summary['n']:,} confidences</caption><thead><tr><th></th><th>value</th>"
        f"<th>if perfectly calibrated</th></tr></thead><tbody>{lines}</tbody></table>"
    )


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.4f}"
