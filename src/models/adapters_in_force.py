"""Put a LoRA on a loaded model, and verify that exactly its tensors, at its scale, are in force.

PEFT 0.21 takes a list of modules and patterns and changes what it finds. So it is given the modules of the tensors, by
name, and afterwards every tensor in the model is compared with the file: none missing, none more, none different.
"""

import importlib.util
import logging
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from src.adapters import PREFIX, WEIGHTS_NAME, Adapter, check_against_base
from src.adapters.base_model import expert_modules, expert_of, fitting_name
from src.adapters.settings import named_by
from src.adapters.tensor_file import open_tensors
from src.errors import AdapterError, MissingExtraError
from src.models.adapter_layout import expected_tensors, module_in_model

log = logging.getLogger(__name__)

_NAME = "default"  # PEFT's for the only adapter of a model


def check_peft_is_here() -> None:
    """Raises MissingExtraError where peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("PEFT library not installed. Install it with: pip install 'peft>=0.18'")


def attach_adapter(model: nn.Module, adapter: Adapter) -> Any:
    """Put a LoRA on a loaded base model and verify that exactly its tensors are in force.

    The configuration given to PEFT is made from the checked one, not the file: a file from elsewhere holds settings
    that PEFT would act on, and patterns that it would run.

    Returns:
        a `peft.PeftModel` in evaluation mode.

    Raises:
        AdapterError: see `src.adapters`.
        MissingExtraError: peft is not installed.
    """
    check_peft_is_here()
    from peft import PeftModel

    base = linear_shapes(model)
    check_against_base(adapter, base)
    _check_targets(adapter)
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and "lm_head" in adapter.modules:
        log.warning("The adapter changes lm_head of a model with tied embeddings: never merge it into the weights.")
    names = {module: fitting_name(module, base) for module in adapter.modules}
    renamed = {rf"^{re.escape(old)}\.lora_": f"{new}.lora_" for old, new in names.items() if old != new}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers 5.23 in an old way
        # Missing tensors, and patterns that match nothing, are found below, exactly.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            tuned = PeftModel.from_pretrained(
                model, str(adapter.folder), config=_peft_config(adapter, names), key_mapping=renamed
            ).eval()
        except (RuntimeError, ValueError, KeyError) as error:
            raise AdapterError(f"PEFT cannot put {adapter.folder} on this model: {error!s:.500}") from error
    check_in_force(tuned, adapter)
    return tuned


def adapter_in_force(model: nn.Module) -> str | None:
    """The name of a model's adapter that is switched on; None where none is."""
    for module in model.modules():
        if hasattr(module, "lora_A"):
            layer: Any = module
            return None if layer.disable_adapters else layer.active_adapters[0]
    return None


def _peft_config(adapter: Adapter, names: Mapping[str, str]) -> Any:
    """The checked settings in PEFT's words: every module by its full name, ranks and alphas of the tensors."""
    from peft import LoraConfig

    modules, alphas = adapter.modules, adapter.alphas
    rank, alpha = adapter.config["r"], adapter.config["lora_alpha"]
    # PEFT knows experts only by the last part of their names, and takes r and lora_alpha for them.
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted({expert[2] if (expert := expert_of(new)) else new for new in names.values()}),
        rank_pattern={f"^{re.escape(names[m])}": r for m, (_, _, r) in modules.items() if r != rank},
        alpha_pattern={f"^{re.escape(names[m])}": a for m, a in alphas.items() if a != alpha},
        fan_in_fan_out=bool(adapter.config.get("fan_in_fan_out")),
        inference_mode=True,
    )


def _check_targets(adapter: Adapter) -> None:
    """A file whose target_modules leave tensors out means something else than its tensors."""
    targets = adapter.config.get("target_modules")
    if not isinstance(targets, list):
        return  # none, "all-linear" or a pattern: the tensors say what is meant
    named = {target: True for target in targets if isinstance(target, str)}
    left = [module for module in adapter.modules if named_by(named, [module]) is None]
    if left:
        raise AdapterError(
            f"target_modules in adapter_config.json leaves out {2 * len(left)} tensors of the file, the first of "
            f"{left[0]!r}. Add its name, or take the configuration that the weights came with."
        )


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Module path -> (in features, out features) of every linear layer, quantised or not, and of each expert."""
    shapes = {}
    family = str(getattr(model.config, "model_type", "")).removesuffix("_text")
    for path, module in model.named_modules():
        name = path.replace(".base_layer", "")  # where PEFT has wrapped it already
        if isinstance(module, nn.Linear):
            shapes[name] = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":  # GPT-2 stores (in, out)
            rows, columns = module.get_parameter("weight").shape
            shapes[name] = (rows, columns)
        elif name.endswith(".experts"):
            for leaf, parameter in module.named_parameters(recurse=False):
                shapes |= expert_modules(f"{name}.{leaf}", tuple(parameter.shape), family)
    return shapes


def check_in_force(model: Any, adapter: Adapter) -> None:
    """Whether exactly the adapter's tensors, at its scales, are in a `PeftModel`, and change what it says.

    Raises:
        AdapterError: naming the first tensor that is missing, additional, different or differently scaled; or the
            logits are those of the base model although some B is not zero.
    """
    base = linear_shapes(model.get_base_model())
    names = {module: fitting_name(module, base) for module in adapter.modules}
    loaded = {
        name.removeprefix(PREFIX).replace(f".{_NAME}.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    expected = expected_tensors(names)
    if missing := sorted(set(expected) ^ set(loaded)):
        raise AdapterError(
            f"After loading, the model and the adapter file differ in {len(missing)} tensors, the first "
            f"{missing[0]!r}: PEFT did not put it where it belongs. Is this model's class one of transformers' own?"
        )
    tensors = open_tensors(adapter.folder / WEIGHTS_NAME)
    for name, read in expected.items():
        if not torch.equal(loaded[name].cpu(), read(tensors).to(loaded[name].dtype)):
            raise AdapterError(f"After loading, {name} differs from the file.")
    _check_scales(model, adapter, names)
    _check_effect(model, adapter)


def _check_scales(model: Any, adapter: Adapter, names: Mapping[str, str]) -> None:
    modules, alphas = adapter.modules, adapter.alphas
    for module, name in names.items():
        wanted = alphas[module] / modules[module][2]
        found = model.get_submodule(PREFIX + module_in_model(name)).scaling[_NAME]
        if not math.isclose(found, wanted, rel_tol=1e-9):
            raise AdapterError(f"After loading, {module} is scaled by {found}; lora_alpha / r is {wanted}.")


def _check_effect(model: Any, adapter: Adapter) -> None:
    if not adapter.effective:
        log.warning("Every lora_B of %s is zero: the adapter changes nothing.", adapter.folder)
        return
    ids = torch.arange(1, 9, device=model.get_input_embeddings().weight.device)[None]
    with torch.inference_mode():
        with_adapter = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            without = model(input_ids=ids, use_cache=False).logits
    if torch.equal(with_adapter, without):
        raise AdapterError(f"{adapter.folder} was loaded but the logits did not change: it is not in force.")
