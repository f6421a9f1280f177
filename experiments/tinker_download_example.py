"""Download a Tinker checkpoint and convert it to a PEFT adapter.

    python experiments/tinker_download_example.py tinker://RUN/external_weights/final \
        --base-model meta-llama/Llama-3.1-8B --output-dir weights/mine

Without a key and a checkpoint of your own, the one in this repository shows the same:

    python experiments/tinker_download_example.py weights/quickstart/checkpoint.tar \
        --base-model weights/quickstart/base --output-dir weights/example
"""

import argparse
from pathlib import Path

from src.cli import interruptible, plain_errors
from src.tinker import download_and_convert_weights


def main() -> None:
    args = parsed_arguments()
    with plain_errors(Path(__file__).name), interruptible():
        adapter = download_and_convert_weights(
            args.checkpoint,
            args.base_model,
            args.output_dir,
            lora_alpha=args.lora_alpha,
            allow_export=args.allow_export,
        )
        print(f"Adapter: {adapter}\n{(Path(adapter).parent / 'checkpoint_info.json').read_text(encoding='utf-8')}")
        if not args.skip_loading:
            from src.models import HiddenStateExtractor, ModelLoader  # seconds, which the rest need not wait for

            model, tokenizer = ModelLoader(args.base_model, adapter, args.quantization).load()
            hidden = HiddenStateExtractor(model, tokenizer).extract([args.text], layers=[-1])
            print(f"Loaded and in force. Hidden state of {args.text!r} in the last block: shape {hidden.shape}.")


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a tinker:// path, an https:// tar, a local tar or tar.gz, or a folder")
    parser.add_argument("--base-model", required=True, help="the model it was trained on: a hub id or a folder")
    parser.add_argument("--output-dir", required=True, help="gets peft_adapter/ and checkpoint_info.json")
    parser.add_argument("--lora-alpha", type=float, help="the value used in training, where the checkpoint has none")
    parser.add_argument(
        "--allow-export", action="store_true", help="let Tinker export a training checkpoint, which it charges for"
    )
    parser.add_argument("--quantization", choices=["8bit", "4bit"], help="how the base model is loaded")
    parser.add_argument("--text", default="What is the capital of France?", help="a text to read a hidden state of")
    parser.add_argument("--skip-loading", action="store_true", help="convert only; do not load the base model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
