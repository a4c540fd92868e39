"""Tiles: overlapping windows that a large image is cut into, so that small objects keep their pixels.

Pure geometry of whole numbers; nothing here imports torch, since settings are checked by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

from detrkit.errors import ConfigError

Tiles = int | Literal["auto", "off"]
"""The setting `--tiles`."""

Overlap = int | Literal["auto"]
"""The setting `--tile_overlap`."""


class Tile(NamedTuple):
    """One window of an image; all lengths in pixels of the image."""

    top: int
    left: int
    height: int
    width: int
    image_height: int
    image_width: int
    number: int
    """Position among the tiles of the image, 0..total-1, row by row."""
    total: int
    """Number of tiles of the image."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in pixels of the image."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @property
    def inner_sides(self) -> tuple[bool, bool, bool, bool]:
        """Whether the left, upper, right and lower side lie inside the image, so that they may cut objects."""
        x1, y1, x2, y2 = self.box
        return x1 > 0, y1 > 0, x2 < self.image_width, y2 < self.image_height

    @classmethod
    def whole(cls, height: int, width: int) -> Self:
        """The only tile of an image that is not cut."""
        return cls(0, 0, height, width, height, width, 0, 1)


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Raises:
        ConfigError: the size is not positive, or the overlap is negative or more than half of it.
    """

    size: int
    """Height and width of a tile in pixels of the image; smaller images are one tile."""
    overlap: int
    """Least number of pixels that neighboring tiles share, along the direction in which they are neighbors."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"--tiles must be at least 1 pixel, found {self.size}; use off for no tiles")
        if not 0 <= self.overlap <= self.size // 2:
            raise ConfigError(
                f"--tile_overlap must be at least 0 and at most half of the {self.size} pixels of a tile, found "
                f"{self.overlap}; use less overlap or larger --tiles"
            )

    def grid(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image of `height` x `width` pixels, row by row.

        They cover the image and lie inside of it. All have one shape: `size`, or the side of the image where that is
        shorter. They are as few as the overlap permits, and spread evenly.
        """
        rows, columns = self._starts(height), self._starts(width)
        shape = min(self.size, height), min(self.size, width)
        corners = [(top, left) for top in rows for left in columns]
        return [Tile(*corner, *shape, height, width, k, len(corners)) for k, corner in enumerate(corners)]

    def _starts(self, length: int) -> list[int]:
        """First pixels of the tiles along one direction."""
        if length <= self.size:
            return [0]
        steps = -(-(length - self.size) // (self.size - self.overlap))
        return [k * (length - self.size) // steps for k in range(steps + 1)]

    def __str__(self) -> str:
        return f"tiles of {self.size} px that overlap by {self.overlap} px"

    def to_plain(self) -> dict[str, int]:
        """As JSON-like data; `from_plain` reads it back equal."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> Self | None:
        """The inverse of `to_plain`; None: no tiles.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or garbled.
        """
        if values is None:
            return None
        try:
            return cls(int(values["size"]), int(values["overlap"]))
        except ConfigError as error:
            raise ValueError(error.message) from error


def choose_tiling(tiles: Tiles, overlap: Overlap, trained: Tiling | None) -> Tiling | None:
    """The tiling that the settings of inference choose.

    Args:
        tiles: size in pixels, off, or auto: as in training.
        overlap: in pixels, or auto: as in training, else a quarter of the size.
        trained: tiling of the training; None: none.

    Returns:
        The tiling; None: images are not cut.

    Raises:
        ConfigError: a setting is none of these, or the overlap does not fit the size.
    """
    for name, value, words in (("--tiles", tiles, ("auto", "off")), ("--tile_overlap", overlap, ("auto",))):
        if value not in words and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"{name} must be a whole number of pixels, {' or '.join(words)}, found {value!r}")
    if tiles == "off" or (tiles == "auto" and trained is None):
        if overlap != "auto":
            raise ConfigError(
                f"--tile_overlap {overlap} is for images cut into tiles, found none: these weights are for whole "
                "images; add --tiles"
            )
        return None
    size = trained.size if tiles == "auto" and trained else int(tiles)
    if overlap == "auto":
        return Tiling(size, min(trained.overlap, size // 2) if trained else size // 4)
    return Tiling(size, overlap)


def visible_share(
    box: tuple[float, float, float, float], tile: Tile
) -> tuple[float, tuple[float, float, float, float]]:
    """How much of an object a tile shows.

    The share is relative to the most that a tile of this shape can show of the box, so that some tile of every grid
    shows at least a quarter of any object: a long one fills many tiles from side to side.

    Args:
        box: x1, y1, x2, y2 of the object in pixels of the image.
        tile: the window.

    Returns:
        The share in 0..1, and the visible part of the box, x1, y1, x2, y2 in pixels of the tile (meaningless for 0).
    """
    x1, y1, x2, y2 = tile.box
    part = (max(box[0], x1) - x1, max(box[1], y1) - y1, min(box[2], x2) - x1, min(box[3], y2) - y1)
    share = 1.0
    for axis, length in ((0, tile.width), (1, tile.height)):
        most = min(box[axis + 2] - box[axis], length)
        share *= max(0.0, part[axis + 2] - part[axis]) / max(most, 1e-9)
    return min(share, 1.0), part
