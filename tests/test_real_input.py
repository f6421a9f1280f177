"""The shipped configurations on a real pretrained model and the real data sets."""

import pytest

from src.config import load_config
from src.pipeline import run

pytestmark = pytest.mark.slow


def settings(name, shared, tmp_path, **more):
    return load_config(
        f"configs/{name}.yaml",
        {
            "model.name": str(shared / "models" / "stories260K"),
            "data.path": str(shared / "data" / name),
            "extraction.layers": "all",
            "extraction.cache_dir": str(tmp_path / "cache"),
            "run.dir": str(tmp_path / "run"),
        }
        | more,
    )


def test_mmlu_is_at_chance_and_the_report_concludes_nothing(shared, tmp_path):
    result = run(settings("mmlu", shared, tmp_path, **{"data.category": "social sciences", "data.limit": 900}))
    base = result.results["variants"]["base"]
    assert base["truncated"] > 0
    assert base["accuracy"]["all"]["low"] < 0.25 < base["accuracy"]["all"]["high"]
    assert "nothing can be concluded" in result.verdict[0]


def test_gsm8k_is_never_right_and_the_run_ends_well(shared, tmp_path):
    result = run(settings("gsm8k", shared, tmp_path, **{"data.limit": 64}))
    base = result.results["variants"]["base"]
    assert base["accuracy"]["all"]["value"] == 0
    assert sum(base["status"].values()) == 64
    assert "undefined (one class: every answer is wrong)" in result.verdict[0]


def test_a_real_adapter_changes_a_real_models_answers(shared, tmp_path):
    adapter = {"model.tinker_lora_path": str(shared / "lora" / "stories260K-gsm8k"), "data.limit": 32}
    result = run(settings("gsm8k", shared, tmp_path, **adapter))
    table = (result.folder / "questions.csv").read_text()
    assert set(result.results["variants"]) == {"base", "tuned"}
    assert "tuned_answer" in table
