"""Read the files of a Hugging Face folder: tensors, settings, classes and preprocessing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detrkit.models.checkpoints.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES
from detrkit.models.checkpoints.safe import read_checkpoint, read_safetensors
from detrkit.ops.tiles import Tiling
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories, Preprocessing


class UnsupportedError(WeightsError):
    """A model that detrkit's own architectures cannot represent, though transformers may."""


_COCO_THINGS = Categories(
    *zip(*[(i, name) for i, name in enumerate(COCO_CATEGORIES.names) if not name.startswith("N/A")], strict=True)
)
"""The 80 classes of COCO, without the unused ids."""

_OTHER_COCO_NAMES = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip
"""Class name in RT-DETR's folders, from Pascal VOC -> name of the class in COCO."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        WeightsError: the file cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(
            f"expected JSON in {path}, found something else ({problem}); copy or download it again"
        ) from problem
    if not isinstance(content, dict):
        raise WeightsError(
            f"expected a JSON object in {path}, found a {type(content).__name__}; copy or download it again"
        )
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder: safetensors in one or several files, else pytorch_model.bin.

    Raises:
        WeightsError: there is no such file, or it cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        return {key: value for shard in shards for key, value in read_safetensors(folder / Path(shard).name).items()}
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_checkpoint(folder / "pytorch_model.bin")
    raise WeightsError(f"expected model.safetensors or pytorch_model.bin in {folder}, found neither; download one")


def expect(config: Mapping[str, Any], folder: Path, **settings: Any) -> None:
    """Check that settings of a config.json, if present, have the values that detrkit's models support.

    Raises:
        WeightsError: a setting has another value.
    """
    for name, supported in settings.items():
        value = config.get(name, supported)
        if value != supported:
            raise UnsupportedError(
                f"expected {name} {supported} in {folder / 'config.json'}, found {value}; other models cannot be loaded"
            )


_TIMM_RESNET = r"(tv_|gluon_|ssl_|swsl_)?resnet(18|34|50|101|152)(_v1b)?(\.\w+)?"
"""timm's names for ResNets of torchvision's architecture; others have the same keys and shapes but differ."""


def dilated(config: Mapping[str, Any], folder: Path) -> bool:
    """Whether the ResNet of a config.json is dilated, which its tensors do not show.

    Raises:
        WeightsError: the backbone is no ResNet of torchvision's architecture.
    """
    body: Mapping[str, Any] = config.get("backbone_config") or {}
    expect(body, folder, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
    timm = body.get("model_type") == "timm_backbone" or (not body and config.get("use_timm_backbone", True))
    name = str(body.get("backbone") or config.get("backbone") or "resnet50")
    stride = body.get("output_stride") or 32
    if (timm and not re.fullmatch(_TIMM_RESNET, name)) or stride not in (16, 32):
        raise UnsupportedError(
            f"expected a ResNet of torchvision's architecture, of stride 32 or 16, in {folder / 'config.json'}, found "
            f"{name} of stride {stride}; other backbones cannot be loaded"
        )
    # transformers ignores `dilation` if there is a backbone_config
    return bool(stride == 16 if body else config.get("dilation"))


def one_value(config: Mapping[str, Any], folder: Path, names: tuple[str, ...], default: Any) -> Any:
    """The common value of several settings, each with the same default.

    Raises:
        WeightsError: the settings differ.
    """
    values = [config.get(name, default) for name in names]
    if any(value != values[0] for value in values):
        raise UnsupportedError(
            f"expected one value of {', '.join(names)} in {folder / 'config.json'}, found {values}; other models "
            "cannot be loaded"
        )
    return values[0]


def categories_of(config: Mapping[str, Any], num_classes: int) -> Categories:
    """The classes of a config.json, with names from id2label.

    Ids are those that `write_huggingface` stores, else COCO's for the classes of COCO, else class indices.
    """
    coco = {len(categories): categories for categories in (COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES)}
    id2label = config.get("id2label") or {}
    labels = {int(index): str(name) for index, name in id2label.items() if str(index).isdecimal()}
    if any(name.startswith("LABEL_") for name in labels.values()) or sorted(labels) != list(range(num_classes)):
        return coco.get(num_classes, Categories.unnamed(num_classes))
    names = [f"N/A {index}" if labels[index] == "N/A" else labels[index] for index in range(num_classes)]
    ids = config.get("category_ids")
    if ids and len(ids) == num_classes:
        return Categories(tuple(ids), tuple(names), tuple(config.get("category_isthing", ())))
    if tuple(_OTHER_COCO_NAMES.get(name, name) for name in names) == _COCO_THINGS.names:
        return _COCO_THINGS
    return Categories(tuple(range(num_classes)), tuple(names))


def read_preprocessing(folder: Path, default_size: Any, normalized: bool) -> tuple[Preprocessing, tuple[str, ...]]:
    """Read the preprocessing of images from preprocessor_config.json, if the folder has one.

    Args:
        folder: the Hugging Face folder.
        default_size: value of `size` if it is not stated.
        normalized: value of `do_normalize` if it is not stated.

    Returns:
        The preprocessing, and notes on differences from the training of the model.

    Raises:
        WeightsError: pixels are not scaled by 1/255.
    """
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    size, square_resize, note = _size_of(settings.get("size", default_size))
    if settings.get("do_resize") is False:
        note = "images of their own size; detrkit resizes them to --image_size"
    scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if abs(255 * scale - 1) > 1e-4:
        raise WeightsError(f"expected pixels scaled by 1/255 in {path}, found {scale:g}; other scales cannot be loaded")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", normalized):
        mean = tuple(settings.get("image_mean", IMAGENET_MEAN))
        std = tuple(settings.get("image_std", IMAGENET_STD))
    notes = (f"{folder} was trained on {note}",) if note else ()
    return Preprocessing(size, square_resize, mean, std, _value_range(settings, path), _tiling(settings, path)), notes


def _tiling(settings: Mapping[str, Any], path: Path) -> Tiling | None:
    """The tiles that images are cut into, another such entry.

    Raises:
        WeightsError: the entry is no tiling.
    """
    try:
        return Tiling.from_plain(settings.get("tiling"))
    except (KeyError, TypeError, ValueError) as problem:
        raise WeightsError(
            f"expected tiling as a size and an overlap in {path}, found {settings['tiling']}; correct or delete it"
        ) from problem


def _value_range(settings: Mapping[str, Any], path: Path) -> ValueRange | None:
    """The value range of images of more than 8 bits, an entry of detrkit that transformers ignores.

    Raises:
        WeightsError: the entry is no value range.
    """
    value = settings.get("value_range")
    try:
        return ValueRange.from_plain(value)
    except (TypeError, ValueError) as problem:
        raise WeightsError(
            f"expected value_range as two ascending numbers in {path}, found {value}; correct or delete it"
        ) from problem


def _size_of(size: Any) -> tuple[int, bool, str]:
    """The shorter side in pixels, whether images are resized to squares, and a note if detrkit resizes differently."""
    if not isinstance(size, dict):
        return int(size), False, ""
    if "height" in size:
        height, width = int(size["height"]), int(size["width"])
        note = f"images stretched to {width} x {height}; detrkit keeps their aspect ratio"
        return min(height, width), height == width, "" if height == width else note
    if "max_height" in size:  # images are resized to fit into this rectangle
        longest = max(int(size["max_height"]), int(size["max_width"]))
        shorter = round(longest * 800 / 1333)
        note = f"images of up to {longest} pixels per side; detrkit resizes the shorter side to {shorter} or less"
        return shorter, False, note
    shorter = int(size.get("shortest_edge", 800))
    longest = int(size.get("longest_edge") or shorter * 1333 // 800)
    note = f"images of up to {longest} pixels per side; detrkit allows {shorter * 1333 // 800} for the longer side"
    return shorter, False, note if longest < shorter * 1333 // 800 else ""
