"""Where a probe comes from: the model whose states it reads, at which token, and how that model was asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, StringConstraints

from src.errors import ModelError
from src.models.extraction.fingerprint import fingerprint

Text = Annotated[str, StringConstraints(max_length=100_000)]
Name = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,128}$")]
Layer = Annotated[str, StringConstraints(pattern=r"^(embeddings|final_norm|block\.[0-9]{1,4})$")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Family = Literal["logistic", "mean_difference", "mlp", "attention"]
_CLOSED = ConfigDict(extra="forbid")  # read from a file, an unknown key is an error


@dataclass(frozen=True)
class ModelIdentity:
    """A loaded model, known by its tensors: a name or a date says nothing of what was loaded.

    Attributes:
        name: hub id, or the name of a local folder.
        revision: the hub's commit, where it came from there.
        weights: hash of the loaded tensors, without the adapter's.
        adapter: hash of the LoRA halves and scales in force; None where there is none, or it is switched off.
        dtype: such as "bfloat16".
        quantization: "8bit", "4bit" or None.
    """

    name: Name
    revision: Name | None
    weights: Hash
    adapter: Hash | None
    dtype: Name
    quantization: Literal["8bit", "4bit"] | None

    __pydantic_config__ = _CLOSED

    @classmethod
    def of(cls, model: Any) -> "ModelIdentity":
        """Of a loaded model with its adapter as it is switched now; all its tensors are read once.

        Raises:
            ModelError: a model without weights.
        """
        found = fingerprint(model)
        if found["weights"] is None:
            raise ModelError("This model has no weights to be known by: load it with ModelLoader.load.")
        return cls(
            # Of a local folder the name only: where it lies on this machine is nobody else's business.
            name=_public_name(str(model.config._name_or_path)),
            revision=getattr(model.config, "_commit_hash", None),
            weights=found["weights"],
            adapter=found["adapter"],
            dtype=found["dtype"],
            quantization=found["quantization"],
        )

    def differences(self, other: "ModelIdentity") -> list[str]:
        """In what the two are not the same model, as "dtype float32, not bfloat16"; empty where their states agree."""
        compared = ("dtype", "quantization", "adapter", "weights")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in compared]
        return [f"{name} {_shown(theirs)}, not {_shown(ours)}" for name, ours, theirs in pairs if ours != theirs]

    def __str__(self) -> str:
        parts = [self.name, self.revision and f"at {self.revision[:12]}", self.dtype, self.quantization]
        parts.append(self.adapter and f"adapter {self.adapter[:12]}")
        return " ".join(part for part in parts if part)


def _public_name(name: str) -> str:
    if not name:
        return "a model without a name"
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _shown(value: str | None) -> str:
    return value[:12] if value else "none"


@dataclass(frozen=True)
class Asking:
    """How the questions were put, so that a new one can be put likewise.

    Attributes:
        by: "generation": the answer is generated; "letters" or "choices": the likeliest of the letters, or of the
            choices' texts, after the prompt.
        template: Jinja text that makes question, choices (letter, text) and subject into the prompt; None: prompts can
            only be given whole (solved examples that differ from question to question, answers from outside).
        chat: whether that prompt is a message in the tokenizer's chat template.
        stop: strings that end a generated answer.
        max_new_tokens: the most tokens of one.
        thinking: how the model marks its thinking, see `src.models.reading.THINKING`.
        marking: how generated answers were judged, see `src.data.scoring.mark`.
    """

    by: Literal["generation", "letters", "choices"] = "generation"
    template: Text | None = None
    chat: bool = False
    stop: Annotated[tuple[Stop, ...], Field(max_length=100)] = ()
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 64
    thinking: Literal["think", "harmony"] | None = None
    marking: Name = "exact"

    __pydantic_config__ = _CLOSED


@dataclass(frozen=True)
class Origin:
    """What a probe is good for.

    Attributes:
        model: whose states it reads.
        layer: canonical name, such as "block.12".
        position: the token or tokens, as in the configuration.
        asking: how the model was asked.
        data: name of the data set.
        training_ids: SHA-256 of the sorted ids of the questions that fitted it or chose anything of it.
        C: the inverse L2 strength that was chosen, where there was one.
        metrics: of its own test rows, before recalibration, such as {"auroc": .81, "auroc_low": .78}.
        family: how the weights were fitted; "attention" has a query among them, and reads every token of an answer.
    """

    model: ModelIdentity
    layer: Layer
    position: Name
    asking: Asking = field(default_factory=Asking)
    data: Name | None = None
    training_ids: Hash | None = None
    C: Annotated[FiniteFloat, Field(gt=0)] | None = None
    metrics: dict[Name, FiniteFloat | None] = field(default_factory=dict)
    family: Family = "logistic"

    __pydantic_config__ = _CLOSED
