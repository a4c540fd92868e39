"""Write a detector of transformers as a folder that `from_pretrained` of transformers reads."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from detrkit.files import write_atomic
from detrkit.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detrkit.models.checkpoints.architecture import Weights
from detrkit.models.hf.adapter import TransformersDETR
from detrkit.models.hf.model_types import MODEL_TYPES
from detrkit.models.hf.network import import_transformers, quiet_transformers, untie
from detrkit.structures import Preprocessing

_PROCESSORS = {
    "rf_detr": "RfDetrImageProcessor",
    "lw_detr": "DeformableDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor",
    "dab-detr": "ConditionalDetrImageProcessor",
    "detr": "DetrImageProcessor",
}
"""model_type -> image processor of transformers; others have that of RT-DETR."""


def write_transformers(weights: Weights, folder: str | Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json.

    Files are written beside their place and renamed. Category ids and the range of values, which transformers ignores,
    are kept for `detrkit` alone.

    Args:
        weights: weights of a model of transformers.
        folder: to write; it may exist.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the weights do not fit their settings.
    """
    folder, kind = Path(folder), MODEL_TYPES[weights.model_args["hf_config"]["model_type"]]
    transformers = import_transformers(f"writing {folder}")
    model = weights.build_model()
    assert isinstance(model, TransformersDETR)
    model.load_state_dict(weights.state_dict)
    network = model.network
    untie(network)  # every name is written, whichever of them are one
    network.config.id2label = dict(enumerate(weights.categories.names))
    network.config.label2id = {name: index for index, name in enumerate(weights.categories.names)}
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".writing-"))
    try:
        with quiet_transformers(transformers):
            network.save_pretrained(aside)
        config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
        config |= {"architectures": [kind.architecture], "category_ids": list(weights.categories.ids)}
        (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):  # last: the folder is whole
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    processor = _processor(kind.model_type, weights.preprocessing)
    write_atomic(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")


def _processor(model_type: str, images: Preprocessing) -> dict[str, Any]:
    """The preprocessing of images as preprocessor_config.json states it."""
    size = {"height": images.image_size, "width": images.image_size}
    if not images.square_resize:
        size = {"shortest_edge": images.image_size, "longest_edge": round(images.image_size * 1333 / 800)}
    mean, std = images.mean or IMAGENET_MEAN, images.std or IMAGENET_STD
    processor: dict[str, Any] = {
        "image_processor_type": _PROCESSORS.get(model_type, "RTDetrImageProcessor"),
        "format": "coco_detection",
        "do_resize": True,
        "size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": any(mean) or any(value != 1 for value in std),
        "image_mean": list(mean),
        "image_std": list(std),
        "do_pad": not images.square_resize,
    }
    if images.value_range:
        processor["value_range"] = images.value_range.to_plain()
    if images.tiling:
        processor["tiling"] = images.tiling.to_plain()
    return processor
