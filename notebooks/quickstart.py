# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does the model know when it is wrong, and did fine-tuning help?
#
# The quickstart as a notebook: `jupytext --to notebook notebooks/quickstart.py`, or open this file in Jupyter with
# jupytext. It uses the small model in `weights/quickstart` and takes half a minute.

# %%
import os
from pathlib import Path

import src

os.chdir(Path(src.__file__).parents[1])  # paths in configs/ start at the repository

# %% [markdown]
# ## The whole job
# Questions are asked, answers marked, hidden states read, probes trained and everything evaluated, for the base model
# and for the tuned one. A second run takes what it can from `cache/`.

# %%
from src.pipeline import run

result = run("configs/quickstart.yaml")
result

# %% [markdown]
# `result.results` is what lies in `results.json` (see `docs/results.md`); every number comes with its interval.

# %%
tuned = result.results["variants"]["tuned"]["scores"]
{scorer: parts["all"]["auroc"] for scorer, parts in tuned.items()}

# %% [markdown]
# ## Question by question

# %%
import csv

with (result.folder / "questions.csv").open(encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if row["split"] == "test"]

sure_and_wrong = [r for r in rows if r["tuned_correct"] == "0" and float(r["tuned_own_probability"]) > 0.9]
[(r["question"], r["target"], r["tuned_answer"], r["tuned_own_probability"]) for r in sure_and_wrong[:5]]

# %% [markdown]
# ## By hand
# The same parts, one by one: load a model, ask it, and train a probe on one layer.

# %%
import numpy as np

from src.data import QuickstartDataset
from src.data.splits import split_examples
from src.evaluation import CalibrationMetrics
from src.models import ModelLoader, answer_choices
from src.probes import LinearProbe

questions = QuickstartDataset("all", "addition")[:2000]
splits = split_examples(questions)
model, tokenizer = ModelLoader("weights/quickstart/base").load()
answers = answer_choices(
    model,
    tokenizer,
    [question.prompt for question in questions],
    [question.continuations for question in questions],
    layers=[2],
    cache_dir="cache/quickstart",
)
right = np.array(
    ["ABCD"[choice] == question.target for choice, question in zip(answers.chosen, questions, strict=True)]
)

# %%
train, val, test = splits.train, splits.val, splits.test
probe = LinearProbe(input_dim=answers.hidden.shape[2])
probe.fit(answers.hidden[train], right[train], answers.hidden[val], right[val])
confidence = probe.predict(answers.hidden[test])
metrics = CalibrationMetrics(confidence > 0.5, confidence, right[test])
print(f"AUROC {metrics.auroc():.3f}, ECE {metrics.ece():.3f} on {len(test)} questions")
