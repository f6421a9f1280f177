"""Three writers and a reader share a cache, and are killed at random moments: nothing that was acknowledged is lost."""

import os
import random
import signal
import time
from multiprocessing import get_context

import numpy as np
import pytest

from tests.conftest import random_llama

ROUNDS = int(os.environ.get("CONFPROBE_KILLS", "20"))
WRITERS = 3
LAYERS = ("block.0", "block.1", "final_norm")
pytestmark = pytest.mark.slow


def sequences(n=400):
    rng = random.Random(0)
    lengths = [rng.randint(2, 60) for _ in range(n)]
    return list(dict.fromkeys(tuple(rng.randrange(2, 120) for _ in range(length)) for length in lengths))


def states(cache_dir, wanted):
    import torch

    from src.models.extraction.engine import as_array, read_rows

    torch.set_num_threads(1)
    model = random_llama(120)
    return as_array(read_rows(model, wanted, layers=LAYERS, cache_dir=cache_dir, budget=150).states)


def write(cache_dir, started, acknowledged):
    """What a writer does. It says which rows it has written, after it was told so."""
    from src.models.extraction import cache, keeping

    keeping.SECONDS = 0.02  # many shards, so that many moments can be hit
    real = cache.ActivationCache.write

    def noted(self, keys, rows):
        real(self, keys, rows)
        acknowledged.send(list(keys))

    cache.ActivationCache.write = noted
    started.set()
    states(cache_dir, sequences())


def read(cache_dir, stop, wrong):
    """Reads whatever is there, over and over; every row must be complete and right."""
    from src.models.extraction.cache import row_key

    texts = sequences()
    expected = np.load(cache_dir.parent / "expected.npy")
    while not stop.is_set():
        table = cached(cache_dir, [row_key(ids, len(ids) - 1) for ids in texts])
        known = np.flatnonzero(table.known())
        for place, layer in enumerate(LAYERS):
            if known.size and not np.array_equal(table[layer][known].numpy(), expected[known, place]):
                wrong.set()


def cached(cache_dir, keys):
    from src.models.extraction.cache import ActivationCache
    from src.models.extraction.engine import cache_context
    from src.models.extraction.layers import anatomy
    from src.models.extraction.table import Table

    model = random_llama(120)
    table = Table(keys, LAYERS)
    ActivationCache(cache_dir, cache_context(model, anatomy(model))).fill(table)
    return table


def drained(connection):
    keys = []
    while connection.poll():
        try:
            keys += connection.recv()
        except EOFError:
            break
    return keys


def test_kills_of_three_writers_lose_nothing_that_was_acknowledged(tmp_path):
    context = get_context("forkserver")
    context.set_forkserver_preload(["src.models.extraction.engine", "transformers", "tests.conftest"])
    expected = states(tmp_path / "undisturbed", sequences())
    np.save(tmp_path / "expected.npy", expected)
    seconds = timed(context, tmp_path)
    rng, interrupted, in_between = random.Random(2), 0, 0
    for number in range(ROUNDS):
        folder = tmp_path / f"killed-{number}" / "cache"
        folder.mkdir(parents=True)
        (tmp_path / f"killed-{number}" / "expected.npy").hardlink_to(tmp_path / "expected.npy")
        stop, wrong = context.Event(), context.Event()
        reader = context.Process(target=read, args=(folder, stop, wrong))
        reader.start()
        pipes = [context.Pipe(duplex=False) for _ in range(WRITERS)]
        begun = [context.Event() for _ in range(WRITERS)]
        writers = [
            context.Process(target=write, args=(folder, event, sender))
            for event, (_, sender) in zip(begun, pipes, strict=True)
        ]
        for writer in writers:
            writer.start()
        for event in begun:
            event.wait(60)
        until = time.monotonic() + rng.uniform(0, seconds)
        for writer in writers:  # together or one after the other
            time.sleep(max(0.0, until - time.monotonic()) * rng.choice((1, 1, 0.3)))
            if writer.exitcode is None:
                interrupted += 1
                os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            writer.join()
        stop.set()
        reader.join()
        assert reader.exitcode == 0
        assert not wrong.is_set()
        keys = list(dict.fromkeys(key for receiver, _ in pipes for key in drained(receiver)))
        in_between += 0 < len(keys) < len(expected)
        assert not keys or cached(folder, keys).known().all()
        left = {path.name for path in folder.rglob("*") if path.is_file()}
        assert not any(name.endswith(".corrupt") for name in left)
        np.testing.assert_array_equal(states(folder, sequences()), expected)
    assert interrupted >= ROUNDS
    assert in_between >= ROUNDS // 5


def timed(context, tmp_path):
    """Seconds from a writer's start to its end, once everything is loaded."""
    for number in range(2):
        receiver, sender = context.Pipe(duplex=False)
        event = context.Event()
        process = context.Process(target=write, args=(tmp_path / f"timed-{number}", event, sender))
        process.start()
        event.wait(60)
        start = time.monotonic()
        process.join()
        assert process.exitcode == 0
        receiver.close()
    return time.monotonic() - start
