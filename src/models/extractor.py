"""`HiddenStateExtractor`: texts in, one vector per text and layer out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.errors import DataError
from src.models.extraction.capture import Windows
from src.models.extraction.engine import CachePolicy, as_array, read_rows
from src.models.extraction.forecast import ExtractionPlan, plan_rows
from src.models.extraction.layers import Layers, anatomy, layer_names
from src.models.extraction.tokens import Tokens, Truncation, context_length, leading_special, spans_to_tokens, tokenize

# Where in each text a state is read: its last token, the mean of its tokens, or a span of characters.
Position = Literal["last_prompt", "mean_prompt"] | Sequence[tuple[int, int]]
Pooling = Literal["first", "last", "mean"]


class HiddenStateExtractor:
    """Reads the residual stream of each text, at one token or as a mean of several.

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
        position: Position = "last_prompt",
        pooling: Pooling = "last",
        truncation: Truncation | None = None,
        max_tokens: int | None = None,
        token_budget: int | None = None,
        cache: CachePolicy = "optional",
    ) -> np.ndarray:
        """One vector per text and layer.

        Layer i is the residual stream after decoder block i, counted from 0, before the final norm:
        transformers' `hidden_states[i + 1]`, but for the last block, where transformers has applied the
        final norm already. Nothing above the highest wanted layer is computed.

        Args:
            texts: the texts, none of them empty.
            layers: block numbers (negative from the end), "embeddings", "final_norm", or "all".
            cache_dir: rows are kept there and used again by any later call for which they are valid.
            position: "last_prompt", "mean_prompt" (of all tokens but leading special ones), or for each text a span of
                characters (start, end) as Python slices have it, such as the exact answer's.
            pooling: what is read of a span: the state of the first or last token that touches it, or their mean.
            truncation: for texts over the model's context: None is an error, "left" or "right" cuts.
            max_tokens: the most tokens of a text; None: the model's context.
            token_budget: tokens computed at once; None: what fits into half of the free memory, chosen once for a
                cache and recorded there.
            cache: where cache_dir is read-only or full, "optional" goes on with a warning, "required" is an error.

        Returns:
            float32 array (n_texts, n_layers, hidden_dim), in the order given.

        Raises:
            DataError: an empty text, one over the model's context, or a span that holds no token of its text.
            ModelError: a layer the model does not have.
            CacheError: cache_dir cannot be used, or is required and cannot be written.
        """
        parts = anatomy(self.model)
        names = layer_names(layers, len(parts.blocks))
        tokens = self._tokens(texts, max_tokens, truncation)
        if not tokens.ids:
            return np.empty((0, len(names), parts.hidden_dim), dtype=np.float32)
        windows = self._windows(texts, tokens, position, pooling)
        rows = read_rows(
            self.model, tokens.ids, windows=windows, layers=names, cache_dir=cache_dir, cache=cache, budget=token_budget
        )
        return as_array(rows.states)

    def plan(
        self,
        texts: Sequence[str],
        layers: Layers,
        cache_dir: str | Path | None = None,
        *,
        position: Position = "last_prompt",
        pooling: Pooling = "last",
        truncation: Truncation | None = None,
        max_tokens: int | None = None,
        token_budget: int | None = None,
    ) -> ExtractionPlan:
        """What `extract` with the same arguments would do, without doing it.

        The model may be one without weights (`ModelLoader.skeleton()`).

        Raises:
            DataError, ModelError: as `extract`.
        """
        names = layer_names(layers, len(anatomy(self.model).blocks))
        tokens = self._tokens(texts, max_tokens, truncation)
        windows = self._windows(texts, tokens, position, pooling)
        return plan_rows(self.model, tokens.ids, windows, names, cache_dir=cache_dir, budget=token_budget)

    def _tokens(self, texts: Sequence[str], max_tokens: int | None, truncation: Truncation | None) -> Tokens:
        limit = max_tokens or context_length(self.model)
        return tokenize(self.tokenizer, texts, limit=limit, truncation=truncation)

    def _windows(
        self, texts: Sequence[str], tokens: Tokens, position: Position, pooling: Pooling
    ) -> list[Windows] | None:
        """First and last wanted token of each text; None for the last one of each."""
        if position == "last_prompt":
            return None
        if position == "mean_prompt":
            return [((leading_special(self.tokenizer, ids), len(ids) - 1),) for ids in tokens.ids]
        if isinstance(position, str) or pooling not in ("first", "last", "mean"):
            raise DataError(
                f"position={position!r:.60}, pooling={pooling!r}: choose last_prompt, mean_prompt, or a span of "
                "characters for each text with pooling first, last or mean."
            )
        spans = spans_to_tokens(self.tokenizer, texts, tokens, position)
        choose = {
            "first": lambda first, _: (first, first), "last": lambda _, last: (last, last),
            "mean": lambda first, last: (first, last),
        }[pooling]  # fmt: skip
        return [(choose(*span),) for span in spans]
