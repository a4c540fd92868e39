"""Fingerprints of labeled images: whether two runs, or two copies of a data set, have the same."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from detrkit.data.records import ImageRecord, Split, StoredRecords

DIGEST_BYTES = 16


def fingerprint(split: Split) -> str:
    """Hash of a set of labeled images: of file names, sizes, and boxes with the names of their classes.

    Pixels, masks, the order of images and their folder do not count.
    """
    if isinstance(split.images, StoredRecords):
        return _hash(split.images.digests())
    names = dict(zip(split.categories.ids, split.categories.names, strict=True))
    joined = b"".join(image_digest(image, names) for image in split.images)
    return _hash(np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES))


def image_digest(image: ImageRecord, names: Mapping[int, str]) -> bytes:
    """The share of one image in the fingerprint, 16 bytes.

    Args:
        image: the record.
        names: category id -> name.
    """
    text = f"{image.file_name}\n{image.height} {image.width}\n"
    rows = sorted((names[o.category_id], *o.box, o.crowd) for o in image.objects)
    packed = b"".join(f"{name}\n".encode() + struct.pack("<4d?", *box) for name, *box in rows)
    return hashlib.blake2b(text.encode() + packed, digest_size=DIGEST_BYTES).digest()


def _hash(digests: npt.NDArray[np.uint8]) -> str:
    """The fingerprint of images, from their digests in any order, uint8 [n, 16]."""
    halves = np.ascontiguousarray(digests).view(">u8")  # [n, 2], which sort as the bytes do
    return hashlib.blake2b(digests[np.lexsort((halves[:, 1], halves[:, 0]))].tobytes(), digest_size=16).hexdigest()
