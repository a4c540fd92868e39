"""Segmentations of objects as JSON-like data, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrkit.data.decode.mask_files import FileMask


def pack_segmentation(segmentation: Any, files: dict[str, int]) -> Any:
    """Convert a segmentation to JSON-like data: run lengths as text, files by number; None if it is empty.

    Args:
        segmentation: see `ObjectRecord`.
        files: path -> number; takes new paths.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, FileMask):
        number = files.setdefault(str(segmentation.path), len(files))
        return {"file": number, "value": segmentation.value}
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    return segmentation


def unpack_segmentation(packed: Any, files: Sequence[str | Path]) -> Any:
    """Invert `pack_segmentation`."""
    if isinstance(packed, dict) and "file" in packed:
        return FileMask(Path(files[packed["file"]]), packed["value"])
    return packed
