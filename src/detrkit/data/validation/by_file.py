"""The images of a split by the annotation file that tells of them: what one tool wrote at once."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.validation.image_probe import ImageInfo


def file_key(side: RawSplit, image: RawImage) -> str:
    """The annotation file of an image; that of its whole split where each image has one of its own."""
    return image.file if side.box_form == "xywh" else side.source


def by_file(
    side: RawSplit, images: Sequence[RawImage], facts: Sequence[ImageInfo]
) -> dict[str, tuple[list[RawImage], list[ImageInfo]]]:
    """Annotation file -> the images of a split that it lists, and the facts of their files."""
    groups: dict[str, tuple[list[RawImage], list[ImageInfo]]] = {}
    for image, fact in zip(images, facts, strict=True):
        group = groups.setdefault(file_key(side, image), ([], []))
        group[0].append(image)
        group[1].append(fact)
    return groups
