"""A Tinker checkpoint -> a PEFT folder: renamed, taken apart or fused, and checked, tensor by tensor.

What the tensors mean stands in `names`, how they become updates in `updates`, the settings in `configuration`.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src import files
from src.adapters.base_model import base_modules, check_modules, expert_of, fitting_name, model_type
from src.adapters.folder import CONFIG_NAME, WEIGHTS_NAME, Adapter, open_weights, read_adapter
from src.adapters.tensor_file import check_finite, write_tensors
from src.errors import AdapterError
from src.tinker.configuration import rebuilt_config
from src.tinker.updates import Update, peft_names, plan_updates, read_halves

# By config.json's model_type, or the name: Tinker's own tools only merge updates into these.
_MERGE_ONLY = re.compile(r"deepseek[-_]v[0-9]|kimi", re.IGNORECASE)
_FUSED_OTHERWISE = re.compile(r"gpt[-_]oss", re.IGNORECASE)


@dataclass(frozen=True)
class Conversion:
    """What was made.

    Attributes:
        adapter: read again from the new folder, and checked.
        alpha_source: where its scale came from: "file", "argument" or "assumed".
        base_checked: whether every module and shape was compared with the base model's own files.
    """

    adapter: Adapter
    alpha_source: str
    base_checked: bool = False


def convert_adapter(
    source: Path,
    destination: Path,
    base_model_name: str,
    *,
    lora_alpha: float | None = None,
    assumed_alpha: float | None = None,
) -> Conversion:
    """Write a PEFT adapter folder from an unpacked checkpoint.

    Needs memory for twice the largest tensor, whatever the size of the adapter.

    Args:
        source: a folder with adapter_model.safetensors and adapter_config.json.
        destination: an existing, empty folder.
        base_model_name: recorded in the new configuration. Where it is a folder or in the hub's cache, every module
            and shape is compared with its files; nothing is downloaded.
        lora_alpha: the value used in training, where the configuration is missing or does not say.
        assumed_alpha: the value to take, with a warning, where nobody says; None: that is an error.

    Raises:
        AdapterError: a tensor or setting that is not understood, no alpha, or another base model.
    """
    tensors = open_weights(source)
    updates = plan_updates(tensors.entries)
    _check_family(base_model_name, updates)
    base = base_modules(base_model_name)
    if base is not None:
        updates = [replace(update, module=fitting_name(update.module, base)) for update in updates]
        check_modules({u.module: (u.a.shape[1], u.b.shape[0], u.rank) for u in updates}, base)
    config, alpha_source = rebuilt_config(
        source / CONFIG_NAME, updates, base_model_name, lora_alpha=lora_alpha, assumed_alpha=assumed_alpha
    )
    halves = peft_names(updates)
    shapes = {name: (half.dtype, half.shape) for name, half in halves.items()}
    seen = _Numbers()
    write_tensors(destination / WEIGHTS_NAME, shapes, read_halves(tensors, halves, seen.check))
    files.write_json(destination / CONFIG_NAME, config)
    adapter = read_adapter(destination, effective=seen.effective)
    return Conversion(adapter, alpha_source, base_checked=base is not None)


class _Numbers:
    """Checks the tensors on their way from file to file, so that they need not be read twice."""

    effective = False

    def check(self, name: str, tensor: Any) -> None:
        self.effective |= check_finite(name, tensor) and ".lora_B." in name


def _check_family(base_model_name: str, updates: list[Update]) -> None:
    family = model_type(base_model_name) or Path(base_model_name).name
    if _MERGE_ONLY.match(family):
        raise AdapterError(
            f"Adapters of {family} cannot be converted: Tinker's own tools only merge them into the weights. Do that "
            "with build_hf_model of tinker-cookbook, and load the merged model."
        )
    expert = next((update for update in updates if expert_of(update.module)), None)
    if expert and (_FUSED_OTHERWISE.match(family) or any(".attn." in name for u in updates for name in u.origins)):
        raise AdapterError(
            f"{expert.a.sources[0]} changes experts of gpt-oss, whose gate and up are interleaved: PEFT can change "
            "no single one of them. Train without train_mlp, or merge with tinker-cookbook."
        )
