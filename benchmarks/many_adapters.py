"""Five adapters on one loaded base against five runs of one adapter each: time and memory.

    python benchmarks/many_adapters.py                                   # the 71 M model of extraction.py
    python benchmarks/many_adapters.py --model tiny --questions 60 --repetitions 1

Every measurement is a process of its own that loads the model, puts the adapters on it and asks all questions (answers
and states, no cache). A repetition runs the base alone, the five single ones and all on one base, in turn; figures are
medians over repetitions. Asked for: all on one base in at most 1.15 of the five single times minus four loads of the
model, and at most the memory of one model, five adapters and 200 MB.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = {
    "s": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8,
          "intermediate_size": 1376},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 96, "head_dim": 16},
}  # fmt: skip
LAYERS = {"s": [3, 6, 9], "tiny": [0, 1, 2]}
RATIO, SPARE_MB = 1.15, 200


def write_model(folder: Path, shape: str) -> None:
    """The random model of extraction.py with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = {"vocab_size": 32000, "head_dim": 64, "initializer_range": 0.04, "max_position_embeddings": 2048,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-6,
                "tie_word_embeddings": False}  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(settings | SHAPES[shape]))).save_pretrained(folder)
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=letters, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)


def write_adapter(folder: Path, shape: str, *, rank: int, seed: int) -> None:
    """Random halves for every attention and MLP layer."""
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, **({"head_dim": 64} | SHAPES[shape])))
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for path, module in model.model.named_modules(prefix="model"):
        if isinstance(module, nn.Linear):
            for half, size in {"A": (rank, module.in_features), "B": (module.out_features, rank)}.items():
                name = f"base_model.model.{path}.lora_{half}.weight"
                tensors[name] = 0.02 * torch.randn(size, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    leaves = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 32, "target_modules": leaves}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_questions(path: Path, n: int) -> None:
    """Prompts of 40 to 400 bytes, which are tokens here, with four choices."""
    r = random.Random(1)
    lines = []
    for number in range(n):
        length = int(min(340, max(10, r.lognormvariate(4, 0.6))))
        text = "".join(r.choice("abcdefghij ") for _ in range(length))
        choices = [f"{letter}{number}" for letter in "wxyz"]
        lines.append(json.dumps({"question": f"{number} {text}?", "choices": choices, "answer": r.choice("ABCD")}))
    path.write_text("\n".join(lines) + "\n")


def measure(folder: Path, adapters: list[str], layers: list[int], threads: int) -> dict[str, Any]:
    """In this process: seconds of loading and of asking each model (wall and CPU), and the peak memory in MB.

    Libraries are imported before: their time would be counted once for one process and five times for five.
    """
    import peft  # noqa: F401
    import torch
    from transformers.models.llama import modeling_llama  # noqa: F401

    from src.config import load_config
    from src.models.extraction.fingerprint import weights_stay
    from src.pipeline.asking import ask, each_variant
    from src.pipeline.plan import make_plan, model_loader

    torch.set_num_threads(threads)
    config = load_config({
        "model": {"name": str(folder / "model"), "adapters": adapters, "dtype": "float32"},
        "data": {"name": "custom", "path": str(folder / "questions.jsonl")}, "extraction": {"layers": layers},
    })  # fmt: skip
    plan, before = make_plan(config), peak_mb()
    clock = Clock()
    model, tokenizer = model_loader(config, adapters).load()
    weights_stay(model)
    seconds, kept = {"load": clock.lap()}, []
    for name, switched in each_variant(model, tuple(plan.adapters)):
        with switched:
            kept.append(ask(model, tokenizer, plan.task.questions, config, layers=plan.layers, label=name))
        seconds[name] = clock.lap()
    return {"seconds": seconds, "before_mb": before, "peak_mb": peak_mb(), "kept": len(kept)}


class Clock:
    """Wall and CPU-seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        """Both, and the next lap begins."""
        now = time.perf_counter(), time.process_time()
        wall, cpu = (after - before for after, before in zip(now, self._last, strict=True))
        self._last = now
        return wall, cpu


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def in_a_process(folder: Path, adapters: list[str], args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(folder), "--model", args.model, "--threads",
               str(args.threads), "--on", *adapters]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (this file)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one_repetition(folder: Path, adapters: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Ratios and megabytes of one round."""
    alone = in_a_process(folder, [], args)
    singles = [in_a_process(folder, [adapter], args) for adapter in adapters]
    together = in_a_process(folder, adapters, args)
    found = {}
    for place, unit in enumerate(("wall", "cpu")):
        load = alone["seconds"]["load"][place]
        for asked, left_out in (("adapters", {"base"}), ("base and adapters", set())):
            five = sum(_seconds(one, place, left_out) for one in singles) - (len(adapters) - 1) * load
            ours = _seconds(together, place, left_out)
            found[f"{asked}, {unit}: one base, s"] = ours
            found[f"{asked}, {unit}: single ones minus loads, s"] = five
            found[f"{asked}, {unit}: ratio"] = ours / five
    files = sum(file.stat().st_size for one in adapters for file in Path(one).glob("*.safetensors")) / (1 << 20)
    found["memory: base alone, MB"] = alone["peak_mb"]
    found["memory: on one base, MB"] = together["peak_mb"]
    found["memory: adapters' files, MB"] = files
    found["memory: beyond base alone and adapters, MB"] = together["peak_mb"] - alone["peak_mb"] - files
    return found


def _seconds(measured: dict[str, Any], place: int, left_out: set[str]) -> float:
    return sum(times[place] for name, times in measured["seconds"].items() if name not in left_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="s")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--adapters", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.on, LAYERS[args.model], args.threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model", args.model)
        write_questions(folder / "questions.jsonl", args.questions)
        adapters = [str(folder / f"checkpoint-{n}") for n in range(1, args.adapters + 1)]
        for seed, adapter in enumerate(adapters):
            write_adapter(Path(adapter), args.model, rank=args.rank, seed=seed)
        rounds = [one_repetition(folder, adapters, args) for _ in range(args.repetitions)]
    print(f"{args.adapters} adapters of rank {args.rank} on model {args.model}, {args.questions:,} questions, "
          f"{args.threads} threads, {args.repetitions} repetitions: median (least to most)")  # fmt: skip
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        print(f"  {name:52s} {statistics.median(values):9.3f}   ({min(values):.3f} to {max(values):.3f})")
    print(f"Asked for: ratio at most {RATIO}; beyond base alone and adapters at most {SPARE_MB} MB.")


if __name__ == "__main__":
    main()
