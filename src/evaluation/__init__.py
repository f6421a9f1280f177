"""How far a confidence can be trusted: numbers only (how they look is `src.report`).

from src.evaluation import CalibrationMetrics
CalibrationMetrics(confidences > 0.5, confidences, labels).ece()
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.evaluation.calibration import CalibrationMetrics
    from src.evaluation.planning import Assumptions, questions_needed, smallest_difference
    from src.evaluation.recalibration import fit_recalibration
    from src.evaluation.selective import guaranteed_threshold

__all__ = [
    "Assumptions",
    "CalibrationMetrics",
    "fit_recalibration",
    "guaranteed_threshold",
    "questions_needed",
    "smallest_difference",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Assumptions": "planning",
        "CalibrationMetrics": "calibration",
        "fit_recalibration": "recalibration",
        "guaranteed_threshold": "selective",
        "questions_needed": "planning",
        "smallest_difference": "planning",
    },
)
