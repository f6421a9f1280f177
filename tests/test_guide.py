"""The user's guide runs, block by block, and promises no less than the guide the library was ordered with."""

import ast
import csv
import inspect
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import lora_tensors, random_llama
from tests.test_tinker_and_loading import TINKER_CONFIG, checkpoint
from tests.tinker_server import CHECKPOINT, running

GUIDE = Path("docs/guide.md")
# Calls of the original that no SDK of today answers, and what takes their place (tinker.md, section 1).
REPLACED = {
    "training_client.save_weights_for_sampler": "training_client.save_weights_external",
    "client.create_training_client": "client.create_lora_training_client",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def calls(code: str) -> Iterator[tuple[str, int, frozenset[str]]]:
    """(dotted name, number of positional arguments, argument names) of every call."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            named = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
            placeholder = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value is ...
            yield ast.unparse(node.func), 0 if placeholder else len(node.args), named


@pytest.fixture(scope="module")
def deep_model(tokenizer, tmp_path_factory):
    """A random Llama as deep and wide as the guide's, but thin: 32 blocks of 4096 dimensions, 16 M parameters."""
    folder = tmp_path_factory.mktemp("deep") / "model"
    model = random_llama(
        len(tokenizer), hidden_size=4096, num_hidden_layers=32, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, intermediate_size=16, initializer_range=0.02,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name: 0.1 * tensor for name, tensor in lora_tensors(model).items()}
    return folder, tensors


@pytest.fixture
def workplace(deep_model, tokenizer, tmp_path):
    """The folder the guide is followed in: a checkpoint to serve, and MMLU's files with few different questions."""
    _, tensors = deep_model
    served = tmp_path / "served"
    served.mkdir()
    for name, content in checkpoint(tokenizer, tensors=tensors, config=TINKER_CONFIG).items():
        (served / name).write_bytes(content)
    for part in ("dev", "val", "test"):
        folder = tmp_path / "mmlu" / part
        folder.mkdir(parents=True)
        with (folder / f"astronomy_{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            for n in range(1000 if part == "test" else 5):
                writer.writerow([f"Which is number {n % 16}?", "one", "two", "three", "four", "ABCD"[n % 16 % 4]])
    return tmp_path


def followed(text: str, model: Path, data: Path, key: str) -> str:
    """The guide's text with model names, checkpoints and data swapped, and the placeholder for the key filled."""
    text = text.replace("meta-llama/Llama-3.1-8B", str(model)).replace("your_key", key)
    text = re.sub(r"tinker://abc123\w*/external_weights/final", CHECKPOINT, text)
    return re.sub(r'(MMLUDataset\(split="\w+", category="stem")', rf'\1, path="{data}"', text)


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.slow
def test_every_python_block_of_the_guide_runs(deep_model, workplace):
    model, _ = deep_model
    with running(workplace / "served") as service:
        settings = yaml.safe_load(followed(blocks(GUIDE, "yaml")[0], model, workplace / "mmlu", service.key))
        settings["data"] |= {"path": str(workplace / "mmlu"), "limit": 64}
        settings["evaluation"] = {"bootstrap": 100, "repeats": 2}
        (workplace / "configs").mkdir()
        (workplace / "configs" / "tinker_probe.yaml").write_text(yaml.safe_dump(settings))
        code = "\n".join(blocks(GUIDE, "python"))
        script = workplace / "guide.py"
        script.write_text(followed(code, model, workplace / "mmlu", service.key))
        environment = os.environ | service.environment() | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning:src", str(script)],
            cwd=workplace, env=environment, capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Supported models: ['meta-llama/Llama-3.1-8B']" in done.stdout
    assert f"Weights saved to: {CHECKPOINT}" in done.stdout
    assert "Hidden states shape: (1, 4, 4096)" in done.stdout
    assert re.search(r"Base Model ECE:        0\.\d{4}\nFine-tuned Model ECE:  0\.\d{4}", done.stdout)
    assert service.key not in done.stdout + done.stderr
    assert (workplace / "runs" / "tinker-finetuned-probe" / "report.html").is_file()


def test_the_guides_yaml_is_the_shipped_configuration():
    assert yaml.safe_load(blocks(GUIDE, "yaml")[0]) == yaml.safe_load(Path("configs/tinker_probe.yaml").read_text())


def test_nothing_the_original_guide_calls_is_missing(shared):
    ours: dict[str, set[str]] = {}
    most: dict[str, int] = {}
    for block in blocks(GUIDE, "python"):
        for name, positional, named in calls(block):
            ours.setdefault(name, set()).update(named)
            most[name] = max(most.get(name, 0), positional)
    for block in blocks(shared / "docs" / "guide.md", "python"):
        for called, positional, named in calls(block):
            name = REPLACED.get(called, called) if "ServiceClient" in block else called
            assert name in ours, f"the guide calls {name}"
            assert named <= ours[name], f"the guide calls {name} with {named}"
            assert positional <= most[name], f"the guide calls {name} with {positional} positional arguments"


def test_the_originals_settings_are_all_there(shared):
    original, mine = (yaml.safe_load(blocks(page, "yaml")[0]) for page in (shared / "docs" / "guide.md", GUIDE))
    for section, settings in original.items():
        assert set(settings) <= set(mine[section]), section


def test_the_originals_sections_are_all_there(shared):
    def headings(page):
        return re.findall(r"^#{2,3} .*$", page.read_text(encoding="utf-8"), re.MULTILINE)

    renamed = {"### What Tinker CAN do:", "### What Tinker CANNOT do (but our framework can):"}
    assert set(headings(shared / "docs" / "guide.md")) - renamed <= set(headings(GUIDE))
    questions = re.findall(r"^\*\*Q: .*$", (shared / "docs" / "guide.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(questions) <= set(re.findall(r"^\*\*Q: .*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("src.tinker.TinkerClient", ["api_key"]),
        ("src.tinker.download_and_convert_weights",
         ["tinker_checkpoint", "base_model_name", "output_dir", "cleanup_archive"]),
        ("src.models.ModelLoader", ["model_name", "tinker_lora_path", "quantization"]),
        ("src.models.ModelLoader.load", ["self", "quantization"]),
        ("src.models.HiddenStateExtractor", ["model", "tokenizer"]),
        ("src.models.HiddenStateExtractor.extract", ["self", "texts", "layers", "cache_dir"]),
        ("src.probes.LinearProbe", ["input_dim"]),
        ("src.probes.LinearProbe.fit", ["self", "X", "y", "X_val", "y_val"]),
        ("src.probes.LinearProbe.predict", ["self", "X"]),
        ("src.evaluation.CalibrationMetrics", ["predictions", "confidences", "labels"]),
        ("src.data.MMLUDataset", ["split", "category"]),
        ("src.data.GSM8KDataset", ["split"]),
    ],
)  # fmt: skip
def test_the_arguments_others_rely_on_keep_their_names_and_order(name, parameters):
    import importlib

    package, _, rest = name.removeprefix("src.").partition(".")
    found = importlib.import_module(f"src.{package}")
    for part in rest.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize("script", ["tinker_download_example.py", "tinker_probe_comparison.py"])
class TestExamples:
    def run(self, script, *arguments, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TINKER_")}
        return subprocess.run(
            [sys.executable, f"experiments/{script}", *map(str, arguments)],
            env=kept | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    def test_an_example_explains_itself(self, script):
        done = self.run(script, "--help")
        assert done.returncode == 0
        assert "weights/quickstart/checkpoint.tar" in done.stdout

    @pytest.mark.slow
    def test_an_example_without_a_key_says_what_to_do(self, script, tmp_path, model_folder):
        where = {"tinker_download_example.py": [CHECKPOINT], "tinker_probe_comparison.py": ["--checkpoint", CHECKPOINT]}
        output = ["--output-dir", tmp_path / "out"]
        done = self.run(script, *where[script], "--base-model", model_folder, *output, HOME=str(tmp_path))
        assert done.returncode == 3
        assert f"{script}: TINKER_API_KEY not found. Set it" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_an_example_does_what_it_says(self, script, tmp_path, tokenizer, model_folder):
        from tests.test_data import write_lines
        from tests.test_tinker_and_loading import pack

        archive = pack(tmp_path / "c.tar", checkpoint(tokenizer))
        data = write_lines(
            tmp_path / "q.jsonl",
            *({"question": f"Number {n}?", "choices": ["x", "y"], "answer": "AB"[n % 2]} for n in range(60)),
        )
        where = {
            "tinker_download_example.py": [archive],
            "tinker_probe_comparison.py": ["--checkpoint", archive, "--data", "custom", "--path", data, "--layers", 0,
                                           "--weights-dir", tmp_path / "weights"],
        }  # fmt: skip
        done = self.run(
            script, *where[script], "--base-model", model_folder, "--output-dir", tmp_path / "out", HOME=str(tmp_path)
        )
        assert done.returncode == 0, done.stderr[-2000:]
        made = {"tinker_download_example.py": "peft_adapter/adapter_model.safetensors",
                "tinker_probe_comparison.py": "report.html"}  # fmt: skip
        assert (tmp_path / "out" / made[script]).is_file()


def test_the_page_about_settings_is_up_to_date():
    sys.path.insert(0, "experiments")
    try:
        from configuration_page import PAGE, page
    finally:
        sys.path.remove("experiments")
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.slow
def test_the_page_of_probes_runs(tmp_path, capsys):
    code = "\n".join(blocks(Path("docs/probes.md"), "python")).replace('"probes/mine"', repr(str(tmp_path / "mine")))
    (tmp_path / "page.py").write_text(code)
    found = runpy.run_path(str(tmp_path / "page.py"))
    assert {"probe.json", "probe.safetensors", "README.md"} == {path.name for path in (tmp_path / "mine").iterdir()}
    said = found["SavedProbe"].from_pretrained(tmp_path / "mine").predict(found["states"][:1])[0]
    assert found["confidence"] == pytest.approx(said, abs=1e-5)
    assert found["text"] == found["choices"][0][int(found["answers"].chosen[0])].strip()
    assert len(capsys.readouterr().out.splitlines()) == 3
