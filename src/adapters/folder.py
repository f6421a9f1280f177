"""A LoRA folder read and checked as a whole: settings, tensors, and whether they belong together."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import files
from src.adapters.settings import (
    MAX_CONFIG_BYTES,
    check_patterns_are_used,
    is_alpha,
    is_rank,
    named_by,
    parse_config,
)
from src.adapters.tensor_file import TensorFile, TensorReader, check_finite, check_floating, open_tensors
from src.errors import AdapterError, IntegrityError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MARKER = "confprobe.json"  # written last by the conversion, with what it was made of
PREFIX = "base_model.model."


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

    @property
    def alphas(self) -> dict[str, float]:
        """Base module path -> lora_alpha: the update is alpha / rank · B @ A."""
        pattern = self.config.get("alpha_pattern") or {}
        return {
            module: named_by(pattern, [module]) or self.config["lora_alpha"] for module in module_names(self.shapes)
        }


def module_names(names: Iterable[str]) -> list[str]:
    """The base modules that LoRA tensor names speak of, in the order of the names, each once."""
    return list(dict.fromkeys(name.removeprefix(PREFIX).split(".lora_")[0] for name in names))


def read_adapter(folder: str | Path, *, effective: bool | None = None) -> Adapter:
    """Read and check a PEFT LoRA folder; nothing is executed and nothing pickled is opened.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        effective: whether any B differs from 0, where every number was seen already: then they are not read again.

    Raises:
        IntegrityError: weights that are not those this library converted.
        AdapterError: a missing file, a setting that changes numbers and is not supported, halves without
            their partner, ranks that disagree, NaN or infinity.
    """
    folder = Path(folder)
    config = _read_settings(folder / CONFIG_NAME)
    _check_unchanged(folder)
    tensors = open_weights(folder)
    shapes = {name: entry.shape for name, entry in tensors.entries.items()}
    _check_pairs(shapes)
    adapter = Adapter(folder, config, shapes, _check_numbers(tensors) if effective is None else effective)
    _check_ranks(adapter)
    check_patterns_are_used(config, adapter.modules)
    return adapter


def recorded_base(folder: str | Path) -> str | None:
    """The base model that adapter_config.json names; None where it names none, or cannot be read."""
    try:
        named = files.strict_json((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return named if isinstance(named, str) else None


def check_all_differ(adapters: Sequence[Adapter]) -> None:
    """Raise AdapterError where two have equal settings and weights, so that nothing is asked and counted twice."""
    seen: dict[str, Path] = {}
    for one in adapters if len(adapters) > 1 else ():
        content = files.sha256_of_json([one.config, files.sha256_of_file(one.folder / WEIGHTS_NAME)])
        if content in seen:
            raise AdapterError(f"{seen[content]} and {one.folder} are the same adapter. Leave one of them out.")
        seen[content] = one.folder


def _check_unchanged(folder: Path) -> None:
    """Weights that were converted by this library must be the ones it wrote; the configuration may be edited."""
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"][WEIGHTS_NAME]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if (folder / WEIGHTS_NAME).is_file() and files.sha256_of_file(folder / WEIGHTS_NAME) != made:
        raise IntegrityError(f"{folder / WEIGHTS_NAME} is not what was converted: it is damaged. Convert it again.")


def read_config(path: Path) -> dict[str, Any]:
    """`parse_config` of a file that is there. Raises AdapterError."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path} has {path.stat().st_size:,} bytes; a LoRA configuration has under 10,000.")
    return parse_config(path.read_bytes().decode("utf-8", errors="replace"))


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AdapterError(
            f"adapter_config.json not found in {path.parent}. Give the folder that "
            "download_and_convert_weights returned (it ends in peft_adapter), or a PEFT LoRA folder."
        )
    config = read_config(path)
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} has peft_type={config.get('peft_type')!r:.80}; only LORA is supported.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not is_rank(rank):
        raise AdapterError(f"{path} has r={rank!r:.80}; the rank must be a whole number of at least 1.")
    if not is_alpha(alpha):
        raise AdapterError(
            f"{path} has lora_alpha={alpha!r:.80}. It scales the whole update and cannot be read from the "
            "weights: write the value used in training into the file."
        )
    return config


def open_weights(folder: Path) -> TensorFile:
    """The weights of an adapter folder, header checked. Raises AdapterError where there are none to use."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        other = next((p.name for p in sorted(folder.glob("adapter_model.*")) if p.name != WEIGHTS_NAME), None)
        raise AdapterError(f"{path} not found{_why_not(other)}.")
    opened = open_tensors(path)
    if not opened.entries:
        raise AdapterError(f"{path} holds no tensors: this adapter would change nothing.")
    for name, entry in opened.entries.items():
        check_floating(name, entry)
    return opened


def _why_not(other: str | None) -> str:
    if other is None:
        return ""
    if other.endswith(".age"):
        return f"; {other} is encrypted: decrypt it with its key first"
    return f"; {other} is a pickle and is not opened: save it as safetensors"


def _check_numbers(tensors: TensorFile) -> bool:
    """Every tensor is finite; returns whether any B is not zero."""
    effective = False
    with TensorReader(tensors) as reader:
        for name in tensors.entries:
            anything = check_finite(name, reader.read(name))
            effective |= anything and ".lora_B." in name
    return effective


def _check_pairs(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        module, half = split_name(name)
        if len(shape) != 2:
            raise AdapterError(f"{name} has shape {shape}; a LoRA half is a matrix.")
        partner = f"{PREFIX}{module}.lora_{'B' if half == 'A' else 'A'}.weight"
        if partner not in shapes:
            raise AdapterError(f"{name} is there but {partner} is missing: half an update is none.")
    for module in module_names(shapes):
        check_one_rank(module, *(shapes[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB"))


def check_one_rank(module: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """The shapes of A (..., r, in) and B (..., out, r) must agree in r, and r must not be 0."""
    if a[-2] != b[-1] or not a[-2]:
        raise AdapterError(f"{module}: lora_A has shape {a} and lora_B {b}; the ranks {a[-2]} and {b[-1]} differ.")


def split_name(name: str) -> tuple[str, str]:
    """A LoRA tensor's name -> (module, "A" or "B"). Raises AdapterError where it is none."""
    module, _, half = name.removeprefix(PREFIX).partition(".lora_")
    if not name.startswith(PREFIX) or half not in ("A.weight", "B.weight"):
        raise AdapterError(
            f"Unexpected tensor {name!r:.200}: LoRA tensors are named "
            f"{PREFIX}<module>.lora_A.weight and .lora_B.weight. PEFT would drop it without a word."
        )
    return module, half[0]


def _check_ranks(adapter: Adapter) -> None:
    rank, pattern = adapter.config["r"], adapter.config.get("rank_pattern") or {}
    for module, (_, _, found) in adapter.modules.items():
        expected = named_by(pattern, [module]) or rank
        if found != expected:
            raise AdapterError(
                f"{module}: the tensors have rank {found}, adapter_config.json says {expected}. "
                "A wrong rank scales the update wrongly: use the configuration the weights came with."
            )
