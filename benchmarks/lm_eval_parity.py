"""Prompts, choices and marks against lm-evaluation-harness 0.4.13, which is run as it is installed.

    python -m venv LM && LM/bin/pip install "lm-eval[hf]==0.4.13" torch transformers
    PYTHONPATH=. LM/bin/python benchmarks/lm_eval_parity.py --data FOLDER [--model FOLDER] [--questions 2000]

FOLDER holds mmlu/{dev,val,test}/*.csv and gsm8k/{train,test}.jsonl. Every comparison is exact; the exit code is 1 where
one differs. With --model also the choices of a sample of MMLU questions that fit into the model's context.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from src.data import GSM8KDataset, MMLUDataset
from src.data.scoring import mark

# One case a line; ⏎ is a line break inside a case.
HARD = [
    case.replace("⏎", "\n")
    for case in """\
#### 18
####18
#### $18
#### 18.
#### 1,800
The answer is 18.
The answer is 18
#### -5
#### −5
It is 18
$18
18
\x2018\x20
he has 18 apples...
12, then, ..
18.0
#### 18.0
so 18 dollars.

⏎
no number
####\x20
#### abc
#### 12 #### 18
12 and 18
18 and 12
-18
- 18
1 8
18%
18/1
#### 18/1
#### 18 apples
#### .5
0.5
.5
1.
...
$
$$
$1,000.50
1,000
1000
#### 1000
####  18
#### +18
#### 018
Answer: 18⏎⏎Question: 5
18⏎
x=18
eighteen
18th
1e3
#### 1e3
#### 18⏎#### 19
18,
18;
(18)
#### (18)
**18**
#### **18**
#### 1 800
18 - 5 = 13
<<9*2=18>>18
#### 18 .
é18
#### ١٨
١٨
18€
€18
#### 18,000,000""".split("\n")  # noqa: SIM905
]
TARGETS = ("18", "1000", "0.5", "-5", "1,800")


def hub_layout(data: Path, folder: Path) -> tuple[Path, Path]:
    """The same rows as the hub has them, so that the harness reads them without a network."""
    import pyarrow as pa
    from pyarrow import parquet

    mmlu, gsm8k = folder / "mmlu", folder / "gsm8k"
    configs = []
    for path in sorted((data / "mmlu" / "test").glob("*_test.csv")):
        subject = path.stem.removesuffix("_test")
        files = {}
        for part, split in (("dev", "dev"), ("val", "validation"), ("test", "test")):
            with (data / "mmlu" / part / f"{subject}_{part}.csv").open(encoding="utf-8", newline="") as file:
                rows = [
                    {"question": q, "subject": subject, "choices": options, "answer": "ABCD".index(letter)}
                    for q, *options, letter in csv.reader(file)
                ]
            files[split] = f"{subject}/{split}.parquet"
            (mmlu / subject).mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(rows), mmlu / files[split])
        configs.append((subject, files))
    gsm8k.mkdir()
    for split in ("train", "test"):
        lines = (data / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        parquet.write_table(pa.Table.from_pylist(list(map(json.loads, lines))), gsm8k / f"{split}.parquet")
    _card(mmlu, configs)
    _card(gsm8k, [("main", {split: f"{split}.parquet" for split in ("train", "test")})])
    return mmlu, gsm8k


def _card(folder: Path, configs: list[tuple[str, dict[str, str]]]) -> None:
    lines = ["---", "configs:"]
    for name, files in configs:
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, path in files.items() for line in (f"  - split: {split}", f"    path: {path}")]
    (folder / "README.md").write_text("\n".join([*lines, "---"]) + "\n", encoding="utf-8")


def harness_task(name: str, folder: Path, shots: int) -> Any:
    """A task of the harness with its own settings, its rows from a local folder."""
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(config=_settings(name) | {"dataset_path": str(folder)})
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    return task


def _settings(name: str) -> dict[str, Any]:
    """What the harness's own YAML says of a task."""
    from lm_eval import tasks

    folder = Path(tasks.__file__).parent
    path = folder / "gsm8k" / "gsm8k.yaml" if name == "gsm8k" else folder / "mmlu" / "default" / f"{name}.yaml"
    return load_yaml(path)


def load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    included = settings.pop("include", None)
    base = load_yaml(path.parent / included) if included else {}
    return base | settings


def harness_requests(task: Any) -> Iterator[Any]:
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return task.instances


def compare_prompts(name: str, folder: Path, ours: list[Any], shots: int) -> int:
    """How many of the harness's prompts differ from ours."""
    task = harness_task(name, folder, shots)
    prompts: dict[int, str] = {}
    for request in harness_requests(task):
        prompts.setdefault(request.doc_id, request.args[0])
    if len(prompts) != len(ours):
        print(f"{name}: {len(prompts)} prompts against {len(ours)}")
        return max(len(prompts), len(ours))
    wrong = [number for number, example in enumerate(ours) if prompts[number] != example.prompt]
    for number in wrong[:1]:
        print(f"{name}, {number}:\n{prompts[number][-200:]!r}\n{ours[number].prompt[-200:]!r}")
    return len(wrong)


def compare_marks(folder: Path) -> tuple[int, int]:
    """(cases, differences) of both extractors of GSM8K."""
    task = harness_task("gsm8k", folder, 0)
    wrong = cases = 0
    for target in TARGETS:
        for name, rule in (("strict-match", "gsm8k_strict"), ("flexible-extract", "gsm8k_flexible")):
            ensemble = next(f for f in task._filters if f.name == name)
            for text in HARD:
                answers = [[text]]
                for step in ensemble.filters:
                    answers = step().apply(answers, [{}]) if callable(step) else step.apply(answers, [{}])
                answer = next(iter(answers))
                found = task.process_results({"question": "", "answer": f"#### {target}"}, [answer])["exact_match"]
                cases += 1
                if bool(found) != mark(text, target, rule=rule).correct:
                    wrong += 1
                    print(f"{rule} {text!r} against {target!r}: {answer!r}, {found}, {mark(text, target, rule=rule)}")
    return cases, wrong


def compare_choices(model_folder: str, folder: Path, examples: list[Any], n: int) -> tuple[int, int]:
    """(questions, differences) of the choices, zero-shot, of questions that fit into the model's context."""
    import numpy as np
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from src.models import answer_choices

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    room = model.config.max_position_embeddings - 4
    fitting = [example for example in examples if len(tokenizer(example.prompt)["input_ids"]) <= room]
    chosen = random.Random(0).sample(fitting, min(n, len(fitting)))
    ours = answer_choices(model, tokenizer, [example.prompt for example in chosen], [" A", " B", " C", " D"])
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(example.prompt, f" {letter}"), idx=place)
        for example in chosen
        for place, letter in enumerate("ABCD")
    ]
    scores = np.array([found[0] for found in harness.loglikelihood(requests)]).reshape(-1, 4)
    different = int((scores.argmax(1) != ours.chosen).sum())
    print(f"largest difference of a log-likelihood: {np.abs(scores - ours.log_likelihoods).max():.1e}")
    return len(chosen), different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--questions", type=int, default=2000)
    args = parser.parse_args()
    print(f"lm-eval {importlib.metadata.version('lm-eval')}")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        mmlu, gsm8k = hub_layout(args.data, Path(folder))
        cases, differences = compare_marks(gsm8k)
        print(f"GSM8K: {cases} hard cases marked, {differences} differ")
        wrong += differences
        ours = list(GSM8KDataset("test", path=args.data / "gsm8k", shots=5))
        differences = compare_prompts("gsm8k", gsm8k, ours, 5)
        print(f"GSM8K, 5 shots: {len(ours):,} prompts, {differences} differ")
        wrong += differences
        for shots in (0, 5):
            subjects: dict[str, list[Any]] = {}
            for example in MMLUDataset("test", path=args.data / "mmlu", shots=shots):
                subjects.setdefault(example.subject, []).append(example)
            counts = [compare_prompts(f"mmlu_{name}", mmlu, examples, shots) for name, examples in subjects.items()]
            print(f"MMLU, {shots} shots: {sum(map(len, subjects.values())):,} prompts, {sum(counts)} differ")
            wrong += sum(counts)
        if args.model:
            examples = list(MMLUDataset("test", path=args.data / "mmlu"))
            n, differences = compare_choices(args.model, mmlu, examples, args.questions)
            print(f"MMLU, 0 shots: {n:,} choices, {differences} differ")
            wrong += differences
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
