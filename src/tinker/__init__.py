"""From a Tinker checkpoint to a PEFT adapter folder.

    from src.tinker import download_and_convert_weights
    folder = download_and_convert_weights("checkpoint.tar", "meta-llama/Llama-3.1-8B", "weights/mine")

The steps, one file each:

    sources      what the text that names a checkpoint means
    obtain       its files, from wherever it lies
    transfer     files over HTTP, whole or not at all; requesting makes one request, addresses keeps the signed
                 addresses valid, partial is what lies on disk so far
    archive      unpacks a tar, which is hostile input; contents says what may be in it
    convert      renames the tensors and rebuilds the configuration
    checkpoint   the marker, written last, and checkpoint_info.json
    download     all of it: staged, checked, published at once
    client       wraps the SDK, and alone imports it; credentials finds what it needs
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.tinker.client import TinkerClient
    from src.tinker.download import download_and_convert_weights

__all__ = ["TinkerClient", "download_and_convert_weights"]

__getattr__ = lazy_exports(__name__, {"TinkerClient": "client", "download_and_convert_weights": "download"})
