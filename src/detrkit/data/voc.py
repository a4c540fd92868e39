"""Read Pascal VOC annotations: one XML file a picture, into RawSplits.

Format: host.robots.ox.ac.uk/pascal/VOC. Corners are taken as they stand, without the one-pixel shift of VOC's
1-based inclusive convention, as most tools write and read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from detrkit.data.encodings import read_lines
from detrkit.data.findings import Findings
from detrkit.data.raw import IMAGE_SUFFIXES, RawImage, RawObject, RawSplit
from detrkit.errors import DataError
from detrkit.structures import Categories

_PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
_SIDES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class _PlainTree(ET.TreeBuilder):
    """A tree without name spaces, which some tools declare.

    And without a document type: entities, and with them every way of blowing up a small file, need one.
    """

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str, /) -> ET.Element:
        return super().end(tag.rpartition("}")[2])

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"a document type definition ({name}), which annotations do not need")


def find_voc(root: Path) -> str:
    """What of a Pascal VOC data set is at `root`, in words; empty if nothing."""
    base = _base(root)
    if base is None:
        return ""
    if (base / "ImageSets" / "Main").is_dir():
        return "ImageSets/Main"
    return "xml files"


def read_voc(root: Path, images: dict[str, Path | None], findings: Findings, notes: list[str]) -> dict[str, RawSplit]:
    """Read a data set with or without `ImageSets/Main`.

    Classes are numbered 0, 1, ... in the alphabetical order of their names, over all splits together.

    Args:
        root: its folder, or one above it.
        images: split -> folder of its pictures, where the user named one.
        findings: takes what is wrong with single files and records.
        notes: takes a sentence for each choice.

    Raises:
        DataError: nothing to read was found.
    """
    base = _base(root)
    if base is None:
        raise DataError(f"expected Pascal VOC (ImageSets/Main, or xml files) in {root}, found neither; mend --data")
    splits: dict[str, list[RawImage]] = {}
    for role, xml_files, pictures in _listed(base, images, notes, findings):
        splits[role] = []
        stems = _stems(pictures)
        for xml_file in xml_files:
            record = _read_file(xml_file, stems, pictures[0], findings)
            if record is not None:
                record.id = len(splits[role]) + 1
                splits[role].append(record)
    objects = [found for side in splits.values() for image in side for found in image.objects]
    names = sorted({found.category for found in objects if found.category})
    ids = {name: index for index, name in enumerate(names)}
    for found in objects:
        found.category = ids.get(found.category)
    categories = Categories(tuple(range(len(names))), tuple(names))
    return {role: RawSplit(role, side, categories, "xyxy", str(base)) for role, side in splits.items()}


def _base(root: Path) -> Path | None:
    """The folder that holds Annotations/ and ImageSets/, or xml files directly."""
    if root.is_file():
        return None
    for folder in (root, *sorted(root.glob("*/")), *sorted(root.glob("VOCdevkit/*/"))):
        if (folder / "ImageSets" / "Main").is_dir() and (folder / "Annotations").is_dir():
            return folder
    for folder in (root, *sorted(root.glob("*/"))):
        if _xml_folder(folder) is not None:
            return root
    return None


def _xml_folder(folder: Path) -> Path | None:
    for inner in (folder, folder / "Annotations", folder / "annotations"):
        if inner.is_dir():
            for path in inner.glob("*.xml"):
                with path.open("rb") as file:
                    if b"<annotation" in file.read(4096):
                        return inner
    return None


def _listed(
    base: Path, images: dict[str, Path | None], notes: list[str], findings: Findings
) -> list[tuple[str, list[Path], list[Path]]]:
    """Each split's name, xml files and picture folders."""
    lists = base / "ImageSets" / "Main"
    if lists.is_dir():
        return _from_lists(base, lists, images, notes)
    sides = {role: base / name for name, role in _SIDES.items() if _xml_folder(base / name) is not None}
    if "test" in sides:
        notes.append("test/ is " + ("left alone" if "val" in sides else "used for validation: there is no other"))
        test = sides.pop("test")
        sides.setdefault("val", test)
    if not sides:
        sides = {"train": base if _xml_folder(base) else next(p for p in sorted(base.glob("*/")) if _xml_folder(p))}
    found: list[tuple[str, list[Path], list[Path]]] = []
    for role in ("train", "val"):
        if role not in sides:
            continue
        folder = _xml_folder(sides[role])
        assert folder is not None  # chosen above because it has one
        pictures = [given] if (given := images[role]) else _picture_folders(folder, sides[role], base)
        xml_files = sorted(folder.glob("*.xml"))
        labelled = {path.stem for path in xml_files}
        for picture in sorted(p for p in pictures[0].iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            if picture.stem not in labelled:
                findings.add("image_unlabelled", picture)
        found.append((role, xml_files, pictures))
    return found


def _from_lists(
    base: Path, lists: Path, images: dict[str, Path | None], notes: list[str]
) -> list[tuple[str, list[Path], list[Path]]]:
    """The splits that ImageSets/Main names: train and val, else trainval and test."""
    files = {role: lists / f"{role}.txt" for role in ("train", "val")}
    if not files["train"].is_file():
        files["train"] = lists / "trainval.txt"
    if not files["val"].is_file():
        files["val"] = lists / "test.txt"
        if files["val"].is_file():
            notes.append("there is no list val.txt; test.txt is used for validation")
    if not files["train"].is_file() and not files["val"].is_file():
        inside = ", ".join(sorted(p.name for p in lists.iterdir())[:8])
        raise DataError(
            f"expected train.txt, trainval.txt, val.txt or test.txt in {lists}, found {inside or 'nothing'}"
        )
    found = []
    for role, path in files.items():
        if path.is_file():
            stems = [line.split()[0] for line in read_lines(path)]
            pictures = [given] if (given := images[role]) else _picture_folders(base / "Annotations", base, base)
            found.append((role, [base / "Annotations" / f"{Path(stem).name}.xml" for stem in stems], pictures))
    return found


def _picture_folders(xml_folder: Path, *parents: Path) -> list[Path]:
    folders = [parent / name for parent in parents for name in _PICTURE_FOLDERS]
    return [folder for folder in folders if folder.is_dir()] + [xml_folder]


def _stems(folders: list[Path]) -> dict[str, Path]:
    """File name without suffix -> picture; earlier folders win."""
    stems: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                stems.setdefault(path.stem, path)
    return stems


def _read_file(xml_file: Path, stems: dict[str, Path], folder: Path, findings: Findings) -> RawImage | None:
    if not xml_file.is_file():
        findings.add("image_unlabelled", xml_file, detail="no such xml file")
        return None
    try:
        tree = ET.fromstring(xml_file.read_bytes(), ET.XMLParser(target=_PlainTree()))
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that does not exist
        findings.add("xml_malformed", xml_file, detail=str(error))
        return None
    if tree.tag != "annotation":
        findings.add("xml_malformed", xml_file, detail=f"<{tree.tag}> where <annotation> is expected")
        return None
    written = Path((tree.findtext("filename") or "").strip().replace("\\", "/"))
    path = stems.get(xml_file.stem) or stems.get(written.stem)
    if path is None:
        suffix = written.suffix if written.suffix.lower() in IMAGE_SUFFIXES else ".jpg"
        path = folder / (xml_file.stem + suffix)
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    image = RawImage(None, path, path.name, height or None, width or None, [], file=str(xml_file))
    for number, found in enumerate(tree.iter("object"), start=1):
        corners = [_number(found.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        name = (found.findtext("name") or "").strip()
        difficult = (found.findtext("difficult") or "").strip() == "1"
        box = None if all(corner is None for corner in corners) else corners
        image.objects.append(RawObject(None, name, box, None, difficult, None, f"object {number}"))
    return image


def _number(text: str | None) -> Any:
    """The number in an element; its text where that is none."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text.strip() or None
