"""Conversion of an adapter against reading and writing its bytes once, and beside tinker-cookbook's own converter.

    python benchmarks/tinker_conversion.py [--layers 32] [--moe-layers 4] [--repetitions 5] [--folder .]
                                           [--cookbook DIR]

Two adapters of random bfloat16 numbers under Tinker's names: one shaped for Llama-3.1-8B (rank 32, all linear layers
and the unembedding), one for Qwen3-30B-A3B (128 experts with shared halves; a few of its 48 layers, because the
converted file has 74 MB per layer). Each repetition copies as many bytes as the conversion reads and writes, converts,
and has the cookbook convert, in processes of their own and in changing order; all of them flush to the disk. Files are
read from the page cache. Figures are medians. Extra memory is the peak resident size above that after a small one.
`--cookbook`: a folder with tinker-cookbook 0.6.1 and what it imports (pip install --target).
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from src.adapters.tensor_file import write_tensors
from src.tinker.convert import convert_adapter

PREFIX = "base_model.model."
RANK = 32
WEIGHTS = "adapter_model.safetensors"
Shapes = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Shaped:
    """An adapter's and its base model's tensors, by shape."""

    name: str
    base_config: dict[str, object]
    base: Shapes
    adapter: Shapes


def pair(module: str, into: int, out: int) -> Shapes:
    return {
        f"{PREFIX}{module}.lora_A.weight": ("BF16", (RANK, into)),
        f"{PREFIX}{module}.lora_B.weight": ("BF16", (out, RANK)),
    }


def llama_8b(layers: int) -> Shaped:
    sizes = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (4096, 1024), "self_attn.v_proj": (4096, 1024),
             "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (4096, 14336), "mlp.up_proj": (4096, 14336),
             "mlp.down_proj": (14336, 4096)}  # fmt: skip
    base: Shapes = {f"{name}.weight": ("BF16", (128256, 4096)) for name in ("model.embed_tokens", "lm_head")}
    adapter = pair("model.unembed_tokens", 4096, 128256)
    for layer in range(layers):
        for leaf, (into, out) in sizes.items():
            base[f"model.layers.{layer}.{leaf}.weight"] = ("BF16", (out, into))
            adapter |= pair(f"model.layers.{layer}.{leaf}", into, out)
    return Shaped(f"8B, {layers} layers", {"model_type": "llama"}, base, adapter)


def qwen3_30b_a3b(layers: int) -> Shaped:
    attention = {"q_proj": (2048, 4096), "k_proj": (2048, 512), "v_proj": (2048, 512), "o_proj": (4096, 2048)}
    experts = {"gate_proj": (2048, 768), "up_proj": (2048, 768), "down_proj": (768, 2048)}
    base: Shapes = {f"{name}.weight": ("BF16", (151936, 2048)) for name in ("model.embed_tokens", "lm_head")}
    adapter = pair("model.unembed_tokens", 2048, 151936)
    for layer in range(layers):
        for leaf, (into, out) in attention.items():
            base[f"model.layers.{layer}.self_attn.{leaf}.weight"] = ("BF16", (out, into))
            adapter |= pair(f"model.layers.{layer}.self_attn.{leaf}", into, out)
        group = f"model.layers.{layer}.mlp.experts"
        for (leaf, (into, out)), known_as in zip(experts.items(), ("w1", "w3", "w2"), strict=True):
            for expert in range(128):
                base[f"{group}.{expert}.{leaf}.weight"] = ("BF16", (out, into))
            a, b = (128, 1) if known_as == "w2" else (1, 128)
            adapter[f"{PREFIX}{group}.{known_as}.lora_A.weight"] = ("BF16", (a, RANK, into))
            adapter[f"{PREFIX}{group}.{known_as}.lora_B.weight"] = ("BF16", (b, out, RANK))
    return Shaped(f"30B-A3B, {layers} layers", {"model_type": "qwen3_moe", "num_experts": 128}, base, adapter)


def write(shaped: Shaped, folder: Path) -> None:
    """The checkpoint with random numbers; the base model as headers over a file that is a hole."""
    checkpoint, base = folder / "checkpoint", folder / "base"
    checkpoint.mkdir(parents=True)
    base.mkdir()
    generator = torch.Generator().manual_seed(0)
    numbers = (torch.randn(shape, generator=generator).bfloat16() for _, shape in shaped.adapter.values())
    write_tensors(checkpoint / WEIGHTS, shaped.adapter, numbers)
    (checkpoint / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 32}))
    (base / "config.json").write_text(json.dumps(shaped.base_config))
    header, end = {}, 0
    for name, (_, (out, into)) in shaped.base.items():
        header[name] = {"dtype": "BF16", "shape": [out, into], "data_offsets": [end, end + 2 * out * into]}
        end += 2 * out * into
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def copy(folder: Path) -> None:
    """Read the checkpoint once and write as many bytes as the adapter has, in pieces of 1 MB, flushed."""
    left = int((folder / "written").read_text())
    with (folder / "checkpoint" / WEIGHTS).open("rb") as file, (folder / "copy").open("wb") as target:
        block = b""
        while piece := file.read(1 << 20):
            block = piece
            left -= target.write(piece[:left]) if left > 0 else 0
        while left > 0:
            left -= target.write(block[:left])
        target.flush()
        os.fsync(target.fileno())


def convert(folder: Path) -> None:
    (folder / "ours").mkdir()
    convert_adapter(folder / "checkpoint", folder / "ours", str(folder / "base"))


def convert_with_the_cookbook(folder: Path) -> None:
    from tinker_cookbook.weights import build_lora_adapter  # pyright: ignore

    build_lora_adapter(
        base_model=str(folder / "base"), adapter_path=str(folder / "checkpoint"), output_path=str(folder / "cookbook")
    )
    with (folder / "cookbook" / WEIGHTS).open("rb+") as file:
        os.fsync(file.fileno())


STEPS = {"copy": copy, "ours": convert, "cookbook": convert_with_the_cookbook}


def one_step(step: str, folder: Path) -> None:
    """Seconds and extra memory of a step, in a process that has done a small conversion before."""
    module: Shapes = {"lm_head.weight": ("BF16", (64, 64)), "model.embed_tokens.weight": ("BF16", (64, 64))}
    small = folder / "warm"
    write(Shaped("small", {"model_type": "llama"}, module, pair("model.unembed_tokens", 64, 64)), small)
    (small / "written").write_text("0")
    STEPS[step](small)
    # One collection of all that torch has made takes 80 ms, and hits whoever makes the next object too many.
    gc.collect()
    gc.freeze()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    start = time.perf_counter()
    STEPS[step](folder)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "extra": resident("VmHWM") - before}))


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def in_its_own_process(step: str, folder: Path, cookbook: Path | None) -> dict[str, float]:
    # Absolute: the working folder comes first, so that `src` is this checkout's.
    paths = [str(Path.cwd()), *([str(cookbook.resolve())] if cookbook else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step, "--folder", str(folder)]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(answer.stdout.splitlines()[-1])


@contextlib.contextmanager
def prepared(shaped: Shaped, where: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=where, prefix="benchmark-conversion-") as name:
        folder = Path(name)
        write(shaped, folder)
        convert(folder)
        (folder / "written").write_text(str((folder / "ours" / WEIGHTS).stat().st_size))
        shutil.rmtree(folder / "ours")
        yield folder


def measure(shaped: Shaped, args: argparse.Namespace) -> None:
    steps = [step for step in STEPS if step != "cookbook" or args.cookbook]
    with prepared(shaped, args.folder) as folder:
        found: dict[str, list[dict[str, float]]] = {step: [] for step in steps}
        for number in range(args.repetitions):
            for step in steps if number % 2 else reversed(steps):
                for left in ("ours", "cookbook", "warm"):
                    shutil.rmtree(folder / left, ignore_errors=True)
                found[step].append(in_its_own_process(step, folder, args.cookbook))
        report(shaped, folder, found)
        if args.cookbook:
            compare(folder)


def report(shaped: Shaped, folder: Path, found: dict[str, list[dict[str, float]]]) -> None:
    read, written = (folder / "checkpoint" / WEIGHTS).stat().st_size, int((folder / "written").read_text())
    largest = max(2 * torch.Size(shape).numel() for _, shape in shaped.adapter.values())
    print(f"\n{shaped.name}: {read / 1e6:.0f} MB read, {written / 1e6:.0f} MB written, "
          f"largest tensor {largest / 1e6:.1f} MB (allowed extra: {(2 * largest + 200e6) / 1e6:.0f} MB)")  # fmt: skip
    print(f"{'':10s} {'seconds':>8s} {'range':>13s} {'of copy':>8s} {'extra MB':>9s}")
    for step, rounds in found.items():
        seconds = [one["seconds"] for one in rounds]
        ratios = [one["seconds"] / copied["seconds"] for one, copied in zip(rounds, found["copy"], strict=True)]
        print(f"{step:10s} {statistics.median(seconds):8.3f} {min(seconds):6.3f}-{max(seconds):6.3f} "
              f"{statistics.median(ratios):8.2f} {max(one['extra'] for one in rounds) / 1e6:9.0f}")  # fmt: skip


def compare(folder: Path) -> None:
    """Both converters' tensors, where both made one."""
    for made in ("ours", "cookbook"):
        shutil.rmtree(folder / made, ignore_errors=True)
    convert(folder)
    sys.path.extend([str(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path])
    convert_with_the_cookbook(folder)
    with (
        safe_open(folder / "ours" / WEIGHTS, framework="pt") as ours,
        safe_open(folder / "cookbook" / WEIGHTS, framework="pt") as theirs,
    ):
        common = set(ours.keys()) & set(theirs.keys())
        equal = sum(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in common)
        print(
            f"tensors: ours {len(ours.keys())}, cookbook {len(theirs.keys())}, equal {equal} of {len(common)} in both"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--moe-layers", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--cookbook", type=Path)
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.step:
        one_step(args.step, args.folder)
        return
    if args.cookbook:
        sys.path.append(str(args.cookbook))
    print(f"{platform.platform()}; torch {torch.__version__}; {args.repetitions} repetitions")
    measure(llama_8b(args.layers), args)
    measure(qwen3_30b_a3b(args.moe_layers), args)


if __name__ == "__main__":
    main()
