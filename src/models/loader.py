"""Load a Hugging Face model, quantised if wanted, with a LoRA adapter that is verified to be in force."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from src.adapters import PREFIX, WEIGHTS_NAME, Adapter, check_against_base, read_adapter, read_tensors
from src.errors import AdapterError, ConfigError, MissingExtraError, ModelError

log = logging.getLogger(__name__)

Quantization = Literal["8bit", "4bit"]
DTYPES = ("auto", "float32", "bfloat16", "float16")


class ModelLoader:
    """Loads a causal language model and its tokenizer.

    Args:
        model_name: a hub id or a local folder.
        tinker_lora_path: a PEFT LoRA folder, as `download_and_convert_weights` returns it.
        quantization: "8bit" or "4bit" (bitsandbytes, extra `quant`), or None.
        dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
        revision: a branch, tag or commit of the hub repository.
    """

    def __init__(
        self,
        model_name: str,
        tinker_lora_path: str | Path | None = None,
        quantization: Quantization | None = None,
        *,
        dtype: str = "auto",
        revision: str | None = None,
    ):
        self.model_name = str(model_name)
        self.tinker_lora_path = tinker_lora_path
        self.quantization = quantization
        self.dtype = dtype
        self.revision = revision

    def load(self, quantization: Quantization | None = None) -> tuple[Any, Any]:
        """Load both; the model is in evaluation mode.

        Args:
            quantization: as in the constructor; given here it wins.

        Returns:
            `(model, tokenizer)`. With an adapter the model is a `PeftModel`, and the base model is had back
            by `with model.disable_adapter()`.

        Raises:
            ConfigError: two different quantizations, or an unknown one.
            ModelError: no such model, or not a causal language model.
            AdapterError: the adapter does not fit, or is not in force after loading.
            MissingExtraError: bitsandbytes or peft is not installed.
        """
        quantization = self._one_quantization(quantization)
        # The adapter is checked first: reading it takes a moment, loading the base model takes minutes.
        adapter = read_adapter(self.tinker_lora_path) if self.tinker_lora_path is not None else None
        model, tokenizer = self._load_base(quantization)
        if adapter is not None:
            model = attach_adapter(model, adapter)
        return model.eval(), tokenizer

    def _one_quantization(self, argument: Quantization | None) -> Quantization | None:
        if argument and self.quantization and argument != self.quantization:
            raise ConfigError(
                f"ModelLoader was given quantization={self.quantization!r} and load() {argument!r}. Give one."
            )
        chosen = argument or self.quantization
        if chosen not in (None, "8bit", "4bit"):
            raise ConfigError(f"quantization={chosen!r} is unknown. Choose '8bit', '4bit' or None.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} is unknown. Choose one of {', '.join(DTYPES)}.")
        return chosen

    def _load_base(self, quantization: Quantization | None) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        self._check_folder()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model_name, **where)
            model = AutoModelForCausalLM.from_pretrained(
                self.model_name, dtype=self._torch_dtype(), **where, **_placement(quantization)
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"The model {self.model_name!r} could not be loaded: {error}") from error
        return model, tokenizer

    def _check_folder(self) -> None:
        path = Path(self.model_name)
        if path.is_dir() and not (path / "config.json").is_file():
            raise ModelError(f"The folder {path} has no config.json: give the folder of a Hugging Face model.")
        looks_local = self.model_name.startswith((".", "/", "~")) or self.model_name.count("/") > 1
        if looks_local and not path.exists():
            raise ModelError(f"There is no model folder {self.model_name}. Check model.name.")

    def _torch_dtype(self) -> Any:
        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)


def _placement(quantization: Quantization | None) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    if quantization is None:
        return {"device_map": "auto"} if cuda else {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"quantization={quantization!r} needs bitsandbytes: pip install 'llm-confidence-probing[quant]'"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=quantization == "8bit", load_in_4bit=quantization == "4bit")
    return {"quantization_config": config, "device_map": "auto" if cuda else {"": "cpu"}}


def attach_adapter(model: nn.Module, adapter: Adapter) -> Any:
    """Put a LoRA on a loaded base model and verify that exactly its tensors are in force.

    The configuration given to PEFT is the checked one, not the file: a file from elsewhere holds settings
    that PEFT would act on.

    Returns:
        a `peft.PeftModel` in evaluation mode.

    Raises:
        AdapterError: see `src.adapters`.
        MissingExtraError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("PEFT library not installed. Install it with: pip install 'peft>=0.18'")
    from peft import LoraConfig, PeftModel

    check_against_base(adapter, linear_shapes(model))
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and "lm_head" in adapter.modules:
        log.warning("The adapter changes lm_head of a model with tied embeddings: never merge it into the weights.")
    settings = {key: value for key, value in adapter.config.items() if key != "peft_type"}
    tuned = PeftModel.from_pretrained(model, str(adapter.folder), config=LoraConfig(**settings)).eval()
    _check_in_force(tuned, adapter)
    return tuned


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Module path -> (in features, out features) of every linear layer, quantised or not."""
    shapes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            shapes[name] = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":  # GPT-2 stores (in, out)
            rows, columns = module.get_parameter("weight").shape
            shapes[name] = (rows, columns)
    return shapes


def _check_in_force(model: nn.Module, adapter: Adapter) -> None:
    loaded = {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    if missing := sorted(set(adapter.shapes) ^ set(loaded)):
        raise AdapterError(
            f"After loading, the model and the adapter file differ in {len(missing)} tensors, the first "
            f"{missing[0]!r}. Check target_modules in adapter_config.json against the tensors."
        )
    for name, tensor in read_tensors(adapter.folder / WEIGHTS_NAME).items():
        if not torch.equal(loaded[name].cpu(), tensor.to(loaded[name].dtype)):
            raise AdapterError(f"After loading, {name.removeprefix(PREFIX)} differs from the file.")
    _check_effect(model, adapter)


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
