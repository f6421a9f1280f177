"""Load a Hugging Face model, quantised if wanted, with a LoRA adapter that is verified to be in force."""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from src.adapters import Adapter, check_against_base, check_all_differ, read_adapter
from src.errors import (
    ConfigError,
    CredentialsError,
    DownloadError,
    MissingExtraError,
    ModelError,
    ProbingError,
)
from src.models.adapters_in_force import attach_adapter, check_peft_is_here, linear_shapes

Quantization = Literal["8bit", "4bit"]
_ROOM = 1.3  # of a GPU's memory beside the weights, for reading and answering: so much in all for each byte of them
DTYPES = ("auto", "float32", "bfloat16", "float16")


class ModelLoader:
    """Loads a causal language model and its tokenizer.

    Args:
        model_name: a hub id or a local folder.
        tinker_lora_path: a PEFT LoRA folder, as `download_and_convert_weights` returns it.
        adapters: several such folders, to be switched on one loaded base model (`adapter_switch.switched_to`).
        quantization: "8bit" or "4bit" (bitsandbytes, extra `quant`), or None.
        dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
        revision: a branch, tag or commit of the hub repository.
        device_map: where the parts of a model go that is larger than one GPU, as transformers has it: "auto", or module
            -> device. None: the GPU where there is one.
        tp_plan: "auto" splits every matrix over the processes that `torchrun` started (tensor parallelism). Each of
            them must then make the same calls.
    """

    def __init__(
        self,
        model_name: str,
        tinker_lora_path: str | Path | None = None,
        quantization: Quantization | None = None,
        *,
        adapters: Sequence[str | Path] = (),
        dtype: str = "auto",
        revision: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        tp_plan: str | None = None,
    ):
        self.model_name = str(model_name)
        self.tinker_lora_path = tinker_lora_path
        self.adapters = tuple(adapters) if tinker_lora_path is None else (tinker_lora_path, *adapters)
        self.quantization = quantization
        self.dtype = dtype
        self.revision = revision
        self.device_map = device_map
        self.tp_plan = tp_plan

    def load(self, quantization: Quantization | None = None) -> tuple[Any, Any]:
        """Load both; the model is in evaluation mode.

        Args:
            quantization: as in the constructor; given here it wins.

        Returns:
            `(model, tokenizer)`. With an adapter the model is a `PeftModel`, and the base model is had back
            by `with model.disable_adapter()`. Of several adapters the first is in force.

        Raises:
            ConfigError: two different quantizations, or an unknown one; device_map beside tp_plan, or tp_plan in a
                process that torchrun did not start.
            ModelError: no such folder, or not a causal language model.
            DownloadError, CredentialsError: the hub does not give the model.
            AdapterError: an adapter does not fit, or is not in force after loading; or two are the same.
            MissingExtraError: bitsandbytes or peft is not installed.
        """
        quantization = self._one_quantization(quantization)
        _, adapters = self._check(quantization)
        model, tokenizer = self._load_base(quantization)
        if adapters and (away := sum(parameter.is_meta for parameter in model.parameters())):
            raise ModelError(
                f"{away} tensors of {self.model_name} lie in memory or on disk, because no GPU has room for them, and "
                "an adapter cannot be put on those. Use more GPUs, or a quantization."
            )
        if adapters:
            model = attach_adapter(model, *adapters)
        return model.eval(), tokenizer

    def skeleton(self) -> Any:
        """The model without its weights (on the meta device): everything that can be found wrong before loading.

        Reads the configuration only, so it takes a moment where loading takes minutes. An adapter is checked
        against it.

        Raises:
            as `load`.
        """
        from transformers import GenerationConfig

        quantization = self._one_quantization(None)
        model = self._check(quantization)[0]
        # As transformers marks a model that it has loaded so, and the settings that it finds beside the weights.
        model.is_loaded_in_8bit, model.is_loaded_in_4bit = quantization == "8bit", quantization == "4bit"
        with contextlib.suppress(OSError):  # many models have none
            model.generation_config = GenerationConfig.from_pretrained(self.model_name, **self._where())
        return model

    def tokenizer(self) -> Any:
        """The tokenizer alone. Raises as `load`."""
        from transformers import AutoTokenizer

        self._check_folder()
        with self._loading_errors():
            return AutoTokenizer.from_pretrained(self.model_name, **self._where())

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
        if self.tp_plan is not None and self.device_map is not None:
            raise ConfigError("tp_plan and device_map both say where the model goes. Give one.")
        if self.tp_plan is not None and "LOCAL_RANK" not in os.environ:
            raise ConfigError(
                f"tp_plan={self.tp_plan!r} splits the model over processes, and this one is alone: start it with "
                "torchrun --nproc-per-node N."
            )
        return chosen

    def _check(self, quantization: Quantization | None) -> tuple[Any, list[Adapter]]:
        _check_extras(quantization, self.adapters)
        adapters = [read_adapter(folder) for folder in self.adapters]
        check_all_differ(adapters)
        model = self._empty_model()
        for adapter in adapters:
            check_against_base(adapter, linear_shapes(model))
        return model, adapters

    def _empty_model(self) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        self._check_folder()
        with self._loading_errors():
            config = AutoConfig.from_pretrained(self.model_name, **self._where())
            dtype = config.dtype if self.dtype == "auto" else self._torch_dtype()
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)

    def _load_base(self, quantization: Quantization | None) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM

        tokenizer = self.tokenizer()
        with self._loading_errors():
            loading: Any = AutoModelForCausalLM.from_pretrained(
                self.model_name, dtype=self._torch_dtype(), output_loading_info=True,
                **self._where(), **_precision(quantization), **self._placement(quantization),
            )  # fmt: skip
        model, loaded = loading
        if missing := sorted(loaded["missing_keys"]):
            raise ModelError(
                f"{self.model_name} has no weights for {len(missing)} tensors that its config.json asks for, the first "
                f"{missing[0]!r}: they would be random. Download the model again, or mend config.json."
            )
        return model, tokenizer

    def _placement(self, quantization: Quantization | None) -> dict[str, Any]:
        if self.tp_plan is not None:
            return {"tp_plan": self.tp_plan}
        if self.device_map is not None:
            return {"device_map": self.device_map}
        if torch.cuda.is_available():
            return {"device_map": self._gpus(quantization)}
        return {} if quantization is None else {"device_map": {"": "cpu"}}

    def _gpus(self, quantization: Quantization | None) -> Any:
        """The GPU with the most free memory where it holds the model; else all of them ("auto" always takes all)."""
        free = [torch.cuda.mem_get_info(device)[0] for device in range(torch.cuda.device_count())]
        needed = sum(p.numel() * p.element_size() for p in self._empty_model().parameters())
        share = {"8bit": 0.5, "4bit": 0.25}.get(quantization or "", 1.0)
        place = free.index(max(free))
        return {"": place} if needed * share * _ROOM <= free[place] else "auto"

    def _where(self) -> dict[str, Any]:
        return {"revision": self.revision} if self.revision else {}

    @contextlib.contextmanager
    def _loading_errors(self) -> Iterator[None]:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            StrictDataclassError,
        )
        from safetensors import SafetensorError

        try:
            yield
        # A configuration from elsewhere may be wrong in any way, and transformers checks little of it itself.
        except (
            OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, ImportError,
            SafetensorError, StrictDataclassError,
        ) as error:  # fmt: skip
            if isinstance(error, ProbingError):
                raise
            cause = error.__cause__ or error
            if isinstance(cause, GatedRepoError):
                raise CredentialsError(
                    f"The model {self.model_name!r} is gated: ask for access on its page on the hub and set HF_TOKEN."
                ) from error
            if isinstance(cause, LocalEntryNotFoundError | HfHubHTTPError | ConnectionError):
                raise DownloadError(
                    f"The model {self.model_name!r} is no local folder, and could not be fetched from the Hugging Face "
                    "hub. Check the name and the network, or give the folder of a model."
                ) from error
            reason = " ".join(str(error).split())
            raise ModelError(f"The model {self.model_name!r} could not be loaded: {reason:.500}") from error

    def _check_folder(self) -> None:
        path = Path(self.model_name)
        if path.is_dir() and not (path / "config.json").is_file():
            raise ModelError(f"The folder {path} has no config.json: give the folder of a Hugging Face model.")
        looks_local = self.model_name.startswith((".", "/", "~")) or self.model_name.count("/") > 1
        if looks_local and not path.exists():
            raise ModelError(f"There is no model folder {self.model_name}. Check model.name.")

    def _torch_dtype(self) -> Any:
        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)


def _check_extras(quantization: Quantization | None, adapters: Sequence[str | Path]) -> None:
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"bitsandbytes library not installed, and quantization={quantization!r} needs it. Install it with: "
            "pip install 'bitsandbytes>=0.48'"
        )
    if adapters:
        check_peft_is_here()


def _precision(quantization: Quantization | None) -> dict[str, Any]:
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_no_casting_notice)
    config = BitsAndBytesConfig(load_in_8bit=quantization == "8bit", load_in_4bit=quantization == "4bit")
    return {"quantization_config": config}


def _no_casting_notice(record: logging.LogRecord) -> bool:
    """Bitsandbytes says for every layer of every batch that 8-bit inputs are cast to float16."""
    return "inputs will be cast" not in record.getMessage()
