"""One batch of answers: transformers' generation, greedy or sampled, and the probability of every token."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Draw every token at this temperature; the seed and a batch's prompts determine what is drawn."""

    temperature: float = 1.0
    seed: int = 0


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
    # 0 and 1 are "no limit": None would let the model's own generation settings in.
    options |= {"temperature": sampling.temperature, "top_p": 1.0, "top_k": 0} if sampling else {
        "temperature": None, "top_p": None, "top_k": None}  # fmt: skip
    with torch.inference_mode(), _seeded(sampling, rows, device):
        output = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=sampling is not None, num_beams=1, max_new_tokens=room,
            pad_token_id=padding, logits_processor=[chosen], tokenizer=tokenizer, return_dict_in_generate=False,
            **options,
        )  # fmt: skip
    steps = chosen.steps(output)
    tokens = torch.full((len(rows), width), -1, dtype=torch.int32)
    log_probabilities = torch.zeros(len(rows), width)
    tokens[:, : steps.shape[1]] = output[:, longest:].cpu()
    log_probabilities[:, : steps.shape[1]] = steps
    return tokens, log_probabilities


@contextlib.contextmanager
def _seeded(sampling: Sampling | None, rows: Sequence[Sequence[int]], device: torch.device) -> Iterator[None]:
    """Random numbers that depend on the seed and the batch's prompts only; afterwards they go on as before."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        digest = hashlib.sha256(repr((sampling.seed, [list(row) for row in rows])).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield
