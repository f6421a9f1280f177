"""How far a confidence can be trusted: numbers only (how they look is `src.report`).

from src.evaluation import CalibrationMetrics
CalibrationMetrics(confidences > 0.5, confidences, labels).ece()
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.evaluation.calibration import CalibrationMetrics
    from src.evaluation.selective import guaranteed_threshold

__all__ = ["CalibrationMetrics", "guaranteed_threshold"]

__getattr__ = lazy_exports(__name__, {"CalibrationMetrics": "calibration", "guaranteed_threshold": "selective"})
