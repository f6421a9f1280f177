"""What `confprobe check` will do: the probe's own model, the one it is checked on, and the questions for both."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src import storage
from src.config import Config, load_config
from src.data.splits import SPLITS, Splits
from src.errors import ConfigError
from src.models.loader import DTYPES, Quantization
from src.pipeline.folder import CONFIG, PROBES
from src.pipeline.naming import variant_names
from src.pipeline.plan import Plan, make_plan, model_loader
from src.pipeline.questions import Questions
from src.pipeline.sharing import training_ids
from src.probes.artifact import SavedProbe
from src.probes.attention import AttentionWeights
from src.probes.linear import ProbeWeights
from src.probes.mlp import MLPWeights


@dataclass(frozen=True)
class Named:
    """A model as it is asked for; what is left out is as the run had it.

    Attributes:
        model: hub id or folder.
        adapter: PEFT folder.
        quantization: "8bit", "4bit" or None.
        dtype: as in the configuration; None: the probe's.
    """

    model: str | None = None
    adapter: str | None = None
    quantization: Quantization | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class CheckPlan:
    """Checked as far as it can be without weights.

    Attributes:
        probe: the saved one.
        own, other: settings of the model that the probe was fitted on, and of the one it is checked on.
        own_plan, other_plan: the questions for each, with the same splits.
        notes: what may weaken the result, in sentences.
    """

    probe: SavedProbe
    own: Config
    other: Config
    own_plan: Plan
    other_plan: Plan
    notes: tuple[str, ...]

    @property
    def one_model(self) -> bool:
        """Whether one loaded model serves both, its adapter switched."""
        adapters = {*self.own.adapter_folders, *self.other.adapter_folders}
        without = [one.model.model_copy(update={"tinker_lora_path": None}) for one in (self.own, self.other)]
        return len(adapters) < 2 and without[0] == without[1]

    def facts(self) -> dict[str, Any]:
        """As plain values, for people and for JSON."""
        origin = self.probe.origin
        return {
            "probe": {"layer": origin.layer, "position": origin.position, "model": str(origin.model)},
            "before": _facts(self.own),
            "after": _facts(self.other),
            "loaded_once": self.one_model,
            "data": self.own.data.name,
            "questions": len(self.own_plan.task.questions.examples),
            "splits": {name: len(getattr(self.own_plan.task.splits, name)) for name in SPLITS},
            "cache_dir": self.own.extraction.cache_dir,
            "notes": list(self.notes),
        }


def plan_check(
    probe: SavedProbe | str | Path, other: Named, *, own: Named | None = None, config: str | Path | Config | None = None
) -> CheckPlan:
    """Read the probe and the questions, and check both models as far as this can be done without their weights.

    Args:
        probe: a saved probe, its folder, or the id of its hub repository.
        other: the model to check it on; its name is needed.
        own: the model that the probe was fitted on; None: as the run's configuration says.
        config: of the run that fitted the probe; None: the one it lies in.

    Raises:
        ConfigError: no configuration, or questions that are not asked again.
        ModelError: a model without the probe's layer or width; both are named.
        ProbingError: what else would have stopped the check later.
    """
    saved = probe if isinstance(probe, SavedProbe) else SavedProbe.from_pretrained(probe)
    linear_weights(saved)
    settings = load_config(config if config is not None else _config_beside(probe))
    if settings.data.name == "answered":
        raise ConfigError(
            "data.name is answered: these answers belong to one model, and no other can be asked for them. Give a "
            "configuration whose questions are asked: --config."
        )
    if other.model is None:
        raise ConfigError("Name the model that the probe is to be checked on: --model.")
    variant = Path(probe).name if isinstance(probe, str | Path) else ""
    first = _own_settings(settings, saved, own or Named(), variant=variant)
    second = _settings(settings, saved, other)
    for one in (first, second):
        saved.check_shape(model_loader(one, one.adapter_folders).skeleton())
    own_plan, other_plan = make_plan(first), make_plan(second)
    notes = _generator_note(settings)
    if settings.data.unparsed != "drop":  # else the answers tell which questions fitted the probe
        notes += other_questions(saved, own_plan.task.questions, own_plan.task.splits)
    return CheckPlan(saved, first, second, own_plan, other_plan, notes)


def linear_weights(saved: SavedProbe) -> ProbeWeights:
    """The arrays of a probe that reads one state of each answer.

    Raises:
        ConfigError: a small network, or a probe that reads all tokens of an answer: another model's answers have other
            tokens.
    """
    if isinstance(saved.weights, MLPWeights):
        raise ConfigError(
            "This probe is a small network (mlp), and what brings a model's states back folds into a linear probe. "
            "Check one of probe.family logistic or mean_difference."
        )
    if isinstance(saved.weights, AttentionWeights):
        raise ConfigError(
            f"This probe reads {saved.origin.position}, all tokens of an answer, and another model gives others: "
            "states cannot be compared token by token. Check a probe at last_prompt or mean_answer."
        )
    return saved.weights


def _config_beside(probe: Any) -> Path:
    """RUN/config.yaml of RUN/probes/VARIANT; a hub id may look like a folder that is not there."""
    path: Path | None = None
    if isinstance(probe, str | Path) and (place := storage.place(probe)).is_dir():
        room = (place.absolute() if storage.is_local(place) else place).parent
        path = room.parent / CONFIG if room.name == PROBES else None
    if path is None or not path.is_file():
        raise ConfigError(
            "The probe does not lie in the folder of a run (RUN/probes/VARIANT), so its questions are not known. Name "
            "a configuration that has them: --config RUN/config.yaml."
        )
    return path


def _own_settings(settings: Config, saved: SavedProbe, named: Named, *, variant: str) -> Config:
    """The probe's own model: what the header says of it goes before what the configuration says."""
    of = saved.origin.model
    if named.model is None:
        adapter = named.adapter or (_own_adapter(settings, variant) if of.adapter else None)
        named = Named(settings.model.name, adapter, dtype=named.dtype)
    return _settings(settings, saved, replace(named, quantization=of.quantization))


def _own_adapter(settings: Config, variant: str) -> str | None:
    """The one of the configuration, of several the one that the probe's folder is called after.

    Raises:
        ConfigError: none of several is.
    """
    folders = settings.adapter_folders
    if len(folders) < 2:
        return next(iter(folders), None)
    named = dict(zip(variant_names(folders), folders, strict=True))
    if variant not in named:
        raise ConfigError(
            f"The probe was fitted on one of several adapters ({', '.join(named)}), and its folder {variant!r} is not "
            "called after one of them. Name it: --from-adapter."
        )
    return named[variant]


def _settings(settings: Config, saved: SavedProbe, named: Named) -> Config:
    origin = saved.origin
    layer = origin.layer.removeprefix("block.")
    dtype = named.dtype or (origin.model.dtype if origin.model.dtype in DTYPES else "auto")
    same = named.model == settings.model.name
    return load_config(
        settings,
        {
            "model": {
                "name": named.model, "revision": settings.model.revision if same else None, "dtype": dtype,
                "device_map": settings.model.device_map,
                "quantization": named.quantization, "tinker_lora_path": named.adapter, "adapters": [],
            },
            "tinker": None,
            "extraction.layers": [int(layer) if layer.isdigit() else layer],
            "extraction.position": [origin.position],
            "extraction.states": None,  # both models are read here: a folder's states would be equal to themselves
            "extraction.layer_ids": None,
            "baselines": {},
            "transfer": {},
            "run.engine": "local",
            "run.workers": 1,
            "run.worker_gpus": None,
            "run.generator": "transformers",
        },
    )  # fmt: skip


def _generator_note(settings: Config) -> tuple[str, ...]:
    if settings.run.generator == "transformers":
        return ()
    return (f"The run had {settings.run.generator} generate its answers; here transformers does, of both models.",)


def other_questions(saved: SavedProbe, questions: Questions, splits: Splits) -> tuple[str, ...]:
    """A note where the probe was fitted on others than those of train and val, or does not say on which."""
    fitted = saved.origin.training_ids
    if fitted == training_ids(questions, splits):
        return ()
    known = "was fitted on other questions than this configuration trains with"
    what = "does not say which questions it was fitted on" if fitted is None else known
    return (f"The probe {what}: some of those that judge it here may have been among them, and flatter it.",)


def _facts(settings: Config) -> dict[str, Any]:
    model = settings.model
    adapter = next(iter(settings.adapter_folders), None)
    return {"model": model.name, "adapter": adapter, "quantization": model.quantization,
            "dtype": model.dtype}  # fmt: skip
