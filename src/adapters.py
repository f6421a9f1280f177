"""What a LoRA adapter folder is, and whether it is sound.

PEFT loads broken adapters without a word (a wrong prefix, a missing half, NaN, keys for modules that the
base lacks: measured with 0.21), so everything it would accept is checked here: by the converter before it
publishes a folder, by the loader before and after PEFT has read it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import files
from src.errors import AdapterError, IntegrityError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MARKER = "confprobe.json"  # written last by the conversion, with what it was made of
PREFIX = "base_model.model."

_KEPT = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern",
         "fan_in_fan_out")  # fmt: skip
# Settings that change numbers in a way this library does not reproduce: refused unless neutral.
_UNSUPPORTED = ("use_dora", "use_rslora", "modules_to_save", "layers_to_transform", "layer_replication",
                "lora_bias", "trainable_token_indices", "target_parameters", "alora_invocation_tokens",
                "use_qalora", "use_bdlora", "arrow_config", "loftq_config", "exclude_modules",
                "layers_pattern", "ensure_weight_tying", "velora_config")  # fmt: skip
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Adapter:
    """A checked LoRA folder.

    Attributes:
        folder: where it lies.
        config: the settings that determine numbers, and no others.
        shapes: tensor name -> shape, for every tensor of the file.
        effective: False where every B is zero, so that the adapter changes nothing.
    """

    folder: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    effective: bool

    @property
    def modules(self) -> dict[str, tuple[int, int, int]]:
        """Base module path -> (in features, out features, rank)."""
        found = {}
        for module in module_names(self.shapes):
            a, b = (self.shapes[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
            found[module] = (a[1], b[0], a[0])
        return found


def module_names(names: Mapping[str, Any]) -> list[str]:
    """The base modules that LoRA tensor names speak of, in the order of the names, each once."""
    return list(dict.fromkeys(name.removeprefix(PREFIX).split(".lora_")[0] for name in names))


def read_adapter(folder: str | Path) -> Adapter:
    """Read and check a PEFT LoRA folder; nothing is executed and nothing pickled is opened.

    Raises:
        IntegrityError: weights that are not those this library converted.
        AdapterError: a missing file, a setting that changes numbers and is not supported, halves without
            their partner, ranks that disagree, NaN or infinity.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_NAME)
    _check_unchanged(folder)
    shapes, effective = _read_shapes(folder / WEIGHTS_NAME)
    adapter = Adapter(folder, config, shapes, effective)
    _check_ranks(adapter)
    return adapter


def _check_unchanged(folder: Path) -> None:
    """Weights that were converted by this library must be the ones it wrote; the configuration may be edited."""
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"][WEIGHTS_NAME]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if (folder / WEIGHTS_NAME).is_file() and files.sha256_of_file(folder / WEIGHTS_NAME) != made:
        raise IntegrityError(f"{folder / WEIGHTS_NAME} is not what was converted: it is damaged. Convert it again.")


def parse_config(text: str, *, name: str = CONFIG_NAME) -> dict[str, Any]:
    """The settings of an adapter_config.json that determine numbers. Raises AdapterError."""
    if len(text) > _MAX_CONFIG_BYTES:
        raise AdapterError(f"{name} has {len(text):,} characters; a LoRA configuration has under 10,000.")
    try:
        raw = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise AdapterError(f"{name} holds a {type(raw).__name__}, not an object of settings.")
    for key in _UNSUPPORTED:
        if raw.get(key):
            raise AdapterError(
                f"{name} sets {key}={raw[key]!r:.80}, which changes numbers in a way that is not supported. "
                "Train or export the adapter as a plain LoRA."
            )
    if raw.get("bias") not in (None, "none"):
        raise AdapterError(f"{name} sets bias={raw['bias']!r}: LoRA with trained biases is not supported.")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(raw.get(key) or {}, dict):
            raise AdapterError(f"{name} sets {key}={raw[key]!r:.80}; an object of patterns is needed.")
    return {key: raw[key] for key in _KEPT if raw.get(key) is not None}


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that JSON knows")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if duplicate := next((key for key in keys if keys.count(key) > 1), None):
        raise ValueError(f"the key {duplicate!r} occurs twice")
    return dict(pairs)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AdapterError(
            f"adapter_config.json not found in {path.parent}. Give the folder that "
            "download_and_convert_weights returned (it ends in peft_adapter), or a PEFT LoRA folder."
        )
    config = parse_config(path.read_bytes().decode("utf-8", errors="replace"))
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} has peft_type={config.get('peft_type')!r}; only LORA is supported.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise AdapterError(f"{path} has r={rank!r}; the rank must be a whole number of at least 1.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        raise AdapterError(
            f"{path} has lora_alpha={alpha!r}. It scales the whole update and cannot be read from the "
            "weights: write the value used in training into the file."
        )
    return config


def _read_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], bool]:
    if not path.is_file():
        other = next((p.name for p in sorted(path.parent.glob("adapter_model.*"))), None)
        hint = f"; {other} is a pickle and is not opened: save it as safetensors" if other else ""
        raise AdapterError(f"{path} not found{hint}.")
    shapes, effective = {}, False
    for name, tensor in read_tensors(path).items():
        check_finite(name, tensor)
        shapes[name] = tuple(tensor.shape)
        effective |= ".lora_B." in name and bool((tensor != 0).any())
    if not shapes:
        raise AdapterError(f"{path} holds no tensors: this adapter would change nothing.")
    _check_pairs(shapes)
    return shapes, effective


def read_tensors(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file, as torch tensors. Raises AdapterError where it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterError(f"{path} is not a readable safetensors file: {error}") from error


def check_finite(name: str, tensor: Any) -> None:
    """Refuse a tensor that is not floating point, or holds NaN or infinity."""
    if not tensor.dtype.is_floating_point:
        raise AdapterError(f"{name} has dtype {tensor.dtype}; LoRA weights are floating point.")
    if not bool(tensor.isfinite().all()):
        raise AdapterError(f"{name} holds NaN or infinity: the file is damaged or the training diverged.")


def _check_pairs(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        module, _, half = name.removeprefix(PREFIX).partition(".lora_")
        if not name.startswith(PREFIX) or half not in ("A.weight", "B.weight"):
            raise AdapterError(
                f"Unexpected tensor {name!r}: LoRA tensors are named "
                f"{PREFIX}<module>.lora_A.weight and .lora_B.weight. PEFT would drop it without a word."
            )
        if len(shape) != 2:
            raise AdapterError(f"{name} has shape {shape}; a LoRA half is a matrix.")
        partner = f"{PREFIX}{module}.lora_{'B' if half[0] == 'A' else 'A'}.weight"
        if partner not in shapes:
            raise AdapterError(f"{name} is there but {partner} is missing: half an update is none.")
    for module in module_names(shapes):
        a, b = (shapes[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
        if a[0] != b[1]:
            raise AdapterError(f"{module}: lora_A has shape {a} and lora_B {b}; the ranks {a[0]} and {b[1]} differ.")


def _check_ranks(adapter: Adapter) -> None:
    rank, pattern = adapter.config["r"], adapter.config.get("rank_pattern") or {}
    for module, (_, _, found) in adapter.modules.items():
        # Patterns are compared as literal names: a regular expression from a file could run for ever.
        expected = next((r for name, r in pattern.items() if _is_named(module, name)), rank)
        if found != expected:
            raise AdapterError(
                f"{module}: the tensors have rank {found}, adapter_config.json says {expected}. "
                "A wrong rank scales the update wrongly: use the configuration the weights came with."
            )


def _is_named(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def check_against_base(adapter: Adapter, linear: Mapping[str, tuple[int, int]]) -> None:
    """Every module of the adapter must exist in the base model, with its shape.

    Args:
        adapter: what `read_adapter` returned.
        linear: module path -> (in features, out features) of the base model.

    Raises:
        AdapterError: naming the first module that is missing, or both shapes where they differ.
    """
    for module, (in_features, out_features, _) in adapter.modules.items():
        if module not in linear:
            raise AdapterError(
                f"The base model has no module {module!r}, which the adapter changes (one that it has: "
                f"{next(iter(linear), 'none')!r}). Was the adapter trained on another base model?"
            )
        if linear[module] != (in_features, out_features):
            raise AdapterError(
                f"{module}: the adapter was made for {in_features} -> {out_features} features, the base model "
                f"has {linear[module][0]} -> {linear[module][1]}. Was it trained on another base model?"
            )
