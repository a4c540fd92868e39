"""Data structures that pass between the stages: Categories, Target, Batch, Output, Branch, Locations.

Shapes: B images per batch, Q queries, C classes, n objects of one image, H x W pixels, h x w pixels of a predicted
mask, S locations of all feature levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NotRequired, Self, TypedDict

import torch
from torch import Tensor

from detrkit.errors import DataError
from detrkit.ops.tiles import Tile, Tiling
from detrkit.ops.value_range import ValueRange


@dataclass(frozen=True, repr=False)
class Categories:
    """The classes of a data set: the owner of `num_classes` and of the mapping from class index to original id.

    Class index k, 0..C-1, as in models and targets, stands for original id `ids[k]` and name `names[k]`. Ids may be
    sparse and start anywhere; they are unique. Names are unique too, except for unused entries.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    isthing: tuple[bool, ...] = ()
    """Whether class k is a countable thing, in panoptic data; empty: all are."""

    def __post_init__(self) -> None:
        for name in ("ids", "names", "isthing"):  # lists and iterators are accepted too
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.ids) != len(self.names) or len(self.isthing) not in (0, len(self.ids)):
            raise DataError(
                f"expected as many category names (and isthing flags, if any) as ids, found {len(self.names)} names, "
                f"{len(self.isthing)} flags and {len(self.ids)} ids"
            )
        if len(set(self.ids)) != len(self.ids):
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise DataError(f"expected unique category ids, found id {twice} more than once")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shown = [f"{i} {name}" for i, name in zip(self.ids[:6], self.names[:6], strict=True)]
        rest = [f"and {len(self) - 6} more"] if len(self) > 6 else []
        kinds = f"; {sum(self.isthing)} things, {len(self) - sum(self.isthing)} stuff" if self.isthing else ""
        return f"Categories({len(self)} class{'' if len(self) == 1 else 'es'}: {', '.join([*shown, *rest])}{kinds})"

    @property
    def index_of_id(self) -> dict[int, int]:
        """Class index of each original id."""
        return {category_id: index for index, category_id in enumerate(self.ids)}

    @property
    def thing_ids(self) -> set[int]:
        """Original ids of the things; of all classes if `isthing` is empty."""
        return {i for i, thing in zip(self.ids, self.isthing or (True,) * len(self), strict=True) if thing}

    def index_map_from(self, other: Categories) -> dict[int, int]:
        """Map original ids of `other` to class indices of this; by name if any name is common, else by id.

        Ids of `other` without a counterpart are absent. So a model can be used with a data set that numbers the same
        classes differently.
        """
        by_name = {name: index for index, name in enumerate(self.names)}
        if any(name in by_name for name in other.names):
            return {i: by_name[name] for i, name in zip(other.ids, other.names, strict=True) if name in by_name}
        return {i: index for i, index in self.index_of_id.items() if i in set(other.ids)}

    def by_id(self) -> Self:
        """Return the same classes in the order of their ids."""
        order = sorted(range(len(self)), key=lambda index: self.ids[index])
        isthing = tuple(self.isthing[k] for k in order) if self.isthing else ()
        return type(self)(tuple(self.ids[k] for k in order), tuple(self.names[k] for k in order), isthing)

    def to_plain(self) -> list[dict[str, Any]]:
        """Convert to JSON-like data, one entry per class, as in checkpoints and COCO files."""
        things = self.isthing or (True,) * len(self)
        rows: list[dict[str, Any]] = [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]
        if self.isthing:
            for row, thing in zip(rows, things, strict=True):
                row["isthing"] = int(thing)
        return rows

    @classmethod
    def from_plain(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Invert `to_plain`; entries keep their order."""
        rows = list(rows)
        things = tuple(bool(row["isthing"]) for row in rows) if rows and all("isthing" in r for r in rows) else ()
        return cls(tuple(int(r["id"]) for r in rows), tuple(str(r["name"]) for r in rows), things)

    @classmethod
    def unnamed(cls, num_classes: int) -> Self:
        """Make classes 0..C-1 whose names are their numbers, for a state dict without names."""
        return cls(tuple(range(num_classes)), tuple(str(i) for i in range(num_classes)))


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a model; it travels beside the weights, in checkpoints and exported files."""

    image_size: int = 800
    """Shorter side in pixels to which images are resized."""
    square_resize: bool = False
    """Resize both sides to `image_size`, whatever the image's shape."""
    mean: tuple[float, float, float] | None = None
    """Mean of each color channel (RGB in 0..1) by which images are normalized; None: that of the backbone."""
    std: tuple[float, float, float] | None = None
    """Standard deviation, likewise."""
    value_range: ValueRange | None = None
    """Values that become 0 and 255 in images of more than 8 bits; None: no range is known."""
    tiling: Tiling | None = None
    """Tiles that images are cut into, each of which is resized; None: images are not cut."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON-like data; `from_plain` reads it back equal."""
        tiling = self.tiling and self.tiling.to_plain()
        return asdict(self) | {"value_range": self.value_range and self.value_range.to_plain(), "tiling": tiling}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_plain`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or garbled.
        """
        mean, std = (values[name] and tuple(map(float, values[name])) for name in ("mean", "std"))
        if not isinstance(values["image_size"], int) or values["image_size"] < 1:
            raise ValueError(f"an image_size of {values['image_size']}")
        value_range = ValueRange.from_plain(values["value_range"])
        tiling = Tiling.from_plain(values.get("tiling"))
        return cls(values["image_size"], bool(values["square_resize"]), mean, std, value_range, tiling)


class Target(TypedDict):
    """Ground truth of one image. The criterion uses `labels`, `boxes` and `masks`; the rest is for other stages."""

    labels: Tensor
    """int64 [n], class indices 0..C-1."""
    boxes: Tensor
    """float32 [n, 4], cx, cy, w, h relative to the image without padding, in 0..1."""
    masks: NotRequired[Tensor]
    """bool [n, H, W], at the size of the image without padding."""
    area: NotRequired[Tensor]
    """float32 [n], in square pixels of the transformed image."""
    image_id: NotRequired[int]
    """Id of the image in the data set."""
    file: NotRequired[str]
    """Path of the image, for messages."""
    original_size: NotRequired[tuple[int, int]]
    """(h, w) of the file in pixels, after its EXIF rotation."""
    size: NotRequired[tuple[int, int]]
    """(h, w) in pixels after the transforms, without padding."""
    tile: NotRequired[Tile]
    """The tile that the image is, which `original_size` is then the size of; absent: a whole image."""
    noise_seed: NotRequired[int]
    """Seed of the noise of the denoising queries of this image; absent: torch's default generator."""


@dataclass(frozen=True)
class Batch:
    """Images of different sizes, padded at the right and bottom to a common one."""

    images: Tensor
    """uint8 [B, 3, H, W], RGB pixels, which the model normalizes; 0 in the padding."""
    padding_mask: Tensor
    """bool [B, H, W], True = padding."""
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy the batch to another device."""
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
        """Copy the batch to page-locked memory; the data loader calls this if `pin_memory` is set."""
        targets = [
            {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in target.items()} for target in self.targets
        ]
        return Batch(self.images.pin_memory(), self.padding_mask.pin_memory(), targets)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Output:
    """Predictions of the model for a batch, at its last decoder layer."""

    logits: Tensor
    """float [B, Q, C + 1], the last class being "no object"; or, if `sigmoid`, [B, Q, C]."""
    boxes: Tensor
    """float [B, Q, 4]; cx, cy, w, h relative to the image without padding, in 0..1."""
    masks: Tensor | None = None
    """float [B, Q, h, w] mask logits; None for a model without a mask head, and in training, where `predict_masks` is
    called for the matched queries alone."""
    predict_masks: Callable[[Tensor, Tensor], Tensor] | None = None
    """Predicts masks for selected queries only, because masks are far more expensive than boxes: image indices int64
    [N] and query indices int64 [N] -> mask logits float [N, h, w]. None for a model without a mask head."""
    padded_size: tuple[int, int] | None = None
    """(H, W) of the padded batch in pixels, which masks cover; None: unknown, as for tensors made by hand."""
    aux: list[Output] = field(default_factory=list)
    """Predictions of the earlier decoder layers, first to last; empty without auxiliary losses."""
    sigmoid: bool = False
    """Whether classes are independent sigmoids (focal loss and its variants) instead of a softmax with "no object"."""
    branches: list[Branch] = field(default_factory=list)
    """Auxiliary outputs, in training only; empty in evaluation."""
    loss_inputs: Mapping[str, Any] = field(default_factory=dict)
    """Outputs of a model of transformers that its own loss takes, under the names of that loss; empty for others."""


@dataclass(frozen=True)
class Branch:
    """An auxiliary training output and how it is assigned to ground-truth objects.

    The loss terms are those of the decoder layers; only the assignment differs (see `losses.supervision`):

        pairs given           by construction: each denoising query was made from a known object
        locations given       dense assignment: many locations per object, by `--dense_head`
        otherwise             Hungarian matching in each of `groups` equal groups of queries, where each object may be
                              matched `repeat` times
    """

    name: str
    """Its losses are called `name/loss_ce`, `name/loss_ce_0`, ..."""
    output: Output
    """Its last layer; earlier ones are in `aux`."""
    pairs: list[tuple[Tensor, Tensor]] | None = None
    """(query indices, object indices) of each image, int64."""
    locations: Locations | None = None
    """The locations of the feature levels that the queries of the output belong to."""
    groups: int = 1
    repeat: int = 1
    class_agnostic: bool = False
    """Whether it only tells objects from background: every object counts as class 0."""
    ignored: Tensor | None = None
    """bool [B, Q], queries without any loss, not even that of "no object"; None: none. Locations in the padding are
    ignored as well."""


@dataclass(frozen=True)
class Locations:
    """The locations of all feature levels, one after another; S in all."""

    centers: Tensor
    """float [B, S, 2], x, y relative to the image without padding; locations in the padding lie beyond 1."""
    cells: Tensor
    """float [B, S, 2], width and height of the cell of each location, relative to the image without padding."""
    padding: Tensor
    """bool [B, S], True = padding."""
    level_sizes: tuple[int, ...]
    """Number of locations of each level; their sum is S."""
