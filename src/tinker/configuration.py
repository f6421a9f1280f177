"""A checkpoint's adapter_config.json -> PEFT's: every value from the tensors that can be had from them."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.adapters.base_model import expert_of
from src.adapters.folder import read_config
from src.adapters.settings import check_patterns_are_used, is_alpha, is_rank, named_by
from src.errors import AdapterError
from src.tinker.updates import Update

log = logging.getLogger(__name__)


def rebuilt_config(
    path: Path,
    updates: list[Update],
    base_model_name: str,
    *,
    lora_alpha: float | None,
    assumed_alpha: float | None,
) -> tuple[dict[str, Any], str]:
    """PEFT's settings for the updates, and where alpha came from ("file", "argument" or "assumed").

    Raises:
        AdapterError: no alpha, a rank that contradicts the tensors, or a setting that is not supported.
    """
    given = read_config(path) if path.is_file() else {}
    check_patterns_are_used(given, [name for update in updates for name in (update.module, *update.origins)])
    default, source = _alpha(given, path, lora_alpha, assumed_alpha)
    ranks = _checked_ranks(given, updates)
    alphas = {update.module: _alpha_of(update, given.get("alpha_pattern") or {}, default) for update in updates}
    # Where there are experts, r and lora_alpha are theirs and the others stand in the patterns: PEFT fuses experts with
    # these two, whatever a pattern says.
    typical = [module for module in ranks if expert_of(module)] or list(ranks)
    rank = _usual([ranks[module] for module in typical], given.get("r"))
    alpha = _usual([alphas[module] for module in typical], default)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        # From the tensors, never from the file: a null there means q_proj and v_proj only to PEFT.
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": _pattern(alphas, alpha),
        "inference_mode": True,
    }
    _check_experts_are_uniform(config)
    return config, source


def _usual(values: list[Any], said: Any) -> Any:
    return said if said in values else Counter(values).most_common(1)[0][0]


def _alpha(given: Mapping[str, Any], path: Path, lora_alpha: float | None, assumed: float | None) -> tuple[float, str]:
    alpha, source = (lora_alpha, "argument") if lora_alpha is not None else (given.get("lora_alpha"), "file")
    if alpha is None:
        lacking = "lora_alpha is not in adapter_config.json" if path.is_file() else "adapter_config.json not found"
        if assumed is None:
            raise AdapterError(
                f"{lacking}, and lora_alpha cannot be read from the weights. A wrong value changes every logit without "
                "a warning. Pass lora_alpha=... (the value used in training; Tinker's own is 32)."
            )
        alpha, source = assumed, "assumed"
        log.warning("%s: lora_alpha=%s is assumed. Pass lora_alpha=... if you know better.", lacking, alpha)
    if not is_alpha(alpha):
        raise AdapterError(f"lora_alpha is {alpha!r:.80}; a number above 0 is needed.")
    return alpha, source


def _checked_ranks(given: Mapping[str, Any], updates: list[Update]) -> dict[str, int]:
    """Module -> rank of its tensors, which the file may say of all, of some by a pattern, or not at all."""
    said, pattern = given.get("r"), given.get("rank_pattern") or {}
    if said is not None and not is_rank(said):
        raise AdapterError(f"adapter_config.json has r={said!r:.80}; the rank must be a whole number of at least 1.")
    found = {update.module: update.rank for update in updates}
    unexplained = []
    for update in updates:
        trained = update.rank // len(update.origins)
        named = named_by(pattern, (*update.origins, update.module))
        if named is None:
            unexplained.append((update, trained))
        elif named != trained:
            raise _wrong_rank(update.a.sources[0], trained, named)
    other = [(update, rank) for update, rank in unexplained if said is not None and rank != said]
    # A rank that no tensor has belongs to another adapter. One that some have leaves the others their own; but how
    # experts of another rank were scaled in training is not documented.
    if other and len(other) == len(unexplained):
        raise _wrong_rank(other[0][0].a.sources[0], other[0][1], said)
    if expert := next(((update, rank) for update, rank in other if expert_of(update.module)), None):
        raise _wrong_rank(expert[0].a.sources[0], expert[1], said)
    if said is None and len({rank for _, rank in unexplained}) > 1:
        ranks = sorted({rank for _, rank in unexplained})
        raise AdapterError(f"The tensors have the ranks {ranks}, and no r in adapter_config.json says which is meant.")
    return found


def _wrong_rank(name: str, found: int, said: Any) -> AdapterError:
    return AdapterError(
        f"{name}: the tensors have rank {found}, adapter_config.json says {said}. A wrong rank scales the update "
        "wrongly: use the configuration that the weights came with, or name the module in its rank_pattern."
    )


def _alpha_of(update: Update, pattern: Mapping[str, float], default: float) -> float:
    """Fused updates of n times the rank need n times the alpha: the scale alpha / r stays."""
    named = {named_by(pattern, (origin, update.module)) or default for origin in update.origins}
    if len(named) > 1:
        raise AdapterError(
            f"alpha_pattern gives the parts of {update.module} different values, {sorted(named)}: they cannot be fused."
        )
    return named.pop() * len(update.origins)


def _pattern(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """The modules whose value is another: by the last part of the name where all of that name agree, else in full."""
    by_leaf: dict[str, set[Any]] = {}
    for module, value in values.items():
        by_leaf.setdefault(module.rpartition(".")[2], set()).add(value)
    pattern = {}
    for module, value in values.items():
        leaf = module.rpartition(".")[2]
        if value != default:
            pattern[leaf if len(by_leaf[leaf]) == 1 else module] = value
    return pattern


def _check_experts_are_uniform(config: Mapping[str, Any]) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        if expert := next((module for module in config[key] if expert_of(module)), None):
            raise AdapterError(
                f"{expert} differs from other experts in {key.partition('_')[0]} ({config[key][expert]}): PEFT holds "
                "all experts of a block in one tensor of one rank and scale."
            )
