"""Which modules a base model has, read from its safetensors headers, and whether an adapter fits them.

Only config.json and the headers are read: a 60 GB model takes a moment, and nothing is downloaded.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src import storage
from src.adapters.folder import Adapter
from src.adapters.settings import parse_object
from src.adapters.tensor_file import open_tensors
from src.errors import AdapterError

Modules = Mapping[str, tuple[int, int]]

_MAX_JSON_BYTES = 64 << 20  # the index of a mixture of experts lists tens of thousands of tensors
_EXPERT = re.compile(r"(?P<group>.+\.experts)\.(?P<number>[0-9]+)\.(?P<leaf>gate_proj|up_proj|down_proj)")
# Families whose fused experts are (experts, out, in) with the gate before up: PEFT puts per-expert updates into these.
FUSED_EXPERTS = ("qwen2_moe", "qwen3_moe")
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
_TEXT = ("model.layers.", "model.language_model.layers.")


def base_modules(base_model: str | Path) -> dict[str, tuple[int, int]] | None:
    """Module path -> (in features, out features) of a base model that lies on this machine.

    Args:
        base_model: a folder, or the hub id of a model in the hub's cache (which is not filled).

    Returns:
        its modules, the experts of a mixture one by one; None where the model is not here, or not in safetensors, or
        quantised (then the shapes in the file are not those of the modules).

    Raises:
        AdapterError: its files are there and cannot be read.
    """
    folder = _local_folder(base_model)
    if folder is None:
        return None
    config = _read_json(folder / "config.json")
    files = _weight_files(folder)
    if files is None or config.get("quantization_config"):
        return None
    shapes = {name: entry.shape for file in files for name, entry in open_tensors(file).entries.items()}
    return _modules(shapes, _model_type(config))


def model_type(base_model: str | Path) -> str | None:
    """The family in a local base model's config.json; None where it is not here. Raises AdapterError."""
    folder = _local_folder(base_model)
    return None if folder is None else _model_type(_read_json(folder / "config.json"))


def _model_type(config: Mapping[str, Any]) -> str:
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("model_type")
    return found.removesuffix("_text") if isinstance(found, str) else ""


def _local_folder(base_model: str | Path) -> Path | None:
    folder = storage.local(base_model)
    if (folder / "config.json").is_file():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(base_model)):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(str(base_model), "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _weight_files(folder: Path) -> list[Path] | None:
    index = folder / "model.safetensors.index.json"
    names: list[Any] = ["model.safetensors"]
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
            raise AdapterError(f"{index} does not name safetensors files of its folder. Download the base model again.")
    files = [folder / name for name in sorted(set(names))]
    return files if all(file.is_file() for file in files) else None


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise AdapterError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_JSON_BYTES:,} are read.")
    text = path.read_bytes().decode("utf-8", errors="replace")
    return parse_object(text, name=str(path), limit=_MAX_JSON_BYTES)


def _modules(shapes: Mapping[str, tuple[int, ...]], family: str) -> dict[str, tuple[int, int]]:
    modules: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        if len(shape) == 3:
            modules |= expert_modules(name, shape, family)
        elif len(shape) == 2 and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            # GPT-2 stores (in, out), and its files may lack the outermost name.
            transposed = family == "gpt2" and module.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc")
            if family == "gpt2":
                module = f"transformer.{module.removeprefix('transformer.')}"
            modules[module] = (shape[0], shape[1]) if transposed else (shape[1], shape[0])
    embedding = next((modules[name] for name in modules if name.endswith(("embed_tokens", ".wte"))), None)
    if "lm_head" not in modules and embedding is not None:
        modules["lm_head"] = embedding  # tied: the file holds the matrix once
    return modules


def expert_modules(name: str, shape: tuple[int, ...], family: str) -> dict[str, tuple[int, int]]:
    """The single experts of a fused parameter `....experts.gate_up_proj` or `.down_proj`, as modules; none: no such."""
    group, _, leaf = name.rpartition(".")
    if family not in FUSED_EXPERTS or not group.endswith(".experts") or len(shape) != 3:
        return {}
    experts, out, into = shape
    sizes = {"gate_up_proj": {"gate_proj": out // 2, "up_proj": out // 2}, "down_proj": {"down_proj": out}}
    return {
        f"{group}.{number}.{part}": (into, size)
        for part, size in sizes.get(leaf, {}).items()
        for number in range(experts)
    }


def expert_of(module: str) -> tuple[str, int, str] | None:
    """`G.experts.3.up_proj` -> ("G.experts", 3, "up_proj"); None for other modules."""
    found = _EXPERT.fullmatch(module)
    return (found["group"], int(found["number"]), found["leaf"]) if found else None


def fitting_name(module: str, base: Modules) -> str:
    """A module's name in `base`: some classes of a model hold the text part as `model.language_model`, some not."""
    if module not in base:
        for ours, theirs in (_TEXT, _TEXT[::-1]):
            other = module.replace(ours, theirs, 1) if module.startswith(ours) else module
            if other in base:
                return other
    return module


def check_against_base(adapter: Adapter, linear: Modules) -> None:
    """Every module of the adapter must exist in the base model, with its shape.

    Args:
        adapter: what `read_adapter` returned.
        linear: module path -> (in features, out features) of the base model.

    Raises:
        AdapterError: naming the first module that is missing, or both shapes where they differ.
    """
    check_modules(adapter.modules, linear)


def check_modules(modules: Mapping[str, tuple[int, int, int]], linear: Modules) -> None:
    """As `check_against_base`, of module path -> (in features, out features, rank)."""
    for module, (in_features, out_features, _) in modules.items():
        fitting = fitting_name(module, linear)
        if fitting not in linear:
            raise AdapterError(
                f"The base model has no module {module!r}, which the adapter changes (one that it has: "
                f"{next(iter(linear), 'none')!r}). Was the adapter trained on another base model?"
            )
        if linear[fitting] != (in_features, out_features):
            raise AdapterError(
                f"{module}: the adapter was made for {in_features} -> {out_features} features, the base model "
                f"has {linear[fitting][0]} -> {linear[fitting][1]}. Was it trained on another base model?"
            )
    _check_all_experts(modules, linear)


def _check_all_experts(modules: Mapping[str, Any], linear: Modules) -> None:
    """Experts are one tensor in the loaded model, gate and up together: an update of a part has no place there."""
    present = {fitting_name(module, linear) for module in modules}
    groups = {(found[0], _fused(found[2])) for found in map(expert_of, present) if found}
    if not groups:
        return
    for module in linear:
        found = expert_of(module)
        if found and (found[0], _fused(found[2])) in groups and module not in present:
            raise AdapterError(
                f"The adapter changes a part of the experts {found[0]!r}, but not {module!r}. All of them are needed, "
                "gate_proj and up_proj together: was it trained on another base model?"
            )


def _fused(leaf: str) -> str:
    return "down_proj" if leaf == "down_proj" else "gate_up_proj"
