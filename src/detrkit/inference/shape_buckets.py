"""A bounded set of shapes to pad images to, since compiled code is made for one shape and images come in any."""

from __future__ import annotations

import math
from dataclasses import dataclass

STEP = 32
"""Sides of buckets are multiples of this, the stride of the coarsest feature level of most backbones."""

SLACK = 8
"""Pixels by which the longer side of long thin images may exceed its limit, since resizing rounds the shorter one."""


@dataclass(frozen=True)
class ShapeBuckets:
    """Shapes that images are padded to.

    After resizing, the shorter side of an image is `image_size`, or else its longer side is at the limit (in long thin
    images). With the usual sizes, 800 and 1333, there are at most 15 shapes, both orientations counted; a bucket is at
    most a fifth larger than its image, long thin ones apart.

    Args:
        shorter: allowed shorter sides in pixels, in rising order.
        longer: allowed longer sides in pixels, in rising order.
    """

    shorter: tuple[int, ...]
    longer: tuple[int, ...]

    @classmethod
    def of(cls, image_size: int, longest: int, *, square_resize: bool = False) -> ShapeBuckets:
        """Make buckets for images resized to a shorter side of `image_size` and a longer side of at most `longest`
        pixels; with `square_resize`, the one shape of all images.
        """
        if square_resize:
            return cls((image_size,), (image_size,))
        shorter = {_rounded(image_size / 2**k) for k in range(4)}
        longer = {_rounded(image_size + (longest - image_size) * k / 4) for k in range(4)}
        longer.add(_rounded(longest + SLACK))
        return cls(tuple(sorted(shorter)), tuple(sorted(longer)))

    def fit(self, height: int, width: int) -> tuple[int, int] | None:
        """The smallest bucket (h, w) that holds an image of these sides; None: the image is too large for all."""
        high = next((side for side in self.longer if side >= max(height, width)), None)
        sides = self.shorter if high == self.longer[-1] else self.shorter[-1:]
        low = next((side for side in sides if side >= min(height, width)), None)
        if high is None or low is None:
            return None
        return (low, high) if height <= width else (high, low)

    def shapes(self) -> list[tuple[int, int]]:
        """All buckets, (h, w)."""
        thin = [(low, self.longer[-1]) for low in self.shorter[:-1]]
        usual = [(self.shorter[-1], high) for high in self.longer]
        return sorted({shape for low, high in thin + usual for shape in ((low, high), (high, low))})


def batch_bucket(count: int) -> int:
    """The size of the compiled batch for `count` images: the next power of 2."""
    return 1 << (count - 1).bit_length()


def _rounded(side: float) -> int:
    return math.ceil(side / STEP) * STEP
