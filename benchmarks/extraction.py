"""Hidden-state extraction against plain transformers, on the workloads of the reference (random weights, CPU or GPU).

    python benchmarks/extraction.py                          # model s, (a) N=96 and (b) N=48, bf16 and fp32
    python benchmarks/extraction.py --full --peers           # (a) N=512 and (b) N=256, and other tools (see peers.py)
    python benchmarks/extraction.py --device cuda --model 8b # 8B-shaped, bf16, and through a LoRA

Every repetition runs every method once, in turn; figures are medians of the ratios within a repetition. On the CPU the
main column is CPU-seconds of all threads; set OMP_WAIT_POLICY=PASSIVE (done below), so that waiting does not count.
"""

import argparse
import ctypes
import gc
import math
import os
import platform
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import peers
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from src.models.extraction.engine import read_rows

SHAPES = {
    "s": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8,
          "intermediate_size": 1376},
    "m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8,
          "intermediate_size": 2816},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 14336, "head_dim": 128},
}  # fmt: skip
Ids = tuple[int, ...]
Method = Callable[[Any, Sequence[Ids], Sequence[int]], Tensor]


def workload(name: str, n: int) -> list[Ids]:
    """(a) mixed lengths; (b) a common beginning of 700 tokens before 60 to 100 own ones."""
    if name == "a":
        r = random.Random(1)
        texts = []
        for _ in range(n):
            length = int(min(400, max(40, r.lognormvariate(math.log(95), 0.55))))
            texts.append((1, *(r.randrange(3, 32000) for _ in range(length - 1))))
        return texts
    r = random.Random(2)
    prefix = (1, *(r.randrange(3, 32000) for _ in range(699)))
    return [(*prefix, *(r.randrange(3, 32000) for _ in range(r.randint(60, 100)))) for _ in range(n)]


def build(shape: str, dtype: torch.dtype, device: str) -> Any:
    torch.manual_seed(0)
    settings = {"vocab_size": 32000, "head_dim": 64, "initializer_range": 0.04, "max_position_embeddings": 2048,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-6,
                "tie_word_embeddings": False, "attn_implementation": "sdpa"}  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**(settings | SHAPES[shape]))).to(dtype).eval()


def naive(model: Any, texts: Sequence[Ids], layers: Sequence[int], *, batch: int = 16) -> Tensor:
    """What people write: batches in the given order, padded on the right, all hidden states, last real token."""
    rows = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        longest = max(map(len, part))
        ids = torch.tensor([list(t) + [0] * (longest - len(t)) for t in part], device=model.device)
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in part], device=model.device)
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        last = torch.tensor([len(t) - 1 for t in part], device=model.device)
        every = torch.arange(len(part), device=model.device)
        rows.append(torch.stack([states[layer + 1][every, last] for layer in layers], 1).float().cpu())
    return torch.cat(rows)


def ours(model: Any, texts: Sequence[Ids], layers: Sequence[int]) -> Tensor:
    names = [f"block.{layer}" for layer in layers]
    states = read_rows(model, texts, layers=names).states
    return torch.stack([states[name] for name in names], 1).float()


def one_by_one_with_hooks(model: Any, texts: Sequence[Ids], layers: Sequence[int]) -> Tensor:
    """The strongest simple setting: one text at a time, hooks, nothing above the highest wanted layer."""
    rows = []
    blocks = model.model.layers
    for text in texts:
        kept: dict[int, Tensor] = {}

        def keep(index: int, output: Any, kept: dict[int, Tensor] = kept) -> None:
            kept[index] = (output[0] if isinstance(output, tuple) else output)[0, -1].float().cpu()
            if index == max(layers):
                raise StopIteration

        handles = [blocks[i].register_forward_hook(lambda _m, _a, out, i=i, keep=keep: keep(i, out)) for i in layers]
        try:
            with torch.inference_mode():
                model.model(input_ids=torch.tensor([text], device=model.device), use_cache=False)
        except StopIteration:
            pass
        finally:
            for handle in handles:
                handle.remove()
        rows.append(torch.stack([kept[layer] for layer in layers]))
    return torch.stack(rows)


def gemm_peak(dtype: torch.dtype, device: str, clock: Callable[[], float]) -> float:
    """GFLOP a second (of `clock`) of a 2048 x 2048 x 2048 product, the best of 8 calls."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        start = clock()
        for _ in range(4):
            torch.nn.functional.linear(a, b)
        _finish(device)
        best = max(best, 4 * 2 * 2048**3 / 1e9 / (clock() - start))
    return best


def needed_gflop(model: Any, texts: Sequence[Ids], layers: Sequence[int], *, shared: int = 0) -> float:
    """Of needed layers x real tokens (extraction.md, section 4: need; with a shared beginning, minimal)."""
    c = model.config
    h, g, i = c.hidden_size, c.num_key_value_heads * c.head_dim, c.intermediate_size
    q = c.num_attention_heads * c.head_dim
    per_token = 2 * h * q * 2 + 4 * h * g + 6 * h * i
    top = max(layers) + 1
    if not shared:
        tokens = sum(map(len, texts))
        attention = sum(2 * q * len(t) * (len(t) + 1) for t in texts)
        return top * (tokens * per_token + attention) / 1e9
    own = [len(t) - shared for t in texts]
    tokens = shared + sum(own)
    attention = 2 * q * shared * (shared + 1) + sum(4 * q * (n * shared + n * (n + 1) / 2) for n in own)
    last = tokens * 4 * h * g + len(texts) * (per_token - 4 * h * g) + sum(4 * q * len(t) for t in texts)
    return ((top - 1) * (tokens * per_token + attention) + last) / 1e9


def extra_megabytes(call: Callable[[], Any]) -> float:
    """Peak resident memory over what there was before, looked at every 2 ms. Linux only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = peak = _resident()
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Row:
    """A method, the layers it reads, and whether its share of the GEMM peak is of interest."""

    name: str
    method: Method
    layers: list[int]


def rows_for(model: Any, args: argparse.Namespace, *, with_peers: bool) -> list[Row]:
    """Plain use first: the ratios are to it. It computes all layers whatever is asked."""
    count = model.config.num_hidden_layers
    three, one = [count // 4 - 1, count // 2 - 1, 3 * count // 4 - 1], [count // 2 - 1]
    rows = [
        Row("plain transformers, batch 16", naive, three),
        Row("this library, 3 layers", ours, three),
        Row("this library, one middle layer", ours, one),
        Row("one by one, hooks, early stop", one_by_one_with_hooks, three),
    ]
    if with_peers and args.peers:
        found = {
            "TransformerLens, filter and stop": peers.transformer_lens(model),
            "nnsight, saved layers and stop": peers.nnsight(model),
            "nnsight, one by one and stop": peers.nnsight(model, batch=1),
        }
        rows += [Row(name, method, three) for name, method in found.items() if method is not None]
    return rows


def compare(model: Any, texts: list[Ids], rows: list[Row], args: argparse.Namespace, title: str, shared: int) -> None:
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    seconds, walls = np.zeros((2, args.repetitions, len(rows)))
    found: dict[str, Tensor] = {}
    peaks = []
    for row in rows:
        row.method(model, texts[:16], row.layers)
    for repetition in range(args.repetitions):
        peaks.append(gemm_peak(next(model.parameters()).dtype, args.device, clock))
        for column, row in enumerate(rows):
            start, wall = clock(), time.perf_counter()
            found[row.name] = row.method(model, texts, row.layers)
            _finish(args.device)
            seconds[repetition, column] = clock() - start
            walls[repetition, column] = time.perf_counter() - wall
    tokens = sum(map(len, texts))
    print(f"\n### {title}: {len(texts)} texts, {tokens:,} tokens; GEMM peak {np.median(peaks):.0f} GFLOP/s\n")
    print("| method | seconds | ratio (lowest-highest) | ratio, wall | share of the GEMM peak | extra memory |")
    print("|---|---|---|---|---|---|")
    for column, row in enumerate(rows):
        ratio, wall = seconds[:, 0] / seconds[:, column], walls[:, 0] / walls[:, column]
        share = needed_gflop(model, texts, row.layers, shared=shared) / seconds[:, column] / np.array(peaks)
        sparing = row.method is not naive or not args.skip_memory_of_plain
        extra = extra_megabytes(partial(row.method, model, texts, row.layers)) if sparing else float("nan")
        print(
            f"| {row.name} | {np.median(seconds[:, column]):.2f} | {np.median(ratio):.2f} ({ratio.min():.2f}-"
            f"{ratio.max():.2f}) | {np.median(wall):.2f} | {100 * np.median(share):.0f} % | {extra:.0f} MB |",
            flush=True,
        )
    plain, here = (found[row.name] for row in rows[:2])
    difference = (here - plain).norm(dim=-1) / plain.norm(dim=-1)
    print(f"\nLargest relative difference to plain transformers: {difference.max():.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--workloads", nargs="+", choices=["a", "b"], default=["a", "b"])
    parser.add_argument("--full", action="store_true", help="512 and 256 texts instead of 96 and 48")
    parser.add_argument("--peers", action="store_true", help="also the peers of peers.py, where installed: float32 (a)")
    parser.add_argument("--skip-memory-of-plain", action="store_true", help="saves a run of the slowest method")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(2)
    packages = ("torch", "transformers", "transformer-lens", "nnsight")
    versions = ", ".join(f"{package} {found}" for package in packages if (found := peers.version(package)))
    unit = "CPU-seconds of all threads" if args.device == "cpu" else "seconds"
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, {unit}; {versions}")
    sizes = {"a": 512, "b": 256} if args.full else {"a": 96, "b": 48}
    for dtype in args.dtypes:
        model = build(args.model, getattr(torch, dtype), args.device)
        for name in args.workloads:
            rows = rows_for(model, args, with_peers=name == "a" and dtype == "float32")
            shared = 700 if name == "b" else 0
            compare(model, workload(name, sizes[name]), rows, args, f"({name}) {dtype}", shared)


if __name__ == "__main__":
    main()
