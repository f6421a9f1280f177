"""`HiddenStateExtractor`: texts in, one vector per text and layer out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.models.extraction.engine import as_array, read_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.extraction.packing import TOKEN_BUDGET
from src.models.extraction.tokens import Truncation, context_length, tokenize


class HiddenStateExtractor:
    """Reads the residual stream at the last token of each text.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter.
        tokenizer: its tokenizer. Its padding side and pad token do not matter.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self.model = model
        self.tokenizer = tokenizer

    def extract(
        self,
        texts: Sequence[str],
        layers: Layers,
        cache_dir: str | Path | None = None,
        *,
        truncation: Truncation | None = None,
        max_tokens: int | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> np.ndarray:
        """One vector per text and layer.

        Layer i is the residual stream after decoder block i, counted from 0, before the final norm:
        transformers' `hidden_states[i + 1]`, but for the last block, where transformers has applied the
        final norm already. Nothing above the highest wanted layer is computed.

        Args:
            texts: the texts, none of them empty.
            layers: block numbers (negative from the end), "embeddings", "final_norm", or "all".
            cache_dir: rows are kept there and used again by any later call for which they are valid.
            truncation: for texts over the model's context: None is an error, "left" or "right" cuts.
            max_tokens: the most tokens of a text; None: the model's context.
            token_budget: tokens computed at once; more needs more memory.

        Returns:
            float32 array (n_texts, n_layers, hidden_dim), in the order given.

        Raises:
            DataError: an empty text, or one over the model's context.
            ModelError: a layer the model does not have.
            CacheError: cache_dir cannot be used.
        """
        parts = anatomy(self.model)
        names = layer_names(layers, len(parts.blocks))
        tokens = tokenize(self.tokenizer, texts, limit=max_tokens or context_length(self.model), truncation=truncation)
        if not tokens.ids:
            return np.empty((0, len(names), parts.hidden_dim), dtype=np.float32)
        rows = read_rows(self.model, tokens.ids, layers=names, cache_dir=cache_dir, budget=token_budget)
        return as_array(rows.states)
