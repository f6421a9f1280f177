"""What was acknowledged is on the disk and right, whoever writes, reads, merges, flips a bit or dies meanwhile."""

import hashlib
import json
import logging

import numpy as np
import pytest
import torch

from src import files
from src.errors import CacheError, ModelError
from src.models import HiddenStateExtractor
from src.models.extraction import keeping, passes
from src.models.extraction.cache import ActivationCache, peek, row_key
from src.models.extraction.engine import as_array, read_rows
from src.models.extraction.keeping import Keeper
from src.models.extraction.maintenance import compact, verify
from src.models.extraction.table import Table

TEXTS = [f"{n} {'word ' * (n % 7)}{n}" for n in range(60)]
CONTEXT = {"weights": "w", "position": "last_prompt"}


def key(n):
    return hashlib.sha256(str(n).encode()).digest()


def rows(numbers, width=8):
    """Rows that can be told from their number."""
    return torch.stack([torch.arange(width) + 1000.0 * n for n in numbers])


def full(cache, numbers, quantities):
    table = Table([key(n) for n in numbers], quantities)
    cache.fill(table)
    return table


class TestTable:
    def test_what_is_there_first_stays(self):
        table = Table([key(0), key(1)], ["a"])
        table.add(np.array([1]), {"a": rows([1])})
        table.add(np.array([0, 1]), {"a": rows([7, 7])})
        np.testing.assert_array_equal(table["a"], rows([7, 1]))
        assert table.known().all()

    def test_a_row_counts_where_everything_wanted_of_it_is_there(self):
        table = Table([key(0), key(1), key(2)], ["a", "b"])
        table.add(np.array([0, 1]), {"a": rows([0, 1])})
        table.add(np.array([2, 1]), {"b": rows([2, 1]), "other": rows([0, 0])})
        assert table.known().tolist() == [False, True, False]
        lacking = {names: places.tolist() for names, places in table.lacking(np.array([2, 0, 1, -1]))}
        assert lacking == {("a",): [0], ("b",): [1]}

    def test_keys_that_are_not_wanted_have_no_place(self):
        table = Table([key(5), key(6)], ["a"])
        assert table.places([key(6), key(1), key(5)]).tolist() == [1, -1, 0]
        table.add(np.array([1, -1, 0]), {"a": rows([6, 1, 5])})
        np.testing.assert_array_equal(table["a"], rows([5, 6]))
        assert list(table.lacking(np.array([0, 1]))) == []

    def test_rows_of_two_precisions_keep_the_wider(self):
        table = Table([key(0), key(1)], ["a"])
        table.add(np.array([0]), {"a": rows([0]).bfloat16()})
        table.add(np.array([1]), {"a": torch.full((1, 8), 1.001)})
        assert table["a"].dtype == torch.float32
        assert table["a"][1, 0] == np.float32(1.001)


class TestKeeper:
    def test_no_quantity_of_a_row_is_written_twice(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        with Keeper(full(cache, range(4), ["a"]), cache) as keeper:
            keeper.keep(np.array([0, 1]), {"a": rows([0, 1])})
            keeper.keep(np.array([1, 2]), {"a": rows([9, 2])})
        table = full(cache, range(4), ["a", "b"])
        with Keeper(table, cache) as keeper:
            keeper.keep(np.arange(4), {"a": rows([9, 9, 9, 3]), "b": rows([0, 1, 2, 3])})
        np.testing.assert_array_equal(table["a"], rows(range(4)))
        there = [(name, k) for path in cache.folder.glob("*.safetensors") for name in peek(path).quantities
                 for k in peek(path).keys]  # fmt: skip
        assert len(there) == len(set(there)) == 8

    def test_short_passes_share_a_shard_and_a_slow_one_is_written_at_once(self, tmp_path, monkeypatch):
        cache = ActivationCache(tmp_path, CONTEXT)
        with Keeper(full(cache, range(100), ["a"]), cache) as keeper:
            for n in range(100):
                keeper.keep(np.array([n]), {"a": rows([n])})
        assert len(list(cache.folder.glob("*.safetensors"))) == 1
        monkeypatch.setattr(keeping, "SECONDS", 0.0)
        other = ActivationCache(tmp_path, CONTEXT | {"weights": "v"})
        with Keeper(full(other, range(3), ["a"]), other) as keeper:
            for n in range(3):
                keeper.keep(np.array([n]), {"a": rows([n])})
        assert len(list(other.folder.glob("*.safetensors"))) == 3

    def test_what_was_handed_over_is_kept_when_the_block_ends_with_an_error(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)

        def interrupted():
            with Keeper(full(cache, range(2), ["a"]), cache) as keeper:
                keeper.keep(np.array([0]), {"a": rows([0])})
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert full(cache, range(2), ["a"]).known().tolist() == [True, False]

    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_a_state_that_is_not_finite_is_an_error_that_names_the_layer(self, tmp_path, bad):
        cache = ActivationCache(tmp_path, CONTEXT)
        states = rows([0, 1]).half()
        states[1, 3] = bad
        message = r"block.3 holds numbers that are not finite in 1 of 2 rows .*torch.float16"
        with pytest.raises(ModelError, match=message), Keeper(Table([key(0), key(1)], ["block.3"]), cache) as keeper:
            keeper.keep(np.array([0, 1]), {"block.3": states})
        assert not list(cache.folder.glob("*.safetensors"))

    def test_an_overflow_in_float16_is_noticed_in_extraction(self, model, tokenizer):
        model = model.half()
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(1e4)
        with pytest.raises(ModelError, match=r"block\.1 holds numbers that are not finite"):
            HiddenStateExtractor(model, tokenizer).extract(TEXTS, [0, 1])


class TestBudget:
    def test_it_is_chosen_once_and_recorded(self, model, tokenizer, tmp_path, monkeypatch):
        extractor = HiddenStateExtractor(model, tokenizer)
        first = extractor.extract(TEXTS[:30], [1], tmp_path)
        (recorded,) = tmp_path.glob("*/budget.json")
        chosen = json.loads(recorded.read_text())["token_budget"]
        monkeypatch.setattr("src.models.extraction.engine.token_budget", lambda *_, **__: chosen // 2)
        plan = extractor.plan(TEXTS, [1], tmp_path)
        assert plan.token_budget == chosen
        np.testing.assert_array_equal(extractor.extract(TEXTS, [1], tmp_path)[:30], first)
        assert json.loads(recorded.read_text())["token_budget"] == chosen

    def test_a_record_that_makes_no_sense_is_written_anew(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        for text in ("", "[]", '{"token_budget": -1}', '{"token_budget": "x"}', "{"):
            (cache.folder / "budget.json").write_text(text)
            assert cache.token_budget(lambda: 512) == 512
            assert cache.token_budget(lambda: 1) == 512

    def test_less_free_memory_means_fewer_tokens(self, model, monkeypatch):
        from src import machine
        from src.models.extraction.cost import bytes_per_token, token_budget
        from src.models.extraction.layers import anatomy

        parts = anatomy(model)
        each = bytes_per_token(model, parts, with_head=False)
        found = []
        for free in (None, 10**12, 2 * 1024 * each, 2 * 1023 * each, 1):
            monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
            found.append(token_budget(model, parts, with_head=False))
        assert found == [2048, 2048, 1024, 512, 256]


def test_a_full_gpu_halves_the_passes_and_changes_nothing(model, tokenizer, monkeypatch, caplog):
    expected = HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all")
    sizes, real = [], passes.forward_packed

    def small(model, parts, texts, *args, **options):
        sizes.append(sum(map(len, texts)))
        if sizes[-1] > 90:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, parts, texts, *args, **options)

    monkeypatch.setattr(passes, "forward_packed", small)
    found = HiddenStateExtractor(model, tokenizer).extract(TEXTS, "all", token_budget=400)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    too_large = [size for size in sizes if size > 90]
    assert len(too_large) <= 4  # 400, 200, 100: later passes are halved before they are tried
    assert "going on with" in caplog.text


def test_one_text_that_fills_the_gpu_is_an_error_with_its_length(model, tokenizer, monkeypatch):
    def full_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(passes, "_refusal", lambda _: "")
    monkeypatch.setattr(passes, "forward_packed", full_memory)
    size = len(tokenizer("a b c")["input_ids"])
    with pytest.raises(ModelError, match=f"A text of {size} tokens does not fit"):
        HiddenStateExtractor(model, tokenizer).extract(["a b c"], [0])


def test_a_required_cache_that_cannot_be_written_is_an_error(model, tokenizer, tmp_path, monkeypatch):
    extractor = HiddenStateExtractor(model, tokenizer)
    extractor.extract(TEXTS[:1], [0], tmp_path)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_pieces", no_room)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\), and it is required"):
        extractor.extract(TEXTS, [0], tmp_path, cache="required")


class TestCompact:
    def test_many_shards_become_one_and_hold_the_same(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        for n in range(12):
            cache.write([key(n)], {"a": [rows([n])], "b": [rows([-n])]})
        cache.write([key(3), key(50)], {"a": [rows([3, 50])], "b": [rows([-3, -50])]})  # one row a second time
        cache.write([key(0)], {"c": [rows([5])]})
        foreign = cache.folder / "notes.safetensors"
        foreign.write_bytes(b"mine")
        before = {n: full(cache, [n], ["a", "b"])["a"].clone() for n in [*range(12), 50]}
        assert compact(tmp_path) == (14, 2)
        assert foreign.read_bytes() == b"mine"
        for n, expected in before.items():
            np.testing.assert_array_equal(full(cache, [n], ["a", "b"])["a"], expected)
        assert full(cache, [0], ["a", "b", "c"]).known().all()
        assert compact(tmp_path) == (2, 2)
        assert verify(tmp_path)[1] == []

    def test_rows_of_two_precisions_are_not_merged(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        for n, dtype in enumerate((torch.bfloat16, torch.float32, torch.bfloat16, torch.float32)):
            cache.write([key(n)], {"a": [rows([n]).to(dtype)]})
        assert compact(tmp_path) == (4, 2)
        assert full(cache, [0, 2], ["a"])["a"].dtype == torch.bfloat16
        assert full(cache, [1, 3], ["a"])["a"].dtype == torch.float32

    def test_merged_shards_stay_within_the_size(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        for n in range(40):
            cache.write([key(n)], {"a": [rows([n], width=1000)]})
        compact(tmp_path, most_bytes=20_000)
        sizes = [path.stat().st_size for path in cache.folder.glob("*.safetensors")]
        assert 8 <= len(sizes) <= 10
        assert max(sizes) <= 20_000
        assert full(cache, range(40), ["a"]).known().all()

    def test_a_damaged_shard_is_left_out(self, tmp_path):
        cache = ActivationCache(tmp_path, CONTEXT)
        for n in range(3):
            cache.write([key(n)], {"a": [rows([n])]})
        path = sorted(cache.folder.glob("*.safetensors"))[1]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        assert compact(tmp_path) == (3, 2)
        assert full(cache, range(3), ["a"]).known().sum() == 2
        assert verify(tmp_path) == (1, [])  # the reader before had found the damage
        assert path.with_suffix(".corrupt").exists()

    def test_a_reader_whose_shard_was_merged_meanwhile_finds_it_in_the_new_one(self, tmp_path, monkeypatch):
        cache = ActivationCache(tmp_path, CONTEXT)
        for n in range(5):
            cache.write([key(n)], {"a": [rows([n])]})
        from src.models.extraction.shard import ShardReader

        real, done = ShardReader.verified, []

        def merging(self, path):
            if not done:
                done.append(None)
                done[0] = compact(tmp_path)
            return real(self, path)

        monkeypatch.setattr(ShardReader, "verified", merging)
        table = full(cache, range(5), ["a"])
        assert done == [(5, 1)]
        np.testing.assert_array_equal(table["a"], rows(range(5)))


class TestPlan:
    def test_it_tells_what_extraction_then_does(self, model, tokenizer, tmp_path):
        extractor = HiddenStateExtractor(model, tokenizer)
        texts = [*TEXTS, TEXTS[0]]
        plan = extractor.plan(texts, [0, 1], tmp_path)
        lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        assert (plan.texts, plan.distinct, plan.cached) == (61, 60, 0)
        assert plan.tokens == sum(lengths)
        assert plan.tokens_padded == sum(
            max(part) * len(part) for part in (lengths[i : i + 16] for i in range(0, 61, 16))
        )
        assert plan.tokens_computed == sum(lengths[:-1])
        assert plan.operations > 0
        assert not list(tmp_path.glob("*/*.safetensors"))
        extractor.extract(texts[:20], [0, 1], tmp_path)
        assert extractor.plan(texts, [1], tmp_path).cached == 20
        assert extractor.plan(texts, [2], tmp_path).cached == 0
        extractor.extract(texts, [0, 1], tmp_path)
        again = extractor.plan(texts, [0, 1], tmp_path)
        assert (again.cached, again.tokens_computed, again.passes, again.operations) == (60, 0, 0, 0)
        assert "60 cached" in str(again)

    def test_operations_follow_the_formula_of_a_llama(self, model, tokenizer):
        """extraction.md, section 4: minimal(top), for a model whose blocks have no biases."""
        extractor = HiddenStateExtractor(model, tokenizer)
        config, top = model.config, 2
        h, i = config.hidden_size, config.intermediate_size
        g = config.num_key_value_heads * config.head_dim
        every, kv = 4 * h * h + 4 * h * g + 6 * h * i, 4 * h * g
        lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
        expected = (top - 1) * (sum(lengths) * every + sum(2 * h * n * (n + 1) for n in lengths))
        expected += sum(lengths) * kv + len(lengths) * (every - kv) + sum(4 * h * n for n in lengths)
        assert extractor.plan(TEXTS, [0, 1]).operations == expected

    def test_a_model_without_weights_has_the_same_plan(self, model_folder, tmp_path):
        from src.models import ModelLoader

        loader = ModelLoader(str(model_folder))
        model, tokenizer = loader.load()
        HiddenStateExtractor(model, tokenizer).extract(TEXTS[:9], [1], tmp_path)
        plans = [HiddenStateExtractor(m, tokenizer).plan(TEXTS, [1], tmp_path) for m in (model, loader.skeleton())]
        assert plans[0].cached == 9
        without_time = [{k: v for k, v in vars(plan).items() if k != "seconds"} for plan in plans]
        assert without_time[0] == without_time[1]
        eight = HiddenStateExtractor(ModelLoader(str(model_folder), quantization="8bit").skeleton(), tokenizer)
        assert eight.plan(TEXTS, [1]).passes == 60
        assert "8bit" in str(eight.plan(TEXTS, [1]))

    def test_a_shared_beginning_is_counted_once(self, model, tokenizer):
        beginning = "one two three four five six seven " * 6
        texts = [beginning + text for text in TEXTS]
        plan = HiddenStateExtractor(model, tokenizer).plan(texts, [1])
        assert plan.tokens_computed < plan.tokens / 4


def test_names_of_rows_are_of_their_tokens():
    assert row_key([1, 2]) == row_key((1, 2)) != row_key([2, 1])
    assert row_key([1, 2], 1) == row_key([1, 2]) != row_key([1, 2], 0)


def test_one_flipped_bit_is_found_and_recomputed(model, tmp_path, caplog):
    """Wherever it is, header included: the shard is set aside, or where its own keys are hit, its rows are not used."""
    caplog.set_level(logging.WARNING)
    sequences = [tuple(range(2, 3 + n)) for n in range(1, 9)]
    expected = as_array(read_rows(model, sequences, layers=["block.1"], cache_dir=tmp_path).states)
    (shard,) = tmp_path.glob("*/*.safetensors")
    intact = shard.read_bytes()
    for place in range(0, len(intact), 11):
        data = bytearray(intact)
        data[place] ^= 1 << (place % 8)
        shard.write_bytes(data)
        rows = read_rows(model, sequences, layers=["block.1"], cache_dir=tmp_path)
        np.testing.assert_array_equal(as_array(rows.states), expected)
        assert rows.computed == len(sequences)
        for path in shard.parent.glob("*.safetensors"):
            path.unlink()
        for path in shard.parent.glob("*.corrupt"):
            path.unlink()
        shard.write_bytes(intact)
