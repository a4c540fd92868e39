"""Read size, EXIF orientation, pixel type and damage of image files, without decoding them where possible."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from detrkit.data.decode.images import deep_values, is_deep, unusual_values
from detrkit.data.files.sampling import POINTER
from detrkit.data.shards.packed_index import open_file, read_file
from detrkit.data.validation.value_extents import Extent, measure_extent

_ORIENTATION_TAG = 0x0112
_MARKS_OF_MODE = {
    "1": ("image_gray",),
    "L": ("image_gray",),
    "LA": ("image_gray", "image_alpha"),
    "La": ("image_gray", "image_alpha"),
    "P": ("image_palette",),
    "PA": ("image_palette", "image_alpha"),
    "RGBA": ("image_alpha",),
    "RGBa": ("image_alpha",),
    "CMYK": ("image_cmyk",),
    "I": ("image_gray",),
    "F": ("image_gray",),
}
_EXIF_CHUNKS = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
"""PNG chunks that may hold the orientation: EXIF, a raw profile in a text, or XMP in a text."""
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""Exceptions that PIL raises on damaged files, depending on the format and the damage."""


@dataclass(slots=True)
class ImageInfo:
    """Properties of one image file."""

    width: int = 0
    """Pixels, as stored."""
    height: int = 0
    orientation: int = 1
    """EXIF orientation, 1..8; from 5 on, width and height are swapped in the upright image."""
    marks: tuple[str, ...] = ()
    """Kinds of findings that leave the image usable: `image_gray`, ..."""
    problem: str = ""
    """Kind of the finding that makes the image unusable, or empty."""
    detail: str = ""
    bytes: int = 0
    """Size of the file."""
    deep: bool = False
    """Whether the image has more than 8 bits per channel."""
    extent: Extent | None = None
    """Value range of a deep image, if it was measured."""

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) in pixels after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def probe_images(
    paths: Iterable[Path],
    *,
    decode_all: bool = False,
    values: bool = False,
    progress: Callable[[], object] | None = None,
) -> list[ImageInfo]:
    """Probe image files.

    Args:
        paths: image files, which need not exist.
        decode_all: decode every image; else only those whose structure looks damaged, at 0.1 ms per other image.
        values: decode images of more than 8 bits per channel, to measure their values.
        progress: called once per image, from any thread.

    Returns:
        One `ImageInfo` per path, in the order of `paths`.
    """

    def one(path: Path) -> ImageInfo:
        info = _probe(path, decode_all, values)
        if progress is not None and not (values and info.deep):
            progress()
        return info

    def measure(pair: tuple[Path, ImageInfo]) -> None:
        _measure(*pair)
        if progress is not None:
            progress()

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("ignore")  # PIL's warnings about unusual metadata and large images
        paths = list(paths)
        # reading headers holds the GIL: threads would make it five times slower
        infos = list(pool.map(one, paths)) if decode_all else [one(path) for path in paths]
        deep = [(path, info) for path, info in zip(paths, infos, strict=True) if values and info.deep]
        list(pool.map(measure, deep))
        return infos


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _probe(path: Path, decode_all: bool, values: bool) -> ImageInfo:
    info = ImageInfo()
    try:
        with open_file(path) as file:
            info.bytes = file.seek(0, 2)
            file.seek(0)
            if not info.bytes:
                info.problem, info.detail = "image_unreadable", "an empty file"
                return info
            with Image.open(file) as image:
                whole, may_have_exif = _inspect_structure(image, file, info.bytes)
                _read_header(image, file, info, may_have_exif)
                if (decode_all or not whole) and not (values and info.deep):  # else they are decoded for their values
                    _decode(image, info)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        info.problem = "image_missing"
    except UnidentifiedImageError:
        _probe_unusual_tiff(path, info)
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+", str(error))
        info.problem, info.detail = "image_too_large", f"{size[0]} pixels" if size else ""
    except _DAMAGE as error:
        info.problem, info.detail = "image_unreadable", str(error) or type(error).__name__
    return info


def _read_header(image: Image.Image, file: BinaryIO, info: ImageInfo, may_have_exif: bool) -> None:
    info.width, info.height = image.size
    if min(image.size) < 2:
        info.problem, info.detail = "image_too_small", f"{image.width} x {image.height} pixels"
    marks = list(_MARKS_OF_MODE.get(image.mode, ()))
    if image.mode.startswith("I;"):
        marks.append("image_gray")
    head = b""
    if image.format == "PNG":
        file.seek(0)
        head = file.read(25)
    info.deep = is_deep(image, head)
    if info.deep:
        marks.append("image_16bit")
    if image.format not in ("JPEG", "MPO", "BMP") and getattr(image, "n_frames", 1) > 1:
        marks.append("image_animated")  # the further images of an MPO are previews and depth maps
        image.seek(0)
    orientation = image.getexif().get(_ORIENTATION_TAG, 1) if may_have_exif else 1
    if orientation in range(2, 9):
        info.orientation = int(orientation)
        marks.append("image_rotated")
    info.marks = tuple(marks)


def _inspect_structure(image: Image.Image, file: BinaryIO, size: int) -> tuple[bool, bool]:
    """Whether the file is complete, judged by its structure, and whether it may have EXIF data.

    Only JPEG and PNG can be judged; other formats count as incomplete, so that they are decoded.
    """
    position = file.tell()
    whole, may_have_exif = False, True
    if image.format in ("JPEG", "MPO"):
        file.seek(max(0, size - 2))
        whole = file.read(2) == b"\xff\xd9" and bool(getattr(image, "tile", ()))  # no tile: a JPEG without a scan
    elif image.format == "PNG":
        chunks = _png_chunks(file, size)
        whole = chunks[-1:] == [b"IEND"] and b"IDAT" in chunks
        may_have_exif = not _EXIF_CHUNKS.isdisjoint(chunks)  # else PIL would decode the image to look for them
    file.seek(position)
    return whole, may_have_exif


def _png_chunks(file: BinaryIO, size: int) -> list[bytes]:
    """Chunk types of a PNG, up to the first chunk that reaches beyond the end of the file."""
    chunks: list[bytes] = []
    position = 8
    while position + 12 <= size and chunks[-1:] != [b"IEND"]:
        file.seek(position)
        header = file.read(8)
        position += 12 + int.from_bytes(header[:4], "big")
        if position <= size:
            chunks.append(header[4:])
    return chunks


def _probe_unusual_tiff(path: Path, info: ImageInfo) -> None:
    """Probe a file that PIL does not know: a few kinds of TIFF and PFM."""
    data = read_file(path)
    if data.startswith(POINTER):
        info.problem, info.detail = "image_unreadable", "a pointer of git-lfs: run `git lfs pull`"
        return
    values = unusual_values(data)
    if values is None:
        info.problem, info.detail = "image_unreadable", "no known image format"
        return
    info.height, info.width = values.shape[:2]
    info.deep, info.extent = True, measure_extent(values)
    info.marks = ("image_16bit",) if values.ndim == 3 else ("image_gray", "image_16bit")


def _measure(path: Path, info: ImageInfo) -> None:
    """Decode a deep image and record its value range, or its damage."""
    if info.extent:
        return
    try:
        data = read_file(path)
        with Image.open(io.BytesIO(data)) as image:
            info.extent = measure_extent(deep_values(image, data))
    except _DAMAGE as error:
        _note_damage(error, info)


def _decode(image: Image.Image, info: ImageInfo) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        _note_damage(error, info)


def _note_damage(error: Exception, info: ImageInfo) -> None:
    if not info.problem:
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        info.problem = "image_truncated" if truncated else "image_unreadable"
        info.detail = str(error) or type(error).__name__
