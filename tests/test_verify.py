"""Is this adapter what was trained? A stand-in that computes the truth plays Tinker; every planted fault is named."""

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from src.adapters import read_adapter
from src.errors import ConfigError, DownloadError, ModelError
from src.models import ModelLoader
from src.models.likelihood import token_log_probabilities
from src.models.trials import instead, scaled, trials
from src.models.update_report import report_update, singular_values
from src.pipeline import verify_adapter
from src.tinker import TinkerClient
from src.tinker.served import Served
from tests.conftest import lora_tensors, random_llama, write_adapter
from tests.test_pipeline import cli

CHECKPOINT = "tinker://run/sampler_weights/final"
PREFIX = "base_model.model.model.layers."


@dataclass
class Truth:
    """What Tinker would answer: the model with the adapter as it was trained.

    Attributes:
        noise: nats by which the service rounds otherwise than we do.
        serves_base: the fault that the base model answers for the checkpoint.
    """

    model: object
    recorded: dict = field(default_factory=dict)
    noise: float = 0.0
    serves_base: bool = False

    def log_probabilities(self, checkpoint, token_ids):
        assert checkpoint == CHECKPOINT
        tuned = token_log_probabilities(self.model, token_ids)
        with self.model.disable_adapter():
            base = token_log_probabilities(self.model, token_ids)
        generator = np.random.default_rng(0)

        def rounded(rows):
            return tuple(row + generator.uniform(-self.noise, self.noise, row.shape) for row in rows)

        return Served("base", rounded(base if self.serves_base else tuned), rounded(base))

    def checkpoint_info(self, path):
        return self.recorded


@pytest.fixture(scope="module")
def trained(tokenizer):
    """The tensors as they were trained: every linear layer, the head included."""
    return {name: 0.2 * tensor for name, tensor in lora_tensors(random_llama(len(tokenizer)), head="lm_head").items()}


@pytest.fixture(scope="module")
def truth(trained, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    write_adapter(folder, trained)
    return ModelLoader(str(model_folder), folder).load()[0]


@pytest.fixture
def verify(model_folder, tmp_path):
    """Verify tensors that are said to be those of the truth."""

    def call(truth, tensors, *, config=None, **options):
        folder = tmp_path / "out" / "peft_adapter"
        folder.mkdir(parents=True, exist_ok=True)
        write_adapter(folder, tensors, **(config or {}))
        info = tmp_path / "out" / "checkpoint_info.json"
        if not info.exists():
            info.write_text(json.dumps({"tinker_path": CHECKPOINT, "mine": 1}))
        service = truth if isinstance(truth, Truth) else Truth(truth)
        return verify_adapter(folder, str(model_folder), service=service, **options)

    return call


def renamed(tensors, *pairs):
    """The tensors with parts of their names exchanged."""
    out = {}
    for name, tensor in tensors.items():
        for first, second in pairs:
            if first in name:
                name = name.replace(first, second)  # noqa: PLW2901
            elif second in name:
                name = name.replace(second, first)  # noqa: PLW2901
        out[name] = tensor
    return out


def halves_exchanged(tensors, leaf):
    out = dict(tensors)
    for name, tensor in tensors.items():
        if f"{leaf}.lora_A" in name:
            partner = name.replace("lora_A", "lora_B")
            out[name], out[partner] = tensors[partner].T.contiguous(), tensor.T.contiguous()
    return out


class TestTheVerdict:
    def test_the_adapter_that_was_trained_is_verified_and_the_certificate_kept_beside_all_else(
        self, verify, truth, trained, tmp_path
    ):
        found = verify(truth, trained)
        assert found.verdict == "verified"
        kept = json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())
        assert kept["mine"] == 1
        assert kept["verification"] == found.certificate
        assert kept["verification"]["difference"] <= kept["verification"]["tolerance"]
        assert kept["verification"]["effect"] > 1
        assert kept["verification"]["dtype"] == "float32"

    def test_rounding_of_the_service_widens_the_tolerance_only_as_far_as_it_shows_in_the_base_model(
        self, verify, truth, trained
    ):
        found = verify(Truth(truth, noise=0.01), trained)
        assert found.verdict == "verified"
        assert 0.005 < found.certificate["floor"] < 0.011
        assert found.certificate["tolerance"] == pytest.approx(4 * found.certificate["floor"])

    def test_what_rounding_hides_is_not_called_verified(self, verify, truth, trained):
        found = verify(Truth(truth, noise=20), trained)
        assert found.verdict == "undecided"
        assert "too little to tell" in found.sentences[0]

    def test_a_mistake_in_alpha_as_small_as_the_certificate_says_is_found_and_half_of_it_is_not(
        self, verify, truth, trained
    ):
        service = Truth(truth, noise=0.01)
        noticeable = verify(service, trained).certificate["noticeable_alpha"]
        assert verify(service, trained, config={"lora_alpha": 32 * (1 + 2 * noticeable)}).verdict == "different"
        assert verify(service, trained, config={"lora_alpha": 32 * (1 + noticeable / 2)}).verdict == "verified"

    def test_without_a_checkpoint_or_credentials_nothing_is_asked_or_kept(
        self, verify, trained, truth, model_folder, tmp_path, monkeypatch
    ):
        assert verify(truth, trained, offline=True).verdict == "not asked"
        for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        found = verify_adapter(tmp_path / "out", str(model_folder))
        assert found.verdict == "not asked"
        assert "TINKER_API_KEY" in found.sentences[0]
        assert "verification" not in json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())

    def test_a_checkpoint_info_that_is_no_object_any_more_is_left_as_it_is(
        self, verify, truth, trained, tmp_path, caplog
    ):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "checkpoint_info.json").write_text("[my notes]")
        assert verify(truth, trained, checkpoint=CHECKPOINT).kept_in is None
        assert (tmp_path / "out" / "checkpoint_info.json").read_text() == "[my notes]"
        assert "not kept" in caplog.text

    def test_the_base_model_must_be_known(self, tmp_path, adapter_folder):
        with pytest.raises(ConfigError, match="--model"):
            verify_adapter(adapter_folder)

    def test_external_weights_that_are_not_sampled_from_are_answered_with_the_path_to_give(self, verify, trained):
        class Refusing:
            def log_probabilities(self, checkpoint, token_ids):
                raise DownloadError("Tinker failed.")

        with pytest.raises(DownloadError, match="sampler_weights"):
            verify_adapter_with(verify, Refusing(), trained, "tinker://run/external_weights/final")


def verify_adapter_with(verify, service, tensors, checkpoint):
    truth = Truth(None)
    truth.log_probabilities = service.log_probabilities
    return verify(truth, tensors, checkpoint=checkpoint)


FAULTS = {
    "alpha": (lambda t: t, {"lora_alpha": 64}, "as if lora_alpha were 32, and adapter_config.json says 64"),
    "small alpha": (lambda t: t, {"lora_alpha": 5}, "as if lora_alpha were 32, and adapter_config.json says 5"),
    "layers": (lambda t: renamed(t, ("layers.0.", "layers.2.")), {}, "layers 0 and 2 are exchanged|reverse order"),
    "neighbours": (lambda t: renamed(t, ("layers.0.", "layers.1.")), {}, "layers 0 and 1 are exchanged"),
    "gate and up": (lambda t: renamed(t, ("gate_proj", "up_proj")), {}, "gate_proj and up_proj are exchanged"),
    "transposed": (lambda t: halves_exchanged(t, "q_proj"), {}, "updates of q_proj are transposed"),
    "all transposed": (
        lambda t: halves_exchanged(halves_exchanged(t, "q_proj"), "o_proj"),
        {},
        "all square weights are transposed",
    ),
    "others": (lambda t: {name: tensor.roll(1) for name, tensor in t.items()}, {}, "these are other weights"),
}


QUICK = ("alpha", "layers")


@pytest.mark.parametrize(
    ("plant", "config", "named"),
    [pytest.param(*fault, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, fault in FAULTS.items()],
)
def test_a_planted_fault_is_found_and_named(verify, truth, trained, plant, config, named):
    found = verify(truth, plant(trained), config=config)
    assert found.verdict == "different"
    assert re.search(named, found.sentences[1])


@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ({"train_unembed": True}, "it was left out"),
        pytest.param({}, "it was probably left out", marks=pytest.mark.slow),
        pytest.param({"train_unembed": False}, "other", marks=pytest.mark.slow),
    ],
)
def test_an_unembedding_that_was_left_out_is_named(verify, truth, trained, recorded, named):
    without = {name: tensor for name, tensor in trained.items() if "lm_head" not in name}
    assert named in verify(Truth(truth, recorded), without).sentences[1]


def test_an_unembedding_that_tinker_does_not_use_is_named(verify, trained, model_folder, tmp_path):
    write_adapter(tmp_path, {name: tensor for name, tensor in trained.items() if "lm_head" not in name})
    truth = ModelLoader(str(model_folder), tmp_path).load()[0]
    assert "update of lm_head is in the adapter" in verify(truth, trained).sentences[1]


def test_the_base_model_served_in_place_of_the_checkpoint_is_named(verify, truth, trained):
    found = verify(Truth(truth, serves_base=True), trained)
    assert found.verdict == "different"
    assert "as its base model does" in found.sentences[1]


def test_layers_in_the_order_of_the_alphabet_are_put_back():
    names = {f"{PREFIX}{layer}.mlp.up_proj.lora_{half}.weight": (layer, half) for layer in range(12) for half in "AB"}
    true = {name: torch.full((2, 2), float(layer)) for name, (layer, _) in names.items()}
    alphabet = sorted(range(12), key=str)
    read = {name: torch.full((2, 2), float(alphabet[layer])) for name, (layer, _) in names.items()}
    (trial,) = [trial for trial in trials(read) if "alphabet" in trial.mistake]
    assert all(torch.equal((read | trial.tensors)[name], true[name]) for name in names)


def test_a_model_that_was_tried_with_other_tensors_is_the_same_afterwards(truth, trained):
    before = token_log_probabilities(truth, [[1, 2, 3, 4]])[0]
    for trial in trials(trained):
        with instead(truth, trial.tensors, trained):
            assert not np.array_equal(token_log_probabilities(truth, [[1, 2, 3, 4]])[0], before)
    with pytest.raises(ZeroDivisionError), instead(truth, scaled(trained, 2), trained):
        _ = 1 / 0
    assert np.array_equal(token_log_probabilities(truth, [[1, 2, 3, 4]])[0], before)


class Sampler:
    """The SDK's sampling client, as far as it is used."""

    def __init__(self, answers):
        self.answers = answers

    def get_base_model(self):
        return "base"

    def compute_logprobs(self, prompt):
        return self.answers(prompt.to_ints())


def sdk_with(monkeypatch, answers):
    """A `TinkerClient` whose service gives these log-probabilities; what it was asked for is in the list."""
    import tinker

    asked = []

    class Service:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked.append("closed")

        def create_sampling_client(self, **which):
            asked.append(which)
            return Sampler(answers)

    monkeypatch.setattr(tinker, "ServiceClient", Service)
    return TinkerClient("tml-key", timeout=5, build_timeout=5), asked


@pytest.mark.parametrize("first", [[None], []])
def test_tinkers_answer_is_read_with_and_without_the_first_token(monkeypatch, first):
    client, asked = sdk_with(monkeypatch, lambda ids: [*first, *(-float(token) for token in ids[1:])])
    served = client.log_probabilities(CHECKPOINT, [[1, 2, 3], [4, 5]])
    assert [row.tolist() for row in served.tuned] == [[-2, -3], [-5]]
    assert [row.tolist() for row in served.base] == [[-2, -3], [-5]]
    assert asked == [{"model_path": CHECKPOINT}, {"base_model": "base"}, "closed"]


@pytest.mark.parametrize("answer", [[-1.0], [None, -1.0, None], [None, -1.0, float("nan")], []])
def test_an_answer_without_a_number_for_every_token_is_refused(monkeypatch, answer):
    client, _ = sdk_with(monkeypatch, lambda ids: answer)
    with pytest.raises(DownloadError, match="log-probabilities for 3 tokens"):
        client.log_probabilities(CHECKPOINT, [[1, 2, 3]])


class TestTheUpdateInNumbers:
    @pytest.mark.parametrize("shape", [(4, 9, 7), (4, 3, 7), (3, 9, 2)])
    def test_singular_values_are_those_of_the_full_product(self, shape):
        rank, rows, columns = shape
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
        b = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
        full = torch.linalg.svdvals(b @ a)
        found = singular_values(a, b)
        assert torch.allclose(found[: len(full)], full[: len(found)])
        assert torch.allclose(full[len(found) :], torch.zeros(1, dtype=full.dtype))

    def test_norms_are_those_of_the_full_update_relative_to_the_weight(self, trained, truth, tmp_path):
        write_adapter(tmp_path, trained, lora_alpha=10, alpha_pattern={"k_proj": 3})
        report = report_update(read_adapter(tmp_path), truth)
        weights = truth.get_base_model().state_dict()
        for update in report.modules:
            a, b = (trained[f"base_model.model.{update.module}.lora_{half}.weight"] for half in "AB")
            full = (3 if "k_proj" in update.module else 10) / 4 * b @ a
            assert update.norm == pytest.approx(float(full.norm()), rel=1e-5)
            assert update.largest == pytest.approx(float(torch.linalg.matrix_norm(full, 2)), rel=1e-4)
            weight = weights[f"{update.module}.base_layer.weight"]
            assert update.relative == pytest.approx(update.norm / float(weight.norm()), rel=1e-5)
        assert report.biggest.relative == max(update.relative for update in report.modules)

    def test_the_effective_rank_counts_equal_directions(self, tmp_path):
        equal = {
            f"{PREFIX}0.mlp.up_proj.lora_A.weight": torch.eye(4, 9),
            f"{PREFIX}0.mlp.up_proj.lora_B.weight": torch.eye(9, 4),
        }
        write_adapter(tmp_path, equal)
        assert report_update(read_adapter(tmp_path)).modules[0].effective_rank == pytest.approx(4)
        equal[f"{PREFIX}0.mlp.up_proj.lora_B.weight"][:, 1:] = 0
        write_adapter(tmp_path, equal)
        assert report_update(read_adapter(tmp_path)).modules[0].effective_rank == pytest.approx(1)

    def test_what_looks_odd_is_said(self, trained, truth, tmp_path):
        write_adapter(tmp_path, trained)
        assert report_update(read_adapter(tmp_path)).odd == []
        odd = {name: 1e4 * tensor if "layers.1." in name else tensor for name, tensor in trained.items()}
        odd |= {name: 0 * tensor for name, tensor in odd.items() if "layers.0.self_attn.q_proj.lora_B" in name}
        write_adapter(tmp_path, odd)
        zero, outlier, *_ = report_update(read_adapter(tmp_path)).odd
        assert zero == "1 of 22 updates are zero, the first that of model.layers.0.self_attn.q_proj."
        assert "update of layer 1 is" in outlier
        assert "times the weight that it changes" in report_update(read_adapter(tmp_path), truth).odd[-1]


def test_the_command_says_what_it_found_and_how(
    model_folder, adapter_folder, monkeypatch, capsys, trained, truth, tmp_path
):
    assert cli(monkeypatch, "verify", adapter_folder, "--model", model_folder, "--offline", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "not asked"
    assert len(printed["modules"]) == 22
    (tmp_path / "peft_adapter").mkdir()
    write_adapter(tmp_path / "peft_adapter", trained, lora_alpha=16)
    (tmp_path / "checkpoint_info.json").write_text(json.dumps({"tinker_path": CHECKPOINT}))
    monkeypatch.setenv("TINKER_API_KEY", "tml-key")
    monkeypatch.setattr("src.pipeline.verifying.TinkerClient", lambda: Truth(truth))
    assert cli(monkeypatch, "verify", tmp_path, "--model", model_folder) == 5
    printed = " ".join(capsys.readouterr().out.split())
    assert "Different" in printed
    assert "as if lora_alpha were 32, and adapter_config.json says 16" in printed
    assert "lm_head 1 " in printed
    assert "checkpoint_info.json" in printed


def test_a_gap_that_is_no_number_is_never_the_smaller_one():
    from src.pipeline.diagnosing import largest_gap

    zero, bad = np.zeros(2), np.array([0.0, np.nan])
    assert np.isnan(largest_gap([zero, bad], [zero, zero]))
    assert np.isnan(largest_gap([bad, zero], [zero, zero]))


def test_probabilities_that_are_not_finite_are_an_error(model):
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        token_log_probabilities(model, [[5, 6, 7]])
