"""What a checkpoint may hold: the four files that are taken, how large each may be, and what its absence means."""

from collections.abc import Iterable

from src.adapters import CONFIG_NAME, WEIGHTS_NAME
from src.errors import AdapterError, IntegrityError

WANTED = (CONFIG_NAME, WEIGHTS_NAME, "README.md", "checkpoint_complete")
MAX_FILE_BYTES = 16 << 30
MAX_TOTAL_BYTES = 64 << 30
_MAX_TEXT_BYTES = 16 << 20
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def most_bytes(name: str) -> int:
    """How large a file of this name may be: all but the weights are read into memory whole."""
    return _MAX_TEXT_BYTES if name in WANTED and name != WEIGHTS_NAME else MAX_FILE_BYTES


def check_names(names: Iterable[str], where: str) -> None:
    """Whether the files named are an adapter's.

    Raises:
        AdapterError: the weights are there as a pickle only.
        IntegrityError: there are no weights, or they are encrypted.
    """
    names = sorted(names)
    if WEIGHTS_NAME in names:
        return
    if pickled := next((name for name in names if name.endswith(_PICKLED)), None):
        raise AdapterError(
            f"{where} holds {pickled!r:.100} and no {WEIGHTS_NAME}. A pickle can run code and is never opened: load it "
            "with PEFT where you trust it and call model.save_pretrained(folder), which writes safetensors."
        )
    if encrypted := next((name for name in names if name.endswith(".age")), None):
        raise IntegrityError(
            f"{where} is encrypted ({encrypted!r:.100}) and holds no adapter that can be read. Save it again without "
            "age_encryption_recipients."
        )
    raise IntegrityError(
        f"{where} holds no {WEIGHTS_NAME}, so it is no adapter checkpoint. Save one with save_weights_external "
        "(Tinker) or give a PEFT folder."
    )
