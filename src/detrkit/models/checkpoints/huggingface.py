"""Read and write Hugging Face folders: config.json, model.safetensors and preprocessor_config.json.

DETR, Deformable DETR and RT-DETR are read, in the layout of any version of transformers; DETR is also written. Neither
`transformers` nor `timm` is needed. Other detection transformers are read by transformers itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.errors import MissingExtraError, WeightsError
from detrkit.models.checkpoints.architecture import Weights, missing_heads, without_parts
from detrkit.models.checkpoints.hf_deformable import read_deformable
from detrkit.models.checkpoints.hf_detr import read_detr, write_huggingface
from detrkit.models.checkpoints.hf_files import (
    UnsupportedError,
    categories_of,
    read_json,
    read_preprocessing,
    read_tensors,
)
from detrkit.models.checkpoints.hf_rtdetr import read_rtdetr
from detrkit.structures import Categories

__all__ = ["is_huggingface_folder", "read_huggingface", "write_huggingface"]

_SHORTER_SIDE = {"shortest_edge": 800}


def is_huggingface_folder(folder: Path) -> bool:
    """Whether a folder has the config.json of a Hugging Face model."""
    return (folder / "config.json").is_file()


@dataclass(frozen=True)
class _Kind:
    """A type of model that can be read."""

    architectures: tuple[str, ...]
    """Its classes in transformers."""
    read: Any
    """The function that converts config and tensors."""
    size: dict[str, int]
    """Size of the images, if preprocessor_config.json does not state it."""
    normalized: bool
    """Whether images are normalized, if preprocessor_config.json does not state it."""


_SQUARE = {"height": 640, "width": 640}
_KINDS = {
    "detr": _Kind(("DetrForObjectDetection", "DetrForSegmentation"), read_detr, _SHORTER_SIDE, True),
    "deformable_detr": _Kind(("DeformableDetrForObjectDetection",), read_deformable, _SHORTER_SIDE, True),
    "rt_detr": _Kind(("RTDetrForObjectDetection",), read_rtdetr, _SQUARE, False),
    "rt_detr_v2": _Kind(("RTDetrV2ForObjectDetection",), read_rtdetr, _SQUARE, False),
}
"""model_type of config.json -> the type of model."""


def read_huggingface(folder: str | Path) -> Weights:
    """Read a detector from a Hugging Face folder.

    The models of `_KINDS` become detrkit's own, without transformers, if they have the settings that detrkit's have.
    All other detection transformers need transformers, and stay its models; see `models.hf`.

    Raises:
        MissingExtraError: the model needs transformers, which is not installed.
        WeightsError: a file is missing or damaged, or the model is no detection transformer.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None or (config.get("architectures") or kind.architectures)[0] not in kind.architectures:
        return _read_by_transformers(folder, config)
    try:
        state_dict, model_args, notes = kind.read(config, read_tensors(folder), folder)
    except UnsupportedError:
        return _read_by_transformers(folder, config)
    except KeyError as problem:
        with contextlib.suppress(WeightsError, MissingExtraError):
            return _read_by_transformers(folder, config, exact=True)
        raise WeightsError(
            f"expected the weights of the model that {folder / 'config.json'} describes, found other or missing keys "
            f"at {problem}; save the model again"
        ) from problem
    absent = tuple(missing_heads(state_dict)) if kind.read is read_detr else ()
    state_dict = without_parts(state_dict, absent)
    preprocessing, more_notes = read_preprocessing(folder, kind.size, kind.normalized)
    return Weights(
        state_dict,
        model_args,
        Categories((), ()) if "class_embed" in absent else categories_of(config, model_args["num_classes"]),
        preprocessing,
        str(folder),
        (*notes, *more_notes),
        absent=absent,
    )


def _read_by_transformers(folder: Path, config: Mapping[str, Any], *, exact: bool = False) -> Weights:
    from detrkit.models.hf.from_folder import read_transformers

    return read_transformers(folder, config, exact=exact)
