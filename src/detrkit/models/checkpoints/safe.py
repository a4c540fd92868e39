"""Read `.pth`, `.ckpt`, `.bin` and `.safetensors` files without running code that they contain."""

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
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.ops.text import first_names

# Objects in training checkpoints of the reference DETR (facebookresearch/detr) besides tensors and plain data: the
# namespace of its arguments and, after a Slurm run, paths in it. Paths become pure paths, so that a checkpoint of
# another operating system can be read.
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

FROZEN_GRAPHS = (".onnx", ".xml", ".pt2", ".engine", ".plan", ".trt", ".tflite", ".mlmodel", ".mlpackage")
"""Suffixes of exported models, which can be run but not trained."""

# Errors that torch.load is known to raise on files that are truncated or no checkpoints.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError,
    struct.error,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dictionary in a checkpoint file onto the CPU, without running code of the file.

    Tensors and plain data are allowed, and of Python objects only `argparse.Namespace` and paths, which training
    checkpoints of the reference DETR hold.

    Raises:
        WeightsError: there is no such file, it is truncated or no checkpoint, or it holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"expected a checkpoint file at {path}, found none; look at the path")
    if path.suffix.lower() in FROZEN_GRAPHS:
        raise WeightsError(
            f"expected a checkpoint, found {path}, an exported model, which predict and eval can run but which cannot "
            "be trained or converted; use the checkpoint from which it was exported"
        )
    check_content(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # files not written by torch
            warnings.filterwarnings("ignore", "Validating sparse tensor")  # check_tensors refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as problem:
        unsafe = _unsafe_name(str(problem))
        if unsafe:
            if "pytorch-lightning_version" in _pickled(path):
                raise WeightsError(
                    f"{path} is a checkpoint of PyTorch Lightning that holds {unsafe}, which could run code written by "
                    "the author of the file; if you trust it, load the module, save its model.state_dict() with "
                    "torch.save, and name that file"
                ) from problem
            raise WeightsError(
                f"refused to read {path}: expected only tensors and plain data, found {unsafe}, which could run code "
                "written by the author of the file; save its state dict alone and load that"
            ) from problem
        raise WeightsError(
            f"expected a PyTorch checkpoint at {path} ({path.stat().st_size:,} bytes), found a file that is truncated "
            "or no checkpoint; copy or download it again"
        ) from problem
    if not isinstance(content, dict):
        raise WeightsError(
            f"expected a dictionary of weights in {path}, found a {type(content).__name__}; save model.state_dict()"
        )
    return content


_POINTER = {
    rb"version https://git-lfs": "a git-lfs pointer in place of the file itself; run `git lfs pull` in its folder",
}
_OTHER_FILES = {
    rb"\s*<(!doctype|html)": "a web page; download the file itself, not the page about it",
    rb"\s*[\[{]\s*[\"\[{\]}]": "JSON text; name the file with the weights",
    rb"(\x89PNG\r\n|\xff\xd8\xff|GIF8)": "an image; name the file with the weights",
    rb"(\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf)": "a packed archive; unpack it first",
}
"""Pattern of the first bytes of files that are no weights -> the end of the error message."""


def check_content(path: Path, *, exported: bool = False) -> None:
    """Refuse a file of a known type that is no checkpoint.

    Args:
        path: path of the file.
        exported: whether the file should be an exported model, for which only git-lfs pointers are refused.

    Raises:
        WeightsError: the file is a git-lfs pointer, a web page or the like; the message says which.
    """
    with path.open("rb") as file:
        begin = file.read(64)
    for pattern, description in (_POINTER if exported else _POINTER | _OTHER_FILES).items():
        if re.match(pattern, begin, re.IGNORECASE):
            raise WeightsError(f"expected weights at {path} ({path.stat().st_size:,} bytes), found {description}")
    names = [] if exported else _names_in_archive(path)
    if names and not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(
            f"expected weights at {path}, found a packed archive of {len(names)} files ({first_names(names, 2)}); "
            "unpack it first"
        )
    if any("/code/" in name for name in names):
        raise WeightsError(
            f"expected weights at {path}, found a TorchScript program (torch.jit.save); save the state dict of the "
            "model that it was made from"
        )


def _names_in_archive(path: Path) -> list[str]:
    """The names of the files in a zip archive, the format of torch.save; empty if the file is none or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _pickled(path: Path) -> str:
    """The pickle of a checkpoint in torch's zip format as text; empty for another file."""
    name = next((name for name in _names_in_archive(path) if name.endswith("data.pkl")), "")
    if not name:
        return ""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode("latin-1")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file.

    Raises:
        WeightsError: the file is truncated or of another format.
    """
    check_content(path)
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise WeightsError(f"{path} cannot be read ({problem}); copy or download it again") from problem


def _unsafe_name(message: str) -> str:
    """The Python object that torch refused to unpickle; empty if the file is no checkpoint."""
    match = re.search(r"GLOBAL ([\w.]+)", message)
    if match:
        return f"`{match.group(1)}`"
    refusals = ("Trying to call reduce", "Trying to instantiate", "Can only build", "Can only create new object")
    return "a Python object" if any(refusal in message for refusal in refusals) else ""
