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


def check_texts(texts: Sequence[str]) -> None:
    """Raises DataError for anything but a list of texts that a tokenizer can take."""
    if isinstance(texts, str):
        raise DataError("texts must be a list of texts, not one string: write [text].")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise DataError(f"Text {index} is {'empty' if text == '' else repr(text)}: there is no token to read.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(f"Text {index} holds half of a surrogate pair, which is no character: {text!r:.60}")


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
    check_texts(texts)
    encoded = tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"] if texts else []
    if (empty := next((index for index, ids in enumerate(encoded) if not ids), None)) is not None:
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


def leading_special(tokenizer: Any, ids: Sequence[int]) -> int:
    """How many special tokens a text begins with, leaving at least one token to read."""
    special = set(tokenizer.all_special_ids)
    count = next((place for place, token in enumerate(ids) if token not in special), len(ids) - 1)
    return min(count, len(ids) - 1)


def spans_to_tokens(
    tokenizer: Any, texts: Sequence[str], tokens: Tokens, spans: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """First and last token that touch each text's span of characters.

    Raises:
        DataError: not one span per text, a span outside its text or without a token, a text that was cut, or a
            tokenizer that does not say which characters a token stands for.
    """
    if len(spans) != len(texts):
        raise DataError(f"There are {len(texts)} texts and {len(spans)} spans: give one (start, end) for each text.")
    if tokens.truncated:
        raise DataError(
            f"Text {tokens.truncated[0]} was cut, so a span may not be in it any more. Shorten it yourself."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise DataError("Spans of characters need a fast tokenizer, which says what characters a token stands for.")
    offsets = tokenizer(list(texts), return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [_touching(index, texts[index], offsets[index], *span) for index, span in enumerate(spans)]


def _touching(index: int, text: str, offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    if not 0 <= start < end <= len(text):
        raise DataError(f"The span ({start}, {end}) of text {index} is outside its {len(text)} characters, or empty.")
    touching = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
    if not touching:
        raise DataError(f"No token of text {index} stands for {text[start:end]!r:.40}.")
    return touching[0], touching[-1]
