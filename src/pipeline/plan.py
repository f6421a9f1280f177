"""Before the first long step: the questions are read, and what can be found wrong cheaply is found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src import machine, storage
from src.adapters.folder import recorded_base
from src.config import Config
from src.config.schema import BaselinesConfig
from src.data.splits import SPLITS, Splits, split_examples
from src.data.trained_on import apart, read_trained_on
from src.errors import ConfigError, ModelError
from src.pipeline.folder import folder_state
from src.pipeline.generators import check_generator
from src.pipeline.naming import variant_names
from src.pipeline.outside import check_fit, states_note, states_of
from src.pipeline.positions import read_once
from src.pipeline.questions import CHAT, Questions, Task, as_chat, data_name, load_questions
from src.pipeline.sense import check_settings
from src.probes.attention import ATTENTION


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        tasks: what is asked: the run's data set, then those of transfer.data.
        layers: canonical names of the hidden states that are read.
        parameters: of the base model.
        weight_bytes: of the base model, unquantised.
        state_bytes: of the hidden states of all questions and models, as the cache keeps them; where every token of the
            answers is read, of answers as long as they may be.
        adapters: name -> the adapter's folder, which may be yet to be made; empty where only a base model is asked.
        notes: what may go wrong, in sentences.
    """

    tasks: tuple[Task, ...]
    layers: tuple[str, ...]
    parameters: int
    weight_bytes: int
    state_bytes: int
    adapters: dict[str, str]
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        """What the report is about."""
        return self.tasks[0]

    def facts(self, config: Config) -> dict[str, Any]:
        """The plan as plain values, for people and for JSON.

        The tokenizer is read and all prompts are counted, so an over-long one is found here.
        """
        from src.pipeline.asking import forecast

        loader = model_loader(config)
        skeleton, tokenizer = loader.skeleton(), loader.tokenizer()

        def asking(task: Task) -> dict[str, Any]:
            passes = forecast(skeleton, tokenizer, task.questions, task.config, layers=self.layers)
            return {
                "questions": len(task.questions.examples),
                "answers": "multiple choice" if task.questions.with_choices else "free answers",
                "splits": {name: len(getattr(task.splits, name)) for name in SPLITS},
                "passes": asdict(passes),
                "passes_in_words": str(passes),
            }

        return {
            "folder": str(config.folder.absolute()),
            "folder_state": folder_state(config),
            "model": config.model.name,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "adapters": self.adapters,
            "data": config.data.name,
            **asking(self.task),
            "transfer": [{"data": task.name} | asking(task) for task in self.tasks[1:]],
            "layers": list(self.layers),
            "state_bytes": self.state_bytes,
            "models": 1 + len(self.adapters),
            "cache_dir": config.extraction.cache_dir,
            "free_memory": machine.free_memory(),
            "notes": list(self.notes),
        }


def make_plan(config: Config) -> Plan:
    """Read the questions and check model, adapter, layers, extras and space; nothing is written.

    Raises:
        ProbingError: what would have stopped the run later.
    """
    if config.conversion:
        from src.tinker.download import check_source, is_converted

        if not is_converted(config.conversion[0], config.model.name, config.conversion[1]):
            check_source(config.conversion[0], allow_export=bool(config.tinker and config.tinker.allow_export))
    tasks = (Task(data_name(config.data), config, *_asked(config)), *_others(config))
    adapters = () if config.conversion else config.adapter_folders
    skeleton = model_loader(config, adapters).skeleton()
    check_generator(tasks, skeleton, adapters)
    layers, width = _layers(config, skeleton)
    folders = config.adapter_folders
    sizes = [(p.numel(), p.element_size()) for p in skeleton.parameters()]
    weight_bytes = sum(count * size for count, size in sizes)
    once = len(read_once(config.extraction.position))
    states = sum(len(task.questions.examples) * once + _answer_tokens(config, task.questions) for task in tasks)
    # States from outside are never kept.
    state_bytes = 0 if config.extraction.states else (1 + len(folders)) * states * len(layers) * width * sizes[0][1]
    return Plan(
        tasks=tasks,
        layers=layers,
        parameters=sum(count for count, _ in sizes),
        weight_bytes=weight_bytes,
        state_bytes=state_bytes,
        adapters=dict(zip(variant_names(folders), folders, strict=True)),
        notes=(
            *states_note(config),
            *_passing_note(config),
            *_base_note(config),
            *_memory_note(config, weight_bytes),
            *_disk_note(config, state_bytes),
        ),
    )


def _asked(config: Config) -> tuple[Questions, Splits]:
    """The questions of one data set, checked and split.

    Raises:
        ConfigError: a setting has no meaning for them, or none is left to test with.
    """
    questions = load_questions(config.data)
    check_settings(config, questions)
    questions = _trained_on(config, questions)
    if config.data.template == CHAT:
        questions = as_chat(questions, model_loader(config).tokenizer())
    splits = split_examples(questions.examples, seed=config.experiment.seed)
    if not splits.test.size:
        different = len(set(splits.groups))
        raise ConfigError(
            f"None of {len(questions.examples)} questions ({different} different) fell into the test split: use more."
        )
    return questions, splits


def _others(config: Config) -> tuple[Task, ...]:
    """The other data sets, read at the same positions as the first.

    Raises:
        ConfigError: two of one name, or what one data set makes impossible, with its name.
    """
    found: dict[str, Task] = {}
    for data in config.transfer.data:
        name = data_name(data)
        if name in (data_name(config.data), *found):
            raise ConfigError(
                f"transfer.data names the data set {name!r}, which is asked already. Leave it out, or choose another "
                "category or file."
            )
        own = config.model_copy(update={"data": data, "baselines": BaselinesConfig.model_validate({})})
        try:
            found[name] = Task(name, own, *_asked(own))
        except ConfigError as error:
            hint = " All data sets are read at the same positions; last_prompt is there in all."
            raise ConfigError(
                f"transfer.data, {name}: {error}{hint if 'extraction.position' in str(error) else ''}"
            ) from error
    return tuple(found.values())


def _answer_tokens(config: Config, questions: Questions) -> int:
    """The most tokens of answers that are read one by one; of answers from outside a token for each character."""
    if ATTENTION not in config.extraction.position:
        return 0
    if questions.given:
        return sum(len(one.response) for one in questions.given)
    return len(questions.examples) * questions.max_new_tokens


def _trained_on(config: Config, questions: Questions) -> Questions:
    """The questions, with those that some adapter was fine-tuned on marked, where that is allowed.

    Raises:
        DataError: there are such questions.
    """
    found = dict(filter(None, map(read_trained_on, config.adapter_folders)))
    if config.data.trained_on == "refuse":
        for path, ids in found.items():
            apart(questions.examples, ids, path, refuse=True)
    elif found:
        every = frozenset().union(*found.values())
        return replace(questions, examples=apart(questions.examples, every, next(iter(found)), refuse=False))
    return questions


def model_loader(config: Config, adapters: Sequence[str] = ()) -> Any:
    """The loader of the configured model, with the adapters that lie in these folders."""
    from src.models import ModelLoader

    model = config.model
    return ModelLoader(
        model.name, None, model.quantization, adapters=adapters, dtype=model.dtype, revision=model.revision,
        device_map=model.device_map,
    )  # fmt: skip


def _layers(config: Config, skeleton: Any) -> tuple[tuple[str, ...], int]:
    from src.models.extraction.layers import anatomy, layer_names

    parts, layers = anatomy(skeleton), config.extraction.layers
    states = states_of(config)
    if states and layers == "all":
        layers = states.layers
    try:
        names = layer_names(layers if isinstance(layers, str) else list(layers), len(parts.blocks))
    except ModelError as error:
        raise ConfigError(f"extraction.layers: {error}") from error
    if states:
        check_fit(states, names, parts.hidden_dim, model=config.model.name)
    return names, parts.hidden_dim


def _passing_note(config: Config) -> list[str]:
    named = {"run.dir": str(config.run.dir or ""), "extraction.cache_dir": config.extraction.cache_dir or ""}
    return [
        f"{key} is {value}, which lives in this process only: what is written there is gone when it ends."
        for key, value in named.items()
        if value.startswith("memory://")
    ]


def _base_note(config: Config) -> list[str]:
    """An adapter that says it was trained on another base model; a folder's name may say nothing."""
    own = config.model.name.rstrip("/").rpartition("/")[2].lower()
    found = {folder: recorded_base(folder) for folder in config.adapter_folders if not config.conversion}
    return [
        f"The adapter {folder} says that it was trained on {base}, and is used on {config.model.name}."
        for folder, base in found.items()
        if base and base.rstrip("/").rpartition("/")[2].lower() != own
    ]


def _memory_note(config: Config, needed: int) -> list[str]:
    free = machine.free_memory()
    if free is None or config.model.quantization or needed <= free or _has_gpu():
        return []
    return [
        f"The weights take {machine.in_words(needed)}, and {machine.in_words(free)} of memory are free: the run may "
        "be killed. Use a smaller model, or model.quantization."
    ]


def _disk_note(config: Config, needed: int) -> list[str]:
    folder = config.extraction.cache_dir
    if not folder or storage.is_url(folder) or needed <= (free := machine.free_disk(Path(folder))):
        return []
    return [
        f"The hidden states take {machine.in_words(needed)}, and {machine.in_words(free)} are free in {folder}: the "
        "run will go on without keeping the rest."
    ]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
