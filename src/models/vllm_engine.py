"""Free answers from vLLM, at the very prompts and with the very ends of transformers' generation.

vLLM keeps its own copy of the weights beside the model that states are read from. It is told every token that ends an
answer and every setting, so that nothing of its own defaults comes in; what it says is read as ours is.
"""

import importlib.util
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import machine
from src.adapters.folder import CONFIG_NAME, read_config
from src.errors import AdapterError, ConfigError, MissingExtraError
from src.models.decoding import Sampling

log = logging.getLogger(__name__)

# Of the memory that is free when vLLM starts; the rest is for reading states.
_SHARE = 0.8
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR",
          "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # fmt: skip
_WEIGHED = 64  # tokens
_CLEAR = 6.0  # times what the engines differ by: what an adapter has to change to be seen
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
            drawn = {"temperature": sampling.temperature, "seed": sampling.seed_of(ids)} if sampling else {}
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

    def weigh(self, ids: Sequence[int], adapter: str | None) -> Tensor:
        """(n - 1,) float32 log-probability of each token of a prompt but the first, given those before it."""
        vllm, lora = import_module("vllm"), import_module("vllm.lora.request")
        request = None if adapter is None else lora.LoRARequest(adapter, *self.adapters[adapter])
        params = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        (said,) = self.engine.generate([{"prompt_token_ids": list(ids)}], params, lora_request=request, use_tqdm=False)
        steps = zip(ids[1:], said.prompt_logprobs[1:], strict=True)
        return torch.tensor([step[token].logprob for token, step in steps])


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
        ConfigError: a quantised model, which vLLM would round in another way, generation settings of the model that are
            not passed on, or vLLM does not start.
        AdapterError: an adapter that vLLM does not apply as PEFT does.
    """
    folders = tuple((adapters or {}).values())
    check_vllm(model, folders)
    from src.models.extraction.tokens import context_length

    with machine.environment(_QUIET):
        try:
            engine = import_module("vllm").LLM(
                model_name, revision=revision, dtype=str(model.dtype).removeprefix("torch."), seed=0,
                max_model_len=context_length(model), generation_config="vllm", disable_log_stats=True,
                **_memory(), **_lora(folders),
            )  # fmt: skip
        except (ValueError, RuntimeError) as error:  # too little memory for one text of the whole context, say
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"vLLM does not start: {reason:.500}. Let transformers answer (run.generator)."
            ) from error
    numbered = {name: (number, folder) for number, (name, folder) in enumerate((adapters or {}).items(), start=1)}
    generator = VllmGenerator(engine, numbered)
    check_in_force(generator, model)
    return generator


def check_in_force(generator: VllmGenerator, model: Any) -> None:
    """Compare what both say of one text, with each adapter and without.

    The yardstick is what the adapter changes: vLLM's numbers with it must lie nearer to those of the model with it than
    half of that. Where that is within what the two engines differ by without it, nothing can be told, which is logged.

    Raises:
        AdapterError: they do not.
    """
    size = model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(size, (_WEIGHED,), generator=torch.Generator().manual_seed(0)).tolist()
    base = _weighed(model, ids, None)
    noise = float((generator.weigh(ids, None) - base).abs().mean()) if generator.adapters else 0.0
    for place, (name, (_, folder)) in enumerate(generator.adapters.items()):
        tuned = _weighed(model, ids, place)
        off, effect = (float((tuned - other).abs().mean()) for other in (generator.weigh(ids, name), base))
        if effect < _CLEAR * noise:
            log.warning("Whether vLLM applies %s cannot be told: it changes less than vLLM differs by anyway.", folder)
        elif off > effect / 2:
            raise AdapterError(
                f"vLLM does not apply the adapter {folder} as PEFT does: log-probabilities are off by {off:.2g} nats, "
                f"and the adapter changes them by {effect:.2g}. Let transformers answer (run.generator)."
            )


def _weighed(model: Any, ids: Sequence[int], place: int | None) -> Tensor:
    from src.models.adapter_switch import switched_to

    tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    with switched_to(model, place), torch.inference_mode():
        said = model(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return said.gather(1, tokens[0, 1:, None].to(said.device))[:, 0].cpu()


def check_vllm(model: Any, adapters: Sequence[str] = ()) -> None:
    """Raises as `start_vllm` before anything is loaded; the model may be one without weights, adapters are folders."""
    from src.models.extraction.fingerprint import quantization_of

    if importlib.util.find_spec("vllm") is None:
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
    _lora(adapters)


def _memory() -> dict[str, Any]:
    """The share of the GPU's memory that vLLM may take."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": _SHARE * free / total}


def _lora(adapters: Sequence[str]) -> dict[str, Any]:
    """Settings of an engine that serves these folders. Raises ConfigError where vLLM would scale one otherwise."""
    if not adapters:
        return {}
    settings = [read_config(Path(folder) / CONFIG_NAME) for folder in adapters]
    for folder, one in zip(adapters, settings, strict=True):
        if one.get("rank_pattern") or one.get("alpha_pattern") or one["r"] > _RANKS[-1]:
            raise ConfigError(
                f"The adapter {folder} has ranks or scales of its own for some modules, or a rank above {_RANKS[-1]}, "
                "which vLLM does not take. Let transformers answer."
            )
    room = next(rank for rank in _RANKS if rank >= max(one["r"] for one in settings))
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1}
