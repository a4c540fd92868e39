"""What lies in a Hugging Face folder beside the names of tensors: settings, classes, preprocessing."""

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
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories, Preprocessing

_COCO_THINGS = Categories(
    *zip(*[(i, name) for i, name in enumerate(COCO_CATEGORIES.names) if not name.startswith("N/A")], strict=True)
)
"""The 80 classes of COCO that are used."""

_OTHER_COCO_NAMES = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip
"""Names of Pascal VOC that RT-DETR's folders give to classes of COCO."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        WeightsError: it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"expected JSON in {path}, found something else ({problem})") from problem
    if not isinstance(content, dict):
        raise WeightsError(f"expected a JSON object in {path}, found a {type(content).__name__}")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: safetensors, in one file or several, else pytorch_model.bin.

    Raises:
        WeightsError: there are none, or they cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        return {key: value for shard in shards for key, value in read_safetensors(folder / Path(shard).name).items()}
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_checkpoint(folder / "pytorch_model.bin")
    raise WeightsError(f"expected model.safetensors or pytorch_model.bin in {folder}, found neither")


def expect(config: Mapping[str, Any], folder: Path, **settings: Any) -> None:
    """Make sure that settings of a config.json, where it has them, are those that our models know.

    Raises:
        WeightsError: one is not.
    """
    for name, known in settings.items():
        found = config.get(name, known)
        if found != known:
            raise WeightsError(
                f"expected {name} {known} in {folder / 'config.json'}, found {found}; other models cannot be loaded"
            )


_TIMM_RESNET = r"(tv_|gluon_|ssl_|swsl_)?resnet(18|34|50|101|152)(_v1b)?(\.\w+)?"
"""What timm calls ResNets as torchvision has them; others have keys of the same names and shapes."""


def dilated(config: Mapping[str, Any], folder: Path) -> bool:
    """Whether the ResNet of a config.json is dilated. Its keys tell neither that nor all else that it could be.

    Raises:
        WeightsError: it is no ResNet as torchvision has it.
    """
    body: Mapping[str, Any] = config.get("backbone_config") or {}
    expect(body, folder, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
    timm = body.get("model_type") == "timm_backbone" or (not body and config.get("use_timm_backbone", True))
    name = str(body.get("backbone") or config.get("backbone") or "resnet50")
    stride = body.get("output_stride") or 32
    if (timm and not re.fullmatch(_TIMM_RESNET, name)) or stride not in (16, 32):
        raise WeightsError(
            f"expected a ResNet as torchvision has it, of stride 32 or 16, in {folder / 'config.json'}, found {name} "
            f"of stride {stride}; other backbones cannot be loaded"
        )
    # Where the backbone is described, transformers does not look at `dilation`.
    return bool(stride == 16 if body else config.get("dilation"))


def one_value(config: Mapping[str, Any], folder: Path, names: tuple[str, ...], default: Any) -> Any:
    """What all of several settings are.

    Raises:
        WeightsError: they differ.
    """
    values = [config.get(name, default) for name in names]
    if any(value != values[0] for value in values):
        raise WeightsError(f"expected one value of {', '.join(names)} in {folder / 'config.json'}, found {values}")
    return values[0]


def categories_of(config: Mapping[str, Any], num_classes: int) -> Categories:
    """Names from id2label; ids as `write_huggingface` keeps them, else COCO's for its classes, else class indices."""
    coco = {len(every): every for every in (COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES)}
    given = config.get("id2label") or {}
    labels = {int(index): str(name) for index, name in given.items() if str(index).isdecimal()}
    if any(name.startswith("LABEL_") for name in labels.values()) or sorted(labels) != list(range(num_classes)):
        return coco.get(num_classes, Categories.unnamed(num_classes))
    names = [f"N/A {index}" if labels[index] == "N/A" else labels[index] for index in range(num_classes)]
    ids = config.get("category_ids")
    if ids and len(ids) == num_classes:
        return Categories(tuple(ids), tuple(names), tuple(config.get("category_isthing", ())))
    if tuple(_OTHER_COCO_NAMES.get(name, name) for name in names) == _COCO_THINGS.names:
        return _COCO_THINGS
    return Categories(tuple(range(num_classes)), tuple(names))


def read_preprocessing(folder: Path, default_size: Any, normalised: bool) -> tuple[Preprocessing, tuple[str, ...]]:
    """How images are made ready, by preprocessor_config.json.

    Args:
        folder: that may have one.
        default_size: what stands for `size` where it has none.
        normalised: whether images are normalised where it does not say.

    Returns:
        The preprocessing, and notes on what had to be assumed.

    Raises:
        WeightsError: pixels are scaled in a way that our models do not know.
    """
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    size, square_resize, note = _size_of(settings.get("size", default_size))
    if settings.get("do_resize") is False:
        note = "images of their own size; here they are resized, as --image_size says"
    scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if abs(255 * scale - 1) > 1e-4:
        raise WeightsError(f"expected pixels scaled by 1/255 in {path}, found {scale:g}; other scales cannot be loaded")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", normalised):
        mean = tuple(settings.get("image_mean", IMAGENET_MEAN))
        std = tuple(settings.get("image_std", IMAGENET_STD))
    notes = (f"{folder} was trained on {note}",) if note else ()
    return Preprocessing(size, square_resize, mean, std, _value_range(settings, path)), notes


def _value_range(settings: Mapping[str, Any], path: Path) -> ValueRange | None:
    """The range of values of images of more than 8 bits, where `write_huggingface` has noted one; transformers leaves
    the entry alone.

    Raises:
        WeightsError: it is garbled.
    """
    found = settings.get("value_range")
    try:
        return ValueRange.from_plain(found)
    except (TypeError, ValueError) as problem:
        raise WeightsError(f"expected value_range as two ascending numbers in {path}, found {found}") from problem


def _size_of(size: Any) -> tuple[int, bool, str]:
    """The shorter side in pixels, whether images become squares, and how it was otherwise, if it was."""
    if not isinstance(size, dict):
        return int(size), False, ""
    if "height" in size:
        height, width = int(size["height"]), int(size["width"])
        other = f"images stretched to {width} x {height}; here they keep their shape"
        return min(height, width), height == width, "" if height == width else other
    if "max_height" in size:  # within which images of any shape fit
        most = max(int(size["max_height"]), int(size["max_width"]))
        shorter = round(most * 800 / 1333)
        return shorter, False, f"images of up to {most} pixels a side; here the shorter side has up to {shorter}"
    shorter = int(size.get("shortest_edge", 800))
    longest = int(size.get("longest_edge") or shorter * 1333 // 800)
    other = f"images of up to {longest} pixels a side; here the longer side has up to {shorter * 1333 // 800}"
    return shorter, False, other if longest < shorter * 1333 // 800 else ""
