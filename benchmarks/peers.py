"""Other tools that read hidden states, as their documentation has it: only the wanted layers, and nothing above them.

    pip install transformer-lens==4.3.0 nnsight==0.8.1

Each function takes a loaded Llama and returns a method (model, texts, layers) -> (n, layers, d) like those of
extraction.py, or None where the package is not installed.
"""

import copy
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Method = Callable[[Any, Sequence[tuple[int, ...]], Sequence[int]], Tensor]


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def padded(texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Ids padded on the right, and the mask."""
    longest = max(map(len, texts))
    ids = torch.tensor([list(text) + [0] * (longest - len(text)) for text in texts])
    return ids, torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])


def dummy_tokenizer() -> Any:
    """Both tools want one, TransformerLens one that lies in a folder; ids are given, so it is not used."""
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="a"))  # noqa: S106
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def transformer_lens(model: Any, *, batch: int = 16) -> Method | None:
    """TransformerBridge, run_with_cache with names_filter and stop_at_layer. It rebuilds the model: it gets its own."""
    if version("transformer-lens") is None:
        return None
    from transformer_lens.model_bridge import TransformerBridge

    own, tokenizer = copy.deepcopy(model), dummy_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenizer.init_kwargs["name_or_path"] = tokenizer.name_or_path = folder
        bridge = TransformerBridge.boot_transformers("llama", hf_model=own, tokenizer=tokenizer, device="cpu")

    def method(_: Any, texts: Sequence[tuple[int, ...]], layers: Sequence[int]) -> Tensor:
        names = [f"blocks.{layer}.hook_resid_post" for layer in layers]
        rows = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            ids, mask = padded(part)
            with torch.no_grad():
                _, cache = bridge.run_with_cache(
                    ids, attention_mask=mask, names_filter=names, stop_at_layer=max(layers) + 1
                )
            last = torch.tensor([len(text) - 1 for text in part])
            rows.append(torch.stack([cache[name][torch.arange(len(part)), last] for name in names], 1).float())
        return torch.cat(rows)

    return method


def nnsight(model: Any, *, batch: int = 16) -> Method | None:
    """A trace that saves the last tokens' states and stops."""
    if version("nnsight") is None:
        return None
    from nnsight import TransformersModel

    traced = TransformersModel(model, tokenizer=dummy_tokenizer(), task="text-generation")

    def method(_: Any, texts: Sequence[tuple[int, ...]], layers: Sequence[int]) -> Tensor:
        rows = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            ids, mask = padded(part)
            every, last = torch.arange(len(part)), torch.tensor([len(text) - 1 for text in part])
            with torch.no_grad(), traced.trace({"input_ids": ids, "attention_mask": mask}) as tracer:
                kept = list().save()  # noqa: C408 (nnsight knows this form)
                for layer in layers:
                    kept.append(traced.model.layers[layer].output[every, last])
                tracer.stop()
            rows.append(torch.stack(kept, 1).float())
        return torch.cat(rows)

    return method
