"""Data sets give what their files hold; splits depend on the question's text alone; marks follow stated rules."""

import json

import pytest

from src.data import Example, GSM8KDataset, MMLUDataset, QADataset
from src.data.gsm8k import final_answer
from src.data.mmlu_subjects import CATEGORIES, subjects_of
from src.data.scoring import mark
from src.data.splits import SPLITS, normalised, split_examples, split_of
from src.data.trained_on import read_trained_on
from src.errors import DataError, ScoringError


@pytest.fixture(scope="module")
def mmlu_folder(tmp_path_factory):
    """Two subjects in the original layout; one answer text is "None"."""
    folder = tmp_path_factory.mktemp("mmlu")
    for part in ("dev", "val", "test"):
        (folder / part).mkdir()
        for subject in ("astronomy", "virology"):
            rows = [f'"{part} question {n}, of {subject}?",None,"b, c",3,4,{"ABCD"[n % 4]}' for n in range(6)]
            (folder / part / f"{subject}_{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_mmlu_reads_the_original_files(mmlu_folder):
    first = MMLUDataset("test", path=mmlu_folder)[0]
    assert first.question == "test question 0, of astronomy?"
    assert first.choices == ("None", "b, c", "3", "4")
    assert (first.target, first.subject) == ("A", "astronomy")
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about astronomy.\n\n"
        "test question 0, of astronomy?\nA. None\nB. b, c\nC. 3\nD. 4\nAnswer:"
    )
    assert first.continuations == (" A", " B", " C", " D")
    assert len(MMLUDataset("train", path=mmlu_folder)) == 24
    assert {e.subject for e in MMLUDataset("test", "stem", path=mmlu_folder)} == {"astronomy"}


def test_mmlu_shots_are_the_first_of_dev_in_order(mmlu_folder):
    prompt = MMLUDataset("test", path=mmlu_folder, shots=2)[0].prompt
    blocks = prompt.split("\n\n")
    assert blocks[1].startswith("dev question 0, of astronomy?")
    assert blocks[1].endswith("Answer: A")
    assert blocks[2].endswith("Answer: B")
    assert blocks[3].startswith("test question 0")
    assert len(blocks) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("tset",), "no split 'tset'"), (("test", "stemm"), "no category or subject 'stemm'")],
)
def test_mmlu_names_what_it_does_not_have(mmlu_folder, arguments, message):
    with pytest.raises(DataError, match=message):
        MMLUDataset(*arguments, path=mmlu_folder)


def test_a_malformed_mmlu_row_is_named(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "anatomy_test.csv").write_text("q,1,2,3,4,A\nq,1,2,3,A\n")
    with pytest.raises(DataError, match=r"anatomy_test.csv, row 2: .* found 5 fields"):
        len(MMLUDataset("test", path=tmp_path))


def test_mmlu_and_gsm8k_load_from_a_folder_of_the_hubs_layout(tmp_path):
    """The hub code itself, on a local repository: load_dataset reads both the same way."""
    import pandas as pd

    def repository(name, config, split, rows):
        folder = tmp_path / name
        folder.mkdir()
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
        files = f"  data_files:\n  - split: {split}\n    path: {split}.parquet"
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n{files}\n---\n")
        return folder

    row = {"question": "Q?", "subject": "anatomy", "choices": ["None", "b", "c", "d"], "answer": 2}
    mmlu = MMLUDataset("val", path=repository("mmlu", "all", "validation", [row]))
    assert (mmlu[0].target, mmlu[0].choices[0]) == ("C", "None")
    broken = [row | {"answer": -1}, row | {"answer": 4}, row | {"choices": ["a", "b", "c", "d", "e"]},
              {"question": "Q?", "choices": row["choices"], "answer": 1}]  # fmt: skip
    for number, other in enumerate(broken):  # -1: a label that is kept back
        with pytest.raises(DataError, match=r"does not look like MMLU: .* four choices and an answer, 0 to 3"):
            len(MMLUDataset("val", path=repository(f"b{number}", "all", "validation", [other])))
    gsm8k = GSM8KDataset("test", path=repository("g", "main", "test", [{"question": "1+1?", "answer": "2\n#### 2"}]))
    assert gsm8k[0].target == "2"
    with pytest.raises(DataError, match="no usable split 'train'"):
        len(GSM8KDataset("train", path=tmp_path / "g"))


def test_a_subject_may_be_a_number_and_nothing_else_that_is_no_text(tmp_path):
    rows = [{"question": f"Q{n}", "answer": "a", "subject": subject} for n, subject in enumerate((0, 1, None, "x"))]
    assert [one.subject for one in QADataset(write_lines(tmp_path / "s.jsonl", *rows))] == ["0", "1", "", "x"]
    with pytest.raises(DataError, match=r"row 1: the subject \['x'\] is no text"):
        len(QADataset(write_lines(tmp_path / "l.jsonl", {"question": "Q", "answer": "a", "subject": ["x"]})))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": b"q\xff", "answer": "a"}, r"row 1: 'question' is no text: b'q"),
        ({"question": "q", "answer": float("nan")}, "row 1: 'answer' is no text: nan"),
        ({"question": "q", "answer": "a", "choices": [b"a", b"b"]}, "row 1: the choice b'a' is no text"),
    ],
)
def test_what_only_looks_like_text_in_a_parquet_is_refused(tmp_path, row, message):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=message):
        len(QADataset(tmp_path / "q.parquet"))


def test_a_parquet_with_broken_text_is_one_sentence(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    broken = pa.StringArray.from_buffers(1, *pa.array([b"q\xff"]).buffers()[1:])
    parquet.write_table(pa.table({"question": broken, "answer": ["a"]}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        len(QADataset(tmp_path / "q.parquet"))


@pytest.mark.parametrize("choices", [0, False, "[" * 120_000, '["a", NaN]'])
def test_choices_are_a_list_of_texts_or_not_there(tmp_path, choices):
    path = write_lines(tmp_path / "q.jsonl", {"question": "q", "answer": "a", "choices": choices})
    with pytest.raises(DataError, match="row 1: choices must be a list of 2 to 10 texts"):
        len(QADataset(path))


def test_spaces_around_answer_and_choices_tell_nothing_apart(tmp_path):
    row = {"question": "q", "answer": " x ", "choices": ["y ", "x  "]}
    (example,) = QADataset(write_lines(tmp_path / "q.jsonl", row))
    assert (example.target, example.choices) == ("B", ("y", "x"))
    with pytest.raises(DataError, match="'x' stands there twice"):
        len(QADataset(write_lines(tmp_path / "r.jsonl", row | {"choices": ["x", "x "]})))


def test_the_real_mmlu_has_the_known_counts(shared):
    path = shared / "data" / "mmlu"
    counts = {split: len(MMLUDataset(split, path=path)) for split in ("test", "val", "dev", "train")}
    assert counts == {"test": 14042, "val": 1531, "dev": 285, "train": 1816}
    test = MMLUDataset("test", path=path)
    assert sum("None" in example.choices for example in test) == 10
    assert len({example.subject for example in test}) == 57
    everything = [*test, *MMLUDataset("train", path=path)]
    assert split_examples(everything).repeated == 444


def test_the_subject_map_equals_the_authors(shared):
    given = json.loads((shared / "data" / "mmlu" / "subject_categories.json").read_text())
    ours = {
        subject: {"category": category, "subcategory": subcategory}
        for category, parts in CATEGORIES.items()
        for subcategory, names in parts.items()
        for subject in names.split()
    }
    assert ours == given
    assert len(subjects_of("other") or ()) == 14
    assert subjects_of("Physics") == subjects_of("physics")


def test_the_real_gsm8k_has_the_known_counts(shared):
    path = shared / "data" / "gsm8k"
    train, test = (GSM8KDataset(split, path=path) for split in ("train", "test"))
    assert (len(train), len(test)) == (7473, 1319)
    assert sum("," in example.target for example in [*train, *test]) == 93
    assert all(mark(f"so #### {e.target}", e.target, rule="numeric").correct for e in test)
    shots = GSM8KDataset("test", path=path, shots=2)[0].prompt
    assert shots.count("Question:") == 3
    assert shots.count("<<") > 1


def test_a_gsm8k_answer_without_its_marker_is_an_error():
    assert final_answer("a\n#### 1,000") == "1,000"
    with pytest.raises(DataError, match="####"):
        final_answer("the answer is 5")


def write_lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_own_questions_with_and_without_choices(tmp_path):
    free = QADataset(
        write_lines(tmp_path / "a.jsonl", {"q": "Capital?", "a": 5}), columns={"question": "q", "answer": "a"}
    )
    assert free[0] == Example("Capital?", "5", prompt="Question: Capital?\nAnswer:")
    rows = [{"question": "2+2?", "choices": ["3", "4"], "answer": answer, "subject": "s"} for answer in ("4", "b")]
    assert [e.target for e in QADataset(write_lines(tmp_path / "b.jsonl", *rows))] == ["B", "B"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", r"a.jsonl, row 2: not JSON"),
        ("[1]", "row 2: expected an object"),
        ('{"question": "\\ud800", "answer": "y"}', "row 2: half of a surrogate pair"),
        ("[" * 100_000, "row 2: nested too deeply|row 2: not JSON"),
        ({"question": "x"}, "row 2: 'answer' is missing"),
        ({"question": " ", "answer": "y"}, "row 2: 'question' is no text"),
        ({"question": "x", "answer": True}, "row 2: 'answer' is no text: True"),
        ('{"question": "x", "answer": NaN}', "row 2: not JSON .NaN is no number"),
        ('{"question": "x", "question": "z", "answer": "y"}', "row 2: not JSON .the key 'question' occurs twice"),
        ({"question": "x", "answer": "a", "choices": ["a", None]}, "row 2: the choice None is no text"),
        ({"question": "x", "answer": "a", "choices": ["a", " "]}, "row 2: the choice ' ' is no text"),
        ({"question": "x", "answer": "y", "choices": ["a"]}, "row 2: choices must be a list of 2 to 10"),
        ({"question": "x", "answer": "E", "choices": ["a", "b"]}, "row 2: the answer 'E' is neither"),
        ({"question": "x", "answer": "a", "choices": ["a", "a"]}, "row 2: the choice 'a' stands there twice"),
        ({"question": "x", "answer": "A", "choices": ["a", "b"]}, "mixes questions with and without choices"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    path = write_lines(tmp_path / "a.jsonl", {"question": "fine", "answer": "yes"}, row)
    with pytest.raises(DataError, match=message):
        len(QADataset(path))


def test_a_column_that_no_row_has_is_named(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"question": "x", "answer": "y", "options": ["y", "z"]})
    with pytest.raises(
        DataError, match=r"No row of a\.jsonl has 'opt', which data\.columns names\. The rows have answer, o"
    ):
        len(QADataset(path, columns={"choices": "opt"}))


def test_a_line_separator_inside_a_text_is_part_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "one\u2028two", "answer": "x\u0085y"}\r\n\n', encoding="utf-8")
    (example,) = QADataset(path)
    assert (example.question, example.target) == ("one\u2028two", "x\u0085y")


def test_files_that_are_not_utf8_are_named(tmp_path, mmlu_folder):
    (tmp_path / "a.jsonl").write_bytes('{"question": "é", "answer": "y"}'.encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        len(QADataset(tmp_path / "a.jsonl"))
    (tmp_path / "test.jsonl").write_text('{"question": "x"\n')
    with pytest.raises(DataError, match=r"test\.jsonl, row 1: not JSON"):
        len(GSM8KDataset("test", path=tmp_path))
    csv_file = next((mmlu_folder / "test").glob("*.csv"))
    csv_file.write_bytes("é,a,b,c,d,A\n".encode("latin-1"))
    with pytest.raises(DataError, match="row 1: not UTF-8 text"):
        len(MMLUDataset("test", path=mmlu_folder))


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*nowhere"):
        QADataset(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="holds no questions"):
        len(QADataset(write_lines(tmp_path / "a.jsonl", "")))


def test_ids_depend_on_content_only():
    example = Example("q", "A", ("x", "y"), "s", prompt="p", tag="t")
    assert example.id == Example("q", "A", ("x", "y"), "s", prompt="other").id
    assert len({example.id, Example("q", "B", ("x", "y"), "s").id, Example("q", "A", ("x",), "s").id}) == 3


def test_a_split_depends_on_the_question_and_the_seed_only():
    questions = [f"What is the value of item {n}?" for n in range(4000)]
    examples = [Example(q, "x") for q in questions]
    splits = split_examples(examples, seed=3)
    shares = {name: len(getattr(splits, name)) / 4000 for name in SPLITS}
    assert shares == pytest.approx({"train": 0.5, "val": 0.1, "calibration": 0.1, "test": 0.3}, abs=0.03)
    for name in SPLITS:
        assert all(split_of(questions[row], seed=3) == name for row in getattr(splits, name)[:50])
    fewer = split_examples(examples[::-1][:100], seed=3)
    assert {questions[::-1][row] for row in fewer.test} <= {questions[row] for row in splits.test}
    assert any(split_of(q, seed=3) != split_of(q, seed=4) for q in questions[:20])


def test_repeats_of_a_question_stay_together():
    examples = [Example(f"{q}{end}", str(n)) for q in ("One", "TWO", "three") for n, end in enumerate(("?", " ?", "!"))]
    splits = split_examples(examples)
    assert len(set(splits.groups)) == 3
    assert splits.repeated == 9
    for group in range(3):
        assert sum(bool((splits.groups[getattr(splits, name)] == group).any()) for name in SPLITS) == 1
    assert normalised("+-*/") == "+-*/"


@pytest.mark.parametrize(
    ("text", "target", "correct", "extracted"),
    [
        ("6 * 3 = 18\n#### 18", "18", True, "18"),
        ("#### 18.0", "18", True, "18.0"),
        ("it costs $1,000.", "1000", True, "$1,000"),
        ("the result is 10.", "10", True, "10"),
        ("so −5", "-5", True, "-5"),
        ("first 3, then 4", "4", True, "4"),
        ("#### 3 (not 4)", "3", True, "3"),
        ("no idea", "4", False, None),
        ("", "4", False, None),
    ],
)
def test_numbers_are_compared_by_value(text, target, correct, extracted):
    found = mark(text, target, rule="numeric")
    assert (found.correct, found.extracted) == (correct, extracted)


@pytest.mark.parametrize(
    ("rule", "text", "target", "correct", "extracted"),
    [
        ("gsm8k_strict", "#### 18", "18", True, "18"),
        ("gsm8k_strict", "####18", "18", False, None),
        ("gsm8k_strict", "#### $18", "18", False, None),
        ("gsm8k_strict", "#### 1,000.", "1000", True, "1,000."),
        ("gsm8k_flexible", "he has 18 apples...", "18", False, "..."),
        ("gsm8k_flexible", "it is 18.0", "18", False, "18.0"),
        ("gsm8k_flexible", "it is $18", "18", True, "$18"),
        ("exact", "The Paris.", "paris", True, "The Paris."),
        ("exact", "Paris, France", "Paris", False, "Paris, France"),
        ("contains", "It is Paris, France", "paris", True, "It is Paris, France"),
        ("contains", "Parisian", "paris", False, "Parisian"),
        ("exact", "  ", "x", False, None),
    ],
)
def test_marking_rules(rule, text, target, correct, extracted):
    found = mark(text, target, rule=rule)
    assert (found.correct, found.extracted) == (correct, extracted)


def test_a_rule_or_target_that_cannot_be_read_is_an_error():
    with pytest.raises(ScoringError, match="no marking rule 'fuzzy'"):
        mark("x", "y", rule="fuzzy")
    with pytest.raises(ScoringError, match="needs a number"):
        mark("5", "five", rule="numeric")


def test_a_csv_with_a_column_twice_or_a_cell_too_many_is_named(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,answer,answer\nx,y,z\n")
    with pytest.raises(DataError, match=r"two columns have the same name \(question, answer, answer\)"):
        len(QADataset(path))
    path.write_text("question,answer\nx,y,z\n")
    with pytest.raises(DataError, match="row 1: it has another number of cells than the 2 names"):
        len(QADataset(path))


def test_a_home_folder_of_nobody_is_a_file_that_is_not_there():
    with pytest.raises(DataError, match=r"There is no file ~nobody-of-that-name/q\.jsonl"):
        len(QADataset("~nobody-of-that-name/q.jsonl"))
    assert read_trained_on("~nobody-of-that-name/adapter") is None
