"""The range of pixel values that becomes black to white, for images with more than 8 bits per channel.

A camera of 12 bits writes 0..4095 into files of 16 bits, a thermal one numbers around 29,000, others negative ones or
floats. Which value is white cannot be told from one image: the range is a property of the data set and of the model
that was trained on it, so it lies in checkpoints and exported files. Images of 8 bits have no need of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detrkit.errors import ConfigError

Values = npt.NDArray[Any]
"""Pixel values as stored, of any type of number."""


@dataclass(frozen=True)
class ValueRange:
    """Stored pixel values that become 0 and 255; values beyond are clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range of values from {self.low:g} to {self.high:g}")

    def __str__(self) -> str:
        return f"{number_text(self.low)}..{number_text(self.high)}"

    def to_plain(self) -> list[float]:
        """As JSON-like data; `from_plain` reads it back equal."""
        return [self.low, self.high]

    @classmethod
    def from_plain(cls, pair: Sequence[float] | None) -> Self | None:
        """The inverse of `to_plain`; None stays None.

        Raises:
            ValueError, TypeError: it is no pair of ascending finite numbers.
        """
        if pair is None:
            return None
        low, high = pair
        return cls(float(low), float(high))

    @classmethod
    def of(cls, given: Self | tuple[float, float] | None) -> Self | None:
        """A range that a user gives in Python.

        Raises:
            ConfigError: it is none.
        """
        if given is None or isinstance(given, cls):
            return given
        try:
            return cls.from_plain(given)  # type: ignore[arg-type]  # whatever it is
        except (TypeError, ValueError):
            raise ConfigError(f"expected value_range as (low, high) with low below high, found {given!r}") from None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `--value_range` says: `auto` (None) or `LOW,HIGH`.

        Raises:
            ConfigError: it is neither.
        """
        if text == "auto":
            return None
        try:
            return cls.from_plain([float(part) for part in text.split(",")])
        except ValueError:
            raise ConfigError(
                f"expected --value_range auto or LOW,HIGH with LOW below HIGH, such as 0,4095, found {text!r}"
            ) from None

    def to_8_bits(self, values: Values) -> npt.NDArray[np.uint8]:
        """Values of any shape as 0..255, rounded; NaN becomes 0."""
        if values.dtype == np.uint16:
            return _table(self)[values]
        return _scaled(values, self.low, self.high)


UNKNOWN_RANGE = (
    "no range of values is known for images of more than 8 bits, since the model was trained on 8 bits or without "
    "keeping a range; that of the type of number is taken as black to white: 0..65535 for integers, 0..1 for floats; "
    "if the values fill another range, say so with --value_range LOW,HIGH, or value_range in Detector.load"
)
"""For the user, when `default_range` is used."""


def default_range(dtype: np.dtype[Any]) -> ValueRange:
    """The range for a type of numbers where none is known: that of the type, never of an image.

    Integers of 32 bits count as 16, which is what they are used for: in all their own range every image would be grey.
    """
    return ValueRange(0, 1) if dtype.kind == "f" else ValueRange(0, 65535)


def number_text(value: float) -> str:
    """A number for people: whole ones with all their digits, others with six."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _scaled(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    wide = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((wide.clip(low, high) - low) * 255.0 / (high - low)).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(value_range: ValueRange) -> npt.NDArray[np.uint8]:
    """uint8 [65536]: looking values up is several times faster than computing them."""
    return _scaled(np.arange(65536), value_range.low, value_range.high)
