"""Probes: linear readings of hidden states that predict whether the model's answer is correct.

from src.probes import LinearProbe
probe = LinearProbe(input_dim=4096).fit(X, y, X_val, y_val)
probe.predict(X_test)        # P(correct)
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.probes.classifier import ProbeClassifier
    from src.probes.linear import LinearProbe
    from src.probes.mean_difference import MeanDifferenceProbe
    from src.probes.mlp import MLPProbe

__all__ = ["LinearProbe", "MLPProbe", "MeanDifferenceProbe", "ProbeClassifier"]

__getattr__ = lazy_exports(
    __name__,
    {
        "LinearProbe": "linear",
        "MLPProbe": "mlp",
        "MeanDifferenceProbe": "mean_difference",
        "ProbeClassifier": "classifier",
    },
)
