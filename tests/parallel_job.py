"""What test_large_models.py starts with torchrun: states of a model that is split over the processes."""

import json
import sys

import numpy as np


def main() -> None:
    import torch
    import torch.distributed as dist

    from src import machine
    from src.models import HiddenStateExtractor, ModelLoader
    from src.models.extraction.fingerprint import fingerprint

    torch.set_num_threads(1)
    folder, texts, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    model, tokenizer = ModelLoader(folder, dtype="float32", tp_plan="auto").load()
    if dist.get_rank():
        machine.free_memory = lambda: 1  # one process has less room than the other
    split = sum(type(parameter).__name__ == "DTensor" for parameter in model.parameters())
    states = HiddenStateExtractor(model, tokenizer).extract(texts, "all")
    weights = fingerprint(model)["weights"]
    try:
        HiddenStateExtractor(model, tokenizer).extract(texts, [0], cache_dir=f"{out}.cache")
        refused = ""
    except ValueError as error:
        refused = str(error)
    np.savez(f"{out}.{dist.get_rank()}.npz", states=states, weights=weights, split=split, refused=refused)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
