"""What Tinker itself computes under a checkpoint, and under the model it was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.errors import DownloadError

TokenIds = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Served:
    """Natural log-probabilities that Tinker gives: of each text an array (tokens - 1,).

    Attributes:
        base_model: the name of the model that the checkpoint was trained on.
        tuned: under the checkpoint.
        base: under its base model.
    """

    base_model: str
    tuned: tuple[np.ndarray, ...]
    base: tuple[np.ndarray, ...]


def ask(sdk: Any, service: Any, checkpoint: str, token_ids: TokenIds, *, wait: Callable[[Any], Any]) -> Served:
    """See `TinkerClient.log_probabilities`.

    Args:
        sdk: the module.
        service: its open ServiceClient.
        checkpoint, token_ids: as there.
        wait: gives the value of one of the SDK's futures.
    """
    prompts = [sdk.ModelInput.from_ints(list(ids)) for ids in token_ids]

    def scored(sampler: Any) -> tuple[np.ndarray, ...]:
        asked = [sampler.compute_logprobs(prompt) for prompt in prompts]
        return tuple(_row(wait(answer), len(ids)) for answer, ids in zip(asked, token_ids, strict=True))

    tuned = wait(service.create_sampling_client(model_path=checkpoint))
    name = tuned.get_base_model()
    base = wait(service.create_sampling_client(base_model=name))
    return Served(name, scored(tuned), scored(base))


def _row(given: Sequence[float | None], tokens: int) -> np.ndarray:
    """Of all tokens but the first, for which some servers give None, and others nothing."""
    row = np.array([np.nan if value is None else value for value in given], dtype=float)[-(tokens - 1) :]
    if len(row) != tokens - 1 or not np.isfinite(row).all():
        raise DownloadError(
            f"Tinker gave no log-probabilities for {tokens} tokens: {len(given)} values, or no numbers."
        )
    return row
