"""Reading `.pth`, `.ckpt` and `.bin` files without running what is in them."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from detrkit.errors import WeightsError

# What the original's training checkpoints pickle besides tensors and plain data: the namespace of its arguments and,
# after a Slurm run, paths in it. Paths become pure ones, so that a checkpoint from another system can be read.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    *(
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # where Python 3.13 and later keep them
        for pure, name in (
            (pathlib.PurePosixPath, "PosixPath"),
            (pathlib.PurePosixPath, "PurePosixPath"),
            (pathlib.PureWindowsPath, "WindowsPath"),
            (pathlib.PureWindowsPath, "PureWindowsPath"),
        )
    ),
]

# All that torch.load is known to raise on files that are cut off, or something else altogether.
FROZEN_GRAPHS = (".onnx", ".xml", ".pt2", ".engine", ".plan", ".trt", ".tflite", ".mlmodel", ".mlpackage")
"""Suffixes of exported models, which can be run but not trained."""

_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError,
    struct.error,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU, with no code of the file being run.

    Tensors and plain data are read; of Python objects only `argparse.Namespace` and paths, which the original's
    training checkpoints hold.

    Raises:
        WeightsError: there is no such file, it is cut off or not a checkpoint, or it wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"expected a checkpoint file at {path}, found none")
    if path.suffix.lower() in FROZEN_GRAPHS:
        raise WeightsError(
            f"expected a checkpoint, found {path}, a frozen graph that predict and eval can run but nothing can train "
            "or take apart; use the checkpoint that it was exported from"
        )
    check_content(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # a file that torch did not write
            warnings.filterwarnings("ignore", "Validating sparse tensor")  # which are refused later
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as problem:
        unsafe = _unsafe_name(str(problem))
        if unsafe:
            if "pytorch-lightning_version" in _pickled(path):
                raise WeightsError(
                    f"{path} is a checkpoint of PyTorch Lightning that holds {unsafe}, which could run code of whoever "
                    "wrote the file; load the module where you trust it, save its model.state_dict() with torch.save, "
                    "and name that file"
                ) from problem
            raise WeightsError(
                f"refused to read {path}: it holds {unsafe}, which could run code of whoever wrote the file; "
                "expected only tensors and plain data, so save its state dict alone and load that"
            ) from problem
        raise WeightsError(
            f"expected a PyTorch checkpoint at {path} ({path.stat().st_size:,} bytes), found a file that is cut off or "
            f"something else; copy or download it again"
        ) from problem
    if not isinstance(content, dict):
        raise WeightsError(f"expected a dictionary of weights in {path}, found a {type(content).__name__}")
    return cast("dict[str, Any]", content)


_POINTER = {
    rb"version https://git-lfs": "a git-lfs pointer in place of the file itself; run `git lfs pull` in its folder",
}
_OTHER_FILES = {
    rb"\s*<(!doctype|html)": "a web page; download the file itself, not the page about it",
    rb"\s*[\[{]\s*[\"\[{\]}]": "JSON text; name the file with the weights",
    rb"(\x89PNG\r\n|\xff\xd8\xff|GIF8)": "an image; name the file with the weights",
    rb"(\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf)": "a packed archive; unpack it first",
}
"""How files that are no weights begin, and what they are."""


def check_content(path: Path, *, exported: bool = False) -> None:
    """Refuse a file that is known to be something else than weights.

    Args:
        path: of the file.
        exported: it is to be an exported model, which may have any form but that of a pointer.

    Raises:
        WeightsError: it is a git-lfs pointer, a web page or the like; the sentence says which.
    """
    with path.open("rb") as file:
        begin = file.read(64)
    for pattern, what in (_POINTER if exported else _POINTER | _OTHER_FILES).items():
        if re.match(pattern, begin, re.IGNORECASE):
            raise WeightsError(f"expected weights at {path} ({path.stat().st_size:,} bytes), found {what}")
    names = [] if exported else _names_in_archive(path)
    if names and not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(
            f"expected weights at {path}, found a packed archive of {len(names)} files ({', '.join(names[:2])}, ...); "
            "unpack it first"
        )
    if any("/code/" in name for name in names):
        raise WeightsError(
            f"expected weights at {path}, found a TorchScript program (torch.jit.save); save the state dict of the "
            "model that it was made from"
        )


def _names_in_archive(path: Path) -> list[str]:
    """The files in a zip archive, which is how torch saves; none where it is something else, or broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _pickled(path: Path) -> str:
    """The text in the pickle of a checkpoint in torch's zip format; empty where it is none."""
    name = next((name for name in _names_in_archive(path) if name.endswith("data.pkl")), "")
    if not name:
        return ""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode("latin-1")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        WeightsError: it is cut off or something else.
    """
    check_content(path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise WeightsError(f"{path} cannot be read ({problem}); copy or download it again") from problem
    return tensors


def _unsafe_name(message: str) -> str:
    """The Python object that torch refused to unpickle, or nothing if the file is simply not a checkpoint."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found:
        return f"`{found.group(1)}`"
    refusals = ("Trying to call reduce", "Trying to instantiate", "Can only build", "Can only create new object")
    return "a Python object" if any(refusal in message for refusal in refusals) else ""
