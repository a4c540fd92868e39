"""Check what a client sent before it is decoded, and decode it: only whole single images of known formats and sizes."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from detrkit.config.serving import ServeLimits
from detrkit.data.decode.images import decode_image, without_warnings
from detrkit.errors import DataError
from detrkit.ops.value_range import ValueRange
from detrkit.serving.refused import RefusedError

SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("BMP", b"BM"),
)
"""Formats by the first bytes of their files; WebP, whose own stand later, apart."""

FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

MAX_SCANS = 100
"""Most scans of a progressive JPEG. Usual ones have about ten; each costs the time of a whole image."""


@dataclass(frozen=True)
class Upload:
    """A file that a client sent."""

    name: str
    """Its name, for the answer and for messages; never a path that is read."""
    data: bytes


def decode_upload(upload: Upload, value_range: ValueRange | None, limits: ServeLimits) -> tuple[Tensor, list[str]]:
    """Check and decode a file.

    Returns:
        uint8 [3, H, W], RGB, upright, and notes on what had to be assumed.

    Raises:
        RefusedError: 413 if it has too many pixels, 415 if it is no image of a known format, 422 if it is damaged or
            has several frames.
    """
    notes: list[str] = []
    try:
        _check(upload, limits)
        image = decode_image(upload.data, upload.name, value_range, unknown=notes.append, partial=False)
    except DataError as error:
        raise RefusedError(422, error.message) from error
    except RefusedError:
        raise
    except MemoryError as error:
        raise RefusedError(
            413, f"expected an image that fits into memory in {upload.name}; send a smaller one"
        ) from error
    except Exception as error:  # decoders raise almost anything on files that are made to break them
        raise RefusedError(422, _undecodable(upload, f"{type(error).__name__}: {error}")) from error
    return image, notes


def image_format(data: bytes) -> str | None:
    """The format of a file by its first bytes; None: none that is known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, signature in SIGNATURES if data.startswith(signature)), None)


def _check(upload: Upload, limits: ServeLimits) -> None:
    """Refuse a file by its header.

    Raises:
        RefusedError: see `decode_upload`.
        OSError and others: those that PIL raises on damaged files.
    """
    name, data = upload.name, upload.data
    kind = image_format(data)
    if kind is None:
        found = "an empty file" if not data else f"one that begins with {data[:8]!r}"
        raise RefusedError(415, f"expected {FORMATS} in {name}, found {found}")
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise RefusedError(422, f"expected a JPEG of at most {MAX_SCANS} scans in {name}, found more; save it again")
    try:
        with without_warnings(), Image.open(io.BytesIO(data), formats=[kind]) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise RefusedError(413, _too_many(name, limits, f"{width} x {height}"))
            if kind != "JPEG" and _has_frames(image):  # a phone keeps previews as further frames of a JPEG
                raise RefusedError(422, f"expected one image in {name}, found several frames; send each by itself")
    except Image.DecompressionBombError as error:
        raise RefusedError(413, _too_many(name, limits, "far more")) from error
    except UnidentifiedImageError as error:
        raise RefusedError(422, _undecodable(upload, f"its header is not that of a {kind}")) from error


def _has_frames(image: Image.Image) -> bool:
    """Whether an image has a second frame, without counting all."""
    if image.format in ("PNG", "WEBP"):
        return bool(getattr(image, "n_frames", 1) > 1)
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _too_many(name: str, limits: ServeLimits, found: str) -> str:
    return (
        f"expected at most {limits.max_megapixels:g} million pixels in {name}, found {found}; send a smaller image, or "
        "tiles of it"
    )


def _undecodable(upload: Upload, reason: str) -> str:
    return f"expected an image in {upload.name}, but it cannot be decoded: {' '.join(reason.split())[:200]}"
