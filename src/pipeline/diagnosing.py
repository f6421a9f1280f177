"""Why an adapter differs from what Tinker computes: the usual mistakes are undone until the numbers agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from tqdm.auto import tqdm

from src.adapters import WEIGHTS_NAME, Adapter, read_tensors
from src.models.likelihood import token_log_probabilities
from src.models.trials import Tensors, can_be_changed, instead, scaled, trials
from src.tinker.served import Served

_STEP = 0.01  # of lora_alpha, by which its slope is measured
_OCTAVES = np.arange(-5, 5.5, 0.5)  # of lora_alpha, in which the right one is looked for


def diagnose(
    model: Any,
    adapter: Adapter,
    token_ids: Sequence[Sequence[int]],
    served: Served,
    *,
    tolerance: float,
    info: Mapping[str, Any],
) -> list[str]:
    """The mistake that explains the difference, in a sentence or two.

    Args:
        model: the base model with the adapter attached; afterwards it is as it was.
        adapter: what is attached.
        token_ids, served: the texts, and what Tinker gives them.
        tolerance: nats up to which log-probabilities agree.
        info: what Tinker has recorded of the checkpoint, as far as it says.
    """
    if largest_gap(served.tuned, served.base) <= tolerance:
        return ["Tinker answered as its base model does: the checkpoint was not in force there, or it is untrained."]
    tensors = read_tensors(adapter.folder / WEIGHTS_NAME)
    if not can_be_changed(model, tensors):
        return ["Which mistake it is was not tried: this model holds the adapter's tensors in another form."]

    def gap(changed: Tensors) -> float:
        with instead(model, changed, tensors):
            return largest_gap(token_log_probabilities(model, token_ids), served.tuned)

    if alpha := _right_alpha(model, adapter, tensors, token_ids, served, tolerance=tolerance):
        return [f"It computes as if lora_alpha were {alpha:.4g}, and adapter_config.json says {_alpha(adapter):.4g}."]
    if "lm_head" not in adapter.modules and info.get("train_unembed"):
        return ["Tinker has trained the unembedding, and the adapter has no update of lm_head: it was left out."]
    for trial in tqdm(list(trials(tensors)), desc="looking for the mistake", unit="trial", disable=None, leave=False):
        if gap(trial.tensors) <= tolerance:
            return [trial.mistake]
    left_out = "lm_head" not in adapter.modules and info.get("train_unembed") is None
    return [
        "No scale, exchange or transposition explains it. The adapter has no update of lm_head, which Tinker "
        "trains unless told not to: it was probably left out."
        if left_out
        else "No scale, exchange, transposition or omission explains it: these are other weights."
    ]


def noticeable_alpha(
    model: Any, adapter: Adapter, token_ids: Sequence[Sequence[int]], *, tolerance: float
) -> float | None:
    """The smallest relative mistake in lora_alpha that would exceed the tolerance, to first order.

    None where it cannot be tried, or would not change anything.
    """
    tensors = read_tensors(adapter.folder / WEIGHTS_NAME)
    if not can_be_changed(model, tensors):
        return None
    before = token_log_probabilities(model, token_ids)
    with instead(model, scaled(tensors, 1 + _STEP), tensors):
        moved = largest_gap(token_log_probabilities(model, token_ids), before)
    return tolerance * _STEP / moved if moved else None


def _right_alpha(
    model: Any,
    adapter: Adapter,
    tensors: Tensors,
    token_ids: Sequence[Sequence[int]],
    served: Served,
    *,
    tolerance: float,
) -> float | None:
    """The lora_alpha with which the log-probabilities agree, a whole number where one does; None where none does."""

    def local(octaves: float) -> tuple[np.ndarray, ...]:
        with instead(model, scaled(tensors, 2.0**octaves), tensors):
            return token_log_probabilities(model, token_ids)

    def error(octaves: float) -> float:
        return sum(float(np.square(a - b).sum()) for a, b in zip(local(octaves), served.tuned, strict=True))

    start = min(_OCTAVES, key=error)
    best: Any = minimize_scalar(error, bounds=(start - 0.5, start + 0.5), method="bounded", options={"xatol": 1e-6})
    fitted = _alpha(adapter) * 2.0**best.x
    for alpha in (float(round(fitted)), fitted):
        if alpha > 0 and largest_gap(local(np.log2(alpha / _alpha(adapter))), served.tuned) <= tolerance:
            return alpha
    return None


def _alpha(adapter: Adapter) -> float:
    return float(adapter.config["lora_alpha"])


def largest_gap(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """The largest absolute difference between two lists of arrays of equal shapes."""
    # numpy's maximum is NaN where one is; Python's would pass over it.
    return float(np.max([np.abs(a - b).max() for a, b in zip(first, second, strict=True)]))
