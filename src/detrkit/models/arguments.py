"""Check and convert the arguments of public functions; an argument of unclear meaning is a ConfigError or DataError.

Checks of shapes, types and devices do not wait for a GPU. Checks of values are made only on values in main memory, so
that no training step waits for a transfer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.errors import ConfigError, DataError
from detrkit.structures import Output, Target

Size = tuple[int, int]
"""Height and width in pixels."""

MOST_OUTSIDE = 1.0
"""Largest distance of a box beyond its image, in image widths or heights; a larger one means a box in pixels."""

OUTSIDE = 0.01
"""Distance beyond the image, in image widths or heights, above which boxes are suspected to be corners."""


def unit_number(value: Any, name: str) -> float:
    """Convert a number of Python, numpy or torch to a float in 0..1.

    Args:
        value: the argument of the caller.
        name: name of the argument with its article, for the message.

    Raises:
        ConfigError: the value is no such number.
    """
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise ConfigError(f"expected {name} in 0..1, found {_shown(value)}")
    return number


def whole_number(value: Any, name: str, lowest: int) -> int:
    """Convert a number of Python, numpy or torch to an int of at least `lowest`.

    Raises:
        ConfigError: the value is no such number.
    """
    number = _number(value)
    if number is None or not number.is_integer() or number < lowest:
        raise ConfigError(f"expected {name} of at least {lowest}, found {_shown(value)}")
    return int(number)


def expect_output(out: Any) -> Output:
    """Check that an argument is an `Output`, as detrkit's models return it.

    Raises:
        ConfigError: the argument is of another type.
    """
    if not isinstance(out, Output):
        keys = f" with the keys {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
        raise ConfigError(
            f"expected the Output that a model of detrkit returns, found a {type(out).__name__}{keys}; make one of "
            "other tensors: Output(logits, boxes)"
        )
    return out


def size_pairs(sizes: Any, count: int, name: str) -> tuple[Tensor, list[Size]]:
    """Convert the heights and widths of the images of a batch to int64 [B, 2], on their device, and to pairs.

    Args:
        sizes: int [B, 2] or a list of pairs; for a single image also one pair.
        count: number of images B.
        name: name of the argument, for the message.

    Raises:
        ConfigError: `sizes` is not B pairs of whole numbers above 0.
    """
    try:
        tensor = sizes if isinstance(sizes, Tensor) else torch.tensor(_as_lists(sizes), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is not None and count == 1 and tensor.shape == (2,):
        tensor = tensor[None]
    if tensor is None or tensor.shape != (count, 2):
        value = f"shape {list(tensor.shape)}" if tensor is not None else _shown(sizes)
        raise ConfigError(
            f"expected {name} as {count} pair{'' if count == 1 else 's'} of height and width in pixels, one for each "
            f"image of the output, found {value}"
        )
    rows = tensor.tolist()
    wrong = [row for row in rows if not all(math.isfinite(side) and side > 0 and side == int(side) for side in row)]
    if wrong:
        raise ConfigError(f"expected {name} in whole pixels above 0, found {wrong[0]} (height, width)")
    return tensor.long(), [(int(height), int(width)) for height, width in rows]


def as_targets(
    targets: Any, *, images: int | None = None, classes: int | None = None, device: torch.device | None = None
) -> list[Target]:
    """Convert the ground truth of a batch to the form that `Target` describes.

    Labels of other integer types become int64, empty tensors of any shape and type become those of no object, lists and
    arrays become tensors, and tensors are moved to `device`. Targets of the right form are returned unchanged.

    Args:
        targets: one target per image, iterated over once.
        images: required number of targets; None: any number.
        classes: number of classes, which labels must be below; checked only for labels in main memory.
        device: device of the result; None: that of each tensor.

    Raises:
        DataError: the number of targets, a shape or a type is wrong, or a label is no class.
    """
    if isinstance(targets, Mapping | Tensor | str) or not isinstance(targets, Iterable):
        raise DataError(
            f"expected a list of targets, one per image of the batch, found a {type(targets).__name__}"
            + ("; put it into a list" if isinstance(targets, Mapping) else "")
        )
    rows = list(targets)
    if images is not None and len(rows) != images:
        raise DataError(
            f"expected a target for each of {images} image{'' if images == 1 else 's'}, found {len(rows)}; an image "
            "without objects has a target with empty labels and boxes"
        )
    fitted = [
        row if _fits(row, device) else _as_target(row, f"image {place} of the batch", device)
        for place, row in enumerate(rows, start=1)
    ]
    if classes is not None:
        _check_labels([row["labels"] for row in fitted], classes)
    return fitted


def check_boxes(boxes: npt.NDArray[np.float32], counts: Sequence[int]) -> None:
    """Check that the boxes of targets are finite and plausible as cx, cy, w, h relative to their images.

    A single box cannot show whether it is in corner form, so boxes are refused as corners only if all boxes of the
    batch are valid corners and at least a quarter of them reach beyond their image as cx, cy, w, h.

    Args:
        boxes: boxes [M, 4] of all images.
        counts: number of objects per image.

    Raises:
        DataError: a box is not finite, in pixels, of negative size, or in corner form; the message names the box.
    """
    if not len(boxes):
        return
    low, high = boxes.min(), boxes.max()  # NaN where there is one
    if not (low >= 0 and high <= 1):
        finite, wide = np.isfinite(boxes).all(1), np.abs(boxes).max(1) > 1 + MOST_OUTSIDE
        _refuse(~finite, boxes, counts, "finite numbers", "look at where it comes from")
        _refuse(wide, boxes, counts, _RELATIVE, "boxes in pixels are to be divided by width and height of the image")
        _refuse((boxes[:, 2:] < 0).any(1), boxes, counts, f"{_RELATIVE}, with w and h of at least 0", "turn it round")
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    outside = ((center - half < -OUTSIDE) | (center + half > 1 + OUTSIDE)).any(1)
    if 4 * np.count_nonzero(outside) >= len(boxes) and (boxes[:, 2:] > boxes[:, :2]).all():
        advice = (
            "these reach out of their images, and all boxes could be corners x1, y1, x2, y2, which "
            "detrkit.ops.boxes.xyxy_to_cxcywh converts; if they are not, cut them at the borders of the image"
        )
        _refuse(outside, boxes, counts, _RELATIVE, advice)


_RELATIVE = "cx, cy, w, h relative to the image, in 0..1"


def _refuse(wrong: Any, boxes: npt.NDArray[np.float32], counts: Sequence[int], expected: str, advice: str) -> None:
    """Raise a DataError that names the first box for which `wrong`, bool [M], is True, if there is one."""
    if not wrong.any():
        return
    first = int(wrong.argmax())
    ends = np.cumsum(counts)
    image = int(np.searchsorted(ends, first, side="right"))
    place = first - int(ends[image]) + counts[image]
    box = ", ".join(f"{value:.4g}" for value in boxes[first].tolist())
    raise DataError(
        f"expected boxes as {expected}, found [{box}] as object {place + 1} of image {image + 1} of the batch"
        f" ({np.count_nonzero(wrong)} of {len(boxes)} boxes are like that); {advice}"
    )


def _fits(row: Any, device: torch.device | None) -> bool:
    """Whether a target has the right form already, as in every step of detrkit's own training."""
    if not isinstance(row, dict):
        return False
    labels, boxes, masks = row.get("labels"), row.get("boxes"), row.get("masks")
    return (
        isinstance(labels, Tensor)
        and isinstance(boxes, Tensor)
        and labels.dtype == torch.int64
        and boxes.dtype == torch.float32
        and labels.ndim == 1
        and boxes.shape == (len(labels), 4)
        and (masks is None or isinstance(masks, Tensor))
        and (device is None or all(each.device == device for each in (labels, boxes, masks) if each is not None))
    )


def _as_target(row: Any, where: str, device: torch.device | None) -> Target:
    if not isinstance(row, Mapping) or not {"labels", "boxes"} <= row.keys():
        kind = f"the keys {', '.join(map(str, row))}" if isinstance(row, Mapping) else f"a {type(row).__name__}"
        raise DataError(f"expected a target with labels [n] and boxes [n, 4] for {where}, found {kind}")
    labels, boxes = _as_tensor(row["labels"], "labels", where), _as_tensor(row["boxes"], "boxes", where)
    if not labels.numel():
        labels = labels.reshape(0).long()
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"expected labels as integers of shape [n] for {where}, found {list(labels.shape)} of {labels.dtype}"
        )
    if not boxes.numel():
        boxes = boxes.new_zeros(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
        raise DataError(
            f"expected boxes of shape [{len(labels)}, 4], one for each label, for {where}, found {list(boxes.shape)}"
        )
    changed = {"labels": labels.long(), "boxes": boxes if boxes.is_floating_point() else boxes.float()}
    if row.get("masks") is not None:
        changed["masks"] = _as_tensor(row["masks"], "masks", where)
    if device is not None:
        changed = {key: value.to(device, non_blocking=True) for key, value in changed.items()}
    return cast(Target, dict(row) | changed)


def _check_labels(labels: Sequence[Tensor], classes: int) -> None:
    """Check that the labels of each image that are in main memory are in 0..classes - 1."""
    near = [each if each.device.type == "cpu" else each.new_zeros(0, device="cpu") for each in labels]
    together = torch.cat(near) if near else torch.zeros(0)
    if not len(together):
        return
    low, high = together.aminmax()
    if low < 0 or high >= classes:
        place, wrong = next(
            (place, label)
            for place, each in enumerate(near, start=1)
            for label in each.tolist()
            if not 0 <= label < classes
        )
        raise DataError(
            f"expected labels in 0..{classes - 1}, found {wrong} in image {place} of the batch; they count the classes "
            "from 0, and num_classes is above the largest"
        )


def _as_tensor(value: Any, name: str, where: str) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"expected {name} of {where} as a tensor, found a {type(value).__name__}: {error}") from error


def _as_lists(sizes: Any) -> list[Any]:
    """Convert the tensors, arrays and pairs in a list to plain numbers."""
    return [[float(side) for side in row] if isinstance(row, Iterable) else float(row) for row in sizes]


def _number(value: Any) -> float | None:
    """Convert a number of Python, numpy or torch to a float; None if the value is no number."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 and value.dtype not in (torch.bool, np.bool_):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real | Integral):
        return None
    return float(value)


def _shown(value: Any) -> str:
    """The repr of a value, shortened for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
