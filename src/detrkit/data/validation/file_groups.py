"""The images of a split by the annotation file that tells of them: what one tool wrote at once."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.validation.image_probe import ImageInfo


def annotation_file(raw_split: RawSplit, image: RawImage) -> str:
    """The annotation file of an image; that of its whole split where each image has one of its own."""
    return image.file if raw_split.box_form == "xywh" else raw_split.source


def group_by_file(
    raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo]
) -> dict[str, tuple[list[RawImage], list[ImageInfo]]]:
    """Annotation file -> the images of a split that it lists, and the facts of their files."""
    groups: dict[str, tuple[list[RawImage], list[ImageInfo]]] = {}
    for image, info in zip(images, infos, strict=True):
        group = groups.setdefault(annotation_file(raw_split, image), ([], []))
        group[0].append(image)
        group[1].append(info)
    return groups
