"""From a Tinker checkpoint to a PEFT adapter folder.

    from src.tinker import download_and_convert_weights
    folder = download_and_convert_weights("checkpoint.tar", "meta-llama/Llama-3.1-8B", "weights/mine")

The steps, one file each: `archive` unpacks (hostile input), `convert` renames the tensors and rebuilds the
configuration, `download` stages, checks and publishes. `client` wraps the SDK, `credentials` finds what
it needs, `transfer` fetches a file.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.tinker.client import TinkerClient
    from src.tinker.download import download_and_convert_weights

__all__ = ["TinkerClient", "download_and_convert_weights"]

__getattr__ = lazy_exports(__name__, {"TinkerClient": "client", "download_and_convert_weights": "download"})
