"""Images of galleries as JPEG data URIs, within a number of bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from PIL import Image

from detrkit.visualization.canvas import ImageArray, as_image
from detrkit.visualization.html_report.sections import Gallery, GalleryImage, Section
from detrkit.visualization.html_report.views import Limits

SIDE = 560
"""Most pixels of the longer side of an image on the page."""

LEAST_SIDE = 280
"""Least pixels of the longer side: smaller images are enlarged, so that their boxes are seen."""

QUALITY = 78
"""Of JPEG, 0..100."""


BOX_BYTES = 400
"""About as many bytes are a box on the page."""


class EncodedImage(NamedTuple):
    """An image of a gallery, ready for the page."""

    source: GalleryImage
    uri: str
    """JPEG as a data URI."""
    width: int
    """Pixels of the encoded image."""
    height: int
    left: float
    """x of the left edge in pixels of the file."""
    top: float
    scale_x: float
    """Pixels of the encoded image per pixel of the file."""
    scale_y: float


class GalleryEncoder:
    """Encode images, each at most once."""

    def __init__(self) -> None:
        self._encoded: dict[int, EncodedImage] = {}

    def choose(self, sections: Sequence[Section], limits: Limits) -> dict[int, list[EncodedImage]]:
        """Encode the first images of each gallery, in turn, until the limits are reached.

        Returns:
            The images of each gallery, by the `id` of the section.
        """
        galleries = [section for section in sections if isinstance(section, Gallery)]
        chosen: dict[int, list[EncodedImage]] = {id(gallery): [] for gallery in galleries}
        left = limits.image_bytes
        if not left:
            return chosen
        for row in zip_longest(*(gallery.images[: limits.images] for gallery in galleries)):
            for gallery, item in zip(galleries, row, strict=True):
                if item is None:
                    continue
                encoded = self._encode(item)
                left -= len(encoded.uri) + BOX_BYTES * min(len(item.boxes), limits.boxes)
                if left < 0:
                    return chosen
                chosen[id(gallery)].append(encoded)
        return chosen

    def _encode(self, item: GalleryImage) -> EncodedImage:
        if id(item) not in self._encoded:
            self._encoded[id(item)] = encode(item)
        return self._encoded[id(item)]


def encode(item: GalleryImage) -> EncodedImage:
    """Read, cut out, resize and encode an image.

    Raises:
        DataError: the image cannot be read.
    """
    source: Any = item.image
    rgb: ImageArray = as_image(source() if callable(source) else source)
    height, width = rgb.shape[:2]
    x1, y1, x2, y2 = item.window or (0, 0, width, height)
    x1, x2 = _inside(x1, x2, width)
    y1, y2 = _inside(y1, y2, height)
    longer = max(x2 - x1, y2 - y1)
    factor = SIDE / longer if longer > SIDE else math.ceil(LEAST_SIDE / longer)
    size = max(1, round((x2 - x1) * factor)), max(1, round((y2 - y1) * factor))
    method = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    content = io.BytesIO()
    Image.fromarray(rgb[y1:y2, x1:x2]).resize(size, method).save(content, "JPEG", quality=QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return EncodedImage(item, uri, *size, x1, y1, size[0] / (x2 - x1), size[1] / (y2 - y1))


def _inside(low: int, high: int, size: int) -> tuple[int, int]:
    """Move a range so that it lies in 0..size, and shorten it if it is longer."""
    length = max(1, min(high - low, size))
    low = max(0, min(low, size - length))
    return low, low + length
