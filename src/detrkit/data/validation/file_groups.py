"""Group the images of a split by annotation file: one tool wrote all boxes of a file in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.validation.image_probe import ImageInfo


def annotation_file(raw_split: RawSplit, image: RawImage) -> str:
    """The annotation file of an image; the source of its split if each image has a file of its own."""
    return image.file if raw_split.box_form == "xywh" else raw_split.source


def group_by_file(
    raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo]
) -> dict[str, tuple[list[RawImage], list[ImageInfo]]]:
    """Return annotation file -> (the images that it lists, the properties of their files)."""
    groups: dict[str, tuple[list[RawImage], list[ImageInfo]]] = {}
    for image, info in zip(images, infos, strict=True):
        group = groups.setdefault(annotation_file(raw_split, image), ([], []))
        group[0].append(image)
        group[1].append(info)
    return groups
