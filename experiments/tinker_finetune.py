"""Fine-tune a model with Tinker on MMLU or GSM8K, bring the adapter home, verify it, and probe what changed.

    python experiments/tinker_finetune.py --base-model Qwen/Qwen3-8B --data gsm8k --steps 200 --output-dir weights/gsm8k

Stopped? The same command goes on from the last checkpoint. It needs TINKER_API_KEY, and training costs money:
--dry-run reads and counts everything first, without a network.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from src.cli import interruptible, plain_errors
from src.models import ModelLoader
from src.pipeline import run, verify_adapter
from src.pipeline.fine_tuning import Lessons, fine_tune, read_lessons
from src.report import print_report, print_verification
from src.tinker import download_and_convert_weights
from src.tinker.credentials import check_credentials
from src.tinker.training import Schedule


def main() -> None:
    args = parsed_arguments()
    with plain_errors(Path(__file__).name), interruptible():
        lessons = read_lessons(args.data, path=args.path, category=args.category, limit=args.limit)
        schedule = Schedule(
            steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
            save_every=args.save_every, seed=args.seed,
        )  # fmt: skip
        tokenizer = ModelLoader(args.model).tokenizer()
        if args.dry_run:
            describe(lessons, tokenizer, schedule, args)
        else:
            workflow(lessons, tokenizer, schedule, args)


def workflow(lessons: Lessons, tokenizer: Any, schedule: Schedule, args: argparse.Namespace) -> None:
    trained = fine_tune(
        lessons, tokenizer, base_model=args.base_model, output_dir=args.output_dir, schedule=schedule, rank=args.rank
    )
    print(
        f"Trained: loss {trained.losses[0]:.4f} at first, {trained.losses[-1]:.4f} at last. Weights: {trained.download}"
    )
    adapter = download_and_convert_weights(str(trained.download), args.model, args.output_dir)
    found = verify_adapter(adapter, args.model, checkpoint=trained.sampling, quantization=args.quantization)
    print_verification(found.as_plain())
    if found.verdict == "different":
        sys.exit("The adapter is not what was trained, so it is not probed.")
    if not args.no_probe:
        result = run(configuration(adapter, args))
        print_report(result.results)
        print(f"Report: {result.report}")


def configuration(adapter: str, args: argparse.Namespace) -> dict[str, Any]:
    """Base against tuned on the test split, which nothing was trained on."""
    name = Path(args.output_dir).name
    return {
        "experiment": {"name": name, "seed": args.seed},
        "model": {"name": args.model, "quantization": args.quantization, "tinker_lora_path": adapter},
        "data": {
            "name": args.data, "path": args.path, "category": args.category, "split": "test", "limit": args.probe_limit,
        },
        "extraction": {"layers": args.layers or "all", "cache_dir": f"cache/{name}"},
        "run": {"dir": args.run_dir or f"runs/{name}"},
    }  # fmt: skip


def describe(lessons: Lessons, tokenizer: Any, schedule: Schedule, args: argparse.Namespace) -> None:
    texts = lessons.texts(tokenizer)
    tokens, answers = sum(len(text.ids) for text in texts), sum(int(text.weights.sum()) for text in texts)
    passes = schedule.steps * schedule.batch_size / len(texts)
    print(
        f"{len(texts):,} questions of {lessons.dataset}: {tokens:,} tokens, {answers:,} of them answers, the only ones "
        f"that the loss counts.\n"
        f"{schedule.steps} steps of {schedule.batch_size}: {passes:.2f} times over the questions, some "
        f"{passes * tokens:,.0f} tokens to train on, rank {args.rank}, {args.base_model}.\n"
        f"Credentials: {check_credentials()}. Nothing was asked of Tinker or written (--dry-run)."
    )


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True, help="the model, as Tinker names it")
    parser.add_argument("--model", help="the same model here: a hub id or a folder; default: that name")
    parser.add_argument("--data", choices=["mmlu", "gsm8k"], default="mmlu")
    parser.add_argument("--path", help="a local folder of the data instead of the hub")
    parser.add_argument("--category", help="of MMLU, such as stem")
    parser.add_argument("--limit", type=int, help="train on the first so many questions only")
    parser.add_argument(
        "--output-dir", required=True, help="gets the adapter, its certificate and the training's record"
    )
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="at first; it falls in a line to 0")
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--quantization", choices=["8bit", "4bit"], help="how the model is loaded here")
    parser.add_argument("--no-probe", action="store_true", help="stop after the verification")
    parser.add_argument("--probe-limit", type=int, help="probe the first so many test questions only")
    parser.add_argument("--layers", type=int, nargs="+", help="decoder blocks counted from 0; default: all")
    parser.add_argument("--run-dir", help="where the results go; default: runs/ and the name of the output folder")
    parser.add_argument("--dry-run", action="store_true", help="read and count everything, without a network")
    args = parser.parse_args()
    args.model = args.model or args.base_model
    return args


if __name__ == "__main__":
    main()
