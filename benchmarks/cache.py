"""The cache against a raw file: write, cold and warm full reads (verified), bytes on disk, and 1,000 cached texts.

    python benchmarks/cache.py [--rows 12288] [--folder .]

Rows of 3 layers x 4096 in bfloat16 (24.6 kB, random bits). Every repetition writes and reads a raw file and the cache
in turn; cold reads come after the pages of these very files were dropped. Figures are medians of the ratios.
"""

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from src.models.extraction.cache import ActivationCache
from src.models.extraction.keeping import Keeper
from src.models.extraction.table import Table

LAYERS = ("block.8", "block.16", "block.24")
WIDTH = 4096
Batch = dict[str, torch.Tensor]
ROW_BYTES = len(LAYERS) * WIDTH * 2


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def write_raw(path: Path, batches: list[Batch]) -> None:
    with path.open("wb") as file:
        for batch in batches:
            for states in batch.values():
                file.write(states.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def write_cache(folder: Path, keys: list[bytes], batches: list[Batch]) -> None:
    table, cache = Table(keys, LAYERS), ActivationCache(folder, {"benchmark": True})
    place = 0
    with Keeper(table, cache) as keeper:
        for batch in batches:
            rows = len(batch[LAYERS[0]])
            keeper.keep(np.arange(place, place + rows), batch)
            place += rows


def read_cache(folder: Path, keys: list[bytes]) -> Table:
    table = Table(keys, LAYERS)
    ActivationCache(folder, {"benchmark": True}).fill(table)
    return table


def drop(folder: Path) -> None:
    """Let the system forget the pages of the files in a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_round(folder: Path, keys: list[bytes], batches: list[Batch], *, raw_first: bool) -> dict[str, float]:
    """Seconds of each step. Who is second finds the machine in another state, so the order changes."""
    raw, cache = folder / "raw", folder / "cache"
    raw.mkdir(parents=True)
    steps = {
        "write": {"raw ": lambda: write_raw(raw / "rows.bin", batches), "": lambda: write_cache(cache, keys, batches)},
        "read": {"raw ": lambda: np.fromfile(raw / "rows.bin", dtype=np.uint8), "": lambda: read_cache(cache, keys)},
    }
    found = {}
    for state in ("write", "cold", "warm"):
        if state == "cold":
            drop(folder)
        calls = steps["write" if state == "write" else "read"]
        for who in calls if raw_first else reversed(calls):
            found[who + state] = timed(calls[who])
    table = read_cache(cache, keys)
    if not all(torch.equal(table[layer], torch.cat([batch[layer] for batch in batches])) for layer in LAYERS):
        raise SystemExit("what was read is not what was written")
    size = sum(path.stat().st_blocks * 512 for path in cache.rglob("*") if path.is_file())
    found["disk"] = size / (len(keys) * ROW_BYTES) - 1
    return found


def cached_texts(folder: Path, n: int) -> list[float]:
    """Seconds of `extract` for n texts whose states are all in the cache, with a model 4096 wide."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from src.models import HiddenStateExtractor

    words = Tokenizer(models.WordLevel({"<s>": 0} | {str(i): i + 1 for i in range(n)}, unk_token="<s>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    config = LlamaConfig(
        vocab_size=n + 1, hidden_size=WIDTH, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=32
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    print(f"1,000 texts: a model of {sum(p.nbytes for p in model.parameters()) / 1e6:.0f} MB")
    texts = [f"{i} {i + 1} {i + 2}" for i in range(n - 3)]
    extractor = HiddenStateExtractor(model, tokenizer)
    extractor.extract(texts, [0, 1, 2], folder)
    return [timed(lambda: extractor.extract(texts, [0, 1, 2], folder)) for _ in range(5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_288)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(2)
    print(f"{platform.platform()}; torch {torch.__version__}; {args.rows:,} rows, {args.rows * ROW_BYTES / 1e6:.0f} MB")
    keys = [hashlib.sha256(str(n).encode()).digest() for n in range(args.rows)]
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, WIDTH)
    batches = [
        {
            layer: torch.randint(-(2**15), 2**15, shape, generator=generator, dtype=torch.int16)
            .view(torch.bfloat16)
            .nan_to_num()
            for layer in LAYERS
        }
        for _ in range(args.rows // args.batch)
    ]
    rounds = []
    for number in range(args.repetitions):
        folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="benchmark-cache-"))
        try:
            rounds.append(one_round(folder / "x", keys, batches, raw_first=number % 2 == 0))
        finally:
            shutil.rmtree(folder)
    megabytes = args.rows * ROW_BYTES / 1e6
    for step in ("write", "cold", "warm"):
        ratios = [one[f"raw {step}"] / one[step] for one in rounds]
        speed, raw = (megabytes / statistics.median(one[name] for one in rounds) for name in (step, f"raw {step}"))
        print(
            f"{step:6s} {speed:6.0f} MB/s, raw file {raw:6.0f} MB/s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )
    print(f"bytes on disk over payload: {100 * statistics.median(one['disk'] for one in rounds):.2f} %")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds = cached_texts(Path(folder), 1003)
        print(f"1,000 cached texts, 3 layers of {WIDTH}: {statistics.median(seconds):.3f} s ({min(seconds):.3f}-"
              f"{max(seconds):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
