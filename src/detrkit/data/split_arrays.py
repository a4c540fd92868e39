"""The numbers of a split as arrays: sizes of images, and classes and boxes of objects.

Statistics, fingerprints and suggestions are computed from these, for lists of records and for packed data alike; the
records of a large packed split would take minutes and gigabytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_PART = 1 << 16
"""Images that are looked at together."""

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
        counts = np.zeros(len(self.ends), np.int64)
        for images, objects in self._parts():
            totals = np.concatenate([[0], np.cumsum(~self.crowd[objects])])
            ends = np.asarray(self.ends[images], np.int64) - objects.start
            counts[images] = totals[ends] - totals[np.concatenate([[0], ends[:-1]])]
        return counts

    def _parts(self) -> Iterator[tuple[slice, slice]]:
        """Images, and their objects, of one part after the other: arrays of all objects may not fit into memory."""
        for start in range(0, len(self.ends), _PART):
            stop = min(start + _PART, len(self.ends))
            yield slice(start, stop), slice(int(self.ends[start - 1]) if start else 0, int(self.ends[stop - 1]))

    def _image_of(self, images: slice, objects: slice) -> Ints:
        """Index of the image of each object of a part, within the part."""
        return np.repeat(np.arange(images.stop - images.start), np.diff(self.ends[images], prepend=objects.start))

    def measure(self, measure: Callable[[Floats, Floats, Floats, Floats], Floats]) -> Floats:
        """A number for each object that is no crowd.

        Args:
            measure: function of the width and height of k boxes, and the height and width of their images, float64 [k].

        Returns:
            float64 [objects that are no crowd], in their order.
        """
        values, filled = np.empty(int(self.counts.sum())), 0
        for images, objects in self._parts():
            chosen = ~np.asarray(self.crowd[objects])
            boxes, image = self.boxes[objects][chosen], self._image_of(images, objects)[chosen]
            heights, widths = (side[images][image].astype(np.float64) for side in (self.heights, self.widths))
            some = measure(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], heights, widths)
            values[filled : filled + len(some)] = some
            filled += len(some)
            release_pages(self.boxes)
        return values

    def class_counts(self, *, crowd: bool = False) -> Ints:
        """Objects per class index, of those that are no crowd, or of crowds; as long as the largest index needs."""
        length = int(self.class_indices.max(initial=-1)) + 1
        counts = np.zeros(length, np.int64)
        for _, objects in self._parts():
            chosen = np.asarray(self.crowd[objects]) == crowd
            counts += np.bincount(self.class_indices[objects][chosen], minlength=length)
        return counts

    def class_pairs(self) -> Iterator[tuple[Ints, Ints]]:
        """Image index and class index of each class of each image, crowds left out, part by part."""
        length = int(self.class_indices.max(initial=-1)) + 1
        for images, objects in self._parts():
            chosen = ~np.asarray(self.crowd[objects])
            keys = self._image_of(images, objects) * length + self.class_indices[objects]
            keys = np.sort(keys[chosen])
            keys = keys[np.diff(keys, prepend=-1) > 0]
            yield images.start + keys // max(length, 1), keys % max(length, 1)


def release_pages(column: npt.NDArray[Any]) -> None:
    """Give back the memory of a mapped file, which is read again when it is needed."""
    mapped = getattr(column, "_mmap", None) or getattr(column.base, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
