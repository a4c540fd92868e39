"""Pascal VOC annotations: one xml file per image.

Format: host.robots.ox.ac.uk/pascal/VOC. Corners are taken as they stand, without the one-pixel shift of VOC's
1-based inclusive convention, as most tools write and read them. Rotated boxes (`robndbox` of roLabelImg) and polygons
become the boxes around them, with the outline as mask.
"""

from __future__ import annotations

from collections import Counter
from math import cos, sin
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import tidy_name
from detrkit.data.files.pairing import pair, stem_key
from detrkit.data.files.source import Source
from detrkit.data.files.xml_files import read_xml
from detrkit.data.formats.raw import IMAGE_SUFFIXES, RawImage, RawObject, RawSplit
from detrkit.data.formats.rotated import voc_rotation
from detrkit.data.formats.voc_layout import find_xml, names_in_order, split_xml
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.ops.text import first_names
from detrkit.structures import Categories

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def detect_voc(source: Source) -> str:
    """Name the Pascal VOC files that are there, for messages; empty if there are none."""
    if not find_xml(source.index):
        return ""
    lists = [folder for folder in source.index.folders if folder.lower().endswith("imagesets/main")]
    return "ImageSets/Main" if lists else "xml files"


def load_voc(source: Source) -> dict[str, RawSplit]:
    """Load a data set with or without lists of its splits.

    Classes of all splits together are numbered 0, 1, ... in the order of a list of names, else alphabetically.

    Args:
        source: files of the data set; takes findings and notes.

    Raises:
        DataError: there are no xml files, or no list names a split.
    """
    files = find_xml(source.index)
    if not files:
        raise DataError(f"expected Pascal VOC (ImageSets/Main, or xml files) in {source.root}, found neither")
    splits: dict[str, list[RawImage]] = {}
    images = list(source.index.images)
    for given in source.image_dirs.values():
        if given is not None and not given.is_relative_to(source.root):
            images += FileIndex(given).images
    file_of = {file: image for image, file in pair(source.index, files, images).file_of.items()}
    splits_of_files = split_xml(source, files)
    for file in [Path(file) for file in source.left_out if Path(file) in file_of]:
        source.left_out.setdefault(str(file_of[file]), source.left_out[str(file)])
    for split_name, listed in splits_of_files.items():
        records = [_read_file(path, file_of.get(path), source) for path in listed]
        splits[split_name] = _with_images([r for r in records if r is not None], split_name, file_of, source)
    _make_names_unique(source, splits)
    _note_unlabeled(source, splits)
    return _with_categories(source, splits)


def _with_images(records: list[RawImage], split_name: str, file_of: dict[Path, Path], source: Source) -> list[RawImage]:
    """Set the image file of each record: the image of the xml file's name, else the one in <filename>."""
    given = source.image_dirs[split_name]
    folders = [given] if given is not None else [source.root, *_image_folders(source, records)]
    own_of = {
        record.file: own
        for record in records
        if (own := file_of.get(Path(record.file))) is not None and (given is None or own.is_relative_to(given))
    }
    names = {
        r.file: r.file_name if given else _beside(r, source) for r in records if _needs_search(r, own_of.get(r.file))
    }
    named = source.finder.find(names.values(), folders, within=given)
    placed: list[RawImage] = []
    others: list[str] = []
    for record in records:
        own, match = own_of.get(record.file), named.get(names.get(record.file, ""))
        if own is not None:
            if match is not None and match.how not in ("absent", "ambiguous") and match.path != own:
                others.append(record.file)
            record.path = own
        elif match is not None:
            if match.how == "ambiguous":
                rivals = first_names(match.rivals, 3)
                source.findings.add("image_ambiguous", record.file, detail=f"{record.file_name!r} may be {rivals}")
                continue
            if match.how == "other_ending":
                detail = f"{record.file_name!r}, {match.path.name} is there"
                source.findings.add("image_other_ending", record.file, detail=detail)
            record.path = match.path
        record.file_name = record.path.name
        record.id = len(placed) + 1
        placed.append(record)
    if others:
        source.notes.append(
            f"{len(others)} xml files of {split_name} ({Path(others[0]).name} first) name another image that is there "
            "in <filename> than the one of their own name; the one of their own name is taken"
        )
    return placed


def _needs_search(record: RawImage, own: Path | None) -> bool:
    """Whether to search for <filename>: no image has the xml file's name, or <filename> differs from it."""
    return own is None or stem_key(PurePosixPath(record.file_name.replace("\\", "/")).name) != stem_key(own.name)


def _make_names_unique(source: Source, splits: dict[str, list[RawImage]]) -> None:
    """Add folders to the names of images that share a name, since held-out splits are stored by name."""
    images = [image for split_images in splits.values() for image in split_images]
    times = Counter(image.file_name for image in images)
    for image in images:
        if times[image.file_name] > 1:
            image.file_name = "/".join(source.index.relative(image.path))


def _with_categories(source: Source, splits: dict[str, list[RawImage]]) -> dict[str, RawSplit]:
    """Replace class names by numbers, and return the splits."""
    objects = [raw for split_images in splits.values() for image in split_images for raw in image.objects]
    names = names_in_order(source, {raw.category for raw in objects if raw.category})
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for some in alike.values():
        if len(some) > 1:
            source.findings.add("category_names_alike", source.root, detail=", ".join(map(repr, some)))
    ids = {name: index for index, name in enumerate(names)}
    for raw in objects:
        raw.category = ids.get(raw.category)
    categories = Categories(tuple(range(len(names))), tuple(names))
    return {
        split_name: RawSplit(split_name, split_images, categories, "xyxy", str(source.root))
        for split_name, split_images in splits.items()
    }


def _note_unlabeled(source: Source, splits: dict[str, list[RawImage]]) -> None:
    """Report images without an xml file that lie beside images with one."""
    used = {image.path for split_images in splits.values() for image in split_images}
    folders = {path.parent for path in used}
    for image in source.index.images:
        if image.parent in folders and image not in used and not {str(image)} & (source.left_out.keys() | source.used):
            source.findings.add("image_unlabeled", image)


def _beside(record: RawImage, source: Source) -> str:
    """<filename> relative to the data set, as if the image lay beside its xml file."""
    tidy, leaves = tidy_name(record.file_name)
    return record.file_name if leaves else "/".join([*source.index.relative(Path(record.file).parent), tidy])


def _image_folders(source: Source, records: list[RawImage]) -> list[Path]:
    """Likely image folders: those of the xml files, and JPEGImages/ or images/ beside them."""
    parents = list(dict.fromkeys(Path(record.file).parent for record in records))
    beside = [
        folder
        for parent in parents[:8]
        for folder in (parent, *(parent.parent / name for name in ("JPEGImages", "images", "Images", "imgs")))
        if folder.is_dir()
    ]
    return list(dict.fromkeys(beside)) or [source.root]


def _read_file(xml_file: Path, image_file: Path | None, source: Source) -> RawImage | None:
    """Read one xml file; `file_name` of the record is its <filename>. None, with a finding, if it is unreadable."""
    findings = source.findings
    try:
        tree = read_xml(xml_file, findings)
    except (ET.ParseError, ValueError, LookupError, DataError) as error:  # LookupError: an unknown encoding
        _report_unreadable(xml_file, image_file, str(error), source)
        return None
    if tree.tag != "annotation":
        _report_unreadable(xml_file, image_file, f"<{tree.tag}> where <annotation> is expected", source)
        return None
    name = (tree.findtext("filename") or "").strip()
    if name and Path(name.replace("\\", "/")).suffix.lower() not in IMAGE_SUFFIXES:
        name += ".jpg"
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    image = RawImage(None, xml_file, name or f"{xml_file.stem}.jpg", height or None, width or None, [], str(xml_file))
    for number, element in enumerate(tree.iter("object"), start=1):
        where = f"object {number}"
        box, outline = _box_and_outline(element, xml_file, where, findings)
        category = " ".join((element.findtext("name") or "").split())
        difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
        flags = {name: element.findtext(name) for name in ("pose", "truncated", "occluded")}
        named = {row.findtext("name"): row.findtext("value") for row in element.iterfind("attributes/attribute")}
        source.add_attributes(flags | {name: value for name, value in named.items() if name != "rotation"})
        image.objects.append(RawObject(None, category, box, None, difficult, outline, where, voc_rotation(element)))
    return image


def _report_unreadable(xml_file: Path, image_file: Path | None, reason: str, source: Source) -> None:
    """Report that an xml file cannot be read, and that its image is left out."""
    source.use(xml_file, *([image_file] if image_file else []))
    name = f"; image {image_file.name}" if image_file else ""
    source.findings.add("xml_malformed", xml_file, detail=reason + name)


def _box_and_outline(
    element: ET.Element, xml_file: Path, where: str, findings: Findings
) -> tuple[Any, list[list[float]] | None]:
    """The box of an object as x1, y1, x2, y2, and its outline if it is a rotated box or a polygon."""
    corners = [_number(element.findtext(f"bndbox/{corner}")) for corner in _CORNERS]
    if any(corner is not None for corner in corners):
        return corners, None
    outline = _rotated(element) or _polygon(element)
    if outline is None:
        return None, None
    xs, ys = outline[0::2], outline[1::2]
    findings.add("box_around_outline", xml_file, where)
    return [min(xs), min(ys), max(xs), max(ys)], [outline]


def _rotated(element: ET.Element) -> list[float] | None:
    """Corners of a rotated box, which roLabelImg writes as center, size and angle in radians."""
    numbers = [_number(element.findtext(f"robndbox/{field}")) for field in ("cx", "cy", "w", "h", "angle")]
    if not all(isinstance(number, float) for number in numbers):
        return None
    cx, cy, w, h, angle = numbers
    across, down = (cos(angle) * w / 2, sin(angle) * w / 2), (-sin(angle) * h / 2, cos(angle) * h / 2)
    corners = [(cx + i * across[0] + j * down[0], cy + i * across[1] + j * down[1]) for i, j in _AROUND]
    return [value for corner in corners for value in corner]


_AROUND = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _polygon(element: ET.Element) -> list[float] | None:
    """Points of a polygon, written as <x1>, <y1>, <x2>, ... or as <pt> with <x> and <y>."""
    polygon = element.find("polygon")
    if polygon is None:
        return None
    points = [(_number(p.findtext("x")), _number(p.findtext("y"))) for p in polygon.iter("pt")]
    if not points:
        count = sum(child.tag.startswith("x") for child in polygon)
        points = [(_number(polygon.findtext(f"x{k}")), _number(polygon.findtext(f"y{k}"))) for k in range(1, count + 1)]
    flat = [value for point in points for value in point]
    return flat if len(flat) >= 6 and all(isinstance(value, float) for value in flat) else None


def _number(text: str | None) -> Any:
    """The number in the text of an element; the text itself if it is no number."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text.strip() or None
