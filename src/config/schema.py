"""Every setting of a run: its type, its default and one sentence."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, model_validator

from src import storage
from src.config.values import Family, InputPath, Layers, OutputFolder, Position, Section, Share, families, positions


class ExperimentConfig(Section):
    """What the run is called and what fixes its random numbers."""

    name: str = Field("experiment", min_length=1)
    """Shown in the report."""
    seed: StrictInt = Field(42, ge=0)
    """Decides which question is in which split, the bootstrap resamples and the shuffled labels."""


class ModelConfig(Section):
    """The model that is asked."""

    name: InputPath = Field(min_length=1)
    """Hub id or local folder."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    quantization: Literal["8bit", "4bit"] | None = None
    """bitsandbytes quantisation."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: as the weights were saved."""
    device_map: Literal["auto"] | None = None
    """auto: layers that no GPU has room for lie in memory or on disk; without it they do so where there is a GPU."""
    tinker_lora_path: InputPath | None = None
    """A PEFT adapter folder: makes the run a comparison of base and tuned."""
    adapters: tuple[InputPath, ...] = ()
    """Several such folders, such as a training's checkpoints: all are asked on one loaded base model and compared."""


class TinkerConfig(Section):
    """A checkpoint that is converted before the model is loaded."""

    enabled: StrictBool = True
    """false: this section is ignored."""
    checkpoint_path: InputPath | None = None
    """The checkpoint: a tinker:// path, an https:// tar without a signature, a local tar, or a folder."""
    download_weights: StrictBool = True
    """Fetch and convert it before loading; false: output_dir already holds the result."""
    allow_export: StrictBool = False
    """Let Tinker export a training checkpoint (tinker://RUN/weights/NAME), which it charges for."""
    output_dir: OutputFolder | None = None
    """Gets peft_adapter/ and checkpoint_info.json."""


class Columns(Section):
    """What the fields are called in your own file."""

    question: str = "question"
    """The question's text."""
    answer: str = "answer"
    """The right answer: a text, a letter, or the text of one of the choices."""
    choices: str = "choices"
    """A list of texts to choose from; the column may be absent."""
    subject: str = "subject"
    """A group to report on; the column may be absent."""


class DataConfig(Section):
    """The questions."""

    name: Literal["mmlu", "gsm8k", "quickstart", "custom", "answered"] = "mmlu"
    """Which data set; custom: your own questions; answered: questions with the answers that a model gave already."""
    path: InputPath | None = None
    """A local folder or file instead of the hub; custom: a .jsonl, .csv or .parquet file, or a data set of the hub."""
    split: str | None = None
    """A split of the data set; none: test (quickstart: all)."""
    category: str | None = None
    """A category or subject of MMLU or of the quickstart world."""
    shots: StrictInt = Field(0, ge=0)
    """Solved examples before each question."""
    limit: StrictInt | None = Field(None, ge=1)
    """Use the first so many questions only."""
    columns: Columns | None = None
    """custom only: the file's own names, such as {question: q, answer: a}."""
    answer_by: Literal["likelihood", "generation"] | None = None
    """Questions with choices: by likelihood (the default) or in words, which are then read; others always in words."""
    max_new_tokens: StrictInt | None = Field(None, ge=1, le=100_000)
    """The most tokens of an answer in words; none: the data set's own number."""
    marking: Literal["exact", "contains", "numeric", "letter", "gsm8k_strict", "gsm8k_flexible"] | None = None
    """How answers in words are judged; none: the data set's own rule, and letter for questions with choices."""
    unparsed: Literal["wrong", "drop"] = "wrong"
    """Answers in words in which nothing was found to mark: wrong counts them as wrong; drop leaves them out of
    training, and a question that some model left open out of the numbers. They are always counted."""
    trained_on: Literal["refuse", "mark"] = "refuse"
    """Questions that the adapter was fine-tuned on (trained_on.json beside it): refuse stops; mark keeps and tags
    them."""
    filter: str | None = None
    """answered, with samples of lm-evaluation-harness: the filter whose marks count; none: the first."""
    thinking: Literal["think", "harmony"] | None = None
    """Models that think first: think marks it with <think> and </think>, harmony as gpt-oss does."""
    template: str | None = None
    """The prompt: none is the data set's own; chat, the tokenizer's chat template around it; or your own Jinja text
    with question, choices (letter, text pairs) and subject."""
    truncation: Literal["left", "right"] | None = None
    """Prompts over the model's context: none is an error; left or right cuts, counted and reported."""


class ExtractionConfig(Section):
    """Which hidden states are read."""

    layers: Layers = "all"
    """Decoder blocks counted from 0 (negative from the end), embeddings, final_norm, or all blocks."""
    position: Annotated[tuple[Position, ...], BeforeValidator(positions)] = ("last_prompt",)
    """The token whose state is read, or a list to choose from on validation: the prompt's last, the chosen letter; in
    words the mean of the prompt's, the one that ends the thinking, the mean over the ends of its chunks, the answer's
    first, last, the mean of all, all of them for a probe that learns where to look (attention_answer), the first or
    last that holds the exact answer that was marked, or the one before or after that."""
    cache_dir: OutputFolder | None = None
    """Where states and answers are kept between runs, a folder or a URL that fsspec knows; none: not kept."""
    cache: Literal["optional", "required"] = "optional"
    """Where cache_dir is read-only or full: optional goes on with a warning, required stops."""
    states: InputPath | None = None
    """A folder of states that vLLM or vllm-lens wrote (docs/states.md): they are used, and none is read here."""
    layer_ids: tuple[StrictInt | Literal["final_norm"], ...] | None = None
    """The layers of these files, by the tool's own numbers; none: as layer_ids.json in the folder says."""
    verify_rows: StrictInt = Field(8, ge=0)
    """So many of these files are read again with the model first; 0: none, and the model's weights are not loaded at
    all, which needs data.name: answered with a confidence for each answer."""


class ProbeConfig(Section):
    """The probe."""

    family: Annotated[tuple[Family, ...], BeforeValidator(families)] = ("logistic",)
    """One, or a list to choose from on validation: logistic is L2 logistic regression of standardised states;
    mean_difference goes along the difference of the class means, steadier with few questions; mlp is a small network
    with one hidden layer."""


class BaselinesConfig(Section):
    """Confidences that ask the model again; the others cost nothing and are always there."""

    p_true: StrictBool = False
    """Show the model its own answer and ask whether it is true: one more pass a question."""
    stated: StrictBool = False
    """Show the model its own answer and ask how likely it is right: a few tokens more a question."""
    samples: StrictInt = Field(0, ge=0, le=1000)
    """Answers in words: sample so many more, and take the share that agrees with the greedy one (self-consistency)."""
    temperature: float = Field(1.0, ge=0.01, le=100)
    """Of these samples."""


class EvaluationConfig(Section):
    """How numbers and their intervals are computed."""

    bootstrap: StrictInt = Field(2000, ge=100, le=100_000)
    """Resamples of the questions behind every interval."""
    bins: StrictInt = Field(15, ge=1, le=1000)
    """Bins of ECE (equal width, and equal mass) and of the reliability diagrams."""
    risks: tuple[Share, ...] = Field((0.05, 0.1, 0.2), min_length=1)
    """For each, the calibration split sets a threshold: at most this share of the answers above it is wrong."""
    certainty: Share = 0.95
    """The probability that each of these promises holds."""
    repeats: StrictInt = Field(10, ge=2, le=1000)
    """Probes trained on random halves of the questions, which show how much of a number is chance of the training."""


class TransferConfig(Section):
    """How the probe does where it was not trained."""

    subjects: StrictBool = True
    """Leave each subject out in turn (MMLU: each category; more than eight: five groups of subjects), and choose and
    train the probe without it; false saves that time."""
    data: tuple[DataConfig, ...] = ()
    """Other data sets that the same models are asked, each with the keys of data: a probe of all others is tried on
    each, and one of each on all others. The other numbers stay those of data."""


class RunConfig(Section):
    """Where the results go and how the work is done."""

    dir: OutputFolder | None = None
    """Gets config.yaml, results.json, questions.csv, answers.parquet, probes/ and report.html; none: runs/ and the
    experiment's name. A folder or a URL that fsspec knows, such as s3://bucket/run."""
    engine: Literal["local", "ray"] = "local"
    """Who computes: this process, or workers of Ray (extra `ray`; the cluster of RAY_ADDRESS, else one on this
    machine)."""
    workers: StrictInt = Field(1, ge=1)
    """How many workers ask the model, each with a model of its own; the local engine has one."""
    worker_gpus: StrictInt | None = Field(None, ge=0)
    """GPUs of each worker of Ray; none: one where the cluster has as many as workers when the run starts, else 0."""
    generator: Literal["transformers", "vllm"] = "transformers"
    """Who generates answers in words; vllm (not installed with this) is for a GPU that holds the model twice."""
    if_exists: Literal["resume", "replace", "fail"] = "resume"
    """What to do where dir holds a run: go on with the same one, start anew, or stop."""


class Config(Section):
    """One run."""

    experiment: ExperimentConfig = Field(default_factory=lambda: ExperimentConfig.model_validate({}))
    """Name and seed."""
    model: ModelConfig
    """The model that is asked."""
    tinker: TinkerConfig | None = None
    """A checkpoint that is converted first."""
    data: DataConfig = Field(default_factory=lambda: DataConfig.model_validate({}))
    """The questions."""
    extraction: ExtractionConfig = Field(default_factory=lambda: ExtractionConfig.model_validate({}))
    """The hidden states."""
    probe: ProbeConfig = ProbeConfig()
    """The probe."""
    baselines: BaselinesConfig = Field(default_factory=lambda: BaselinesConfig.model_validate({}))
    """Confidences that ask the model again."""
    evaluation: EvaluationConfig = Field(default_factory=lambda: EvaluationConfig.model_validate({}))
    """The numbers."""
    transfer: TransferConfig = Field(default_factory=lambda: TransferConfig.model_validate({}))
    """Other subjects, other data."""
    run: RunConfig = Field(default_factory=lambda: RunConfig.model_validate({}))
    """The folder."""

    @model_validator(mode="after")
    def _sections_agree(self) -> "Config":
        if self.run.engine == "local" and self.run.workers > 1:
            raise ValueError(
                f"run.workers is {self.run.workers}, and the local engine has one: set run.engine: ray, or leave it out"
            )
        if self.run.engine == "local" and self.run.worker_gpus is not None:
            raise ValueError("run.worker_gpus is of Ray's workers: set run.engine: ray, or leave it out")
        for key, data in (("data", self.data), *(("transfer.data", other) for other in self.transfer.data)):
            if data.name in ("custom", "answered") and not data.path:
                raise ValueError(f"{key}.name is {data.name}, but {key}.path (the file of questions) is not given")
        self._adapters_agree()
        return self

    def _adapters_agree(self) -> None:
        tinker = self.tinker if self.tinker and self.tinker.enabled else None
        named = {key: paths for key, paths in self._named_adapters().items() if paths}
        if tinker and not named:
            raise ValueError("tinker is enabled, but tinker.output_dir (where the adapter goes) is not given")
        if tinker and tinker.download_weights and not tinker.checkpoint_path:
            raise ValueError(
                "tinker.download_weights is true, but tinker.checkpoint_path is not given: name the checkpoint, or set "
                "tinker.download_weights: false where output_dir already holds the adapter"
            )
        if tinker and tinker.download_weights and not tinker.output_dir:
            raise ValueError("tinker.download_weights is true, but tinker.output_dir (where it goes) is not given")
        if len({tuple(map(Path, paths)) for paths in named.values()}) > 1:
            found = ", ".join(f"{key} is {', '.join(map(repr, paths))}" for key, paths in named.items())
            raise ValueError(f"these name different adapters: {found}. Make them agree, or leave all but one out")
        for key in ("model.tinker_lora_path", "model.adapters"):
            for path in self._named_adapters()[key]:
                if storage.is_url(path):
                    raise ValueError(
                        f"{key} names {path!r}, and an adapter is a folder: make one with confprobe download "
                        f"CHECKPOINT {self.model.name} FOLDER, and name FOLDER/peft_adapter"
                    )
        folders: dict[Path, str] = {}
        for path in self.model.adapters:
            place = Path(path).resolve()
            if place in folders:
                raise ValueError(
                    f"model.adapters names one folder twice: {folders[place]!r} and {path!r}. Leave one out"
                )
            folders[place] = path

    def _named_adapters(self) -> dict[str, tuple[str, ...]]:
        path, tinker = self.model.tinker_lora_path, self.tinker
        made = tinker.output_dir if tinker and tinker.enabled else None
        return {
            "model.tinker_lora_path": (path,) if path else (),
            "model.adapters": self.model.adapters,
            "tinker.output_dir's adapter": (str(Path(made) / "peft_adapter"),) if made else (),
        }

    @property
    def conversion(self) -> tuple[str, str] | None:
        """The checkpoint to convert before the model is loaded and the folder it goes to, or None."""
        tinker = self.tinker
        if not (tinker and tinker.enabled and tinker.download_weights and tinker.checkpoint_path and tinker.output_dir):
            return None
        return tinker.checkpoint_path, tinker.output_dir

    @property
    def adapter_folders(self) -> tuple[str, ...]:
        """The adapters to compare with the base model, in the order in which they are named."""
        return next((paths for paths in self._named_adapters().values() if paths), ())

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return storage.place(self.run.dir or f"runs/{_as_file_name(self.experiment.name)}")


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80] or "experiment"
