"""Results that users hold: the detections of an image, and its panoptic map."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from detrkit.errors import DataError
from detrkit.structures import Categories
from detrkit.visualization.matplotlib_backend import import_matplotlib

if TYPE_CHECKING:
    import supervision


class PanopticMap(NamedTuple):
    """One image cut into segments that do not overlap."""

    ids: Tensor
    """int64 [H, W], at the size of the image: the segment of each pixel."""
    segments: list[dict[str, Any]]
    """A row a segment: `id`, `category_id`, `isthing`, `area` in pixels and, where they are known, `score` (0..1) and
    `category_name`. From `panoptic`, `category_id` is a class index; from a `Detector`, the data set's own."""

    def draw(self, image: Any) -> Any:
        """The image (path, PIL image or uint8 RGB array [H, W, 3]) with the segments drawn.

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the image's size where that is too small to be read.

        Raises:
            DataError: the image cannot be read, or has another size than the map.
        """
        from detrkit.visualization.draw import draw_panoptic

        return draw_panoptic(_image_of_size(image, (self.ids.shape[0], self.ids.shape[1])), self)


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first unless a function says otherwise.

    From `postprocess`, `class_ids` are class indices 0..C-1. From a `Detector`, they are the original category ids
    of the data set it was trained on, and `class_names` are their names (see `with_categories`).
    """

    xyxy: Tensor
    """float32 [n, 4], absolute pixels of the original image."""
    scores: Tensor
    """float32 [n], in 0..1."""
    class_ids: Tensor
    """int64 [n]."""
    class_names: tuple[str, ...] = ()
    """n names, or empty where no categories are known."""
    masks: Tensor | None = None
    """bool [n, H, W], or None."""
    image_size: tuple[int, int] | None = None
    """(h, w) of the original image in pixels."""
    source: str | None = None
    """Where the image came from: a path, `video.mp4#17` for a frame, or None."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("xyxy", "scores", "class_ids", "masks")}
        try:
            tensors = {name: torch.as_tensor(value) for name, value in given.items() if value is not None}
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"expected xyxy [n, 4], scores [n] and class_ids [n] as tensors, found {error}") from error
        xyxy, scores, class_ids, masks = (tensors.get(name, torch.empty(())) for name in given)
        n = len(scores) if scores.ndim else -1
        if not n:  # an empty tensor of any shape and type stands for no detection
            xyxy = xyxy.float().reshape(-1, 4) if not xyxy.numel() else xyxy
            class_ids = class_ids.long() if not class_ids.numel() else class_ids
        if xyxy.shape != (n, 4) or class_ids.shape != (n,) or scores.shape != (n,):
            found = (list(xyxy.shape), list(scores.shape), list(class_ids.shape))
            raise DataError(f"expected xyxy [n, 4], scores [n] and class_ids [n], found shapes {found}")
        if class_ids.is_floating_point() or class_ids.dtype == torch.bool:
            raise DataError(f"expected class_ids as integers, found {class_ids.dtype}")
        names = tuple(self.class_names)
        if names and len(names) != n:
            raise DataError(f"expected {n} class names or none, found {len(names)}")
        if self.masks is not None and (masks.ndim != 3 or len(masks) != n):
            raise DataError(f"expected masks [{n}, H, W], found {list(masks.shape)}")
        changed = {
            "xyxy": xyxy if xyxy.is_floating_point() else xyxy.float(),
            "scores": scores if scores.is_floating_point() else scores.float(),
            "class_ids": class_ids.long(),
            "masks": None if self.masks is None else masks.bool(),
            "class_names": names,
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: Tensor | slice | Sequence[int] | int) -> Detections:
        """The detections that an index, slice or boolean mask keeps, in its order; a single index keeps one.

        Raises:
            DataError: it is none of these, or a mask of another length.
        """
        if isinstance(keep, slice):
            keep = torch.arange(len(self))[keep]
        try:
            keep = torch.as_tensor(keep, device=self.scores.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"expected an index, slice or boolean mask of detections, found a {type(keep).__name__}; those of a "
                "class are kept by d[d.class_ids == 3]"
            ) from error
        if not keep.ndim:
            keep = keep[None]
        if keep.dtype == torch.bool:
            if keep.shape != self.scores.shape:
                raise DataError(f"expected a mask of {len(self)} detections, found one of shape {list(keep.shape)}")
            keep = keep.nonzero().flatten()
        elif not len(keep):
            keep = keep.long()
        names = tuple(self.class_names[i] for i in keep.tolist()) if self.class_names else ()
        masks = None if self.masks is None else self.masks[keep]
        return replace(
            self,
            xyxy=self.xyxy[keep],
            scores=self.scores[keep],
            class_ids=self.class_ids[keep],
            class_names=names,
            masks=masks,
        )

    def with_categories(self, categories: Categories) -> Detections:
        """Class indices replaced by original ids, and names filled in.

        Raises:
            DataError: a class index is none of these categories.
        """
        indices = self.class_ids.tolist()
        if indices and not 0 <= min(indices) <= max(indices) < len(categories):
            wrong = next(k for k in indices if not 0 <= k < len(categories))
            raise DataError(
                f"expected class indices in 0..{len(categories) - 1}, found {wrong}; the model has other classes, or "
                "these are original ids already"
            )
        return replace(
            self,
            class_ids=torch.tensor([categories.ids[k] for k in indices], dtype=torch.int64),
            class_names=tuple(categories.names[k] for k in indices),
        )

    def cpu(self) -> Detections:
        """The same detections in main memory."""
        masks = None if self.masks is None else self.masks.cpu()
        return replace(
            self, xyxy=self.xyxy.cpu(), scores=self.scores.cpu(), class_ids=self.class_ids.cpu(), masks=masks
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO results entries (`bbox` is x, y, w, h in pixels), with `segmentation` as RLE where there are masks."""
        from detrkit.ops.masks import encode_rles

        boxes = self.xyxy.tolist()
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
            for (x1, y1, x2, y2), s, c in zip(boxes, self.scores.tolist(), self.class_ids.tolist(), strict=True)
        ]
        if self.masks is not None:
            for row, code in zip(rows, encode_rles(self.masks), strict=True):
                row["segmentation"] = code
        return rows

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`, the field's common result type; names are in `data["class_name"]`."""
        import numpy as np

        import_matplotlib()  # before supervision does
        import supervision

        found = self.cpu()
        names = np.asarray(found.class_names, dtype=np.str_)
        data: dict[str, Any] = {"class_name": names} if found.class_names else {}
        return supervision.Detections(
            xyxy=found.xyxy.numpy().astype(np.float32).reshape(-1, 4),
            confidence=found.scores.numpy(),
            class_id=found.class_ids.numpy().astype(int),
            mask=None if found.masks is None else found.masks.numpy(),
            data=data,
        )

    def draw(self, image: Any) -> Any:
        """The image (path, PIL image or uint8 RGB array [H, W, 3]) with the detections drawn.

        Boxes with NaN are left out, which a warning tells.

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the image's size where that is too small to be read.

        Raises:
            DataError: the image cannot be read, or has another size than the one the detections are of.
        """
        from detrkit.visualization.draw import draw_detections

        size = self.image_size
        if size is None and self.masks is not None:
            size = (self.masks.shape[1], self.masks.shape[2])
        lost = len(self) - int(self.xyxy.isfinite().all(1).sum())
        if lost:
            warnings.warn(f"{lost} of {len(self)} boxes are NaN or infinite and cannot be drawn", stacklevel=2)
        return draw_detections(_image_of_size(image, size), self)


def _image_of_size(image: Any, size: tuple[int, int] | None) -> Any:
    """An image in any form as uint8 RGB [H, W, 3], of the size (h, w) of what is to be drawn on it, if that is known.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    from detrkit.visualization.draw import as_image

    rgb = as_image(image)
    if size is not None and tuple(size) != rgb.shape[:2]:
        raise DataError(
            f"expected the image of {size[0]} x {size[1]} pixels (height x width) that was looked at, found one of "
            f"{rgb.shape[0]} x {rgb.shape[1]}; draw on that one, and resize afterwards"
        )
    return rgb


def ground_truth_detections(
    boxes: Iterable[Sequence[float]], category_ids: Iterable[int], categories: Categories
) -> Detections:
    """Annotated boxes in the form of detections, to be drawn as ground truth.

    Args:
        boxes: x1, y1, x2, y2 in pixels, one per object.
        category_ids: original category ids, one per object.
        categories: where their names are found.
    """
    ids = [int(i) for i in category_ids]
    index = categories.index_of_id
    return Detections(
        xyxy=torch.tensor([list(map(float, box)) for box in boxes], dtype=torch.float32).reshape(-1, 4),
        scores=torch.ones(len(ids)),
        class_ids=torch.tensor(ids, dtype=torch.int64),
        class_names=tuple(categories.names[index[i]] if i in index else str(i) for i in ids),
    )
