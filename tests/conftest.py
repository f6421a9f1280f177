"""Small real things to test with: a random Llama, a tokenizer, a LoRA; and the shared folder where it is there."""

import os
from pathlib import Path

import pytest

# Two workers on two cores: BLAS threads of one would wait for those of the other. Read when numpy is first imported,
# and inherited by the processes that tests start.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is compared with was computed on a CPU

SHARED = Path(__file__).resolve().parents[2] / "shared"
CORPUS = [
    "Question: What is the capital of France?\nA. Paris\nB. Rome\nC. Oslo\nD. Bern\nAnswer: A B C D",
    "Which of these is the largest number? 12 345 6 7 8 9 0 Answer: B",
]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models are faster on one thread, and a test's numbers then depend on nothing else."""
    import torch

    torch.set_num_threads(1)


# What a page holds is tested here; elsewhere a run would spend more time on drawing it than on everything else.
DRAWN = ("test_report", "test_browser", "test_notebook", "test_planted_truth")
NOT_DRAWN = "<!doctype html><p>not drawn in this test</p>"


@pytest.fixture(autouse=True, scope="module")
def _pages_are_drawn_where_they_are_tested(request):
    """Before the fixtures of a module, so that it holds for the runs that several of its tests read."""
    import src.report

    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in DRAWN:
            patch.setitem(vars(src.report), "render_html", lambda _: NOT_DRAWN)
        yield


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and models beside the repository; tests that want it skip without it."""
    if not (SHARED / "docs").is_dir():
        pytest.skip("needs ../shared")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE: any text has tokens, and " A" to " D" are one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS * 4, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def random_llama(vocabulary: int, *, seed: int = 0, **changes):
    """A Llama of two blocks and 32 dimensions with random weights, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


@pytest.fixture
def model(tokenizer):
    return random_llama(len(tokenizer))


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """The random Llama saved as a user would have it."""
    folder = tmp_path_factory.mktemp("model")
    random_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_tensors(model, *, rank: int = 4, seed: int = 1, head: str | None = None):
    """Random LoRA halves for every attention and MLP layer of a Llama, and for its head under the name given."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, module in model.named_modules():
        name = head if path == "lm_head" else path
        if not isinstance(module, nn.Linear) or name is None:
            continue
        shapes = {"A": (rank, module.in_features), "B": (module.out_features, rank)}
        for half, shape in shapes.items():
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    return tensors


@pytest.fixture(scope="session")
def adapter_folder(tokenizer, tmp_path_factory):
    """A PEFT LoRA folder for the random Llama, lm_head included."""
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(folder, lora_tensors(random_llama(len(tokenizer)), head="lm_head"))
    return folder


def write_adapter(folder: Path, tensors, **changes) -> None:
    """Save LoRA tensors with a configuration; `changes` overwrite its settings."""
    import json

    from safetensors.torch import save_file

    leaves = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 32,
        "target_modules": leaves,
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
