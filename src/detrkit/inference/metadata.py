"""What an exported file says of itself: all that is needed to use it, and that its graph does not tell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from detrkit.errors import DataError, WeightsError
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories

METADATA_KEY = "detrkit"
"""The name under which a file holds its metadata, as JSON text."""
METADATA_VERSION = 1
"""Version of the metadata; a newer one is not read."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What travels inside an exported file beside its graph."""

    categories: Categories
    """Its C classes, in the order of the logits."""
    image_size: int
    """Shorter side in pixels to which images are resized."""
    num_queries: int
    """Q, the most objects that can be found in one image."""
    top_k: int
    """How scores become detections: 0: each query's best class, else the best K of all pairs of query and class."""
    mean: tuple[float, float, float]
    """Of the colours (RGB in 0..1), by which the graph normalises; noted, since images go in as pixels."""
    std: tuple[float, float, float]
    """Their standard deviation, likewise."""
    sigmoid: bool = False
    """Whether the C logits are an independent sigmoid per class instead of a softmax with "no object" last."""
    square_resize: bool = False
    """Whether both sides are to be resized to `image_size`, whatever the image's shape."""
    masks: bool = False
    """Whether it gives masks."""
    value_range: ValueRange | None = None
    """Values that become 0 and 255 in images of more than 8 bits, before they go in; None: no range is known."""
    builtin: bool = False
    """Whether resizing and the step from logits to boxes in pixels are in the graph."""
    size: tuple[int, int] | None = None
    """(H, W) in pixels that the graph takes or, with `builtin`, resizes to; None: any."""
    batch_size: int | None = None
    """Images that the graph takes; None: any number."""
    precision: str = "fp32"
    """Arithmetic: fp32, bf16, fp16 or int8."""
    weights: str = ""
    """What it was exported from."""
    detrkit: str = ""
    """Version of detrkit that wrote it."""

    def to_json(self) -> str:
        """As text; `from_json` reads it again."""
        rows = asdict(self) | {"categories": self.categories.to_plain()}
        rows["value_range"] = self.value_range and self.value_range.to_plain()
        return json.dumps({"format": METADATA_VERSION} | rows)

    @classmethod
    def from_json(cls, text: str | None, where: object) -> Self:
        """The metadata of a file.

        Args:
            text: what the file holds under `METADATA_KEY`; None: nothing.
            where: the file, for messages.

        Raises:
            WeightsError: there is none, it is garbled, or a newer detrkit wrote it.
        """
        if text is None:
            raise WeightsError(
                f"expected a file that detrkit export has written, found in {where} a model of somebody else, which "
                "does not say its classes and sizes; export the checkpoint with detrkit"
            )
        try:
            rows: dict[str, Any] = json.loads(text)
            if rows.pop("format") > METADATA_VERSION:
                raise WeightsError(f"{where} was written by a newer detrkit ({rows.get('detrkit')}); upgrade")
            rows.setdefault("value_range", None)  # files of version 0.1.0 have none
            rows = {field.name: rows[field.name] for field in fields(cls)}
            rows["value_range"] = ValueRange.from_plain(rows["value_range"])
            rows["categories"] = Categories.from_plain(rows["categories"])
            rows |= {name: tuple(rows[name]) for name in ("mean", "std", "size") if rows[name] is not None}
            metadata = cls(**rows)
            numbers = (metadata.image_size, metadata.num_queries, *(metadata.size or ()), metadata.batch_size or 1)
            if not all(isinstance(number, int) and number > 0 for number in numbers) or not len(metadata.categories):
                raise ValueError("an image_size, num_queries, size, batch_size or number of classes below 1")
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as problem:
            raise WeightsError(
                f"what {where} says of itself (its entry {METADATA_KEY!r}) lacks or garbles {problem}; export it again"
            ) from problem
        return metadata
