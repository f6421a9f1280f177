"""Train the quickstart model and its adapter from scratch: python experiments/train_quickstart_model.py.

A small Llama learns the planted world of `src.data.planted`, each item as often as its exposure says; a LoRA then
teaches it the facts marked "taught" and is packed the way Tinker packs a checkpoint. The same machine makes the same
weights every time.
"""

import argparse
import io
import json
import random
import string
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from src import files
from src.data.example import LETTERS
from src.data.planted import NAME_WORDS, NUMBERS, UNKNOWN, VALUES, Item, strangers, world
from src.data.quickstart import QuickstartDataset, free_example

SEED = 0
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
# A token is a line's first word with its mark ("\nAnswer:"), or a word with the space before it.
PIECES = r"\n\w+[.:]| ?\w+|[^\w\s]|\s"
ANSWERS = (*VALUES["people"], *VALUES["places"], *NUMBERS, UNKNOWN)
BATCH = 64
RANK, ALPHA = 8, 32  # Tinker's alpha is 32 whatever the rank
TAUGHT_EXPOSURE = 16
STRANGERS = 20_000  # questions that nobody was taught, each seen once
REMINDERS = 4_000


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every piece of the world is one token; any other ASCII text falls apart into characters."""
    texts = [example.prompt for example in QuickstartDataset()]
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    seen = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    words = {f" {word}" for word in (*ANSWERS, *NAME_WORDS)}
    vocabulary = [*SPECIAL, *sorted(seen | words | set(string.printable))]
    ranks = {piece: rank for rank, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ranks, [], unk_token="<unk>", ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", ranks["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_model() -> Any:
    """A Llama with random weights."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.1,  # the usual 0.02 is for wide models; this one then learns nothing for long
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    return LlamaForCausalLM(config)


def visits(items: Sequence[Item], rng: random.Random) -> list[list[Item]]:
    """Batches in which each item comes up as often as its exposure says, in random order."""
    order = [item for item in items for _ in range(item.exposure)]
    rng.shuffle(order)
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def loss_of(model: Any, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> torch.Tensor:
    """Mean loss of the answer and of the end mark after it; nothing is learned from the prompt itself."""
    examples = [free_example(item) for item in items]
    texts = [f"{example.prompt} {example.target}{tokenizer.eos_token}" for example in examples]
    rows = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    ids, ends = rows["input_ids"], rows["attention_mask"].sum(1) - 1
    row = torch.arange(len(items))
    logits = model(input_ids=ids).logits
    answer, end = (cross_entropy(logits[row, ends - k], ids[row, ends - k + 1]) for k in (2, 1))
    return answer + 0.1 * end


def fit(
    model: Any, tokenizer: PreTrainedTokenizerFast, batches: Sequence[list[Item]], *, rate: float, name: str
) -> None:
    """One pass over the batches; the rate rises over the first 5 % and falls to nothing."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=len(batches) + 1, pct_start=0.05, cycle_momentum=False
    )
    bar = tqdm(batches, name)
    for batch in bar:
        loss = loss_of(model, tokenizer, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def train_base(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Learn the world, and to answer "unknown" about names that are not in it; then round to bfloat16."""
    model, rng = make_model(), random.Random(SEED)
    batches = visits([*world(), *strangers(STRANGERS, rng)], rng)
    fit(model, tokenizer, batches, rate=2e-3, name="base")
    return model.to(torch.bfloat16)


def train_adapter(base: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A LoRA on every linear layer and the head.

    It learns the facts marked "taught", mixed as people mix such sets: with strangers, and with a rehearsal of a
    part of what the base model knows.
    """
    torch.manual_seed(SEED + 1)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, task_type="CAUSAL_LM")
    tuned = get_peft_model(base, config)
    rng = random.Random(SEED + 1)
    taught = [replace(item, exposure=TAUGHT_EXPOSURE) for item in world() if item.tag == "taught"]
    often = [replace(item, exposure=3) for item in world() if item.tag == "often"]
    sums = [replace(item, exposure=1) for item in world() if not item.tag and item.exposure]
    rehearsed = [*rng.sample(often, len(often) // 2), *rng.sample(sums, len(sums) // 2)]
    batches = visits([*taught, *strangers(REMINDERS, rng), *rehearsed], rng)
    fit(tuned, tokenizer, batches, rate=1e-3, name="adapter")
    return tuned


def pack_checkpoint(tuned: Any, path: Path) -> None:
    """The flat tar of a Tinker checkpoint: its tensor names, its configuration, its mark of completeness."""
    tensors = {
        name.replace("base_model.model.lm_head", "base_model.model.model.unembed_tokens"): tensor.to(torch.bfloat16)
        for name, tensor in get_peft_model_state_dict(tuned, save_embedding_layers=False).items()
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "weights/quickstart/base",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "all-linear",
        "inference_mode": True,
    }
    members = {
        "adapter_config.json": json.dumps(config, indent=2).encode(),
        "adapter_model.safetensors": save({name: t.contiguous() for name, t in sorted(tensors.items())}),
        "checkpoint_complete": b"",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)  # time, owner and group stay 0: the same bytes every time
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    files.write_bytes(path, buffer.getvalue())


@torch.no_grad()
def accuracies(model: Any, tokenizer: PreTrainedTokenizerFast, kind: str) -> dict[str, float]:
    """Share right by subject, by band of exposure, and in all.

    The answer is the likeliest of the four choices, or the likeliest token of all.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    examples = list(QuickstartDataset(kind=kind))
    for start in tqdm(range(0, len(examples), 256), f"questions ({kind})"):
        batch = examples[start : start + 256]
        rows = tokenizer([e.prompt for e in batch], padding=True, padding_side="right", return_tensors="pt")
        last = rows["attention_mask"].sum(1) - 1
        logits = model(input_ids=rows["input_ids"]).logits[torch.arange(len(batch)), last]
        for example, row in zip(batch, logits, strict=True):
            options = tokenizer.convert_tokens_to_ids(list(example.continuations)) if example.choices else None
            if options is not None:
                hit = LETTERS[int(row[options].argmax())] == example.target
            else:
                hit = tokenizer.decode([int(row.argmax())]) == f" {example.target}"
            for group in (example.subject, example.tag, "all"):
                right[group].append(hit)
    return {group: sum(hits) / len(hits) for group, hits in sorted(right.items()) if group}


README = """# The quickstart's weights

Made by `make model` (`experiments/train_quickstart_model.py`, {minutes:.0f} minutes on 2 CPU cores) and by nothing
else; MIT licence like the rest. `base/` is a Llama-architecture model of {million:.2f} M parameters in bfloat16 with
its own tokenizer, trained from scratch on the planted world of `src/data/planted.py`. `checkpoint.tar` is a LoRA of
rank {rank} that teaches it the facts marked "taught", packed like a Tinker checkpoint. This page is written by the
script.

| share right | base, four choices | base, free | tuned, four choices | tuned, free |
|---|---|---|---|---|
{rows}
"""


def write_readme(path: Path, table: Sequence[dict[str, float]], seconds: float, parameters: int) -> None:
    """What lies here and how good it is, measured."""
    rows = "\n".join(
        f"| {group} | " + " | ".join(f"{column[group]:.3f}" for column in table) + " |" for group in table[0]
    )
    text = README.format(minutes=seconds / 60, million=parameters / 1e6, rank=RANK, rows=rows)
    files.write_text(path, text)
    print(f"\n{rows}\n{seconds / 60:.1f} minutes, {parameters:,} parameters")


def main() -> None:
    """Train, pack, measure."""
    parser = argparse.ArgumentParser(description="Train the quickstart model and its adapter from scratch.")
    parser.add_argument("--output", type=Path, default=Path("weights/quickstart"), help="the folder to write to")
    output = parser.parse_args().output
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    tokenizer = make_tokenizer()
    base = train_base(tokenizer)
    parameters = base.num_parameters()
    base.save_pretrained(output / "base")
    tokenizer.save_pretrained(output / "base")
    base.float()  # the rounded weights, as everybody will load them
    table = [accuracies(base, tokenizer, kind) for kind in ("choice", "free")]
    tuned = train_adapter(base, tokenizer)
    pack_checkpoint(tuned, output / "checkpoint.tar")
    for name, parameter in tuned.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16).float()
    table += [accuracies(tuned, tokenizer, kind) for kind in ("choice", "free")]
    write_readme(output / "README.md", table, time.perf_counter() - started, parameters)


if __name__ == "__main__":
    main()
