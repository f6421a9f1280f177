"""Texts to token ids: too long is an error, or a truncation that is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from src.errors import DataError

Truncation = Literal["left", "right"]


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, and the row numbers of those that were cut."""

    ids: tuple[tuple[int, ...], ...]
    truncated: tuple[int, ...]


def context_length(model: Any) -> int | None:
    """How many tokens the model can take, or None where its configuration does not say."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, limit: int | None, truncation: Truncation | None = None
) -> Tokens:
    """Encode each text as the tokenizer does by default (with its BOS, where it adds one).

    Args:
        tokenizer: a transformers tokenizer.
        texts: the texts.
        limit: most tokens a text may have; None for no limit.
        truncation: what to do above it: None is an error; "left" drops the beginning, but keeps a leading
            special token; "right" drops the end.

    Raises:
        DataError: an empty text, or one over the limit (how many, and the first one's index).
    """
    if isinstance(texts, str):
        raise DataError("texts must be a list of texts, not one string: write [text].")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise DataError(f"Text {index} is {'empty' if text == '' else repr(text)}: there is no token to read.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(f"Text {index} holds half of a surrogate pair, which is no character: {text!r:.60}")
    encoded = tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"] if texts else []
    if empty := next((index for index, ids in enumerate(encoded) if not ids), None):
        raise DataError(f"Text {empty} ({texts[empty]!r:.60}) has no tokens.")
    over = [index for index, ids in enumerate(encoded) if limit is not None and len(ids) > limit]
    if limit is None or not over:
        return Tokens(tuple(map(tuple, encoded)), ())
    if truncation is None:
        longest = max(len(encoded[index]) for index in over)
        raise DataError(
            f"{len(over)} of {len(texts)} texts exceed the model's {limit} tokens (the first is text {over[0]}, "
            f"the longest has {longest}). Shorten them, or set data.truncation to left or right."
        )
    special = set(tokenizer.all_special_ids)
    for index in over:
        encoded[index] = _cut(encoded[index], limit, truncation, special)
    return Tokens(tuple(map(tuple, encoded)), tuple(over))


def _cut(ids: list[int], limit: int, truncation: Truncation, special: set[int]) -> list[int]:
    if truncation == "right":
        return ids[:limit]
    first = ids[:1] if ids[0] in special else []
    return first + ids[len(ids) - limit + len(first) :]
