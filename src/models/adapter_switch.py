"""One loaded model, several adapters: which of them is in force."""

import contextlib
from collections.abc import Iterator
from typing import Any


def adapter_name(place: int) -> str:
    """What PEFT calls the adapter that was attached as number `place`, from 0. A user's name may hold dots."""
    return "default" if place == 0 else f"adapter_{place}"


@contextlib.contextmanager
def switched_to(model: Any, place: int | None) -> Iterator[None]:
    """Within the block one adapter alone is in force, or the base model; afterwards what was before.

    Args:
        model: from `ModelLoader.load`.
        place: of the adapter, from 0 in the order in which they were attached; None: the base model.
    """
    if place is None:
        with model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext():
            yield
        return
    before = model.active_adapter
    model.set_adapter(adapter_name(place), inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(before, inference_mode=True)


def adapter_in_force(model: Any) -> str | None:
    """The name of a model's adapter that is switched on; None where none is."""
    for module in model.modules():
        if hasattr(module, "lora_A"):
            layer: Any = module
            return None if layer.disable_adapters else layer.active_adapters[0]
    return None
