"""Answers, baselines and states in one pass, and free answers, against what people would run instead.

    PYTHONPATH=. python benchmarks/answering.py --data FOLDER [--questions 64]    # FOLDER holds mmlu/ and gsm8k/

The model is the reference's 71 M random Llama (context 2,048). Prompts are real ones, tokenised by a BPE trained here.
With lm-eval 0.4.13 installed, multiple choice is also compared with it. Methods take turns in one process; figures are
medians of the ratios within a repetition, in CPU-seconds of all threads.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from extraction import build, naive

from src.data import GSM8KDataset, MMLUDataset
from src.models import answer_choices, answer_freely
from src.models.extraction.engine import read_rows

LETTERS = (" A", " B", " C", " D")
LAYERS = (2, 5, 8)


def trained_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of 8,000 pieces, in which the letters are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=8000, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def compare(title: str, methods: dict[str, Callable[[], Any]], repetitions: int) -> None:
    """Print each method's time and its ratio to the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions):
        for name, method in methods.items():
            start = time.process_time()
            method()
            seconds[name].append(time.process_time() - start)
    first = next(iter(methods))
    print(f"\n### {title}\n\n| method | CPU-seconds | times the first (lowest-highest) |\n|---|---|---|")
    for name, found in seconds.items():
        ratios = [one / other for one, other in zip(found, seconds[first], strict=True)]
        print(f"| {name} | {statistics.median(found):.2f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-"
              f"{max(ratios):.2f}) |", flush=True)  # fmt: skip


def harness(model: Any, tokenizer: Any, prompts: list[str]) -> Callable[[], Any] | None:
    """Log-likelihoods of the letters as lm-evaluation-harness computes them, or None without it."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)

    def answer() -> Any:
        return wrapped.loglikelihood([
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, letter), idx=place)
            for prompt in prompts
            for place, letter in enumerate(LETTERS)
        ])  # fmt: skip

    return answer


def multiple_choice(model: Any, tokenizer: Any, prompts: list[str], repetitions: int) -> None:
    ids = [tuple(one) for one in tokenizer(prompts)["input_ids"]]
    top = model.config.num_hidden_layers - 1
    methods: dict[str, Callable[[], Any]] = {
        "states of 3 layers, full depth, alone": lambda: read_rows(
            model, ids, layers=[f"block.{layer}" for layer in (*LAYERS[:2], top)]
        ),
        "answers, baselines and states of 3 layers": lambda: answer_choices(
            model, tokenizer, prompts, LETTERS, layers=list(LAYERS)
        ),
    }
    if (other := harness(model, tokenizer, prompts)) is not None:
        methods["lm-eval, then plain transformers for the states"] = lambda: (other(), naive(model, ids, LAYERS))
    tokens = sum(map(len, ids))
    compare(f"Multiple choice: {len(ids)} questions with 5 shots, {tokens:,} tokens", methods, repetitions)


def free_answers(model: Any, tokenizer: Any, prompts: list[str], repetitions: int, new: int = 64) -> None:
    def one_by_one() -> None:
        for prompt in prompts:
            padded(prompts=[prompt])

    def padded(prompts: list[str] = prompts, batch: int = 16) -> None:
        tokenizer.padding_side = "left"
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
            with torch.no_grad():
                model.generate(**inputs, max_new_tokens=new, do_sample=False, pad_token_id=0)

    methods: dict[str, Callable[[], Any]] = {
        "answer_freely": lambda: answer_freely(model, tokenizer, prompts, max_new_tokens=new),
        "model.generate, one by one": one_by_one,
    }
    for batch in (8, 16, 32):
        methods[f"model.generate, padded batches of {batch}"] = lambda batch=batch: padded(batch=batch)
    compare(f"Free answers: {len(prompts)} GSM8K questions, up to {new} new tokens", methods, repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(2)
    packages = ("torch", "transformers", "lm-eval")
    versions = [f"{p} {importlib.metadata.version(p)}" for p in packages if p != "lm-eval" or _installed(p)]
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, CPU-seconds; {', '.join(versions)}")
    mmlu = list(MMLUDataset("test", path=args.data / "mmlu", shots=5))
    tokenizer = trained_tokenizer([example.prompt for example in mmlu[::40]])
    model = build("s", torch.float32, "cpu")
    fitting = [one.prompt for one in mmlu[::7] if len(tokenizer(one.prompt)["input_ids"]) < 2000]
    multiple_choice(model, tokenizer, fitting[: args.questions], args.repetitions)
    gsm8k = [one.prompt for one in GSM8KDataset("test", path=args.data / "gsm8k")]
    free_answers(model, tokenizer, gsm8k[: args.questions], args.repetitions)


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
