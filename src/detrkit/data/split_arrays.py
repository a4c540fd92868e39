"""The numbers of a split as arrays: sizes of images, and classes and boxes of objects.

Statistics, fingerprints and suggestions are computed from these, for lists of records and for packed data alike; the
records of a large packed split would take minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_PART = 1 << 19
"""Objects that are measured at a time."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SplitArrays:
    """Columns of n images and m objects, in their order. They may be mapped files and must not be changed."""

    heights: npt.NDArray[Any]
    """[n], pixels."""
    widths: npt.NDArray[Any]
    """[n], pixels."""
    ends: npt.NDArray[Any]
    """[n], end of the objects of each image; they begin where those of the image before end."""
    class_indices: npt.NDArray[Any]
    """[m], index of the class in the categories of the split."""
    boxes: npt.NDArray[Any]
    """float64 [m, 4], see `ObjectRecord.box`."""
    areas: npt.NDArray[Any]
    """float64 [m], NaN where the record has none."""
    crowd: npt.NDArray[Any]
    """bool [m]."""
    masked: npt.NDArray[Any]
    """bool [m], whether the object has a segmentation."""

    @cached_property
    def counts(self) -> Ints:
        """int64 [n], objects of each image that are no crowd."""
        totals = np.zeros(len(self.crowd) + 1, np.int64)
        np.cumsum(~self.crowd, out=totals[1:])
        ends = np.asarray(self.ends, np.int64)
        return totals[ends] - totals[np.concatenate([[0], ends[:-1]])] if len(ends) else ends

    @property
    def image_of(self) -> npt.NDArray[np.int32]:
        """int32 [m], index of the image of each object."""
        return np.repeat(np.arange(len(self.ends), dtype=np.int32), np.diff(self.ends, prepend=0))

    def measure(self, measure: Callable[[Floats, Floats, Floats, Floats], Floats]) -> Floats:
        """A number for each object that is no crowd, computed part by part, since the whole may not fit into memory.

        Args:
            measure: function of the width and height of k boxes, and the height and width of their images, float64 [k].

        Returns:
            float64 [objects that are no crowd], in their order.
        """
        values, filled, images = np.empty(int(self.counts.sum())), 0, self.image_of
        for start in range(0, len(self.crowd), _PART):
            part = slice(start, start + _PART)
            chosen = ~self.crowd[part]
            boxes, image = self.boxes[part][chosen], images[part][chosen]
            heights, widths = (side[image].astype(np.float64) for side in (self.heights, self.widths))
            some = measure(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], heights, widths)
            values[filled : filled + len(some)] = some
            filled += len(some)
        return values

    def class_counts(self, *, crowd: bool = False) -> Ints:
        """Objects per class index, of those that are no crowd, or of crowds; as long as the largest index needs."""
        chosen = self.crowd if crowd else ~np.asarray(self.crowd)
        return np.bincount(self.class_indices[chosen]).astype(np.int64)

    def class_pairs(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Image index and class index of each class of each image, crowds left out."""
        chosen = ~np.asarray(self.crowd)
        classes = np.asarray(self.class_indices[chosen], np.int64)
        number = int(classes.max(initial=0)) + 1
        keys = np.unique(self.image_of[chosen].astype(np.int64) * number + classes)
        return keys // number, keys % number
