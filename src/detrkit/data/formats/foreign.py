"""Formats that are recognised and not read: what they are, and which export or conversion works.

One table, the most particular first. A detector looks at the names of files and folders and at the beginnings of a few
files, and answers with the file that told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.foreign_signs import Look

_NUMBER = r"-?\d+(?:[.]\d*)?(?:[eE][-+]?\d+)?"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv")
_TEXTS = (".json", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".txt", ".jsonl", ".data", ".names", ".lst")
_ASIDE = re.compile(
    r"^(read.?me|licen[sc]e|requirements|changelog|notes|info|classes|labels|meta)\b.*[.](txt|ya?ml)$", re.IGNORECASE
)
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "data", "pictures", "photos", "raw"}


class _Kind(NamedTuple):
    """A format that is recognised."""

    found: str
    """What was found; `{}` is the file that told."""
    detector: Callable[[Look], str]
    """That file, or nothing."""
    advice: str
    """What to do."""


def name_foreign(index: FileIndex, file: Path | None = None, *, expected: str = "a data set") -> str:
    """One sentence on a data set that nothing reads: what it is and what to do; empty if it is not recognised.

    Args:
        index: its files.
        file: the only one of them that the user named, if it is not the folder.
        expected: the titles of the formats that are read.
    """
    look = Look(index, file)
    for kind in _KINDS:
        told = kind.detector(look)
        if told:
            return f"expected {expected} in {file or index.root}, found {kind.found.replace('{}', told)}; {kind.advice}"
    return ""


# --- detectors -------------------------------------------------------------------------------------------------------


def _ending(*suffixes: str) -> Callable[[Look], str]:
    """A file of one of these endings."""
    return lambda look: next((look.name(path) for path in look.with_suffix(*suffixes)), "")


def _in_json(*patterns: str) -> Callable[[Look], str]:
    """A file of JSON in which all of these are found."""
    compiled = [re.compile(pattern.encode()) for pattern in patterns]
    return lambda look: next((look.name(p) for p, head in look.jsons if all(c.search(head) for c in compiled)), "")


def _in_xml(*patterns: str) -> Callable[[Look], str]:
    """An XML file in which all of these are found."""
    compiled = [re.compile(pattern.encode()) for pattern in patterns]
    return lambda look: next((look.name(p) for p, head in look.xmls if all(c.search(head) for c in compiled)), "")


def _in_text(pattern: str, name: str = "") -> Callable[[Look], str]:
    """A text file most of whose lines are like this, and whose path has `name` in it."""
    line_like, path_like = re.compile(pattern), re.compile(name, re.IGNORECASE)

    def detect(look: Look) -> str:
        for path, lines in look.texts:
            lines = [line for line in lines if not line.startswith(("imagesource:", "gsd:"))]
            if 2 * sum(bool(line_like.match(line)) for line in lines) > len(lines) and path_like.search(
                look.name(path)
            ):
                return look.name(path)
        return ""

    return detect


def _in_table(pattern: str) -> Callable[[Look], str]:
    """A table whose first line is like this."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda look: next((look.name(p) for p, lines in look.tables if lines and compiled.search(lines[0])), "")


def _mmdetection(look: Look) -> str:
    """Its format of today, or that of version 2."""
    return _in_json(r'"data_list"\s*:\s*\[', '"metainfo"')(look) or _in_json(r'"ann"\s*:\s*\{', r'"bboxes"\s*:')(look)


def _mvtec(look: Look) -> str:
    masks = any(name == "ground_truth" for _, name in look.folder_names)
    return "train/good and ground_truth" if masks and ("train", "good") in look.folder_names else ""


def _metadata(look: Look) -> str:
    """Hugging Face's file of metadata, which has one of these names."""
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return next((look.name(p) for p in look.with_suffix(*names) if p.name.lower() in names), "")


def _json_lines(look: Look) -> str:
    """A file of JSON a line, whatever it says."""
    lines = [look.name(p) for p, head in look.jsons if p.suffix.lower() != ".json" and head.lstrip().startswith(b"{")]
    return next(iter(lines), "")


def _records(look: Look) -> str:
    return next((name for name in look.names if re.search(r"[.]tfrecords?\b|[.]record$", name.lower())), "")


def _has_texts(look: Look) -> bool:
    """Whether there is a file that may hold annotations of some unknown kind."""
    return any(name.lower().endswith(_TEXTS) and not _ASIDE.match(name) for name in look.names)


def _class_folders(look: Look) -> str:
    """Folders of images that are called neither after a split nor after images, where nothing else is."""
    if _has_texts(look):
        return ""
    folders = Counter(path.parent for path in look.images)
    named = [
        f
        for f in folders
        if f.name.lower() not in _IMAGE_FOLDERS and not split_of_name(f.name) and f != look.index.root
    ]
    names = list(dict.fromkeys(folder.name for folder in named))
    if len(names) < 2 or 2 * sum(folders[folder] for folder in named) < len(look.images):
        return ""
    return ", ".join(f"{name}/" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _images_alone(look: Look) -> str:
    return (
        "" if _has_texts(look) or not look.images else f"{len(look.images)}, the first is {look.name(look.images[0])}"
    )


def _unread_images(look: Look) -> str:
    found = look.other_images
    return "" if look.images or not found else f"{len(found)}, the first is {look.name(found[0])}"


# --- the table -------------------------------------------------------------------------------------------------------

_UNREAD = ", a format that is not read"
_BOXES = "convert it to COCO json (bbox: x, y, width, height in pixels), or to YOLO"
_TOOLS = "convert it to COCO, with FiftyOne or Datumaro for example"
_ROBOFLOW = 'export the same version from Roboflow again, as "COCO", "YOLOv8" or "Pascal VOC"'

_KINDS = (
    # files that are not what they seem
    _Kind("pointers of git-lfs ({}) in place of files", lambda look: look.pointer, "run `git lfs pull` in that folder"),
    _Kind(
        "files whose names have \\ in them ({}), as an archive of Windows leaves them elsewhere",
        lambda look: next((name for name in look.names if "\\" in name), ""),
        "unpack it with 7-Zip or bsdtar, which make folders of them",
    ),
    _Kind(
        "a file with two endings ({})",
        _ending(*(f"{ending}.txt" for ending in (".json", ".xml", ".csv", ".yaml", ".yml"))),
        "rename it without the .txt, which Windows hides",
    ),
    # by names of files and folders
    _Kind("annotations of CrowdHuman ({})" + _UNREAD, _ending(".odgt"), f"{_BOXES}; fbox is the whole person"),
    _Kind(
        "anomaly data as MVTec AD has it ({})" + _UNREAD,
        _mvtec,
        "its train/ has no defects: copy each test/KIND to images/KIND and ground_truth/KIND to masks/KIND",
    ),
    _Kind("TFRecords ({})" + _UNREAD, _records, f"{_TOOLS}; {_ROBOFLOW} where they come from there"),
    _Kind(
        "a project of VoTT ({})" + _UNREAD,
        lambda look: _ending(".vott")(look) or _in_json('"(visitedAssets|lastVisitedAssetId|asset)"', '"tags"')(look),
        'choose "Pascal VOC" in its export settings and export again',
    ),
    _Kind("an augmented manifest of SageMaker ({})" + _UNREAD, _ending(".manifest"), _BOXES),
    _Kind(
        "a data set of Hugging Face ({})" + _UNREAD,
        lambda look: _metadata(look) or _ending(".parquet", ".arrow")(look),
        "load it with the library datasets and write the images and a COCO json, or look for its COCO or YOLO edition",
    ),
    # json
    _Kind("ISAT json ({})" + _UNREAD, _in_json(r'"description"\s*:\s*"ISAT"'), "convert it to COCO in ISAT"),
    _Kind(
        "a data set of FiftyOne ({})" + _UNREAD,
        _in_json(r'"samples"\s*:', '"(filepath|_cls|ground_truth|detections)"'),
        "export it from FiftyOne as COCODetectionDataset",
    ),
    _Kind(
        "captions of COCO ({}) and no boxes",
        _in_json(r'"images"\s*:', r'"caption"\s*:'),
        "put the file of the objects (instances_...json) there, or name it with --train_json",
    ),
    _Kind("CreateML json ({})" + _UNREAD, _in_json(r'"coordinates"\s*:\s*\{', '"(label|image)"'), _ROBOFLOW),
    _Kind(
        "Label Studio's own json ({})" + _UNREAD,
        lambda look: (
            _in_json('"(rectangle|polygon|brush|keypoint|ellipse)labels"')(look)
            or _in_json(r'"result"\s*:\s*\[', '"(completed_by|original_width|from_name|was_cancelled)"')(look)
        ),
        'choose "COCO", "YOLO" or "Pascal VOC XML" under Export in Label Studio, and put the images beside it if the '
        "export has none",
    ),
    _Kind("labels of BDD100K or Scalabel ({})" + _UNREAD, _in_json(r'"box2d"\s*:'), _TOOLS),
    _Kind(
        "a project of Supervisely ({})" + _UNREAD,
        _in_json('"(classTitle|geometryType)"'),
        'run "Export to COCO" or "Export to Pascal VOC" on the project in Supervisely',
    ),
    _Kind(
        "Datumaro's own json ({})" + _UNREAD,
        _in_json(r'"categories"\s*:\s*\{\s*"label"'),
        "run `datum convert -i FOLDER -if datumaro -f coco -o OUT -- --save-media`",
    ),
    _Kind(
        "a project of VIA 3 ({})" + _UNREAD + " (VIA 2 is)",
        lambda look: _in_json('"(vid_list|loc_prefix)"')(look) or _in_table("VGG Image Annotator|CSV_HEADER")(look),
        "export it from VIA 3 as COCO",
    ),
    _Kind(
        "a list of detections, COCO results ({}), which is no data set",
        _in_json(r"^\s*\[\s*\{", '"image_id"', '"category_id"', '"score"'),
        "name the file with images, annotations and categories that it was made for; `detrkit eval --detections` takes "
        "the results",
    ),
    _Kind(
        "an export of Labelbox ({})" + _UNREAD,
        _in_json('"(data_row|DataRow ID|Labeled Data|project_labels)"'),
        _BOXES,
    ),
    _Kind(
        "NDJSON of Ultralytics ({})" + _UNREAD,
        _in_json(r'^\s*\{[^\n]*"type"\s*:\s*"dataset"'),
        "convert it to YOLO with convert_ndjson_to_yolo of ultralytics.data.converter",
    ),
    _Kind("polygons of Cityscapes ({})" + _UNREAD, _in_json('"imgHeight"', '"polygon"'), _TOOLS),
    _Kind(
        "Darwin json of V7 ({})" + _UNREAD,
        _in_json(r'"bounding_box"\s*:', '"(dataset|item|slots|slot_names)"'),
        "run `darwin convert coco FILES OUT`, or export it from V7 as COCO",
    ),
    _Kind("MMDetection's json ({})" + _UNREAD, _mmdetection, _BOXES),
    _Kind(
        "a json file that is nearly COCO's ({})",
        lambda look: (
            _in_json(r'"images"\s*:\s*\{', r'"annotations"\s*:')(look)
            or _in_json(r'"(Images|IMAGES)"\s*:', r'"(Annotations|ANNOTATIONS)"\s*:')(look)
        ),
        "write images, annotations and categories in lower case, each as a list of objects",
    ),
    _Kind("JSON a line ({})" + _UNREAD, _json_lines, _BOXES),
    # xml
    _Kind(
        "CVAT's own XML, for images or video ({})" + _UNREAD,
        _in_xml("<annotations[\\s>]", "<(image|track|meta|version)[\\s>]"),
        'choose "COCO 1.0", "PASCAL VOC 1.1" or "Ultralytics YOLO Detection 1.0" under Export in CVAT, and tick "Save '
        'images"',
    ),
    _Kind("XML of dlib's imglab ({})" + _UNREAD, _in_xml("<dataset[\\s>]", "<box\\s"), _BOXES),
    _Kind("XML of UA-DETRAC ({})" + _UNREAD, _in_xml("<sequence\\s", "<target"), _BOXES),
    # text
    _Kind("WIDER FACE's list ({})" + _UNREAD, _in_text("", "wider_?face|bbx_gt"), _TOOLS),
    _Kind(
        "tracks as MOTChallenge has them ({})" + _UNREAD,
        _in_text(rf"\d+,\s*-?\d+(,\s*{_NUMBER}){{5,8}}$", r"(^|/)(gt|det)[.]txt$"),
        f"{_BOXES}; columns 3 to 6 are left, top, width, height",
    ),
    _Kind(
        "labels of VisDrone ({})" + _UNREAD,
        _in_text(r"-?\d+(\s*,\s*-?\d+){7},?$"),
        f"{_BOXES}; its columns are left, top, width, height, score (0: a region to ignore), class",
    ),
    _Kind(
        "texts with corners as ICDAR has them ({})" + _UNREAD,
        _in_text(r"-?\d+(\s*,\s*-?\d+){7}\s*,\s*\S"),
        f"{_BOXES}, with an upright box around the corners",
    ),
    _Kind(
        "labels of DOTA, turned boxes ({})" + _UNREAD,
        _in_text(rf"(?:{_NUMBER}\s+){{8}}[A-Za-z][^\s]*(\s+\d)?$"),
        f"{_BOXES}, with an upright box around the four corners, or the corners as polygon: boxes here are upright",
    ),
    _Kind(
        "labels of KITTI ({})" + _UNREAD,
        _in_text(rf"[A-Za-z]\S*(\s+{_NUMBER}){{14,15}}$"),
        f"{_TOOLS}; columns 5 to 8 are left, top, right, bottom, and DontCare is no object",
    ),
    _Kind(
        "a list with the boxes of an image on a line, as YOLO for Keras has it ({})" + _UNREAD,
        _in_text(rf".*[.]\w{{3,4}}(\s+{_NUMBER}(,{_NUMBER}){{4}})+"),
        _BOXES,
    ),
    _Kind(
        "labels that begin with the names of classes ({}), where YOLO has numbers",
        _in_text(rf"[A-Za-z].*(\s+{_NUMBER}){{4}}$"),
        "write the number of each class in their place, centre and size as fractions of the image, and the names in a "
        "data.yaml",
    ),
    _Kind(
        "boxes of whole numbers in pixels, as DeepPCB has them ({})" + _UNREAD,
        _in_text(r"\d+([\s,]+\d+){4}$"),
        f"{_BOXES}; DeepPCB's are left, top, right, bottom, class",
    ),
    # tables
    _Kind(
        "a table of masks as run lengths ({})" + _UNREAD,
        _in_table(r"EncodedPixels|\brle\b"),
        "convert it to COCO json with polygons or RLE as segmentation",
    ),
    _Kind("a table of Excel ({})" + _UNREAD, _ending(".xlsx", ".xls", ".ods"), _BOXES),
    _Kind("a table of Open Images ({})" + _UNREAD, _in_table("ImageID.*XMin"), f"{_BOXES}; its corners are fractions"),
    _Kind(
        "a table of boxes ({})" + _UNREAD,
        lambda look: (
            _in_table(r"\b(x_?min|xmin|x_?1|bbox\w*|left|x_?max|bounding_?box\w*)\b")(look)
            or _in_table(rf"^[^,;]+[.]\w{{3,4}}[,;](\s*{_NUMBER}\s*[,;]){{4}}")(look)
            or _in_table(r"^[^,;]+[.]\w{3,4}[,;]{5}$")(look)
        ),
        f"{_ROBOFLOW} where it comes from there, else {_BOXES}",
    ),
    _Kind(
        "a table of the classes of whole images ({})" + _UNREAD,
        _in_table(r"^(?!.*region_)(file_?name|image(_?id|_?path|_?name)?|path)\b"),
        "detection needs boxes: label some with labelme, CVAT or Label Studio",
    ),
    # the rest
    _Kind("arrays of MATLAB, NumPy or Python ({})" + _UNREAD, _ending(".mat", ".npz", ".npy", ".pkl", ".h5"), _BOXES),
    _Kind("an archive ({}), which is not looked into", _ending(*_ARCHIVES), "unpack it and name the folder"),
    _Kind(
        "folders of images and no annotations ({})",
        _class_folders,
        "folders may say what an image shows, but not where: label boxes with labelme, CVAT or Label Studio",
    ),
    _Kind(
        "images and no annotations ({})",
        _images_alone,
        "name the folder that holds both, or label boxes with labelme, CVAT or Label Studio",
    ),
    _Kind("images in a format that cannot be read ({})", _unread_images, "convert them to JPEG or PNG"),
    _Kind(
        "videos ({}) and no labelled images",
        _ending(*_VIDEOS),
        "save frames as images and label boxes with labelme, CVAT or Label Studio",
    ),
)
