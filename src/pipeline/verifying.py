"""Is this adapter what was trained? Tinker's log-probabilities of a few texts are compared with our own.

The yardstick is the base model: it too is asked of Tinker and computed here, in the same precision and quantisation,
and the adapter may not differ by much more than that does.
"""

import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from src import files, machine, storage
from src.adapters import MARKER, WEIGHTS_NAME, Adapter, read_adapter
from src.errors import ConfigError, DownloadError
from src.models import ModelLoader
from src.models.likelihood import token_log_probabilities
from src.models.update_report import UpdateReport, report_update
from src.pipeline.diagnosing import diagnose, largest_gap, noticeable_alpha
from src.pipeline.results import versions
from src.tinker import TinkerClient
from src.tinker.credentials import credentials_source
from src.tinker.served import Served

log = logging.getLogger(__name__)

Verdict = Literal["verified", "different", "undecided", "not asked"]
CERTIFICATE = "verification"  # the key in checkpoint_info.json
TEXTS = (
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "Question: A farmer has 17 sheep and buys 25 more. How many sheep does he have now?\nAnswer: 42",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "Which of these is a noble gas?\nA. Oxygen\nB. Neon\nC. Iron\nD. Chlorine\nAnswer: B",
    "Wer anderen eine Grube gräbt, fällt selbst hinein. 不要把所有的鸡蛋放在一个篮子里。",
    "It was the best of times, it was the worst of times; nobody could say which, least of all the clock.",
)
# The same float32 model differs by up to 2e-6 between this and another implementation (benchmarks of the real server).
LEAST_TOLERANCE = 1e-5
MARGIN = 4  # an adapter's rounding differs from the base model's: how many times the floor is still rounding


class LogProbabilities(Protocol):
    """Who is asked: a `TinkerClient`, or a stand-in."""

    def log_probabilities(self, checkpoint: str, token_ids: Sequence[Sequence[int]]) -> Served:
        """See `TinkerClient.log_probabilities`."""
        ...

    def checkpoint_info(self, path: str) -> Mapping[str, Any]:
        """See `TinkerClient.checkpoint_info`."""
        ...


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        verdict: "verified"; "different" from what Tinker computes; "undecided" where rounding hides what the adapter
            does; "not asked" where Tinker could not be.
        sentences: the verdict and its reasons, for people.
        update: the adapter's update in numbers.
        certificate: everything measured, as it is kept; None where Tinker was not asked.
        kept_in: the file with the certificate, if there is one.
    """

    verdict: Verdict
    sentences: tuple[str, ...]
    update: UpdateReport
    certificate: Mapping[str, Any] | None = None
    kept_in: Path | None = None

    def as_plain(self) -> dict[str, Any]:
        """Everything, as values for JSON and for `print_verification`."""
        return {
            "verdict": self.verdict,
            "sentences": list(self.sentences),
            "certificate": self.certificate,
            "kept_in": None if self.kept_in is None else str(self.kept_in),
            "biggest": self.update.biggest.module,
            "modules": [asdict(module) for module in self.update.modules],
        }


def verify_adapter(
    adapter: str | Path,
    model_name: str | None = None,
    *,
    checkpoint: str | None = None,
    quantization: Literal["8bit", "4bit"] | None = None,
    dtype: str = "auto",
    offline: bool = False,
    service: LogProbabilities | None = None,
) -> Verification:
    """Load an adapter, with all checks of loading, and compare it with what Tinker computes.

    Args:
        adapter: a PEFT folder, or the output_dir of `download_and_convert_weights`.
        model_name: the base model; None: as checkpoint_info.json has recorded it.
        checkpoint: the tinker:// path to compare with; None: as recorded.
        quantization, dtype: as in `ModelLoader`; the yardstick is measured with them too.
        offline: do not ask Tinker, even where credentials are there.
        service: who is asked instead of Tinker.

    Raises:
        AdapterError, ModelError, IntegrityError: the adapter does not load.
        ConfigError: no base model is given or recorded.
        CredentialsError, DownloadError, MissingExtraError: Tinker refuses, or does not answer.
    """
    folder = _adapter_folder(adapter)
    recorded = _recorded(folder)
    name = model_name or recorded.get("base_model")
    if not isinstance(name, str):
        raise ConfigError(f"No base model is recorded beside {folder}. Give it: --model NAME.")
    checkpoint = checkpoint or _tinker_path(recorded)
    model, tokenizer = ModelLoader(name, folder, quantization, dtype=dtype).load()
    sound = read_adapter(folder)
    update = report_update(sound, model)
    why_not = _why_not_asked(checkpoint, offline=offline, service=service)
    if why_not or checkpoint is None:
        return Verification("not asked", (why_not, *update.odd), update)
    service = service or TinkerClient()
    token_ids = [tokenizer(text, verbose=False)["input_ids"] for text in TEXTS]
    served = _ask(service, checkpoint, token_ids)
    verdict, sentences, measured = _judge(model, sound, token_ids, served, _info(service, checkpoint))
    certificate = {
        "verdict": verdict,
        "sentences": sentences,
        "checkpoint": checkpoint,
        "base_model": {"here": name, "tinker": served.base_model},
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": quantization,
        "texts_sha256": files.sha256_of_json(list(TEXTS)),
        "weights_sha256": files.sha256_of_file(folder / WEIGHTS_NAME),
        **measured,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    return Verification(verdict, (*sentences, *update.odd), update, certificate, _keep(folder, certificate))


def _judge(
    model: Any, adapter: Adapter, token_ids: Sequence[Sequence[int]], served: Served, info: Mapping[str, Any]
) -> tuple[Verdict, list[str], dict[str, Any]]:
    """Verdict, its reasons, and the numbers in nats."""
    with model.disable_adapter():
        base = token_log_probabilities(model, token_ids)
    floor = largest_gap(base, served.base)
    difference = largest_gap(token_log_probabilities(model, token_ids), served.tuned)
    effect = largest_gap(served.tuned, served.base)
    tolerance = max(MARGIN * floor, LEAST_TOLERANCE)
    measured: dict[str, Any] = {
        "tokens": sum(map(len, served.tuned)),
        "difference": difference,
        "floor": floor,
        "tolerance": tolerance,
        "effect": effect,
    }
    numbers = (
        f"differ by at most {difference:.2g} nats (the base models by {floor:.2g}; the adapter changes {effect:.2g})"
    )
    if difference > tolerance:
        reasons = diagnose(model, adapter, token_ids, served, tolerance=tolerance, info=info)
        return "different", [f"This is not what Tinker computes: log-probabilities {numbers}.", *reasons], measured
    if effect <= 2 * tolerance:
        hint = "Verify without quantisation and in float32" if floor > LEAST_TOLERANCE else "Train it for longer"
        undecided = f"Log-probabilities {numbers}: too little to tell the adapter from the base model. {hint}."
        return "undecided", [undecided], measured
    measured["noticeable_alpha"] = noticeable_alpha(model, adapter, token_ids, tolerance=tolerance)
    sentences = [f"This is what was trained: log-probabilities {numbers}."]
    if (noticed := measured["noticeable_alpha"]) is not None:
        sentences.append(f"A lora_alpha wrong by {100 * noticed:.1g} % would have been noticed.")
    return "verified", sentences, measured


def _adapter_folder(adapter: str | Path) -> Path:
    folder = storage.local(adapter)
    return folder / "peft_adapter" if (folder / "peft_adapter").is_dir() else folder


def _recorded(folder: Path) -> dict[str, Any]:
    """What checkpoint_info.json beside the folder, which a user may rewrite, or our marker in it says."""
    for path in (folder.parent / "checkpoint_info.json", folder / MARKER):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def _tinker_path(recorded: Mapping[str, Any]) -> str | None:
    path = recorded.get("tinker_path")
    return path if isinstance(path, str) and path.startswith("tinker://") else None


def _why_not_asked(checkpoint: str | None, *, offline: bool, service: LogProbabilities | None) -> str:
    """A sentence where Tinker cannot be asked; "" otherwise."""
    if offline:
        return "Tinker was not asked: the adapter loads and is in force, but whether it is what was trained is open."
    if checkpoint is None:
        return "Tinker was not asked, because no tinker:// checkpoint is recorded. Give one: --checkpoint tinker://..."
    if service is None and credentials_source() is None:
        return (
            "Tinker was not asked, because there are no credentials (TINKER_API_KEY): the adapter loads and is in "
            "force, but whether it is what was trained is open."
        )
    return ""


def _ask(service: LogProbabilities, checkpoint: str, token_ids: Sequence[Sequence[int]]) -> Served:
    try:
        return service.log_probabilities(checkpoint, token_ids)
    except DownloadError as error:
        if "/external_weights/" not in checkpoint:
            raise
        raise DownloadError(
            f"{error} Where external weights cannot be sampled from, give a path of the same weights that can: "
            "--checkpoint tinker://RUN/sampler_weights/NAME, as save_weights_for_sampler returns it."
        ) from error


def _info(service: LogProbabilities, checkpoint: str) -> Mapping[str, Any]:
    try:
        return service.checkpoint_info(checkpoint)
    except DownloadError as error:  # it only serves to explain a difference
        log.info("What Tinker has recorded of %s could not be asked (%s).", checkpoint, error)
        return {}


def _keep(folder: Path, certificate: Mapping[str, Any]) -> Path | None:
    """Put the certificate into checkpoint_info.json, all else kept; None where the adapter has no such file."""
    path = folder.parent / "checkpoint_info.json"
    if not path.is_file():
        return None
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        log.warning("%s is no JSON object any more: the certificate is not kept there.", path)
        return None
    with machine.writing(path.parent, setting="output_dir"):
        files.write_json(path, recorded | {CERTIFICATE: certificate})
    return path
