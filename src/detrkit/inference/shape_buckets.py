"""A bounded set of shapes: compiled code is made for one shape, and images come in any."""

from __future__ import annotations

import math
from dataclasses import dataclass

STEP = 32
"""Sides of buckets are multiples of this, the stride of the coarsest map of most backbones."""

SLACK = 8
"""Resizing rounds the shorter side, so the longer one may exceed its limit by so many pixels in long thin images."""


@dataclass(frozen=True)
class ShapeBuckets:
    """Shapes that images are padded to.

    After resizing, an image has its shorter side at `image_size`, or its longer side at the limit (in a long thin one
    the shorter side is smaller). So there are few kinds: `shorter` and `longer` list the sides that are allowed for
    each, growing. With the usual limit of 1333/800 that makes at most 15 shapes, both orientations counted; at 800
    pixels a bucket is at most a fifth larger than its image, long thin ones apart.
    """

    shorter: tuple[int, ...]
    longer: tuple[int, ...]

    @classmethod
    def of(cls, image_size: int, longest: int, *, square_resize: bool = False) -> ShapeBuckets:
        """Those for images resized to a shorter side of `image_size` and a longer one of at most `longest` pixels.

        `square_resize` images have one shape, which is left as it is.
        """
        if square_resize:
            return cls((image_size,), (image_size,))
        shorter = {_rounded(image_size / 2**k) for k in range(4)}
        longer = {_rounded(image_size + (longest - image_size) * k / 4) for k in range(4)}
        longer.add(_rounded(longest + SLACK))
        return cls(tuple(sorted(shorter)), tuple(sorted(longer)))

    def fit(self, height: int, width: int) -> tuple[int, int] | None:
        """The smallest bucket (h, w) that holds so many pixels; None: too large for all of them."""
        high = next((side for side in self.longer if side >= max(height, width)), None)
        sides = self.shorter if high == self.longer[-1] else self.shorter[-1:]
        low = next((side for side in sides if side >= min(height, width)), None)
        if high is None or low is None:
            return None
        return (low, high) if height <= width else (high, low)

    def shapes(self) -> list[tuple[int, int]]:
        """All of them, (h, w)."""
        thin = [(low, self.longer[-1]) for low in self.shorter[:-1]]
        usual = [(self.shorter[-1], high) for high in self.longer]
        return sorted({shape for low, high in thin + usual for shape in ((low, high), (high, low))})


def batch_bucket(count: int) -> int:
    """How many images a compiled batch of `count` has: the next power of 2."""
    return 1 << (count - 1).bit_length()


def _rounded(side: float) -> int:
    return math.ceil(side / STEP) * STEP
