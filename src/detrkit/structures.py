"""The nouns that travel between the stages: Categories, Target, Batch, Output, Detections.

Shapes: B images a batch, Q queries, C classes, n objects or detections of one image, H x W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor

from detrkit.categories import Categories as Categories
from detrkit.errors import DataError
from detrkit.plotting import import_matplotlib

if TYPE_CHECKING:
    import supervision


class Target(TypedDict):
    """What one training image teaches. Only `labels` and `boxes` reach the criterion; the rest is for evaluation."""

    labels: Tensor
    """int64 [n], class indices 0..C-1."""
    boxes: Tensor
    """float32 [n, 4], cx, cy, w, h relative to the picture without padding, in 0..1."""
    masks: NotRequired[Tensor]
    """bool [n, H, W], at the size of the picture without padding."""
    area: NotRequired[Tensor]
    """float32 [n], in pixels of the transformed picture."""
    image_id: NotRequired[int]
    """The data set's own id of the picture."""
    file: NotRequired[str]
    """Path of the picture, for messages."""
    original_size: NotRequired[tuple[int, int]]
    """(h, w) of the file in pixels, after its EXIF rotation."""
    size: NotRequired[tuple[int, int]]
    """(h, w) in pixels after the transforms, without padding."""
    noise_seed: NotRequired[int]
    """Seed of the noise that denoising queries put on this picture's objects; absent: torch's own generator."""


@dataclass(frozen=True)
class Batch:
    """Pictures of different sizes, padded at the right and bottom to one."""

    images: Tensor
    """uint8 [B, 3, H, W], RGB pixels, which the model normalises; 0 where padded."""
    padding_mask: Tensor
    """bool [B, H, W], True = padding."""
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        targets = [
            {k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v for k, v in target.items()}
            for target in self.targets
        ]
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            padding_mask=self.padding_mask.to(device, non_blocking=non_blocking),
            targets=targets,  # type: ignore[arg-type]  # a TypedDict rebuilt key by key
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the data loader calls this when asked to."""
        targets = [
            {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in target.items()} for target in self.targets
        ]
        return Batch(self.images.pin_memory(), self.padding_mask.pin_memory(), targets)  # type: ignore[arg-type]


class Segment(Protocol):
    """Makes the masks of chosen queries; a mask costs far more than a box, so none is made that nobody wants."""

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        """Which picture of the batch, int64 [N], and which query of it, int64 [N] -> mask logits, float [N, h, w]."""
        ...


@dataclass(frozen=True)
class Output:
    """What the model says of a batch, at its last decoder layer."""

    logits: Tensor
    """float [B, Q, C + 1], the last class is "no object"; or, where `sigmoid`, [B, Q, C]."""
    boxes: Tensor
    """float [B, Q, 4]; cx, cy, w, h relative to the picture without padding, in 0..1."""
    masks: Tensor | None = None
    """float [B, Q, h, w] mask logits; None for a model without a mask head, and in training, where `segment` makes
    those of matched queries alone."""
    segment: Segment | None = None
    """Makes the masks of chosen queries; None for a model without a mask head."""
    padded_size: tuple[int, int] | None = None
    """(H, W) in pixels of the batch with its padding, which masks cover; None where nobody said, as with tensors given
    by hand."""
    aux: list[Output] = field(default_factory=list)
    """The earlier decoder layers, first to last; empty without auxiliary outputs."""
    sigmoid: bool = False
    """Each class is a yes or no of its own, without a "no object" (focal loss and its kin), instead of a softmax."""
    branches: list[Branch] = field(default_factory=list)
    """What else teaches, in training only; empty in evaluation."""


@dataclass(frozen=True)
class Branch:
    """Further outputs that teach in training only, and the rule by which they meet the objects.

    The same loss terms apply to them as to the decoder layers; only the pairs are found differently:

        pairs given           these pairs, at every layer (denoising: each query comes from a known object)
        locations given       many places an object, by `--dense_head` (dense supervision)
        otherwise             Hungarian matching, in each of `groups` equal runs of queries for itself, where each
                              object may be matched `repeat` times
    """

    name: str
    """Losses are called `name/loss_ce`, `name/loss_ce_0`, ..."""
    output: Output
    """Its last layer; earlier ones are in `aux`."""
    pairs: list[tuple[Tensor, Tensor]] | None = None
    """(query indices, object indices) of each picture, int64."""
    locations: Locations | None = None
    """Where on the picture each query of the output stands."""
    groups: int = 1
    repeat: int = 1
    class_agnostic: bool = False
    """Teach only whether there is something: every object counts as class 0."""
    ignored: Tensor | None = None
    """bool [B, Q], queries that teach nothing, not even that there is nothing; None: all teach. Places in the padding
    of `locations` are ignored as well."""


@dataclass(frozen=True)
class Locations:
    """The places of all feature levels, one after another; S in all."""

    centers: Tensor
    """float [B, S, 2], x, y relative to the picture without padding; places in the padding lie beyond 1."""
    cells: Tensor
    """float [B, S, 2], width and height of the cell of each place, relative to the picture without padding."""
    padding: Tensor
    """bool [B, S], True = padding."""
    level_sizes: tuple[int, ...]
    """Number of places of each level; they add up to S."""


class PanopticMap(NamedTuple):
    """One picture cut into segments that do not overlap."""

    ids: Tensor
    """int64 [H, W], at the size of the picture: the segment of each pixel."""
    segments: list[dict[str, Any]]
    """A row a segment: `id`, `category_id`, `isthing`, `area` in pixels and, where they are known, `score` (0..1) and
    `category_name`. From `panoptic`, `category_id` is a class index; from a `Detector`, the data set's own."""

    def draw(self, image: Any) -> Any:
        """The picture (path, PIL image or uint8 RGB array [H, W, 3]) with the segments drawn.

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the picture's size where that is too small to be read.

        Raises:
            DataError: the picture cannot be read, or has another size than the map.
        """
        from detrkit.visualize.draw import draw_panoptic

        return draw_panoptic(_picture_of_size(image, (self.ids.shape[0], self.ids.shape[1])), self)


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first unless a function says otherwise.

    From `postprocess`, `class_ids` are class indices 0..C-1. From a `Detector`, they are the original category ids
    of the data set it was trained on, and `class_names` are their names (see `with_categories`).
    """

    xyxy: Tensor
    """float32 [n, 4], absolute pixels of the original picture."""
    scores: Tensor
    """float32 [n], in 0..1."""
    class_ids: Tensor
    """int64 [n]."""
    class_names: tuple[str, ...] = ()
    """n names, or empty where no categories are known."""
    masks: Tensor | None = None
    """bool [n, H, W], or None."""
    image_size: tuple[int, int] | None = None
    """(h, w) of the original picture in pixels."""
    source: str | None = None
    """Where the picture came from: a path, `video.mp4#17` for a frame, or None."""

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
        from detrkit.masks import encode_rles

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
        """The picture (path, PIL image or uint8 RGB array [H, W, 3]) with the detections drawn.

        Boxes with NaN are left out, which a warning tells.

        Returns:
            uint8 RGB [H, W, 3]; a whole multiple of the picture's size where that is too small to be read.

        Raises:
            DataError: the picture cannot be read, or has another size than the one the detections are of.
        """
        from detrkit.visualize.draw import draw_detections

        size = self.image_size
        if size is None and self.masks is not None:
            size = (self.masks.shape[1], self.masks.shape[2])
        lost = len(self) - int(self.xyxy.isfinite().all(1).sum())
        if lost:
            warnings.warn(f"{lost} of {len(self)} boxes are NaN or infinite and cannot be drawn", stacklevel=2)
        return draw_detections(_picture_of_size(image, size), self)


def _picture_of_size(image: Any, size: tuple[int, int] | None) -> Any:
    """A picture in any form as uint8 RGB [H, W, 3], of the size (h, w) of what is to be drawn on it, if that is known.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    from detrkit.visualize.draw import as_picture

    picture = as_picture(image)
    if size is not None and tuple(size) != picture.shape[:2]:
        raise DataError(
            f"expected the picture of {size[0]} x {size[1]} pixels (height x width) that was looked at, found one of "
            f"{picture.shape[0]} x {picture.shape[1]}; draw on that one, and resize afterwards"
        )
    return picture
