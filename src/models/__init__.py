"""Models: loading with adapters and quantisation, answering, and reading hidden states.

from src.models import ModelLoader, HiddenStateExtractor
model, tokenizer = ModelLoader("meta-llama/Llama-3.1-8B", tinker_lora_path=folder).load()
HiddenStateExtractor(model, tokenizer).extract(["What is the capital of France?"], layers=[8, 16])
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.models.answering import ChoiceAnswers, answer_choices
    from src.models.extractor import HiddenStateExtractor
    from src.models.generation import FreeAnswers, answer_freely
    from src.models.loader import ModelLoader
    from src.models.outside.states_folder import load_states, open_states
    from src.models.outside.verifying import verify_states

__all__ = [
    "ChoiceAnswers",
    "FreeAnswers",
    "HiddenStateExtractor",
    "ModelLoader",
    "answer_choices",
    "answer_freely",
    "load_states",
    "open_states",
    "verify_states",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "ChoiceAnswers": "answering",
        "FreeAnswers": "generation",
        "HiddenStateExtractor": "extractor",
        "ModelLoader": "loader",
        "answer_choices": "answering",
        "answer_freely": "generation",
        "load_states": "outside.states_folder",
        "open_states": "outside.states_folder",
        "verify_states": "outside.verifying",
    },
)
