"""Free answers from vLLM, at the very prompts and with the very ends of transformers' generation.

vLLM keeps its own copy of the weights beside the model that states are read from. It is told every token that ends an
answer and every setting, so that nothing of its own defaults comes in; what it says is read as ours is.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import machine
from src.errors import ConfigError, MissingExtraError
from src.models.decoding import Sampling

# Of the memory that is free when vLLM starts; the rest is for reading states.
_SHARE = 0.8
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR",
          "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # fmt: skip
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # each is room for all below
# Generation settings of a model that a greedy answer does not depend on, or that are passed on.
_HARMLESS = frozenset({
    "_from_model_config", "bos_token_id", "cache_implementation", "do_sample", "eos_token_id", "max_length",
    "max_new_tokens", "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache",
})  # fmt: skip


@dataclass(frozen=True)
class VllmGenerator:
    """Generates in place of transformers, for the model that it was made from.

    Attributes:
        engine: a `vllm.LLM`.
        adapters: name of an adapter on the model -> (its number, its folder).
    """

    engine: Any
    adapters: Mapping[str, tuple[int, str]]

    @property
    def name(self) -> str:
        """Part of what answers in the cache depend on."""
        return f"vllm {import_module('vllm').__version__}"

    def generate(
        self,
        rows: Sequence[Sequence[int]],
        room: int,
        stop: Sequence[str],
        *,
        ends: Collection[int],
        width: int,
        sampling: Sampling | None,
        adapter: str | None,
    ) -> tuple[Tensor, Tensor]:
        """As `decoding.generate`: token ids (n, width) int32 and log-probabilities float32, -1 and 0 after the end.

        Args:
            rows: token ids of the prompts.
            room: the most tokens of an answer.
            stop: strings that end one.
            ends: tokens that end one.
            width: of the result.
            sampling: None: greedy.
            adapter: the name of the one in force; None: the base model.
        """
        vllm, lora = import_module("vllm"), import_module("vllm.lora.request")

        def params(ids: Sequence[int]) -> Any:
            drawn = {"temperature": sampling.temperature, "seed": _seed(sampling, ids)} if sampling else {}
            return vllm.SamplingParams(
                max_tokens=room, stop=list(stop) or None, stop_token_ids=sorted(ends), ignore_eos=True, logprobs=0,
                **{"temperature": 0.0, "top_p": 1.0, "top_k": 0} | drawn,
            )  # fmt: skip

        request = None
        if adapter is not None:
            number, folder = self.adapters[adapter]
            request = lora.LoRARequest(adapter, number, folder)
        said = self.engine.generate(
            [{"prompt_token_ids": list(ids)} for ids in rows], [params(ids) for ids in rows], lora_request=request,
            use_tqdm=False,
        )  # fmt: skip
        tokens = torch.full((len(rows), width), -1, dtype=torch.int32)
        log_probabilities = torch.zeros(len(rows), width)
        for row, one in enumerate(output.outputs[0] for output in said):
            ids = list(one.token_ids)
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
            log_probabilities[row, : len(ids)] = torch.tensor(
                [step[token].logprob for token, step in zip(ids, one.logprobs, strict=True)]
            )
        return tokens, log_probabilities


def start_vllm(
    model: Any, model_name: str, *, revision: str | None = None, adapters: Mapping[str, str] | None = None
) -> VllmGenerator:
    """Load a model into vLLM as well.

    Args:
        model: the same, from `ModelLoader.load`: its dtype, context and adapters are taken over.
        model_name, revision: what it was loaded from.
        adapters: name of an adapter on the model -> its folder.

    Raises:
        MissingExtraError: vllm is not installed.
        ConfigError: a quantised model, which vLLM would round in another way, or generation settings of the model that
            are not passed on.
    """
    check_vllm(model)
    from src.models.extraction.tokens import context_length

    with machine.environment(_QUIET):
        engine = import_module("vllm").LLM(
            model_name, revision=revision, dtype=str(model.dtype).removeprefix("torch."), seed=0,
            max_model_len=context_length(model), generation_config="vllm", disable_log_stats=True,
            **_memory(), **_lora(adapters or {}),
        )  # fmt: skip
    numbered = {name: (number, folder) for number, (name, folder) in enumerate((adapters or {}).items(), start=1)}
    return VllmGenerator(engine, numbered)


def check_vllm(model: Any) -> None:
    """Raises as `start_vllm`; the model may be one without weights."""
    from src.models.extraction.fingerprint import quantization_of

    if find_spec("vllm") is None:
        raise MissingExtraError("vLLM library not installed. Install it as docs.vllm.ai says for your hardware.")
    if quantization := quantization_of(model):
        raise ConfigError(
            f"vLLM would answer with other weights than the {quantization} ones that states are read from. Leave the "
            "quantization out, or let transformers answer."
        )
    said = model.generation_config.to_diff_dict()
    settings = {key for key, value in said.items() if value not in (None, False)} - _HARMLESS
    if settings:
        raise ConfigError(
            f"The model's generation settings {', '.join(sorted(settings))} are not passed on to vLLM, and would be "
            "left out. Let transformers answer."
        )


def _memory() -> dict[str, Any]:
    """The share of the GPU's memory that vLLM may take."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": _SHARE * free / total}


def _lora(adapters: Mapping[str, str]) -> dict[str, Any]:
    if not adapters:
        return {}
    settings = [json.loads((Path(folder) / "adapter_config.json").read_text()) for folder in adapters.values()]
    for folder, one in zip(adapters.values(), settings, strict=True):
        if one.get("rank_pattern") or one.get("alpha_pattern") or one["r"] > _RANKS[-1]:
            raise ConfigError(
                f"The adapter {folder} has ranks or scales of its own for some modules, or a rank above {_RANKS[-1]}, "
                "which vLLM does not take. Let transformers answer."
            )
    room = next(rank for rank in _RANKS if rank >= max(one["r"] for one in settings))
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1}


def _seed(sampling: Sampling, ids: Sequence[int]) -> int:
    """A seed that depends on the prompt and on what was asked for only."""
    digest = hashlib.sha256(repr((sampling.seed, list(ids))).encode()).digest()
    return int.from_bytes(digest[:4], "big")
