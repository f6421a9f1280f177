"""Compare a base model with its Tinker-tuned self: accuracy, calibration, and what probes of hidden states know.

    python experiments/tinker_probe_comparison.py --base-model meta-llama/Llama-3.1-8B \
        --checkpoint tinker://RUN/external_weights/final --data mmlu --category stem

Without a key and a checkpoint of your own, the model in this repository shows the same in half a minute:

    python experiments/tinker_probe_comparison.py --base-model weights/quickstart/base \
        --checkpoint weights/quickstart/checkpoint.tar --data quickstart
"""

import argparse
from pathlib import Path
from typing import Any

from src.cli import interruptible, plain_errors


def main() -> None:
    args = parsed_arguments()
    from src.pipeline import run  # seconds, which --help need not wait for
    from src.report import print_report

    with plain_errors(Path(__file__).name), interruptible():
        result = run(configuration(args))
        print_report(result.results)
        print(f"Report: {result.report}")


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The same sections as in configs/, as a dictionary."""
    name = f"{args.data}-{Path(args.base_model).name}"
    config: dict[str, Any] = {
        "experiment": {"name": name},
        "model": {"name": args.base_model, "quantization": args.quantization, "tinker_lora_path": args.adapter},
        "data": {"name": args.data, "path": args.path, "category": args.category, "limit": args.limit},
        "extraction": {"layers": args.layers or "all", "cache_dir": f"cache/{name}"},
        "run": {"dir": args.output_dir or f"runs/{name}", "if_exists": args.if_exists},
    }
    if args.checkpoint:
        config["tinker"] = {"checkpoint_path": args.checkpoint, "output_dir": args.weights_dir or f"weights/{name}"}
    return config


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True, help="a hub id or a folder")
    tuned = parser.add_mutually_exclusive_group(required=True)
    tuned.add_argument("--checkpoint", help="tinker://RUN/external_weights/NAME, or a local .tar or .tar.gz")
    tuned.add_argument("--adapter", help="a PEFT folder, as tinker_download_example.py makes it")
    parser.add_argument("--data", choices=["mmlu", "gsm8k", "quickstart", "custom"], default="mmlu")
    parser.add_argument("--path", help="local data instead of the hub; with --data custom the JSONL file")
    parser.add_argument("--category", help="a category or subject, such as stem")
    parser.add_argument("--limit", type=int, help="use the first so many questions only")
    parser.add_argument("--layers", type=int, nargs="+", help="decoder blocks counted from 0; default: all")
    parser.add_argument("--quantization", choices=["8bit", "4bit"])
    parser.add_argument("--weights-dir", help="where a checkpoint is converted to; default: weights/DATA-MODEL")
    parser.add_argument("--output-dir", help="where the results go; default: runs/DATA-MODEL")
    parser.add_argument("--if-exists", choices=["resume", "replace", "fail"], default="resume",
                        help="what to do where that folder holds a run (run.if_exists)")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
