"""What `confprobe doctor` looks at: is this the right `src`, is everything installed, and is there room?"""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import src
from src import machine
from src.errors import CredentialsError
from src.tinker.sdk import own_package_instead

OPTIONAL = {
    "bitsandbytes": "8-bit and 4-bit models",
    "tinker": "training and downloading with Tinker",
    "ipywidgets": "progress bars in notebooks",
}
_CORE = ("torch", "transformers", "peft", "safetensors", "datasets", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: what was looked at.
        state: "ok", "note" (works, but know it) or "wrong" (something will fail).
        text: what was found, and where it is wrong, what to do.
    """

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str


def examine(folder: Path | None = None) -> list[Finding]:
    """Look at this installation as seen from `folder` (default: the working folder). No network is used."""
    folder = folder or Path.cwd()
    return [
        Finding("python", "ok", f"{platform.python_version()}, {sys.executable}"),
        *_import_package(folder),
        *_packages(),
        *_extras(),
        _tinker_credentials(),
        _device(),
        _memory(),
        _disk(folder),
    ]


def _import_package(folder: Path) -> Iterator[Finding]:
    own = Path(src.__file__).parent
    yield Finding("import src", "ok", f"{own} (llm-confidence-probing {src.__version__})")
    other = folder / "src" / "__init__.py"
    if other.is_file() and other.parent.resolve() != own.resolve():
        yield Finding(
            "another src",
            "wrong",
            f"{other.parent} hides this library from Python started in {folder}: `import src` finds that folder there. "
            "Work in another folder, or rename it.",
        )


def _packages() -> Iterator[Finding]:
    for package in _CORE:
        version = _version(package)
        if version is None:
            yield Finding(package, "wrong", f"not installed: pip install {package}")
        else:
            yield Finding(package, "ok", version)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[Finding]:
    for package, purpose in OPTIONAL.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and (notice := own_package_instead(spec.origin)):
            yield Finding(package, "wrong", notice)
        elif spec is None or (version := _version(package)) is None:
            yield Finding(package, "note", f"not installed; {purpose}: pip install {package}")
        else:
            yield Finding(package, "ok", version)


def _tinker_credentials() -> Finding:
    from src.tinker.credentials import credentials_source

    try:
        source = credentials_source()
    except CredentialsError as error:
        return Finding("tinker credentials", "wrong", str(error))
    if source is None:
        return Finding("tinker credentials", "note", "none found: set TINKER_API_KEY, or `tinker auth login`")
    return Finding("tinker credentials", "ok", f"from {source}")


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "wrong", "torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}")
    return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} processors")


def _memory() -> Finding:
    free = machine.free_memory()
    text = "not known on this system" if free is None else f"{machine.in_words(free)} free"
    return Finding("memory", "ok", text)


def _disk(folder: Path) -> Finding:
    free = machine.free_disk(folder)
    state = "ok" if free > 1 << 30 else "note"
    return Finding("disk", state, f"{machine.in_words(free)} free in {folder}")
