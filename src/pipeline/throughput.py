"""What a run takes before it runs: tokens, operations, and hours and cost from a speed that was measured or given.

There is no table of GPUs or prices here: a speed is this model's on this machine, or the user's word, and a cost comes
from a price that the user gives.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from src.config import Config
from src.errors import ConfigError
from src.models.extraction import cost
from src.models.extraction.forecast import ExtractionPlan
from src.models.extraction.layers import Anatomy, anatomy
from src.models.extraction.packed import top_block
from src.models.extraction.tokens import context_length, tokenize
from src.models.generation import prompt_limit
from src.pipeline.asking import ask, forecast
from src.pipeline.generators import answer_as_configured
from src.pipeline.plan import Plan, model_loader
from src.pipeline.questions import Task
from src.pipeline.sense import needs_no_weights

COUNTED = (
    "Operations: 2 for each parameter in the matrices of the blocks (of a mixture of experts the active share) and "
    "each token, 4 for each number of a query and each token it attends to. Nothing above the highest layer wanted, "
    "and of that one what works token by token for the wanted tokens only; the head where a token's probabilities are "
    "needed. No embeddings, norms or softmax."
)
_BEGIN = 4  # questions of the first round, which only warms up


@dataclass(frozen=True)
class Work:
    """What goes through one model.

    Attributes:
        read: tokens of passes that read states, choose, or weigh an answer that is there.
        answered: tokens while answers in words are generated, at most: prompts, and max_new_tokens for each.
        operations: floating-point operations of both, at most.
    """

    read: int = 0
    answered: int = 0
    operations: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.read + other.read, self.answered + other.answered, self.operations + other.operations)

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.read + self.answered


@dataclass(frozen=True)
class Speed:
    """How many of the tokens that `Work` counts one worker has done in a second, and how that is known."""

    tokens_per_second: float
    source: str


def work_of(model: Any, tokenizer: Any, task: Task, passes: ExtractionPlan, layers: Sequence[str]) -> Work:
    """Of one task and one model.

    Asking again (baselines.p_true and baselines.stated) is not counted.

    Args:
        model: it may be one without weights.
        tokenizer: its tokenizer.
        task: what is asked.
        passes: what `asking.forecast` says of it.
        layers: canonical names.
    """
    questions, config, parts = task.questions, task.config, anatomy(model)
    reading = Work(read=passes.tokens_computed, operations=passes.operations)
    if questions.with_choices:
        return reading
    prompts = [example.prompt for example in questions.examples]
    if questions.given:
        if needs_no_weights(config, questions):
            return reading
        texts = [prompt + one.response for prompt, one in zip(prompts, questions.given, strict=True)]
        lengths = _lengths(tokenizer, texts)
        said = sum(lengths) - sum(_lengths(tokenizer, prompts))
        return reading + Work(read=sum(lengths), operations=_operations(model, parts, lengths, max(said, 0)))
    most, context = questions.max_new_tokens, context_length(model)
    limit = prompt_limit(model, most)
    lengths = _lengths(tokenizer, prompts, limit=limit, truncation=config.data.truncation)
    new = [min(most, context - n) if context else most for n in lengths]
    # The last token of an answer never goes through the model.
    through = [n + some - 1 for n, some in zip(lengths, new, strict=True)]
    times = 1 + config.baselines.samples
    answering = Work(answered=times * sum(through), operations=times * _operations(model, parts, through, sum(new)))
    if not config.extraction.states and set(config.extraction.position) - {"last_prompt", "mean_prompt"}:
        reading += _answers_read(model, parts, lengths, new, layers)
    return reading + answering


def _lengths(tokenizer: Any, texts: Sequence[str], **limits: Any) -> list[int]:
    return [len(ids) for ids in tokenize(tokenizer, texts, **({"limit": None} | limits)).ids]


def _operations(model: Any, parts: Anatomy, lengths: Sequence[int], heads: int, blocks: int | None = None) -> int:
    """Of texts of these lengths in all blocks (or so many), and of so many tokens' probabilities."""
    every = cost.block_operations(model, parts)
    attention = cost.attention_operations(model, parts, lengths, 0)
    head = 2 * parts.hidden_dim * model.config.get_text_config(decoder=True).vocab_size
    return (len(parts.blocks) if blocks is None else blocks) * (sum(lengths) * every + attention) + heads * head


def _answers_read(
    model: Any, parts: Anatomy, prompts: Sequence[int], new: Sequence[int], layers: Sequence[str]
) -> Work:
    """What reading states in answers of at most so many tokens adds to reading them in the prompts."""
    top = top_block(parts, layers, ())
    blocks = 0 if top is None else top + 1
    whole = [n + some for n, some in zip(prompts, new, strict=True)]
    operations = _operations(model, parts, whole, 0, blocks) - _operations(model, parts, prompts, 0, blocks)
    return Work(read=sum(new), operations=operations)


def measure(
    plan: Plan, config: Config, *, enough: float = 5.0, clock: Callable[[], float] = time.perf_counter
) -> Speed:
    """Load the model and ask it some of the questions, as the run would but without a cache.

    Twice as many in every round, until one takes long enough or all were asked; the rounds before warm up.

    Args:
        plan: of the run.
        config: of the run.
        enough: seconds.
        clock: tells them.

    Raises:
        ConfigError: nothing of this run goes through the model.
        ProbingError: as loading and asking do.
    """
    if needs_no_weights(config, plan.task.questions):
        raise ConfigError("Nothing of this run goes through the model, so there is no speed to measure.")
    folders = () if config.conversion else config.adapter_folders
    model, tokenizer = model_loader(config, folders).load()
    answer_as_configured(model, config, folders)
    task, n = plan.task, len(plan.task.questions.examples)
    own = _uncached(task).config
    count, seconds, warm = min(_BEGIN, n), 0.0, False
    while True:
        some = task.questions.only(np.linspace(0, n - 1, count).astype(int).tolist())
        begun = clock()
        ask(model, tokenizer, some, own, layers=plan.layers, label="measuring")
        seconds = clock() - begun
        if warm and (seconds >= enough or count == n):
            break
        count, warm = min(2 * count, n), True
    part = Task(task.name, own, some, task.splits)
    passes = forecast(model, tokenizer, some, own, layers=plan.layers)
    work = work_of(model, tokenizer, part, passes, plan.layers)
    return Speed(work.tokens / seconds, f"measured here on {count:,} of the questions in {seconds:.1f} s")


def _uncached(task: Task) -> Task:
    extraction = task.config.extraction.model_copy(update={"cache_dir": None})
    return replace(task, config=task.config.model_copy(update={"extraction": extraction}))


def estimate(
    plan: Plan, config: Config, facts: Mapping[str, Any], *, speed: Speed | None = None, price: float | None = None
) -> dict[str, Any]:
    """What is left to do, for people and for JSON.

    Args:
        plan: of the run.
        config: of the run.
        facts: what `plan.facts` says.
        speed: of one worker; None: no hours are told.
        price: of an hour of one worker, in the user's currency; None: no cost is told.

    Returns:
        `tokens` (of them `answered` in answers in words, at most) and `operations` of all models, how these are
        `counted`, `workers`, `tokens_per_second`, `speed_from`, `hours_per_worker`, `price_per_hour`, `cost`; null
        where it is not known.

    Raises:
        ConfigError: a speed or price that is not above 0, or a price without a speed.
    """
    if speed is not None and not 0 < speed.tokens_per_second < float("inf"):
        raise ConfigError(f"The speed is {speed.tokens_per_second} tokens a second: a number above 0 is needed.")
    if price is not None and not 0 < price < float("inf"):
        raise ConfigError(f"The price of an hour is {price}: a number above 0 is needed.")
    if price is not None and speed is None:
        raise ConfigError("A cost needs the time: give --measure, or the speed as --tokens-per-second.")
    loader = model_loader(config)
    model, tokenizer = loader.skeleton(), loader.tokenizer()
    forecasts = [ExtractionPlan(**one["passes"]) for one in (facts, *facts["transfer"])]
    pairs = zip(plan.tasks, forecasts, strict=True)
    work = sum((work_of(model, tokenizer, task, passes, plan.layers) for task, passes in pairs), Work())
    if adapters := facts["models"] - 1:
        # Without weights nothing says which adapter's rows lie in the cache: all are counted as work.
        anew = [_uncached(task) for task in plan.tasks]
        once = (
            work_of(model, tokenizer, task, forecast(model, tokenizer, task.questions, task.config, layers=plan.layers),
                    plan.layers)
            for task in anew
        )  # fmt: skip
        one = sum(once, Work())
        work = sum([one] * adapters, work)
    workers = config.run.workers
    hours = None if speed is None else work.tokens / speed.tokens_per_second / 3600 / workers
    return {
        "tokens": work.tokens,
        "answered": work.answered,
        "operations": work.operations,
        "counted": COUNTED,
        "workers": workers,
        "tokens_per_second": None if speed is None else speed.tokens_per_second,
        "speed_from": None if speed is None else speed.source,
        "hours_per_worker": hours,
        "price_per_hour": price,
        "cost": None if hours is None or price is None else hours * workers * price,
    }
