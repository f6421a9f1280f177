"""Operations are those that torch counts, hours are tokens by speed, and a cost comes from a price that was given."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from src.config import load_config
from src.errors import ConfigError
from src.machine import time_in_words
from src.models.extraction import cost
from src.models.extraction.engine import read_rows
from src.models.extraction.forecast import plan_rows
from src.models.extraction.layers import anatomy
from src.models.generation import answer_freely
from src.pipeline.asking import forecast
from src.pipeline.plan import make_plan, model_loader
from src.pipeline.throughput import Speed, estimate, measure, work_of
from tests.conftest import random_llama
from tests.test_data import write_lines
from tests.test_foreign_states import write_vllm
from tests.test_pipeline import choices, cli, config  # noqa: F401 (choices is a fixture)


def products(do):
    """Operations of all matrix products in a call, as torch counts them; its attention is counted nowhere."""
    with FlopCounterMode(display=False) as counted:
        do()
    counts = counted.get_flop_counts()["Global"]
    assert {str(one) for one in counts} <= {"aten.mm", "aten.addmm"}
    return sum(counts.values())


def of_attention(model, lengths, blocks):
    return blocks * cost.attention_operations(model, anatomy(model), lengths, 0)


@pytest.mark.parametrize(
    ("layers", "candidates", "blocks"),
    [
        (["block.1"], (), 1),
        (["block.3"], (), 3),
        (["block.1"], (5, 6), 3),
        (["final_norm"], (), 3),
        (["embeddings"], (), 0),
    ],
)
def test_forecast_operations_are_those_that_torch_counts(layers, candidates, blocks):
    model = random_llama(400, num_hidden_layers=4)
    draw = torch.Generator().manual_seed(0)
    first, *others = (torch.randint(3, 400, (n,), generator=draw).tolist() for n in (60, 10, 20, 33))

    def counted(texts):
        return products(lambda: read_rows(model, texts, layers=layers, candidates=candidates, budget=10_000))

    def planned(texts):
        return plan_rows(model, texts, None, layers, candidates=candidates, budget=10_000).operations

    # Before its first pass a call compares two short texts, the same ones for both calls.
    ours = planned([first, *others]) - planned([first])
    # In the highest block only the last token of each text attends to what is before it.
    lengths = [len(ids) for ids in others]
    last = 4 * 32 * sum(lengths) if layers != ["embeddings"] else 0
    assert ours - of_attention(model, lengths, blocks) - last == counted([first, *others]) - counted([first])


def loaded(settings):
    plan = make_plan(load_config(settings))
    model, tokenizer = model_loader(plan.task.config, ()).load()
    return plan, model, tokenizer


def some_of(plan, rows):
    task = dataclasses.replace(plan.task, questions=plan.task.questions.only(rows))
    return dataclasses.replace(plan, tasks=(task,))


def of_task(plan, model, tokenizer):
    task = plan.task
    passes = forecast(model, tokenizer, task.questions, task.config, layers=plan.layers)
    return work_of(model, tokenizer, task, passes, plan.layers), passes


@pytest.fixture
def open_questions(tmp_path):
    """Of different lengths, to be answered in words."""
    rows = [{"question": "Which number comes " + "after " * (n % 7) + f"{n}?", "answer": str(n)} for n in range(60)]
    return write_lines(tmp_path / "open.jsonl", *rows)


def test_answers_in_words_count_every_token_that_goes_through_the_model(tmp_path, model_folder, open_questions):
    settings = config(tmp_path, model_folder, open_questions)
    settings["data"]["max_new_tokens"] = 5
    plan, model, tokenizer = loaded(settings)
    plan = some_of(plan, range(8))
    work, passes = of_task(plan, model, tokenizer)
    assert work.read == passes.tokens_computed
    prompts = [example.prompt for example in plan.task.questions.examples]
    model.generation_config.eos_token_id = None  # so that all answers are as long as they may be
    lengths = [len(tokenizer(prompt)["input_ids"]) + 4 for prompt in prompts]
    assert work.answered == sum(lengths)
    # One by one, so that no padding is computed.
    counted = sum(products(lambda p=p: answer_freely(model, tokenizer, [p], max_new_tokens=5)) for p in prompts)
    assert work.operations - passes.operations == counted + of_attention(model, lengths, 3)


def test_samples_are_as_many_answers_more_and_states_in_answers_are_read(tmp_path, model_folder, open_questions):
    settings = config(tmp_path, model_folder, open_questions)
    settings["data"]["max_new_tokens"] = 5
    once, passes = of_task(*loaded(settings))
    thrice, _ = of_task(*loaded(settings | {"baselines": {"samples": 2}}))
    assert thrice.answered == 3 * once.answered
    assert thrice.operations - passes.operations == 3 * (once.operations - passes.operations)
    settings["extraction"]["position"] = ["last_prompt", "last_answer"]
    longer, passes = of_task(*loaded(settings))
    assert longer.read == passes.tokens_computed + 60 * 5
    assert longer.operations > once.operations


def test_answers_from_outside_are_read_and_weighed(tmp_path, model_folder):
    rows = [{"prompt": f"What is {n}?", "response": f" It is {n} and more", "correct": n % 2 == 0} for n in range(40)]
    settings = config(tmp_path, model_folder, write_lines(tmp_path / "given.jsonl", *rows))
    settings["data"]["name"] = "answered"
    plan, model, tokenizer = loaded(settings)
    work, passes = of_task(plan, model, tokenizer)
    texts = [tokenizer(row["prompt"] + row["response"])["input_ids"] for row in rows]
    assert work.read == passes.tokens_computed + sum(map(len, texts))
    pairs = [(len(tokenizer(row["prompt"])["input_ids"]), ids) for row, ids in zip(rows, texts, strict=True)]
    weighed = work.operations - passes.operations
    heads = sum(len(ids) - begun for begun, ids in pairs) * 2 * 32 * len(tokenizer)
    every = 3 * cost.block_operations(model, anatomy(model))
    assert weighed == sum(map(len, texts)) * every + of_attention(model, list(map(len, texts)), 3) + heads


# Hours and cost


def estimated(settings, **known):
    settings = load_config(settings)
    plan = make_plan(settings)
    facts = plan.facts(settings)
    return estimate(plan, settings, facts, **known), facts


def test_hours_are_tokens_by_speed_and_shared_by_the_workers(tmp_path, model_folder, adapter_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    one, facts = estimated(settings, speed=Speed(100, "as given"))
    assert one["tokens"] == facts["passes"]["tokens_computed"]
    assert one["operations"] == facts["passes"]["operations"]
    assert one["hours_per_worker"] == pytest.approx(one["tokens"] / 100 / 3600)
    assert (one["cost"], one["price_per_hour"], one["answered"]) == (None, None, 0)
    priced, _ = estimated(settings, speed=Speed(100, "as given"), price=7.5)
    assert priced["cost"] == pytest.approx(7.5 * one["hours_per_worker"])
    both = settings | {"model": {"name": str(model_folder), "tinker_lora_path": str(adapter_folder)}}
    assert estimated(both, speed=Speed(100, "as given"))[0]["tokens"] == 2 * one["tokens"]
    pytest.importorskip("ray")
    shared = settings | {"run": settings["run"] | {"engine": "ray", "workers": 4}}
    four, _ = estimated(shared, speed=Speed(100, "as given"), price=7.5)
    assert four["hours_per_worker"] == pytest.approx(one["hours_per_worker"] / 4)
    assert four["cost"] == pytest.approx(priced["cost"])


def test_without_a_speed_no_hours_are_told_and_without_a_price_no_cost(tmp_path, model_folder, choices):  # noqa: F811
    found, _ = estimated(config(tmp_path, model_folder, choices))
    assert {found[key] for key in ("hours_per_worker", "cost", "tokens_per_second", "speed_from")} == {None}
    for known in ({"price": 3.0}, {"speed": Speed(0, "")}, {"speed": Speed(float("nan"), "")},
                  {"speed": Speed(1, ""), "price": 0.0}, {"speed": Speed(1, ""), "price": float("inf")}):  # fmt: skip
        with pytest.raises(ConfigError):
            estimated(config(tmp_path, model_folder, choices), **known)


def test_what_lies_in_the_cache_is_no_work(tmp_path, model_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    plan, model, tokenizer = loaded(settings)
    before, _ = estimated(settings)
    from src.pipeline.asking import ask_all

    ask_all(model, tokenizer, plan.task.questions, plan.task.config, name="", layers=plan.layers, adapters=())
    after, _ = estimated(settings)
    assert before["tokens"] > 0
    assert (after["tokens"], after["operations"]) == (0, 0)


def test_what_an_adapter_asks_is_work_although_the_base_was_asked(tmp_path, model_folder, adapter_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    before, _ = estimated(settings)
    plan, model, tokenizer = loaded(settings)
    from src.pipeline.asking import ask_all

    ask_all(model, tokenizer, plan.task.questions, plan.task.config, name="", layers=plan.layers, adapters=())
    settings["model"]["adapters"] = [str(adapter_folder)]
    after, _ = estimated(settings)
    assert after["tokens"] == before["tokens"]


def test_a_speed_is_measured_in_rounds_that_double_until_one_is_long_enough(tmp_path, model_folder, choices):  # noqa: F811
    settings = load_config(config(tmp_path, model_folder, choices))
    plan, model, tokenizer = loaded(settings)
    ticks = itertools.chain([0, 9], [10, 11], [20, 22], [30, 34])  # a slow round that warms up, then 1, 2 and 4 s
    speed = measure(plan, settings, enough=3.0, clock=lambda: float(next(ticks)))
    assert speed.source == "measured here on 32 of the questions in 4.0 s"
    part = some_of(plan, [149 * i // 31 for i in range(32)])
    assert speed.tokens_per_second == pytest.approx(of_task(part, model, tokenizer)[0].tokens / 4)
    assert not (tmp_path / "cache").exists()


def test_where_nothing_goes_through_the_model_there_is_no_work_and_no_speed(tmp_path, model_folder):
    rows = [{"prompt": f"What is {n}?", "response": " 1", "correct": n % 2, "confidence": 0.5} for n in range(40)]
    path = write_lines(tmp_path / "given.jsonl", *rows)
    folder = write_vllm(tmp_path / "states", [[5, 6]], [torch.ones(1, 2, 32)], ids=(1,))
    extraction = {"states": str(folder), "verify_rows": 0}
    settings = config(tmp_path, model_folder, path, extraction=extraction, data={"name": "answered", "path": str(path)})
    assert estimated(settings)[0]["tokens"] == 0
    settings = load_config(settings)
    with pytest.raises(ConfigError, match="there is no speed to measure"):
        measure(make_plan(settings), settings)
    more = settings.extraction.model_copy(update={"verify_rows": 2})
    weighed, facts = estimated(settings.model_copy(update={"extraction": more}))
    assert weighed["tokens"] == facts["passes"]["tokens"]  # the states are there, the answers are weighed
    assert "nothing to compute" in facts["passes_in_words"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0.4 s"),
        (60, "60 s"),
        (150, "2.5 minutes"),
        (5400, "90 minutes"),
        (9000, "2.5 hours"),
        (3.6e7, "10,000 hours"),
    ],
)
def test_times_are_said_in_a_unit_that_fits(seconds, words):
    assert time_in_words(seconds) == words


def test_few_questions_are_all_asked(tmp_path, model_folder, choices):  # noqa: F811
    settings = config(tmp_path, model_folder, choices)
    settings["data"]["limit"] = 40
    settings = load_config(settings)
    ticks = itertools.count(0.0, 0.5)
    speed = measure(make_plan(settings), settings, clock=lambda: next(ticks))
    assert speed.source == "measured here on 40 of the questions in 0.5 s"


def test_the_command_prints_and_hands_on_the_same_numbers(tmp_path, model_folder, choices, monkeypatch, capsys):  # noqa: F811
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config(tmp_path, model_folder, choices)))
    given = ("--tokens-per-second", "250", "--price-per-hour", "4")
    assert cli(monkeypatch, "run", path, "--dry-run", "--json", *given) == 0
    work = json.loads(capsys.readouterr().out)["work"]
    assert work["cost"] == pytest.approx(4 * work["tokens"] / 250 / 3600)
    assert cli(monkeypatch, "run", path, "--dry-run", *given) == 0
    printed = capsys.readouterr().out
    assert f"{work['tokens']:,} tokens; {work['operations'] / 1e12:.3g} TFLOP" in printed
    assert (
        f"{time_in_words(3600 * work['hours_per_worker'])} of passes for 1 worker (250 tokens a second, as given)"
        in printed
    )
    assert "at 4 for an hour of a worker, as given" in printed
    assert "Operations: 2 for each parameter" in printed
    assert "Nothing was computed or written" in printed
    assert cli(monkeypatch, "run", path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "hours" not in printed
    assert "cost" not in printed
    assert cli(monkeypatch, "run", path, "--dry-run", "--measure") == 0
    assert "of the questions in" in capsys.readouterr().out
    for wrong in (("--measure",), ("--dry-run", "--measure", *given), ("--dry-run", "--price-per-hour", "4")):
        assert cli(monkeypatch, "run", path, *wrong) == 2
    assert not (tmp_path / "run").exists()
