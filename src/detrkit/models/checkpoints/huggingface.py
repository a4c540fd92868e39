"""Hugging Face's format: a folder with config.json, model.safetensors and preprocessor_config.json.

Neither `transformers` nor `timm` is needed here. DETR, Deformable DETR and RT-DETR are read, in the layout of any
version of transformers; DETR is written too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.errors import WeightsError
from detrkit.models.checkpoints.architecture import Weights, missing_heads, without_parts
from detrkit.models.checkpoints.hf_deformable import read_deformable
from detrkit.models.checkpoints.hf_detr import read_detr, write_huggingface
from detrkit.models.checkpoints.hf_files import categories_of, read_json, read_preprocessing, read_tensors
from detrkit.models.checkpoints.hf_rtdetr import read_rtdetr
from detrkit.structures import Categories

__all__ = ["is_huggingface_folder", "read_huggingface", "write_huggingface"]

_SHORTER_SIDE = {"shortest_edge": 800}


def is_huggingface_folder(folder: Path) -> bool:
    """Whether a folder has the config.json of a Hugging Face model."""
    return (folder / "config.json").is_file()


@dataclass(frozen=True)
class _Kind:
    """One of the models that can be read."""

    architectures: tuple[str, ...]
    read: Any
    size: dict[str, int]
    """Of images, where preprocessor_config.json does not say."""
    normalised: bool
    """Likewise."""


_SQUARE = {"height": 640, "width": 640}
_KINDS = {
    "detr": _Kind(("DetrForObjectDetection", "DetrForSegmentation"), read_detr, _SHORTER_SIDE, True),
    "deformable_detr": _Kind(("DeformableDetrForObjectDetection",), read_deformable, _SHORTER_SIDE, True),
    "rt_detr": _Kind(("RTDetrForObjectDetection",), read_rtdetr, _SQUARE, False),
    "rt_detr_v2": _Kind(("RTDetrV2ForObjectDetection",), read_rtdetr, _SQUARE, False),
}
"""By model_type."""


def read_huggingface(folder: str | Path) -> Weights:
    """The folder of a detector that can be read, without transformers.

    Raises:
        WeightsError: a file is missing or broken, or the model is another one.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = _KINDS.get(str(config.get("model_type")))
    found = (config.get("architectures") or (kind.architectures if kind else ["nothing"]))[0]
    if kind is None or found not in kind.architectures:
        known = ", ".join(name for each in _KINDS.values() for name in each.architectures)
        raise WeightsError(
            f"expected one of {known} in {folder}, found {found} of type {config.get('model_type')}; other models "
            "cannot be loaded"
        )
    try:
        state_dict, model_args, notes = kind.read(config, read_tensors(folder), folder)
    except KeyError as problem:
        raise WeightsError(
            f"expected the weights of the model that {folder / 'config.json'} describes, stumbled over {problem}"
        ) from problem
    absent = tuple(missing_heads(state_dict)) if kind.read is read_detr else ()
    state_dict = without_parts(state_dict, absent)
    preprocessing, more_notes = read_preprocessing(folder, kind.size, kind.normalised)
    return Weights(
        state_dict,
        model_args,
        Categories((), ()) if "class_embed" in absent else categories_of(config, model_args["num_classes"]),
        preprocessing,
        str(folder),
        (*notes, *more_notes),
        absent=absent,
    )
