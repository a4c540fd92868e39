"""Weights of detrkit in one safetensors file, among them those that are part of the package.

The tensors are under the keys of the checkpoint of a run, in float16 where they are floating point, except running
statistics. The metadata entry "detrkit" is that of a checkpoint, as JSON: format version, keywords of `build_model`,
classes, preprocessing, and metrics at the end of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.files import write_atomic
from detrkit.models.checkpoints.safe import read_safetensors

PACKAGED = {path.stem: path for path in sorted((Path(__file__).parent / "packaged").glob("*.safetensors"))}
"""Named model -> its weights, part of the package: the whole detector, trained on generated images."""

_METADATA = "detrkit"
_STATISTICS = ("running_mean", "running_var")


def write_weights_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write weights and their metadata atomically, in half the size of a checkpoint or less.

    Args:
        path: path of the file.
        tensors: state dict of the model, on the CPU.
        metadata: plain data, with at least version, model_args, categories and preprocessing.
    """
    stored = {
        key: value.half().contiguous()
        if value.is_floating_point() and not key.endswith(_STATISTICS)
        else value.contiguous()
        for key, value in tensors.items()
    }
    write_atomic(path, safetensors.torch.save(stored, metadata={_METADATA: json.dumps(dict(metadata))}))
    return path


def read_weights_file(path: Path) -> dict[str, Any] | None:
    """Read a file of `write_weights_file` as the content of a checkpoint, its tensors in float32.

    Returns:
        A dictionary with "model" and "detrkit"; None for a safetensors file of another origin.

    Raises:
        WeightsError: the file is truncated, of another format, or its metadata is damaged.
    """
    tensors = read_safetensors(path)
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(_METADATA)
    if text is None:
        return None
    try:
        metadata = json.loads(text)
    except ValueError as problem:
        raise WeightsError(
            f'expected JSON in the metadata entry "detrkit" of {path}, found something else ({problem}); copy the file '
            "again"
        ) from problem
    model = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return {"model": model, "detrkit": metadata}
