"""Probes: linear readings of hidden states that predict whether the model's answer is correct.

from src.probes import LinearProbe
probe = LinearProbe(input_dim=4096).fit(X, y, X_val, y_val)
probe.predict(X_test)        # P(correct)
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.probes.artifact import SavedProbe
    from src.probes.confidence_model import Answer, ConfidenceModel
    from src.probes.linear import LinearProbe
    from src.probes.origin import Asking, ModelIdentity, Origin

__all__ = ["Answer", "Asking", "ConfidenceModel", "LinearProbe", "ModelIdentity", "Origin", "SavedProbe"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Answer": "confidence_model",
        "Asking": "origin",
        "ConfidenceModel": "confidence_model",
        "LinearProbe": "linear",
        "ModelIdentity": "origin",
        "Origin": "origin",
        "SavedProbe": "artifact",
    },
)
