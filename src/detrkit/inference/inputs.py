"""Images in every form that programs have them in, one or several, opened one after another.

one         a path, PIL image, numpy array, tensor, the bytes of a file, an open file, an upload of a web framework
several     a folder, a glob, a batch [B, ...], or anything that can be iterated over, once or often, endless or not
a video     its path
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from io import UnsupportedOperation
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from torch import Tensor

from detrkit.data.decode.images import UnknownRangeHandler, decode_image, read_image, to_tensor, warn_unknown_range
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError
from detrkit.inference.sources import VIDEO_SUFFIXES, as_path, find_images, is_several, is_video
from detrkit.inference.video import read_frames
from detrkit.ops.text import first_names
from detrkit.ops.value_range import ValueRange

ArrayImage = Image | npt.NDArray[Any] | Tensor
"""An image in memory, in any form that `data.decode.to_tensor` knows."""

OneImage = ArrayImage | str | os.PathLike[str] | bytes | IO[bytes]
"""One image in any form; an object with a readable `file`, as uploads of web frameworks have it, will do too."""

PathOrArray = str | os.PathLike[str] | npt.NDArray[Any] | Tensor | IO[bytes]
"""One image or several: a path may be a folder or a video, an array a batch."""

Kind = Literal["one", "several", "video"]


@dataclass(frozen=True)
class ImageInput:
    """One image, not decoded yet."""

    image: Any
    """A path, the bytes of a file, a PIL image, numpy array or tensor."""
    source: str | None = None
    """The `source` of its detections."""
    number: int | None = None
    """Its number among several images, from 1, for messages; None: it is alone, or has a name."""

    def read(
        self, value_range: ValueRange | None = None, unknown: UnknownRangeHandler = warn_unknown_range
    ) -> tuple[Tensor, str | None]:
        """Decode the image: uint8 [3, H, W], and its source. For the arguments see `data.decode.images.read_image`.

        Raises:
            DataError: it cannot be read, or is no image.
        """
        try:
            if isinstance(self.image, Path):
                return _read_file(self.image, value_range, unknown), self.source
            if isinstance(self.image, bytes):
                name = self.source or "the bytes that were given"
                return decode_image(self.image, name, value_range, unknown=unknown), self.source
            return to_tensor(self.image, value_range, unknown=unknown), self.source
        except DataError as error:
            if self.number is None:
                raise
            raise DataError(f"image {self.number}: {error.message}") from error


def open_source(source: Any, *, pairs: bool = False) -> tuple[Kind, Iterator[ImageInput]]:
    """Open a source: say whether it is one image, several or a video, and give its images one at a time.

    Args:
        source: see the head of this file.
        pairs: whether members of a source may be pairs of an image and the source that its detections note.

    Raises:
        DataError: there is nothing at a path, or the source is no image and holds none. Raised by the iterator where
            a member is no image, a video or a list, or where an iterator gives nothing.
    """
    kind = _kind_of(source)
    if kind == "video":
        path = as_path(source)
        if not path.is_file():
            raise DataError(f"expected a video at {path}, found no file; look at the path")
        return kind, (ImageInput(frame, name) for frame, name in read_frames(path))
    if kind == "one":
        return kind, iter([_image_input(source)])
    if _is_path(source):
        return kind, (ImageInput(path, str(path)) for path in find_images(as_path(source)))
    return kind, _members(source, pairs)


def read_one(
    source: Any, value_range: ValueRange | None = None, unknown: UnknownRangeHandler = warn_unknown_range
) -> Tensor:
    """Read a single image in any form as uint8 [3, H, W], RGB.

    Raises:
        DataError: it cannot be read, or the source stands for several images or a video.
    """
    kind, images = open_source(source)
    if kind != "one":
        name = source if _is_path(source) else f"a {type(source).__name__}"
        raise DataError(f"expected one image, found {'several in' if kind == 'several' else 'the video'} {name}")
    return next(images).read(value_range, unknown)[0]


def _kind_of(source: Any) -> Kind:
    if _is_path(source):
        path = as_path(source)
        return "several" if is_several(path) else "video" if is_video(path) else "one"
    if isinstance(source, np.ndarray | Tensor):
        return (
            "several" if source.ndim == 4 or (isinstance(source, np.ndarray) and source.dtype.kind in "OU") else "one"
        )
    if isinstance(source, Image | bytes | bytearray | memoryview) or _file_of(source) is not None:
        return "one"
    if isinstance(source, Mapping):
        raise DataError(
            f"expected images, found a {type(source).__name__} with the keys {first_names(source)}; "
            "give the images in it, for example its values()"
        )
    if isinstance(source, Iterable) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return "several"
    raise DataError(
        "expected an image as a path, PIL image, numpy array, tensor, bytes or open file, or several of them, found "
        + _describe(source)
    )


def _members(source: Any, pairs: bool) -> Iterator[ImageInput]:
    """The images of something that can be iterated over; each is taken when it is needed."""
    number = 0
    for number, member in enumerate(source, start=1):
        image, name = member, None
        if pairs and isinstance(member, tuple) and len(member) == 2 and isinstance(member[1], str | None):
            image, name = member
        if isinstance(image, tuple | list):
            raise DataError(
                f"image {number}: expected an image, found a {type(image).__name__} of {len(image)}; give the images "
                "alone, in one list"
            )
        kind = _kind_of(image)
        if kind == "video":
            raise DataError(
                f"expected images in a list, found the video {os.fsdecode(image)}; give it to Detector.stream by itself"
            )
        if kind == "one":
            given = _image_input(image, number)
            yield given if name is None else ImageInput(given.image, name, given.number)
        elif _is_path(image):
            yield from (ImageInput(path, str(path)) for path in find_images(as_path(image)))
        elif isinstance(image, np.ndarray | Tensor):
            yield from (ImageInput(each, name, number) for each in image)
        else:
            raise DataError(f"image {number}: expected an image, found {_describe(image)}; give the images in one list")
    if not number and not isinstance(source, Sized):
        raise DataError(
            f"expected images, found a {type(source).__name__} that gives none: it was used up before, or there is "
            "nothing of that name"
        )


def _image_input(image: Any, number: int | None = None) -> ImageInput:
    """An image that can wait for a thread: what an open file holds is read now, while it is open."""
    if _is_path(image):
        path = as_path(image)
        return ImageInput(path, str(path))
    where = "" if number is None else f"image {number}: "
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    file = _file_of(image)
    if file is not None:
        name = next(
            (n for n in (getattr(image, key, None) for key in ("filename", "name")) if isinstance(n, str)), None
        )
        return ImageInput(_bytes_of(file, f"{where}{name or f'a {type(image).__name__}'}"), name or None, number)
    if isinstance(image, Image):
        try:
            image.load()  # PIL opens files and reads them later, when they may be closed
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise DataError(f"{where}expected an image, but what PIL opened cannot be decoded: {error}") from error
    return ImageInput(image, None, number)


def _file_of(source: Any) -> Any:
    """The readable part of an open file or an upload; None: the source is neither."""
    for file in (getattr(source, "file", None), source):  # uploads of web frameworks read asynchronously themselves
        if callable(getattr(file, "read", None)):
            return file
    return None


def _bytes_of(file: Any, name: str) -> bytes:
    """Read all bytes of an open file, from its start if it can seek.

    Raises:
        DataError: it is closed, empty, or opened as text.
    """
    try:
        if hasattr(file, "seek"):
            with contextlib.suppress(UnsupportedOperation):  # a pipe or a connection
                file.seek(0)
        data = file.read()
    except UnicodeDecodeError:
        data = ""
    except (OSError, ValueError) as error:
        raise DataError(f"expected an open file, but {name} cannot be read: {error}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"expected bytes in {name}, found {type(data).__name__}; open it with open(path, 'rb')")
    if not len(data):
        raise DataError(f"expected an image in {name}, found no bytes: it is empty, or was read before")
    return bytes(data)


def _read_file(path: Path, value_range: ValueRange | None, unknown: UnknownRangeHandler) -> Tensor:
    try:
        return read_image(path, value_range, unknown=unknown)
    except DataError as error:
        if path.suffix.lower() in IMAGE_SUFFIXES or not path.is_file():
            raise
        raise DataError(f"{error.message}; videos are known by their endings: {', '.join(VIDEO_SUFFIXES)}") from error


def _describe(source: Any) -> str:
    """Describe what is no image, with what to do about it."""
    name = type(source).__name__
    if isinstance(source, int) and not isinstance(source, bool):
        return (
            f"the number {source}; a camera is opened by its number in detrkit.track alone: else read its frames with "
            "OpenCV and give them to Detector.stream, see docs/predict.md"
        )
    if hasattr(source, "__await__"):
        return f"a {name}; await it first"
    if hasattr(source, "__aiter__"):
        return f"a {name}; collect its images with `async for` and give each of them"
    return name


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)
