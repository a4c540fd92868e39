"""Results that users hold: the detections of an image, and its panoptic map."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from detrkit.errors import DataError
from detrkit.models.arguments import unit_number
from detrkit.ops.boxes import best_of_overlapping
from detrkit.structures import Categories
from detrkit.visualization.matplotlib_backend import import_matplotlib

if TYPE_CHECKING:
    import supervision


MAX_NAMED = 5
"""Classes that the printed form of a result names."""


class PanopticMap(NamedTuple):
    """The segments of one image, which do not overlap. Printed, it says how many there are of each class."""

    ids: Tensor
    """int64 [H, W], at the size of the image: the segment of each pixel."""
    segments: list[dict[str, Any]]
    """One row per segment: `id`, `category_id`, `isthing`, `area` in pixels and, where they are known, `score` (0..1)
    and `category_name`. `category_id` is a class index in maps from `panoptic`, and the data set's own id in maps from
    a `Detector`."""

    def __repr__(self) -> str:
        height, width = self.ids.shape
        names = [str(row.get("category_name", f"class {row['category_id']}")) for row in self.segments]
        return f"PanopticMap({height} x {width} pixels, {_counts(names, 'segment')})"

    def draw(self, image: Any) -> Any:
        """Draw the segments on an image (path, PIL image or uint8 RGB array [H, W, 3]).

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the image's size where that is too small to be read.

        Raises:
            DataError: the image cannot be read, or has another size than the map.
        """
        from detrkit.visualization.draw import draw_panoptic

        return draw_panoptic(_image_of_size(image, (self.ids.shape[0], self.ids.shape[1])), self)


@dataclass(frozen=True, repr=False)
class Detections:
    """The detected objects of one image, best first unless a function says otherwise.

    From `postprocess`, `class_ids` are class indices 0..C-1. From a `Detector`, they are the original category ids
    of the data set that it was trained on, and `class_names` are their names (see `with_categories`).

        >>> detector.predict("photo.jpg")
        Detections(3 objects: 2 cat, 1 dog; scores 0.61 to 0.98)

    Raises:
        DataError: the tensors do not fit each other.
    """

    xyxy: Tensor
    """float32 [n, 4]; x1, y1, x2, y2 in pixels of the original image."""
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
    """Origin of the image: a path, `video.mp4#17` for a frame, or None."""
    track_ids: Tensor | None = None
    """int64 [n]: the track of each object, the same number from frame to frame; None: frames are not tracked."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("xyxy", "scores", "class_ids", "masks", "track_ids")}
        try:
            tensors = {name: torch.as_tensor(value) for name, value in given.items() if value is not None}
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"expected xyxy [n, 4], scores [n] and class_ids [n] as tensors, found {error}") from error
        xyxy, scores, class_ids, masks, track_ids = (tensors.get(name, torch.empty(())) for name in given)
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
        if self.track_ids is not None and track_ids.shape != (n,):
            raise DataError(f"expected track_ids [{n}], found shape {list(track_ids.shape)}")
        changed = {
            "xyxy": xyxy if xyxy.is_floating_point() else xyxy.float(),
            "scores": scores if scores.is_floating_point() else scores.float(),
            "class_ids": class_ids.long(),
            "masks": None if self.masks is None else masks.bool(),
            "class_names": names,
            "track_ids": None if self.track_ids is None else track_ids.long(),
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        names = list(self.class_names) or [f"class {i}" for i in self.class_ids.tolist()]
        text = _counts(names, "object")
        if len(self) == 1:
            text += f"; score {float(self.scores[0]):.2f}"
        elif len(self):
            text += f"; scores {float(self.scores.min()):.2f} to {float(self.scores.max()):.2f}"
        return f"Detections({text}{'' if self.masks is None else '; with masks'})"

    def __getitem__(self, keep: Tensor | slice | Sequence[int] | int) -> Detections:
        """Select detections by an index, a slice, a list of indices or a boolean mask; the order is that of `keep`.

            confident = detections[detections.scores > 0.9]

        Raises:
            DataError: `keep` is none of these, or a mask of another length.
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
            track_ids=None if self.track_ids is None else self.track_ids[keep],
        )

    def without_overlaps(self, max_overlap: float) -> Detections:
        """Leave the best of the detections of one object: of every two whose boxes have a larger IoU than `max_overlap`
        only the one with the higher score stays, whether they are of one class or of two.

            one_per_object = detections.without_overlaps(0.7)

        Args:
            max_overlap: largest IoU of two boxes that stay, 0..1. Masks do not matter.

        Raises:
            ConfigError: it is no number in 0..1.
        """
        limit = unit_number(max_overlap, "a max_overlap")
        return self[best_of_overlapping(self.xyxy, self.scores, limit)]

    def with_categories(self, categories: Categories) -> Detections:
        """Replace class indices by the original ids, and fill in the names.

        Raises:
            DataError: a class index is not among the categories.
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
        """Copy the detections to main memory."""
        names = ("xyxy", "scores", "class_ids", "masks", "track_ids")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None})

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Convert to COCO results (`bbox` is x, y, w, h in pixels), with `segmentation` as RLE where there are masks
        and `track_id` where there are tracks."""
        from detrkit.ops.masks import encode_rles

        boxes = self.xyxy.tolist()
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
            for (x1, y1, x2, y2), s, c in zip(boxes, self.scores.tolist(), self.class_ids.tolist(), strict=True)
        ]
        if self.masks is not None:
            for row, code in zip(rows, encode_rles(self.masks), strict=True):
                row["segmentation"] = code
        if self.track_ids is not None:
            for row, track_id in zip(rows, self.track_ids.tolist(), strict=True):
                row["track_id"] = track_id
        return rows

    def to_supervision(self) -> supervision.Detections:
        """Convert to `supervision.Detections`; class names are in `data["class_name"]`, tracks in `tracker_id`."""
        import numpy as np

        import_matplotlib()  # before supervision does
        import supervision

        on_cpu = self.cpu()
        names = np.asarray(on_cpu.class_names, dtype=np.str_)
        data: dict[str, Any] = {"class_name": names} if on_cpu.class_names else {}
        return supervision.Detections(
            xyxy=on_cpu.xyxy.numpy().astype(np.float32).reshape(-1, 4),
            confidence=on_cpu.scores.numpy(),
            class_id=on_cpu.class_ids.numpy().astype(int),
            mask=None if on_cpu.masks is None else on_cpu.masks.numpy(),
            tracker_id=None if on_cpu.track_ids is None else on_cpu.track_ids.numpy().astype(int),
            data=data,
        )

    def draw(self, image: Any) -> Any:
        """Draw the detections on an image (path, PIL image or uint8 RGB array [H, W, 3]).

        Boxes with NaN are left out, with a warning.

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the image's size where that is too small to be read.

        Raises:
            DataError: the image cannot be read, or has another size than the one the detections are of.
        """
        from detrkit.visualization.draw import draw_detections

        size = self.image_size
        if size is None and self.masks is not None:
            size = (self.masks.shape[1], self.masks.shape[2])
        broken = len(self) - int(self.xyxy.isfinite().all(1).sum())
        if broken:
            warnings.warn(f"{broken} of {len(self)} boxes are NaN or infinite and cannot be drawn", stacklevel=2)
        return draw_detections(_image_of_size(image, size), self)


def _counts(names: list[str], noun: str) -> str:
    """How many there are of each class, the most frequent first: `3 objects: 2 cat, 1 dog`."""
    if not names:
        return f"no {noun}s"
    counts = Counter(names).most_common()
    text = ", ".join(f"{count} {name}" for name, count in counts[:MAX_NAMED])
    rest = len(counts) - MAX_NAMED
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}: {text}" + (
        f" and {rest} more class{'' if rest == 1 else 'es'}" if rest > 0 else ""
    )


def _image_of_size(image: Any, size: tuple[int, int] | None) -> Any:
    """Read an image in any form as uint8 RGB [H, W, 3].

    Args:
        image: see `draw.as_image`.
        size: (h, w) that it must have; None: any.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    from detrkit.visualization.draw import as_image

    rgb = as_image(image)
    if size is not None and tuple(size) != rgb.shape[:2]:
        raise DataError(
            f"expected the image of {size[0]} x {size[1]} pixels (height x width) that the results are of, found one "
            f"of {rgb.shape[0]} x {rgb.shape[1]}; draw on that one, and resize afterwards"
        )
    return rgb


def ground_truth_detections(
    boxes: Iterable[Sequence[float]], category_ids: Iterable[int], categories: Categories
) -> Detections:
    """Convert annotated boxes to detections, to be drawn as ground truth.

    Args:
        boxes: x1, y1, x2, y2 in pixels, one per object.
        category_ids: original category ids, one per object.
        categories: the data set's, for the names.
    """
    ids = [int(i) for i in category_ids]
    index = categories.index_of_id
    return Detections(
        xyxy=torch.tensor([list(map(float, box)) for box in boxes], dtype=torch.float32).reshape(-1, 4),
        scores=torch.ones(len(ids)),
        class_ids=torch.tensor(ids, dtype=torch.int64),
        class_names=tuple(categories.names[index[i]] if i in index else str(i) for i in ids),
    )
