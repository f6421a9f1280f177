"""Rows of a Hugging Face data set, from the hub or from a local folder of the same layout."""

from collections.abc import Iterator
from typing import Any

from src.errors import DataError, DownloadError


def load_rows(name: str, config: str | None, split: str, *, revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows as plain dictionaries. Raises DownloadError (hub not reachable) or DataError (no such split)."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield from map(dict, datasets.load_dataset(name, config, split=split, revision=revision))
    except (DatasetNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise DownloadError(
            f"The data set {name!r} could not be loaded: {error}. Check the name and the network, or give "
            "data.path, a local folder or file."
        ) from error
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"The data set {name!r} has no usable split {split!r}: {error}") from error
