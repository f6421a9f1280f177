"""Tinker's tensor names and configuration -> PEFT's, by a white list: what is not understood is refused.

Source of the names: tinker-cookbook's `weights` package and the PEFT behaviour measured with 0.21 (it drops
`unembed_tokens` and any unknown module without a warning).
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import files
from src.adapters import (
    CONFIG_NAME,
    PREFIX,
    WEIGHTS_NAME,
    Adapter,
    check_finite,
    module_names,
    parse_config,
    read_adapter,
    read_tensors,
)
from src.errors import AdapterError

log = logging.getLogger(__name__)

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)")
_RENAMED = {"model.unembed_tokens": "lm_head", "model.lm_head": "lm_head", "lm_head": "lm_head"}


@dataclass(frozen=True)
class Conversion:
    """What was made: the checked adapter, and where its scale came from ("file", "argument" or "assumed")."""

    adapter: Adapter
    alpha_source: str


def convert_adapter(
    source: Path,
    destination: Path,
    base_model_name: str,
    *,
    lora_alpha: float | None = None,
    assumed_alpha: float | None = None,
) -> Conversion:
    """Write a PEFT adapter folder from an unpacked checkpoint.

    Args:
        source: a folder with adapter_model.safetensors and adapter_config.json.
        destination: an existing, empty folder.
        base_model_name: recorded in the new configuration.
        lora_alpha: the value used in training, where the configuration is missing or does not say.
        assumed_alpha: the value to take, with a warning, where nobody says; None: that is an error.

    Raises:
        AdapterError: a tensor or setting that is not understood, or no alpha.
    """
    tensors = _renamed(read_tensors(source / WEIGHTS_NAME))
    config, alpha_source = _rebuilt_config(source / CONFIG_NAME, tensors, base_model_name, lora_alpha, assumed_alpha)
    _write_tensors(destination / WEIGHTS_NAME, tensors)
    files.write_json(destination / CONFIG_NAME, config)
    return Conversion(read_adapter(destination), alpha_source)


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        check_finite(name, tensor)
        new = _peft_name(name, tuple(tensor.shape))
        if new in renamed:
            raise AdapterError(f"Two tensors would both be named {new!r}; one is {name!r}.")
        renamed[new] = tensor.contiguous()
    return renamed


def _peft_name(name: str, shape: tuple[int, ...]) -> str:
    module, _, half = name.removeprefix(PREFIX).partition(".lora_")
    if name.startswith(PREFIX) and half in ("A.weight", "B.weight") and len(shape) == 2:
        if module in _RENAMED:
            return f"{PREFIX}{_RENAMED[module]}.lora_{half}"
        if _LINEAR.fullmatch(module):
            return name
    raise AdapterError(
        f"The tensor {name!r} of shape {shape} is not understood, and leaving it out would change what the "
        "adapter does. Supported: attention, MLP and unembedding of dense Llama and Qwen models."
    )


def _rebuilt_config(
    path: Path, tensors: Mapping[str, Any], base_model_name: str, lora_alpha: float | None, assumed_alpha: float | None
) -> tuple[dict[str, Any], str]:
    given = parse_config(path.read_bytes().decode("utf-8", errors="replace")) if path.is_file() else {}
    modules = module_names(tensors)
    ranks = {module: tensors[f"{PREFIX}{module}.lora_A.weight"].shape[0] for module in modules
             if f"{PREFIX}{module}.lora_A.weight" in tensors}  # fmt: skip
    rank = given.get("r", next(iter(ranks.values()), 0))
    alpha, source = (lora_alpha, "argument") if lora_alpha is not None else (given.get("lora_alpha"), "file")
    if alpha is None:
        lacking = "lora_alpha is not in adapter_config.json" if path.is_file() else "adapter_config.json not found"
        if assumed_alpha is None:
            raise AdapterError(
                f"{lacking}, and lora_alpha cannot be read from the weights. A wrong value changes every logit without "
                "a warning. Pass lora_alpha=... (the value used in training; Tinker's own is 32)."
            )
        alpha, source = assumed_alpha, "assumed"
        log.warning("%s: lora_alpha=%s is assumed. Pass lora_alpha=... if you know better.", lacking, alpha)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise AdapterError(f"lora_alpha is {alpha!r}; a number above 0 is needed.")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        # From the tensors, never from the file: a null there means q_proj and v_proj only to PEFT.
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "rank_pattern": given.get("rank_pattern", {}),
        "alpha_pattern": given.get("alpha_pattern", {}),
        "inference_mode": True,
    }
    return config, source


def _write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    files.write_bytes(path, save(dict(tensors), metadata={"format": "pt"}))
