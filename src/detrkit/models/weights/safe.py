"""Reading `.pth`, `.ckpt` and `.bin` files without running what is in them."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from detrkit.errors import WeightsError
from detrkit.files import SUFFIX_OF_FORMAT

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
    if path.suffix.lower() in SUFFIX_OF_FORMAT.values():
        raise WeightsError(
            f"expected a checkpoint, found {path}, a frozen graph that predict and eval can run but nothing can train "
            "or take apart; use the checkpoint that it was exported from"
        )
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # a file that torch did not write
            warnings.filterwarnings("ignore", "Validating sparse tensor")  # which are refused later
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as problem:
        unsafe = _unsafe_name(str(problem))
        if unsafe:
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


def _unsafe_name(message: str) -> str:
    """The Python object that torch refused to unpickle, or nothing if the file is simply not a checkpoint."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found:
        return f"`{found.group(1)}`"
    refusals = ("Trying to call reduce", "Trying to instantiate", "Can only build", "Can only create new object")
    return "a Python object" if any(refusal in message for refusal in refusals) else ""
