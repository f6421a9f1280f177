"""Workflow 2 with the official SDK against a real server: what comes home computes what was trained."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.data import Example
from src.models import ModelLoader
from src.models.likelihood import token_log_probabilities
from src.pipeline import verify_adapter
from src.pipeline.diagnosing import largest_gap
from src.pipeline.fine_tuning import Lessons, fine_tune
from src.tinker import TinkerClient, download_and_convert_weights
from src.tinker.training import Record, Schedule, Trainer
from tests.real_server.conftest import Server

TOLERANCE = 1e-5  # nats, float32 here and there
SCHEDULE = Schedule(steps=8, batch_size=3, learning_rate=0.02, save_every=2, seed=1)
PAIRS = (
    ("The capital of France is", " Paris."),
    ("What is the capital of Germany?", " Berlin."),
    ("Two plus two equals", " four."),
    ("Question: is water wet? Answer:", " yes"),
    ("Question: is fire cold? Answer:", " no"),
    ("True or false: the sky is green.", " False"),
)
LESSONS = Lessons("mmlu", tuple(Example(q, a, prompt=q) for q, a in PAIRS), tuple(a for _, a in PAIRS))


@dataclass(frozen=True)
class Home:
    """A training that was stopped in between and finished, brought home."""

    server: Server
    client: TinkerClient
    record: Record
    adapter: str
    ids: list[list[int]]


@pytest.fixture(scope="module")
def home(server, tmp_path_factory):
    client, folder = TinkerClient(timeout=60, build_timeout=300), tmp_path_factory.mktemp("tuned")
    tokenizer = ModelLoader(str(server.folder)).tokenizer()

    def tune():
        options = {"base_model": server.base_model, "output_dir": folder, "schedule": SCHEDULE, "rank": 8}
        return fine_tune(LESSONS, tokenizer, client=client, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stopping_after(5))
        with pytest.raises(KeyboardInterrupt):
            tune()
    assert json.loads((folder / "training.json").read_text())["step"] == 4
    record = tune()
    adapter = download_and_convert_weights(str(record.download), str(server.folder), folder)
    ids = [tokenizer(q + a)["input_ids"] for q, a in PAIRS]
    return Home(server, client, record, adapter, ids)


def stopping_after(steps, step=Trainer.step):
    count = iter(range(steps))

    def stopping(self, texts, learning_rate):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return step(self, texts, learning_rate)

    return stopping


def test_training_learns_the_answers_and_leaves_a_record(home):
    assert len(home.record.losses) == SCHEDULE.steps
    assert home.record.losses[-1] < home.record.losses[0] / 2
    trained_on = json.loads((Path(home.adapter).parent / "trained_on.json").read_text())
    assert set(trained_on["ids"]) == {example.id for example in LESSONS.examples}


def test_what_comes_home_gives_the_servers_log_probabilities(home, capsys):
    model, _ = ModelLoader(str(home.server.folder), home.adapter).load()
    served = home.client.log_probabilities(home.record.sampling, home.ids)
    tuned = token_log_probabilities(model, home.ids)
    with model.disable_adapter():
        base = token_log_probabilities(model, home.ids)
    found = {"tuned": largest_gap(tuned, served.tuned), "base": largest_gap(base, served.base)}
    with capsys.disabled():
        print(
            f"\n{home.server.base_model}: largest difference of log-probabilities {found['tuned']:.2e} nats "
            f"(base model {found['base']:.2e}; the adapter changes {largest_gap(served.tuned, served.base):.2f})"
        )
    assert served.base_model == home.server.base_model
    assert largest_gap(served.tuned, served.base) > 1
    assert max(found.values()) <= TOLERANCE


def test_the_loss_of_a_training_that_goes_on_is_the_loss_here(home):
    """The forward pass of the trainer, and not of the sampler, with the weights that were saved last."""
    tokenizer = ModelLoader(str(home.server.folder)).tokenizer()
    texts = LESSONS.texts(tokenizer)
    model, _ = ModelLoader(str(home.server.folder), home.adapter).load()
    here = [token_log_probabilities(model, [text.ids])[0][text.answer_from - 1 :] for text in texts]
    counted = sum(len(row) for row in here)
    loss = Trainer.resumed(home.client, str(home.record.state)).step(texts, 1e-6)
    assert loss == pytest.approx(-sum(row.sum() for row in here) / counted, abs=TOLERANCE)


def test_the_certificate_says_so_and_a_wrong_alpha_is_named(home):
    good = verify_adapter(home.adapter, checkpoint=home.record.sampling)
    assert good.verdict == "verified"
    kept = json.loads((Path(home.adapter).parent / "checkpoint_info.json").read_text())
    assert kept["verification"]["verdict"] == "verified"
    config = Path(home.adapter) / "adapter_config.json"
    text = config.read_text()
    settings = json.loads(text)
    try:
        config.write_text(json.dumps(settings | {"lora_alpha": 16}))
        wrong = verify_adapter(home.adapter, checkpoint=home.record.sampling)
    finally:
        config.write_text(text)
    assert wrong.verdict == "different"
    assert "as if lora_alpha were 32, and adapter_config.json says 16" in wrong.sentences[1]


def test_an_sdk_that_still_has_archives_brings_the_same_tensors(home, tmp_path):
    """The route of SDK 0.35 and older: one signed archive of the sampler weights."""
    script = (
        "import sys, tinker\n"
        "from src.tinker import download_and_convert_weights\n"
        "assert tinker.__version__ == '0.35.0', tinker.__version__\n"
        "print(download_and_convert_weights(*sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, home.record.sampling, home.server.folder, tmp_path]
    environment = os.environ | {"PYTHONPATH": f"{os.environ['TINKER_OLD_SDK']}{os.pathsep}{Path.cwd()}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)  # noqa: PLW1510
    assert done.returncode == 0, done.stderr
    weights = [Path(folder) / "adapter_model.safetensors" for folder in (home.adapter, done.stdout.split()[-1])]
    assert weights[0].read_bytes() == weights[1].read_bytes()
