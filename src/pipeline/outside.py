"""States that another program read, in a run: checked against the model first, and named in the results."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.config import Config, load_config
from src.errors import ConfigError, DataError
from src.models.loader import ModelLoader, Quantization
from src.models.outside.states_folder import StatesFolder, open_states
from src.models.outside.verifying import StatesCheck, verify_states

log = logging.getLogger(__name__)


def states_of(config: Config) -> StatesFolder | None:
    """What extraction.states names; None where the model's states are read here. Raises as `open_states`."""
    extraction = config.extraction
    if extraction.states is None:
        return None
    return open_states(extraction.states, layer_ids=extraction.layer_ids)


def check_fit(states: StatesFolder, layers: Sequence[str], width: int, *, model: str) -> None:
    """Raises DataError where a folder does not hold these layers, or is of a model of another width."""
    states.columns(layers)
    if states.width != width:
        raise DataError(
            f"The states of {states.path} have width {states.width}, those of {model} {width}: they are of another "
            "model."
        )


def states_note(config: Config) -> list[str]:
    """What a plan says of them."""
    extraction = config.extraction
    if extraction.states is None:
        return []
    rows = extraction.verify_rows
    checked = f"{rows} of its files are compared with the model first" if rows else "none is compared with the model"
    return [f"Hidden states are taken from {extraction.states}, not read; {checked}."]


def verified_states(model: Any, config: Config) -> dict[str, Any] | None:
    """What results.json says of states from outside; None where there are none.

    Args:
        model: the loaded model; without weights where extraction.verify_rows is 0.
        config: of the run.

    Raises:
        DataError: they are not those of this model.
    """
    if (states := states_of(config)) is None:
        return None
    facts: dict[str, Any] = {"folder": str(states.path), "files": len(states.files), "layers": list(states.layers)}
    if not config.extraction.verify_rows:
        log.warning("The states of %s were not compared with the model (extraction.verify_rows is 0).", states.path)
        return facts | {"verified": False, "sentences": ["The states were not compared with the model."]}
    found = verify_states(states, model, rows=config.extraction.verify_rows)
    if not found.holds:
        wrong = " ".join(one.sentence for one in found.layers if one.verdict not in ("holds", "undecided"))
        raise DataError(
            f"extraction.states, {states.path}: {wrong} Correct extraction.layer_ids, or extract again; "
            "`confprobe verify-states` shows all layers."
        )
    return facts | {"verified": True, "sentences": found.sentences}


def check_states(
    folder: str | Path,
    model: str | None = None,
    *,
    adapter: str | None = None,
    config: str | Path | None = None,
    layer_ids: Sequence[int | str] | None = None,
    rows: int = 8,
    quantization: Quantization | None = None,
    dtype: str | None = None,
) -> StatesCheck:
    """Load the model and compare: see `src.models.verify_states`.

    Args:
        folder, layer_ids, rows: as there.
        model: a hub id or a folder.
        adapter: a PEFT folder.
        config: a configuration from which what is not given here is taken.
        quantization, dtype: how the model is loaded.

    Raises:
        ConfigError: neither model nor config.
        ProbingError: as `ModelLoader.load` and `verify_states`.
    """
    if config is None and model is None:
        raise ConfigError("Which model are these states of? Give --model, or --config.")
    revision = None
    if config is not None:
        settings = load_config(config)
        layer_ids = layer_ids or settings.extraction.layer_ids
        if model is None:
            model, revision = settings.model.name, settings.model.revision
            adapter = adapter or _only_adapter(settings.adapter_folders)
            quantization, dtype = quantization or settings.model.quantization, dtype or settings.model.dtype
    states = open_states(folder, layer_ids=layer_ids)
    loader = ModelLoader(str(model), adapter, quantization, dtype=dtype or "auto", revision=revision)
    return verify_states(states, loader.load()[0], rows=rows)


def _only_adapter(folders: Sequence[str]) -> str | None:
    if len(folders) > 1:
        raise ConfigError(
            f"The configuration names {len(folders)} adapters: say with --adapter whose states these are."
        )
    return next(iter(folders), None)
