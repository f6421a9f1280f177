"""Models: loading with adapters and quantisation, answering, and reading hidden states.

from src.models import ModelLoader, HiddenStateExtractor
model, tokenizer = ModelLoader("meta-llama/Llama-3.1-8B", tinker_lora_path=folder).load()
HiddenStateExtractor(model, tokenizer).extract(["What is the capital of France?"], layers=[8, 16])
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.models.extractor import HiddenStateExtractor
    from src.models.loader import ModelLoader

__all__ = ["HiddenStateExtractor", "ModelLoader"]

__getattr__ = lazy_exports(__name__, {"HiddenStateExtractor": "extractor", "ModelLoader": "loader"})
