"""Probes: linear readings of hidden states that predict whether the model's answer is correct.

from src.probes import LinearProbe
probe = LinearProbe(input_dim=4096).fit(X, y, X_val, y_val)
probe.predict(X_test)        # P(correct)
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.probes.artifact import SavedProbe
    from src.probes.attention import AttentionProbe
    from src.probes.classifier import ProbeClassifier
    from src.probes.confidence_model import Answer, ConfidenceModel
    from src.probes.linear import LinearProbe
    from src.probes.mean_difference import MeanDifferenceProbe
    from src.probes.mlp import MLPProbe
    from src.probes.origin import Asking, ModelIdentity, Origin
    from src.probes.tokens import TokenStates

__all__ = [
    "Answer",
    "Asking",
    "AttentionProbe",
    "ConfidenceModel",
    "LinearProbe",
    "MLPProbe",
    "MeanDifferenceProbe",
    "ModelIdentity",
    "Origin",
    "ProbeClassifier",
    "SavedProbe",
    "TokenStates",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Answer": "confidence_model",
        "Asking": "origin",
        "AttentionProbe": "attention",
        "ConfidenceModel": "confidence_model",
        "LinearProbe": "linear",
        "MLPProbe": "mlp",
        "MeanDifferenceProbe": "mean_difference",
        "ModelIdentity": "origin",
        "Origin": "origin",
        "ProbeClassifier": "classifier",
        "SavedProbe": "artifact",
        "TokenStates": "tokens",
    },
)
