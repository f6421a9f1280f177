import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from src.data.example import LETTERS
from src.data.planted import BANDS, SUBJECTS, VALUES, world
from src.data.quickstart import QuickstartDataset
from src.data.splits import SPLITS, split_of
from src.errors import DataError

WEIGHTS = Path(__file__).parents[1] / "weights" / "quickstart"
shipped = pytest.mark.skipif(
    not (WEIGHTS / "checkpoint.tar").exists(), reason="weights/quickstart has not been trained yet"
)


@pytest.fixture(scope="module")
def questions():
    return QuickstartDataset()


def test_the_same_seed_gives_the_same_questions(questions):
    assert list(QuickstartDataset()) == list(questions)
    assert list(QuickstartDataset(seed=1)) != list(questions)


def test_choices_do_not_depend_on_what_else_is_asked_for(questions):
    alone = QuickstartDataset("test", "places")
    assert list(alone) == [e for e in questions if e.subject == "places" and split_of(e.question) == "test"]


def test_splits_are_disjoint_and_those_of_the_pipeline(questions):
    parts = {split: QuickstartDataset(split) for split in SPLITS}
    assert sum(map(len, parts.values())) == len(questions)
    for split, part in parts.items():
        assert {split_of(e.question) for e in part} == {split}


def test_every_question_is_asked_once(questions):
    assert len({e.question for e in questions}) == len(questions)


def test_the_letter_points_at_the_right_one_of_four_distinct_choices(questions):
    answers = {item.question: item.answer for item in world()}
    for e in questions:
        assert len(set(e.choices)) == 4
        assert e.choices[LETTERS.index(e.target)] == answers[e.question]


def test_both_kinds_ask_the_same_and_the_choices_are_continuations(questions):
    e, free = questions[0], QuickstartDataset(kind="free")[0]
    assert e.prompt == free.prompt == f"Question: {e.question}\nAnswer:"
    assert e.continuations == tuple(f" {choice}" for choice in e.choices)
    assert (free.choices, free.continuations) == ((), ())
    assert free.target == e.choices[LETTERS.index(e.target)]


@pytest.mark.parametrize("category", [*SUBJECTS, *SUBJECTS["facts"], *SUBJECTS["arithmetic"]])
def test_a_category_holds_only_its_subjects(category):
    subjects = set(SUBJECTS.get(category, (category,)))
    assert {e.subject for e in QuickstartDataset(category=category)} == subjects


@pytest.mark.parametrize("subject", SUBJECTS["facts"])
def test_what_a_fact_question_shows_does_not_depend_on_its_band(subject):
    facts = QuickstartDataset(category=subject)
    for shown in (
        lambda e: e.target,
        lambda e: e.choices[LETTERS.index(e.target)],
        lambda e: e.choices[0],
        lambda e: e.question.split()[-3][:3],
    ):
        counts = Counter((e.tag, shown(e)) for e in facts)
        columns = sorted({value for _, value in counts})
        table = np.array([[counts[band, value] for value in columns] for band in BANDS])
        assert chi2_contingency(table).pvalue > 0.001


def test_exposure_of_facts_is_the_bands_and_of_sums_falls_with_size():
    items = world()
    for item in items:
        if item.tag:
            _, least, most = BANDS[item.tag]
            assert least <= item.exposure <= most
    sums = [i for i in items if i.subject == "addition"]
    size = [max(int(word) for word in i.question.strip("?").split() if word.isdigit()) for i in sums]
    assert np.corrcoef(size, [i.exposure for i in sums])[0, 1] < -0.9


def test_fresh_choices_keep_the_answer_and_come_from_the_pool():
    rng = random.Random(0)
    for item in random.Random(1).sample(world(), 200):
        choices = item.choices(rng)
        assert item.answer in choices
        assert set(choices) <= set(item.pool)
    assert all(len(set(pool)) == 64 for pool in VALUES.values())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"split": "dev"}, "calibration"), ({"category": "history"}, "people"), ({"kind": "essay"}, "free")],
)
def test_what_does_not_exist_is_named_with_what_does(arguments, named):
    with pytest.raises(DataError, match=named):
        QuickstartDataset(**arguments)


@shipped
def test_every_prompt_is_readable_tokens(questions):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "base")
    rows = tokenizer([e.prompt for e in questions])["input_ids"]
    assert tokenizer.unk_token_id not in {token for row in rows for token in row}
    for answer in {text for e in questions for text in e.continuations}:
        (token,) = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([token]) == answer


@shipped
def test_the_archive_is_packed_as_tinker_packs_it():
    with tarfile.open(WEIGHTS / "checkpoint.tar", "r:") as archive:
        assert {m.name for m in archive if m.isreg()} == set(archive.getnames())
        assert sorted(archive.getnames()) == [
            "adapter_config.json", "adapter_model.safetensors", "checkpoint_complete"
        ]  # fmt: skip
        config = json.load(archive.extractfile("adapter_config.json"))
        blob = archive.extractfile("adapter_model.safetensors").read()
    assert (config["lora_alpha"], config["target_modules"]) == (32, "all-linear")
    names = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    assert {f"base_model.model.model.unembed_tokens.lora_{x}.weight" for x in "AB"} <= set(names)


@shipped
def test_the_shipped_files_are_small():
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) < 8_000_000
