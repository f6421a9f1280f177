"""What a LoRA adapter folder is, and whether it is sound.

    from src.adapters import check_against_base, read_adapter
    adapter = read_adapter("weights/mine/peft_adapter")        # settings and tensors, checked

PEFT loads broken adapters without a word (a wrong prefix, a missing half, NaN, keys for modules that the
base lacks: measured with 0.21), so everything it would accept is checked here: by the converter before it
publishes a folder, by the loader before and after PEFT has read it.

`settings` reads adapter_config.json, `tensor_file` a safetensors file tensor by tensor, `folder` both together,
`base_model` says which modules the base model has.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.adapters.base_model import base_modules, check_against_base, check_modules
    from src.adapters.folder import (
        CONFIG_NAME,
        MARKER,
        PREFIX,
        WEIGHTS_NAME,
        Adapter,
        check_all_differ,
        module_names,
        read_adapter,
    )
    from src.adapters.settings import parse_config
    from src.adapters.tensor_file import check_finite, read_tensors

__all__ = [
    "CONFIG_NAME",
    "MARKER",
    "PREFIX",
    "WEIGHTS_NAME",
    "Adapter",
    "base_modules",
    "check_against_base",
    "check_all_differ",
    "check_finite",
    "check_modules",
    "module_names",
    "parse_config",
    "read_adapter",
    "read_tensors",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "CONFIG_NAME": "folder",
        "MARKER": "folder",
        "PREFIX": "folder",
        "WEIGHTS_NAME": "folder",
        "Adapter": "folder",
        "base_modules": "base_model",
        "check_against_base": "base_model",
        "check_all_differ": "folder",
        "check_finite": "tensor_file",
        "check_modules": "base_model",
        "module_names": "folder",
        "parse_config": "settings",
        "read_adapter": "folder",
        "read_tensors": "tensor_file",
    },
)
