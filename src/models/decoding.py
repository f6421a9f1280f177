"""One batch of answers: transformers' generation, greedy or sampled, and the probability of every token."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Draw every token at this temperature; the seed and a row's own prompt determine what is drawn."""

    temperature: float = 1.0
    seed: int = 0

    def seed_of(self, ids: Sequence[int]) -> int:
        """32 bits that depend on the seed and a prompt's token ids."""
        return int.from_bytes(hashlib.sha256(repr((self.seed, list(ids))).encode()).digest()[:4], "big")


class _Drawn:
    """A logits processor after which the likeliest token is one that was drawn at this temperature.

    The largest of log p - log e, where e is exponential, is drawn from p (the Gumbel-max trick: Maddison, Tarlow and
    Minka, arXiv 1411.0030, section 2). A row has random numbers of its own, so it draws the same in any batch.
    """

    def __init__(self, sampling: Sampling, rows: Sequence[Sequence[int]], device: torch.device):
        self._temperature = sampling.temperature
        self._random = [torch.Generator(device).manual_seed(sampling.seed_of(row)) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(drawn, self._random, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self._temperature - drawn.log_()


class _ChosenLogProbabilities:
    """A logits processor that changes nothing and notes the log-probability, at temperature 1, of what was chosen.

    Keeping every step's logits, as `output_logits=True` does, takes batch x vocabulary x steps of memory.
    """

    def __init__(self) -> None:
        self._steps: list[Tensor] = []
        self._last: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._note(input_ids)
        self._last = scores.float().log_softmax(-1)
        return scores

    def _note(self, ids: Tensor) -> None:
        if self._last is not None:
            self._steps.append(self._last.gather(1, ids[:, -1:])[:, 0].cpu())

    def steps(self, output: Tensor) -> Tensor:
        """(n, steps), when generation has ended with these ids."""
        self._note(output)
        return torch.stack(self._steps, dim=1)


def generate(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    room: int,
    stop: Sequence[str],
    *,
    width: int,
    sampling: Sampling | None,
    criteria: Sequence[Any] = (),
) -> tuple[Tensor, Tensor]:
    """New token ids (n, width) int32 and their log-probabilities float32; -1 and 0 after the batch's last step.

    `criteria` are further ones of transformers that end an answer.
    """
    longest = max(len(ids) for ids in rows)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    device = model.get_input_embeddings().weight.device
    # Generation appends on the right, so it pads on the left, and needs the mask.
    ids = torch.tensor([[padding] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    chosen = _ChosenLogProbabilities()
    options: dict[str, Any] = {"stop_strings": list(stop)} if stop else {}
    options |= {"stopping_criteria": list(criteria)} if criteria else {}
    processors = [chosen, *([_Drawn(sampling, rows, device)] if sampling else [])]
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=room,
            pad_token_id=padding, logits_processor=processors, tokenizer=tokenizer, return_dict_in_generate=False,
            temperature=None, top_p=None, top_k=None, disable_compile=True, **options,
        )  # fmt: skip
    steps = chosen.steps(output)
    tokens = torch.full((len(rows), width), -1, dtype=torch.int32)
    log_probabilities = torch.zeros(len(rows), width)
    tokens[:, : steps.shape[1]] = output[:, longest:].cpu()
    log_probabilities[:, : steps.shape[1]] = steps
    return tokens, log_probabilities
