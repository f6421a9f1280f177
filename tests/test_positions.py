"""Where in a text a state is read: any token, the mean of some, pointed at by characters."""

import numpy as np
import pytest
import torch

from src.errors import DataError
from src.models import HiddenStateExtractor
from tests.test_packed import alone

TEXTS = ["Question: 12 + 34?\nAnswer: 46 it is", "Question: What is the capital?\nAnswer: Paris, of course", "A B C D"]
ANSWERS = ["46", "Paris", "B"]
SPANS = [(text.index(answer), text.index(answer) + len(answer)) for text, answer in zip(TEXTS, ANSWERS, strict=True)]


def all_tokens(model, tokenizer, text, block):
    """(tokens, d) of transformers itself, with the characters of each token."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    with torch.no_grad():
        output = model(input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True)
    return output.hidden_states[block + 1][0].numpy(), encoded["offset_mapping"]


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_a_span_is_read_at_its_own_tokens(model, tokenizer, pooling, tmp_path):
    extractor = HiddenStateExtractor(model, tokenizer)
    for _ in range(2):  # the second time from the cache
        found = extractor.extract(TEXTS, [0, 1], tmp_path, position=SPANS, pooling=pooling)
        for row, text in enumerate(TEXTS):
            for column, block in enumerate((0, 1)):
                states, offsets = all_tokens(model, tokenizer, text, block)
                start, end = SPANS[row]
                inside = [place for place, (a, b) in enumerate(offsets) if a < end and b > start]
                rows = {"first": inside[:1], "last": inside[-1:], "mean": inside}[pooling]
                np.testing.assert_allclose(found[row, column], states[rows].mean(0), atol=2e-5)


def test_the_mean_of_a_text_leaves_out_its_first_special_token(model, tokenizer):
    found = HiddenStateExtractor(model, tokenizer).extract(TEXTS, [1], position="mean_prompt")
    for row, text in enumerate(TEXTS):
        states, _ = all_tokens(model, tokenizer, text, 1)
        np.testing.assert_allclose(found[row, 0], states[1:].mean(0), atol=2e-5)


def test_positions_share_a_cache_without_mixing(model, tokenizer, tmp_path):
    extractor = HiddenStateExtractor(model, tokenizer)
    settings = [
        {},
        {"position": "mean_prompt"},
        *({"position": SPANS, "pooling": p} for p in ("first", "last", "mean")),
    ]
    fresh = [extractor.extract(TEXTS, "all", **one) for one in settings]
    for _ in range(2):
        for one, expected in zip(settings, fresh, strict=True):
            np.testing.assert_allclose(extractor.extract(TEXTS, "all", tmp_path, **one), expected, atol=2e-5)
    whole = [(0, len(text)) for text in TEXTS]
    np.testing.assert_array_equal(extractor.extract(TEXTS, "all", tmp_path, position=whole), fresh[0])


def test_a_mean_behind_a_shared_beginning_is_right():
    from src.models.extraction.engine import as_array, read_rows
    from tests.test_packed import SMALL, build, with_beginnings

    model = build("Llama", SMALL)
    sequences = [ids for ids in with_beginnings() if len(ids) > 210]
    starts = [len(ids) - 1 - place % 5 for place, ids in enumerate(sequences)]
    windows = [((start, len(ids) - 1),) for ids, start in zip(sequences, starts, strict=True)]
    found = as_array(read_rows(model, sequences, windows=windows, layers=("block.0", "block.1"), budget=300).states)
    for row, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
        parts = [alone(model, [ids[: end + 1]], ("block.0", "block.1"), ())[0][0] for end in range(start, len(ids))]
        np.testing.assert_allclose(found[row], np.mean(parts, axis=0), atol=5e-5)


def test_means_of_a_half_precision_model_are_float32_also_where_a_text_has_one_token(tmp_path):
    from src.models.extraction.engine import as_array, read_rows
    from tests.test_packed import SMALL, build, texts

    model = build("Llama", SMALL, torch.bfloat16)
    sequences = texts()
    assert min(map(len, sequences)) == 1
    windows = [((0, len(ids) - 1),) for ids in sequences]
    fresh = read_rows(model, sequences, windows=windows, layers=("block.1",), budget=60)
    read_rows(model, sequences[:1], layers=("block.1",), cache_dir=tmp_path, budget=60)  # the same row, in bfloat16
    for _ in range(2):
        kept = read_rows(model, sequences, windows=windows, layers=("block.1",), cache_dir=tmp_path, budget=60)
        assert kept.states["block.1"].dtype == torch.float32
        np.testing.assert_array_equal(as_array(kept.states), as_array(fresh.states))
    assert not list(tmp_path.rglob("*.corrupt"))


@pytest.mark.parametrize(
    ("position", "options", "message"),
    [
        ("middle", {}, "choose last_prompt, mean_prompt, or a span"),
        (SPANS, {"pooling": "max"}, "choose last_prompt"),
        (SPANS[:2], {}, "There are 3 texts and 2 spans"),
        ([(0, 1), (0, 1), (3, 99)], {}, r"span \(3, 99\) of text 2 is outside its 7 characters"),
        ([(0, 1), (2, 2), (0, 1)], {}, r"span \(2, 2\) of text 1 is outside"),
        (SPANS, {"truncation": "left", "max_tokens": 5}, "Text 0 was cut"),
    ],
)
def test_what_cannot_be_pointed_at_is_named(model, tokenizer, position, options, message):
    with pytest.raises(DataError, match=message):
        HiddenStateExtractor(model, tokenizer).extract(TEXTS, [0], position=position, **options)


def test_a_row_that_several_texts_share_is_computed_kept_and_found_once(tmp_path):
    from src.models.extraction.engine import as_array, read_rows
    from tests.test_packed import SMALL, build

    model = build("Llama", SMALL)
    prompt = (5, 6, 7, 8)
    sequences = [(*prompt, 9, 10), (*prompt, 11), prompt, (*prompt, 9, 10)]
    windows = [((3, 3), (5, 5)), ((3, 3), (4, 4)), ((3, 3),), ((0, 5),)]
    fresh = read_rows(model, sequences, windows=windows, layers=("block.1",))
    assert fresh.computed == 4
    found = as_array(fresh.states)
    for row in (2, 4):
        np.testing.assert_array_equal(found[row], found[0])
    for row, ids in ((0, prompt), (1, sequences[0]), (3, sequences[1])):
        np.testing.assert_allclose(found[row], alone(model, [ids], ("block.1",), ())[0][0], atol=5e-5)
    computed = [
        read_rows(model, sequences, windows=windows, layers=("block.1",), cache_dir=tmp_path).computed for _ in range(3)
    ]
    assert computed == [4, 0, 0]
