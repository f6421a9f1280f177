"""Answers from other tools become examples, answers and labels; a run reads their states without asking."""

import json
import random

import numpy as np
import pytest
import torch

from src.data import AnsweredDataset
from src.errors import ConfigError, DataError
from src.models.likelihood import answer_likelihood
from src.pipeline import run
from tests.test_answering import log_likelihood
from tests.test_data import write_lines


def generated(doc, text, right, *, filter="strict-match"):
    """A row as lm-evaluation-harness 0.4.13 writes it with --log_samples, for a generated answer."""
    arguments = {"gen_args_0": {"arg_0": f"Question: {doc}?\nAnswer:", "arg_1": {"until": ["Question:"]}}}
    return {
        "doc_id": doc, "doc": {"question": f"{doc}?", "answer": "#### 18"}, "target": "It is\n#### 18",
        "arguments": arguments, "resps": [[text]], "filtered_resps": ["18" if right else "[invalid]"],
        "filter": filter, "metrics": ["exact_match"], "exact_match": float(right),
    }  # fmt: skip


def chosen(doc, scores, target):
    arguments = {
        f"gen_args_{i}": {"arg_0": f"{doc}?\nAnswer:", "arg_1": f" {letter}"} for i, letter in enumerate("ABCD")
    }
    best = int(np.argmax(scores))
    return {
        "doc_id": doc, "doc": {"question": f"{doc}?", "subject": "anatomy", "choices": list("wxyz"), "answer": target},
        "target": str(target),
        "arguments": arguments, "resps": [[[str(s), "False"]] for s in scores],
        "filtered_resps": [[str(s), "False"] for s in scores], "filter": "none", "metrics": ["acc"],
        "acc": float(best == target),
    }  # fmt: skip


def test_generated_samples_of_the_harness(tmp_path):
    rows = [generated(n, f" so #### {n}", n % 2) for n in range(4)]
    rows += [generated(n, f" so #### {n}", True, filter="flexible-extract") for n in range(4)]
    path = write_lines(tmp_path / "samples_gsm8k.jsonl", *rows)
    data = AnsweredDataset(path)
    assert len(data) == 4
    assert data[1].prompt == "Question: 1?\nAnswer:"
    assert [(given.response, given.correct) for given in data.given] == [(f" so #### {n}", n % 2) for n in range(4)]
    assert [given.correct for given in AnsweredDataset(path, filter="flexible-extract").given] == [1.0] * 4
    with pytest.raises(DataError, match=r"no filter 'loose'. It has strict-match, flexible-extract"):
        len(AnsweredDataset(path, filter="loose"))


def test_chosen_samples_of_the_harness_bring_their_probabilities(tmp_path):
    scores = [-1.0, -0.2, -3.0, -2.0]
    data = AnsweredDataset(write_lines(tmp_path / "s.jsonl", chosen(0, scores, 1), chosen(1, scores, 3)))
    assert (data[0].target, data[0].subject, data[0].choices) == ("B", "anatomy", ("w", "x", "y", "z"))
    assert data[0].continuations == (" A", " B", " C", " D")
    assert [(given.response, given.correct) for given in data.given] == [(" B", 1.0), (" B", 0.0)]
    assert data.given[0].confidence == pytest.approx(np.exp(scores).max() / np.exp(scores).sum())


def test_own_answers_as_jsonl_csv_and_parquet(tmp_path):
    import pandas as pd

    rows = [
        {"prompt": f"Q {n}?", "response": f" {n}", "correct": n % 2, "confidence": 0.5, "subject": "s"}
        for n in range(4)
    ]
    write_lines(tmp_path / "a.jsonl", *rows)
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    found = [AnsweredDataset(tmp_path / f"a.{kind}") for kind in ("jsonl", "csv", "parquet")]
    assert list(found[0]) == list(found[1]) == list(found[2])
    assert found[0].given == found[1].given == found[2].given
    assert found[0].given[1].confidence == 0.5


def inspect_log(folder, *scores):
    """A log as Inspect AI itself writes it, of questions that were scored so."""
    log = pytest.importorskip("inspect_ai.log")
    from inspect_ai.model import ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    samples = [
        log.EvalSample(
            id=n,
            epoch=1,
            input=f"{n} + 9?" if n else [ChatMessageUser(content="0 + 9?")],
            target=str(n + 9),
            output=ModelOutput.from_content("mock", f"It is {n + 9}"),
            scores=None if value is None else {"match": Score(value=value)},
        )
        for n, value in enumerate(scores)
    ]
    spec = log.EvalSpec(
        created="2026-11-22T00:00:00+00:00", task="sums", dataset=log.EvalDataset(), model="m", config=log.EvalConfig()
    )
    path = folder / "log.eval"
    log.write_eval_log(log.EvalLog(eval=spec, samples=samples, status="success"), str(path))
    return path


@pytest.mark.filterwarnings("ignore")
def test_an_inspect_log(tmp_path):
    data = AnsweredDataset(inspect_log(tmp_path, "C", "I", 1, 0.0))
    assert [example.prompt for example in data] == ["0 + 9?", "1 + 9?", "2 + 9?", "3 + 9?"]
    assert data[1].target == "10"
    expected = [("It is 9", 1.0), ("It is 10", 0.0), ("It is 11", 1.0), ("It is 12", 0.0)]
    assert [(given.response, given.correct) for given in data.given] == expected
    for value, message in ((None, "sample 0 has no score"), (0.3, "scored 0.3, which is neither")):
        with pytest.raises(DataError, match=message):
            len(AnsweredDataset(inspect_log(tmp_path, value)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q"}, r"row 2: prompt and response must be texts; the row has \['prompt'\]"),
        ({"prompt": "Q", "response": " a", "correct": "maybe"}, "row 2: correct must be 1 or 0, .* not 'maybe'"),
        ({"prompt": "Q", "response": " a", "correct": 1, "confidence": 50}, "answer 2: confidence is 50, but lies"),
        ({"prompt": "Q", "response": "", "correct": 1}, "answer 2 .* is empty"),
        ({"prompt": "Q", "response": " \n", "correct": 1}, "answer 2 .* is empty"),
        ({"prompt": "Q", "response": " a", "correct": 1, "confidence": True}, "row 2: confidence is no number: True"),
        ({"prompt": "Q", "response": " a", "correct": 1, "confidence": 0.5}, "1 of 2 rows have a confidence"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    good = {"prompt": "Q", "response": " a", "correct": True}
    with pytest.raises(DataError, match=message):
        len(AnsweredDataset(write_lines(tmp_path / "a.jsonl", good, row)))


def test_a_filter_belongs_to_samples_of_the_harness(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"prompt": "Q", "response": " a", "correct": 1})
    with pytest.raises(DataError, match=r"leave data\.filter out"):
        len(AnsweredDataset(path, filter="strict"))


def test_a_harness_row_without_its_parts_is_named(tmp_path):
    broken = generated(1, " x", True)
    del broken["resps"]
    with pytest.raises(DataError, match=r"row 2: it is no sample of lm-evaluation-harness \(KeyError\('resps'\)\)"):
        len(AnsweredDataset(write_lines(tmp_path / "s.jsonl", generated(0, " x", True), broken)))


@pytest.mark.parametrize("scores", [["nan", -1.0], [-float("inf"), -float("inf")]])
def test_a_confidence_that_is_no_number_is_refused_whoever_wrote_it(tmp_path, scores):
    row = chosen(0, [-1.0, -2.0], 0) | {"filtered_resps": [[str(score), "False"] for score in scores]}
    row["arguments"] = dict(list(row["arguments"].items())[:2])
    with pytest.raises(DataError, match="answer 1: confidence is nan, but lies between 0 and 1"):
        len(AnsweredDataset(write_lines(tmp_path / "s.jsonl", row)))


def test_a_prompt_that_is_no_text_and_a_number_that_no_float_holds_are_named(tmp_path):
    row = generated(0, " x", True)
    row["arguments"]["gen_args_0"]["arg_0"] = 5
    with pytest.raises(DataError, match=r"row 1: .*its prompt is no text: 5"):
        len(AnsweredDataset(write_lines(tmp_path / "s.jsonl", row)))
    row = {"prompt": "Q", "response": " a", "correct": 1, "confidence": 10**400}
    with pytest.raises(DataError, match="row 1: confidence is no number: 1000"):
        len(AnsweredDataset(write_lines(tmp_path / "o.jsonl", row)))


def test_of_several_answers_to_one_question_it_is_not_known_which_was_marked(tmp_path):
    voted = generated(0, "wrong", True, filter="maj@3") | {"resps": [["wrong", "right", "right"]]}
    with pytest.raises(DataError, match=r"row 1: .*it has 3 answers, and which of them was marked is not known"):
        len(AnsweredDataset(write_lines(tmp_path / "s.jsonl", voted)))


def test_harness_samples_that_cannot_be_used_are_named(tmp_path):
    two = chosen(0, [-1.0, -2.0, -3.0, -4.0], 0)
    two["arguments"]["gen_args_1"]["arg_0"] = "another context"
    unmarked = chosen(0, [-1.0, -2.0, -3.0, -4.0], 0)
    del unmarked["acc"]
    for row, message in ((two, "do not follow one prompt"), (unmarked, "it has no mark")):
        with pytest.raises(DataError, match=f"row 1: .*{message}"):
            len(AnsweredDataset(write_lines(tmp_path / "s.jsonl", row)))
    (tmp_path / "bad.eval").write_bytes(b"no log")
    pytest.importorskip("inspect_ai")
    with pytest.raises(DataError, match=r"bad\.eval is no log"):
        len(AnsweredDataset(tmp_path / "bad.eval"))


def test_a_csv_cell_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,response,correct\n[INST] 1+1? [/INST]," [1, 2]",1\n')
    (given,) = AnsweredDataset(tmp_path / "a.csv").given
    assert given.response == " [1, 2]"


def test_likelihoods_equal_one_answer_at_a_time(model, tokenizer, tmp_path):
    prompts = ["Question: what?", "Q", "Question: what what what?", "Q"]
    said = [" 12 345", " A", " é 🙂", " A"]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    own = [
        tokenizer(prompt + text)["input_ids"][len(one) :] for prompt, text, one in zip(prompts, said, ids, strict=True)
    ]
    for _ in range(2):  # the second time from the cache
        found = answer_likelihood(model, ids, own, cache_dir=tmp_path)
        expected = [log_likelihood(model, tokenizer, *pair) for pair in zip(prompts, said, strict=True)]
        np.testing.assert_allclose(found.mean * [len(one) for one in own], expected, atol=3e-5)
        assert (found.least <= found.mean + 1e-6).all()
    with pytest.raises(DataError, match="Prompt 0 is empty"):
        answer_likelihood(model, [[], ids[1]], own[:2])
    with pytest.raises(DataError, match="Answer 0 is empty"):
        answer_likelihood(model, ids[:2], [[], own[0]])
    with pytest.raises(DataError, match="Answer 1 is empty"):
        answer_likelihood(model, ids[:2], [own[0], []])


def answered(folder, n=300):
    rng = random.Random(0)
    rows = [{"prompt": f"Question: what is {i}?\nAnswer:", "response": f" {rng.randrange(99)} 345",
             "correct": rng.random() < 0.5} for i in range(n)]  # fmt: skip
    return write_lines(folder / "answers.jsonl", *rows)


def test_a_run_reads_the_states_of_given_answers(tmp_path, model_folder):
    config = {
        "model": {"name": str(model_folder)},
        "data": {"name": "answered", "path": str(answered(tmp_path))},
        "extraction": {"layers": [0, 2], "position": "last_answer", "cache_dir": str(tmp_path / "cache")},
        "evaluation": {"bootstrap": 100, "repeats": 2},
        "run": {"dir": str(tmp_path / "run")},
    }
    result = run(config)
    labels = [json.loads(line)["correct"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert result.results["variants"]["base"]["accuracy_all_questions"] == pytest.approx(np.mean(labels))
    assert set(result.results["variants"]["base"]["scores"]) >= {"probe", "own_probability", "perplexity", "text_only"}
    with pytest.raises(ConfigError, match="these answers belong to one model"):
        run(config | {"baselines": {"p_true": True}, "run": {"dir": str(tmp_path / "other")}})


def test_the_state_of_a_given_answer_is_that_of_its_last_token(tmp_path, model_folder):
    from src.config import load_config
    from src.models import ModelLoader
    from src.pipeline.asking_given import take_given
    from src.pipeline.questions import load_questions

    config = load_config({
        "model": {"name": str(model_folder)},
        "data": {"name": "answered", "path": str(answered(tmp_path, 5))},
        "extraction": {"layers": [0], "position": "last_answer"},
    })  # fmt: skip
    model, tokenizer = ModelLoader(str(model_folder)).load()
    questions = load_questions(config.data)
    asked = take_given(model, tokenizer, questions, config, ("block.0",), "base")
    for row, (example, given) in enumerate(zip(questions.examples, questions.given, strict=True)):
        ids = torch.tensor([tokenizer(example.prompt + given.response)["input_ids"]])
        with torch.no_grad():
            expected = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
        np.testing.assert_allclose(asked.hidden[row, 0], expected.numpy(), atol=3e-5)
        score = log_likelihood(model, tokenizer, example.prompt, given.response)
        count = len(tokenizer(example.prompt + given.response)["input_ids"]) - len(
            tokenizer(example.prompt)["input_ids"]
        )
        assert asked.confidence[row] == pytest.approx(np.exp(score / count), rel=1e-4)


def test_the_hash_of_what_was_asked_holds_the_answers_that_were_given(tmp_path):
    from src.config import load_config
    from src.data.splits import split_examples
    from src.pipeline.questions import load_questions
    from src.pipeline.results import data_facts

    def hashed(path):
        config = load_config({"model": {"name": "m"}, "data": {"name": "answered", "path": str(path)}})
        questions = load_questions(config.data)
        return data_facts(questions, split_examples(questions.examples))["sha256"]

    path = answered(tmp_path)
    first = hashed(path)
    assert hashed(path) == first
    for old, new in ((" 345", " 346"), ('"correct": true', '"correct": false')):
        path.write_text(path.read_text().replace(old, new, 1))
        assert hashed(path) != first
        first = hashed(path)


def test_a_plan_counts_every_token_that_attention_reads(tmp_path, model_folder):
    from src.config import load_config
    from src.pipeline.plan import make_plan

    path = answered(tmp_path)
    characters = sum(len(json.loads(line)["response"]) for line in path.read_text().splitlines())

    def planned(*positions):
        return make_plan(load_config({
            "model": {"name": str(model_folder)},
            "data": {"name": "answered", "path": str(path)},
            "extraction": {"layers": [0, 2], "position": list(positions)},
        })).state_bytes  # fmt: skip

    once = planned("last_answer")
    assert planned("last_answer", "mean_answer") == 2 * once
    attended = planned("last_answer", "attention_answer") - once
    assert attended == characters * 2 * 32 * 4  # a token for each character, two layers, float32
