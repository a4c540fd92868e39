"""The range of pixel values that is mapped to 0..255, for images with more than 8 bits per channel.

A 12-bit camera writes 0..4095 into 16-bit files, a thermal camera numbers around 29,000, others negative values or
floats. A single image does not tell which value is white: the range is a property of the data set and of the model
trained on it, and is stored in checkpoints and exported files. 8-bit images do not need it.
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
"""Pixel values as stored, of any numeric type."""


@dataclass(frozen=True)
class ValueRange:
    """Pixel values that are mapped to 0 and 255; values outside are clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"expected finite low < high, found {self.low:g} and {self.high:g}")

    def __str__(self) -> str:
        return f"{format_number(self.low)}..{format_number(self.high)}"

    def to_plain(self) -> list[float]:
        """Convert to JSON-like data; `from_plain` is the inverse."""
        return [self.low, self.high]

    @classmethod
    def from_plain(cls, pair: Sequence[float] | None) -> Self | None:
        """The inverse of `to_plain`; None stays None.

        Raises:
            ValueError, TypeError: `pair` is no pair of ascending finite numbers.
        """
        if pair is None:
            return None
        low, high = pair
        return cls(float(low), float(high))

    @classmethod
    def of(cls, given: Self | tuple[float, float] | None) -> Self | None:
        """Convert a range that a user passed in Python.

        Raises:
            ConfigError: `given` is no range.
        """
        if given is None or isinstance(given, cls):
            return given
        try:
            return cls.from_plain(given)  # type: ignore[arg-type]  # whatever it is
        except (TypeError, ValueError):
            raise ConfigError(f"expected value_range as (low, high) with low below high, found {given!r}") from None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `--value_range`: `auto` (None) or `LOW,HIGH`.

        Raises:
            ConfigError: `text` is neither.
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
        """Map values of any shape to 0..255, rounded; NaN becomes 0."""
        if values.dtype == np.uint16:
            return _table(self)[values]
        return _scaled(values, self.low, self.high)


UNKNOWN_RANGE = (
    "no value range is known for images of more than 8 bits, since the model was trained on 8-bit images or without "
    "storing a range; that of the data type is mapped to black and white: 0..65535 for integers, 0..1 for floats; if "
    "the values fill another range, set it with --value_range LOW,HIGH, or value_range in Detector.load"
)
"""Message for the user when `default_range` is used."""


def default_range(dtype: np.dtype[Any]) -> ValueRange:
    """The range of a data type, used if no range is known.

    32-bit integers get the range of 16 bits, which they usually hold: in their own range every image would be gray.
    """
    return ValueRange(0, 1) if dtype.kind == "f" else ValueRange(0, 65535)


def format_number(value: float) -> str:
    """Format a number: integers with all digits, others with six."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _scaled(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    wide = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((wide.clip(low, high) - low) * 255.0 / (high - low)).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(value_range: ValueRange) -> npt.NDArray[np.uint8]:
    """Lookup table uint8 [65536], several times faster than computing each value."""
    return _scaled(np.arange(65536), value_range.low, value_range.high)
