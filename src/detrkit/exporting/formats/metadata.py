"""Metadata of an exported file: what a user of the file needs besides the graph."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from detrkit.errors import DataError, WeightsError
from detrkit.structures import Categories, Preprocessing

METADATA_KEY = "detrkit"
"""The name under which a file holds its metadata, as JSON text."""
METADATA_VERSION = 1
"""Version of the metadata; a newer one is not read."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """Describes an exported model and how its inputs and outputs are meant."""

    categories: Categories
    """The C classes, in the order of the logits."""
    preprocessing: Preprocessing
    """How images are prepared; the graph normalizes their pixels itself."""
    num_queries: int
    """Q, the number of object queries, which is the most objects that can be detected in one image."""
    top_k: int
    """How scores become detections. 0: the best class of each query; K: the best K of all pairs of query and class."""
    sigmoid: bool = False
    """Whether the C logits are an independent sigmoid per class instead of a softmax with "no object" last."""
    masks: bool = False
    """Whether the graph has masks among its outputs."""
    builtin: bool = False
    """Whether the graph resizes images itself and gives detections in pixels instead of logits."""
    size: tuple[int, int] | None = None
    """(H, W) in pixels that the graph takes or, with `builtin`, resizes to; None: any."""
    batch_size: int | None = None
    """Images per batch that the graph takes; None: any number."""
    precision: str = "fp32"
    """Arithmetic: fp32, bf16, fp16 or int8."""
    weights: str = ""
    """Name of the weights that were exported."""
    detrkit: str = ""
    """Version of detrkit that wrote the file."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, apart from masks."""
        return ("boxes", "scores", "labels") if self.builtin else ("logits", "boxes")

    def to_json(self) -> str:
        """As JSON text, which `from_json` reads."""
        rows = asdict(self)
        rows |= {"categories": self.categories.to_plain(), "preprocessing": self.preprocessing.to_plain()}
        return json.dumps({"format": METADATA_VERSION} | rows)

    @classmethod
    def from_json(cls, text: str | None, where: object) -> Self:
        """The metadata of a file.

        Args:
            text: the file's entry under `METADATA_KEY`; None: it has none.
            where: the file, for messages.

        Raises:
            WeightsError: there is no metadata, it is garbled, or a newer detrkit wrote it.
        """
        if text is None:
            raise WeightsError(
                f"expected a file that detrkit export has written, found no detrkit metadata (class names, input size) "
                f"in {where}; re-export the checkpoint with detrkit export"
            )
        try:
            rows: dict[str, Any] = json.loads(text)
            if rows.pop("format") > METADATA_VERSION:
                raise WeightsError(f"{where} was written by a newer detrkit ({rows.get('detrkit')}); upgrade")
            rows = {field.name: rows[field.name] for field in fields(cls)}
            rows["preprocessing"] = Preprocessing.from_plain(rows["preprocessing"])
            rows["categories"] = Categories.from_plain(rows["categories"])
            rows["size"] = rows["size"] and tuple(rows["size"])
            metadata = cls(**rows)
            counts = (metadata.num_queries, *(metadata.size or ()), metadata.batch_size or 1)
            if not all(isinstance(count, int) and count > 0 for count in counts) or not len(metadata.categories):
                raise ValueError("a num_queries, size, batch_size or number of classes below 1")
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as problem:
            raise WeightsError(
                f"the metadata of {where} (its entry {METADATA_KEY!r}) lacks or garbles {problem}; export it again"
            ) from problem
        return metadata
