"""What a hidden state depends on besides its tokens, as plain values that go into the cache key.

The loaded tensors themselves are hashed, not names or dates: two revisions, two adapters, or a checkpoint
overwritten in place never share a row, while the same base model does whether PEFT wraps it or not.
"""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from src import files
from src.errors import ModelError

CAPTURE_VERSION = 2
_STAYING = "_confprobe_weights_hash"
_NOT_NUMERIC = ("_name_or_path", "transformers_version", "use_cache", "output_attentions",
                "output_hidden_states", "return_dict", "_commit_hash")  # fmt: skip


def fingerprint(model: Any) -> dict[str, Any]:
    """Model, adapter, precision and attention path of a loaded model, with the adapter as it is switched now.

    A model without weights (on the meta device) has None in place of their hash.
    """
    config = model.config.to_dict()
    for key in _NOT_NUMERIC:
        config.pop(key, None)
    return {
        "capture": CAPTURE_VERSION,
        "weights": _weights(model),
        "adapter": _adapter_hash(model),
        "dtype": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "quantization": quantization_of(model),
        "attention": model.config._attn_implementation,
        "config": files.sha256_of_json(json.loads(json.dumps(config, default=str)))[:16],
    }


def is_split(model: nn.Module) -> bool:
    """Whether its matrices are split over processes (tp_plan), which then must make the same passes."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def check_can_be_cached(model: nn.Module) -> None:
    """Raises ModelError for a model whose processes could disagree about what a cache holds."""
    if is_split(model):
        raise ModelError(
            "This model is split over processes (tp_plan). They could disagree about what the cache holds, and wait "
            "for each other for ever. Leave cache_dir out."
        )


def weights_stay(model: nn.Module) -> None:
    """Promise that nobody changes the base model's weights any more, so that they are hashed here and never again.

    Without it every call that uses a cache hashes them, which is nothing beside a long call and much beside a batch.
    """
    model.__dict__[_STAYING] = _hash_tensors(_base_tensors(model))


def _weights(model: nn.Module) -> str | None:
    return model.__dict__[_STAYING] if _STAYING in model.__dict__ else _hash_tensors(_base_tensors(model))


def quantization_of(model: Any) -> str | None:
    """What the loaded model says of itself: "8bit", "4bit" or None."""
    if getattr(model, "is_loaded_in_8bit", False):
        return "8bit"
    return "4bit" if getattr(model, "is_loaded_in_4bit", False) else None


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, the buffers that a checkpoint holds, and the scales of quantised parameters."""
    stored = chain(model.named_parameters(), _stored_buffers(model))
    for name, tensor in chain(((name, _whole(model, name, one)) for name, one in stored), _scales(model)):
        if ".lora_" not in name:
            yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), tensor


def _stored_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}".removeprefix("."), buffer


def _scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What bitsandbytes keeps beside its rounded weights: of 8 bits row by row, of 4 bits block by block."""
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # The first pass moves them from the weight to the layer's state.
        for holder in (weight, getattr(module, "state", None)):
            if (rows := getattr(holder, "SCB", None)) is not None:
                yield f"{path}.weight.SCB", rows
                break
        state = getattr(weight, "quant_state", None)
        for name, value in (state.as_dict(packed=True) if state is not None else {}).items():
            yield f"{path}.weight.{name}", value


def _whole(model: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The tensor itself, where the model holds a part of it only, or keeps it on the host or on disk until it is used.

    Of a model that is split over processes, all of them must ask.
    """
    whole: Callable[[], Tensor] | None = getattr(parameter, "full_tensor", None)
    if whole is not None:
        return whole()
    module, _, leaf = name.rpartition(".")
    stored = getattr(getattr(model.get_submodule(module), "_hf_hook", None), "weights_map", None)
    return stored[leaf] if parameter.is_meta and stored is not None else parameter


def _adapter_hash(model: nn.Module) -> str | None:
    """Of the halves and scales in force; None where no adapter is attached or all are switched off."""
    tensors = [pair for name, module in model.named_modules() for pair in _active_halves(name, module)]
    return _hash_tensors(iter(tensors)) if tensors else None


def _active_halves(name: str, module: Any) -> Iterator[tuple[str, Tensor]]:
    if not hasattr(module, "lora_A") or module.disable_adapters:
        return
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            path = f"{name.removeprefix('base_model.model.')}:{module.scaling[adapter]}"
            yield f"{path}.A", module.lora_A[adapter].weight
            yield f"{path}.B", module.lora_B[adapter].weight


def _hash_tensors(tensors: Iterator[tuple[str, Tensor]]) -> str | None:
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        if tensor.is_meta:
            return None
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
