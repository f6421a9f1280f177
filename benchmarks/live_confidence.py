"""What reading the probe costs inside generation: `ConfidenceModel.ask` against generating the same tokens alone.

python benchmarks/live_confidence.py [--tokens 64] [--rounds 8]

A random Llama of 12 blocks and 512 dimensions; both sides are timed in turn, CPU-seconds, medians and the median of
the pairs' ratios. Live generation looks at the answer's last token too, so it is given one token fewer than the plain
one: both make the same passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from src.models.decoding import generate
from src.probes import Asking, ConfidenceModel, ModelIdentity, Origin, SavedProbe
from src.probes.linear import ProbeWeights

PROMPT = "Question: What is the capital of France?\nAnswer:"


def small_tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    raw.train_from_iterator([PROMPT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")  # noqa: S106


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = small_tokenizer()
    width = 512
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=1408, num_hidden_layers=12,
                    num_attention_heads=8, max_position_embeddings=512, eos_token_id=None, bos_token_id=0)
    ).eval()  # fmt: skip
    weights = ProbeWeights(np.ones(width) / width, 0.0, np.zeros(width), np.ones(width))
    asking = Asking(max_new_tokens=options.tokens - 1)
    probe = SavedProbe(weights, Origin(ModelIdentity.of(model), "block.8", "mean_answer", asking))
    confident = ConfidenceModel.from_pretrained(probe, model, tokenizer)
    ids = tokenizer(PROMPT)["input_ids"]

    def plain() -> None:
        generate(model, tokenizer, [ids], options.tokens, (), width=options.tokens, sampling=None)

    def live() -> None:
        confident.ask_prompt(PROMPT)

    plain(), live()
    pairs = [(seconds(plain), seconds(live)) for _ in range(options.rounds)]
    alone, read = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{options.tokens} tokens: generation alone {alone:.3f} CPU-s, with the probe {read:.3f}, ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
