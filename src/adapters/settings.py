"""adapter_config.json: the settings that determine numbers, read as if the file came from an enemy."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from src import files
from src.errors import AdapterError

T = TypeVar("T")

_KEPT = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern",
         "fan_in_fan_out")  # fmt: skip
# Settings that change numbers in a way this library does not reproduce: refused unless neutral.
_UNSUPPORTED = ("use_dora", "use_rslora", "modules_to_save", "layers_to_transform", "layer_replication",
                "lora_bias", "trainable_token_indices", "target_parameters", "alora_invocation_tokens",
                "use_qalora", "use_bdlora", "arrow_config", "loftq_config", "exclude_modules",
                "layers_pattern", "ensure_weight_tying", "velora_config")  # fmt: skip
# Initialisations that leave the base model as it is. Others (pissa, olora, corda, loftq, lora_ga) take something out of
# its weights, and PEFT does so again whenever such an adapter is loaded.
_BASE_KEPT = (None, True, False, "gaussian", "eva", "orthogonal")
MAX_CONFIG_BYTES = 1 << 20


def parse_config(text: str, *, name: str = "adapter_config.json") -> dict[str, Any]:
    """The settings of an adapter_config.json that determine numbers. Raises AdapterError."""
    raw = parse_object(text, name=name, limit=MAX_CONFIG_BYTES)
    for key in _UNSUPPORTED:
        if raw.get(key):
            raise AdapterError(
                f"{name} sets {key}={raw[key]!r:.80}, which changes numbers in a way that is not supported. "
                "Train or export the adapter as a plain LoRA."
            )
    if raw.get("init_lora_weights") not in _BASE_KEPT:
        raise AdapterError(
            f"{name} sets init_lora_weights={raw['init_lora_weights']!r:.80}: its training began by "
            "changing the weights of the base model. Save it as a plain LoRA, in PEFT with "
            "path_initial_model_for_weight_conversion."
        )
    if raw.get("bias") not in (None, "none"):
        raise AdapterError(f"{name} sets bias={raw['bias']!r:.80}: LoRA with trained biases is not supported.")
    _check_pattern(raw, "rank_pattern", is_rank)
    _check_pattern(raw, "alpha_pattern", is_alpha)
    return {key: raw[key] for key in _KEPT if raw.get(key) is not None}


def _check_pattern(raw: Mapping[str, Any], key: str, allowed: Any) -> None:
    pattern = raw.get(key) or {}
    if not isinstance(pattern, dict) or not all(allowed(value) for value in pattern.values()):
        raise AdapterError(f"{key} is {pattern!r:.80}; an object of module names and numbers above 0 is needed.")


def is_rank(value: Any) -> bool:
    """Whether this can be the rank of an update: a whole number of at least 1."""
    return type(value) is int and value >= 1


def is_alpha(value: Any) -> bool:
    """Whether this can be lora_alpha: a number above 0 (JSON knows whole numbers that no float can hold)."""
    return type(value) in (int, float) and 0 < value < 1e300


def parse_object(text: str, *, name: str, limit: int) -> dict[str, Any]:
    """A JSON object without NaN or duplicate keys. Raises AdapterError, calling the text `name`."""
    if len(text) > limit:
        raise AdapterError(f"{name} has {len(text):,} characters; at most {limit:,} are read.")
    try:
        raw = files.strict_json(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise AdapterError(f"{name} holds a {type(raw).__name__}, not an object of settings.")
    return raw


def named_by(pattern: Mapping[str, T], names: Iterable[str]) -> T | None:
    """The value that a rank_pattern or alpha_pattern has for a module, under any of its names; None: it has none.

    A key is the module's name or its last parts, compared letter by letter: PEFT takes it for a regular expression, and
    one from a file could run for ever. Of several keys the first counts, as in PEFT.
    """
    fitting = pattern.keys() & {end for name in names for end in _ends(name)} if pattern else set()
    return next((pattern[key] for key in pattern if key in fitting), None)


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[n:]) for n in range(len(parts))]


def check_patterns_are_used(config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Refuse a pattern that names no module: it was meant to change numbers, and would not."""
    asked = [(key, name) for key in ("rank_pattern", "alpha_pattern") for name in config.get(key) or {}]
    if not asked:
        return
    names = list(modules)
    ends = {end for name in names for end in _ends(name)}
    for key, name in asked:
        if name not in ends:
            raise AdapterError(
                f"{key} in adapter_config.json names {name!r:.80}, which is no module of the adapter (names are "
                f"compared letter by letter; one module is {names[0]!r:.200}). Write the module's name."
            )
