"""Recognize common formats that detrkit does not load, and name an export or conversion that works.

One table, the most specific format first. A detector looks at the names of files and folders and at the first bytes of
a few files, and returns the name of the file that it recognized.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.dataset_preview import DatasetPreview
from detrkit.ops.text import first_names

_NUMBER = r"-?\d+(?:[.]\d*)?(?:[eE][-+]?\d+)?"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv")
_TEXTS = (".json", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".txt", ".jsonl", ".data", ".names", ".lst")
_ASIDE = re.compile(
    r"^(read.?me|licen[sc]e|requirements|changelog|notes|info|classes|labels|meta)\b.*[.](txt|ya?ml)$", re.IGNORECASE
)
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "data", "pictures", "photos", "raw"}


class _Format(NamedTuple):
    """A format that is recognized and not loaded."""

    description: str
    """Name of the format for messages; `{}` is the file that was recognized."""
    detect: Callable[[DatasetPreview], str]
    """Returns the name of the recognized file, or an empty string."""
    advice: str
    """What the user can do."""


def explain_unsupported(index: FileIndex, file: Path | None = None, *, expected: str = "a data set") -> str:
    """Describe an unsupported data set and the remedy in one sentence; empty if it is not recognized.

    Args:
        index: the files of the data set.
        file: the file that the user named in place of the folder, if any.
        expected: the titles of the supported formats.
    """
    preview = DatasetPreview(index, file)
    for kind in _UNSUPPORTED:
        evidence = kind.detect(preview)
        if evidence:
            description = kind.description.replace("{}", evidence)
            return f"expected {expected} in {file or index.root}, found {description}; {kind.advice}"
    return ""


# --- detectors -------------------------------------------------------------------------------------------------------


def _ending(*suffixes: str) -> Callable[[DatasetPreview], str]:
    """Detect a file that has one of these endings."""
    return lambda preview: next((preview.name(path) for path in preview.with_suffix(*suffixes)), "")


def _in_json(*patterns: str) -> Callable[[DatasetPreview], str]:
    """Detect a JSON file in which all patterns match."""
    compiled = [re.compile(pattern.encode()) for pattern in patterns]
    return lambda preview: next(
        (preview.name(p) for p, head in preview.jsons if all(c.search(head) for c in compiled)), ""
    )


def _in_xml(*patterns: str) -> Callable[[DatasetPreview], str]:
    """Detect an XML file in which all patterns match."""
    compiled = [re.compile(pattern.encode()) for pattern in patterns]
    return lambda preview: next(
        (preview.name(p) for p, head in preview.xmls if all(c.search(head) for c in compiled)), ""
    )


def _in_text(pattern: str, name: str = "") -> Callable[[DatasetPreview], str]:
    """Detect a text file whose path matches `name` and most of whose lines match `pattern`."""
    line_like, path_like = re.compile(pattern), re.compile(name, re.IGNORECASE)

    def detect(preview: DatasetPreview) -> str:
        for path, lines in preview.texts:
            lines = [line for line in lines if not line.startswith(("imagesource:", "gsd:"))]
            if 2 * sum(bool(line_like.match(line)) for line in lines) > len(lines) and path_like.search(
                preview.name(path)
            ):
                return preview.name(path)
        return ""

    return detect


def _in_table(pattern: str) -> Callable[[DatasetPreview], str]:
    """Detect a CSV or TSV table whose first line matches."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda preview: next(
        (preview.name(p) for p, lines in preview.tables if lines and compiled.search(lines[0])), ""
    )


def _mmdetection(preview: DatasetPreview) -> str:
    """MMDetection's json of version 3 (`data_list`) or 2 (`ann`)."""
    return _in_json(r'"data_list"\s*:\s*\[', '"metainfo"')(preview) or _in_json(r'"ann"\s*:\s*\{', r'"bboxes"\s*:')(
        preview
    )


def _mvtec(preview: DatasetPreview) -> str:
    masks = any(name == "ground_truth" for _, name in preview.folder_names)
    return "train/good and ground_truth" if masks and ("train", "good") in preview.folder_names else ""


def _metadata(preview: DatasetPreview) -> str:
    """The metadata file of a Hugging Face image folder."""
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return next((preview.name(p) for p in preview.with_suffix(*names) if p.name.lower() in names), "")


def _json_lines(preview: DatasetPreview) -> str:
    """Any file with one JSON object per line."""
    lines = [
        preview.name(p) for p, head in preview.jsons if p.suffix.lower() != ".json" and head.lstrip().startswith(b"{")
    ]
    return next(iter(lines), "")


def _records(preview: DatasetPreview) -> str:
    return next((name for name in preview.names if re.search(r"[.]tfrecords?\b|[.]record$", name.lower())), "")


def _has_texts(preview: DatasetPreview) -> bool:
    """Whether any text file may hold annotations of an unknown format."""
    return any(name.lower().endswith(_TEXTS) and not _ASIDE.match(name) for name in preview.names)


def _class_folders(preview: DatasetPreview) -> str:
    """Image folders named like classes (not like splits or `images`), in a data set without any annotation file."""
    if _has_texts(preview):
        return ""
    folders = Counter(path.parent for path in preview.images)
    named = [
        f
        for f in folders
        if f.name.lower() not in _IMAGE_FOLDERS and not split_of_name(f.name) and f != preview.index.root
    ]
    names = list(dict.fromkeys(folder.name for folder in named))
    if len(names) < 2 or 2 * sum(folders[folder] for folder in named) < len(preview.images):
        return ""
    return first_names((f"{name}/" for name in names), 4)


def _images_alone(preview: DatasetPreview) -> str:
    return (
        ""
        if _has_texts(preview) or not preview.images
        else f"{len(preview.images)}, the first is {preview.name(preview.images[0])}"
    )


def _unread_images(preview: DatasetPreview) -> str:
    files = preview.other_images
    return "" if preview.images or not files else f"{len(files)}, the first is {preview.name(files[0])}"


# --- the table -------------------------------------------------------------------------------------------------------

_UNREAD = ", a format that is not read"
_BOXES = "convert it to COCO json (bbox: x, y, width, height in pixels), or to YOLO"
_TOOLS = "convert it to COCO, with FiftyOne or Datumaro for example"
_ROBOFLOW = 'export the same version from Roboflow again, as "COCO", "YOLOv8" or "Pascal VOC"'

_UNSUPPORTED = (
    # files that are not what they seem
    _Format(
        "pointers of git-lfs ({}) in place of files",
        lambda preview: preview.pointer,
        "run `git lfs pull` in that folder",
    ),
    _Format(
        "files whose names have \\ in them ({}), as an archive of Windows leaves them elsewhere",
        lambda preview: next((name for name in preview.names if "\\" in name), ""),
        "unpack it with 7-Zip or bsdtar, which make folders of them",
    ),
    _Format(
        "a file with two endings ({})",
        _ending(*(f"{ending}.txt" for ending in (".json", ".xml", ".csv", ".yaml", ".yml"))),
        "rename it without the .txt, which Windows hides",
    ),
    # by names of files and folders
    _Format("annotations of CrowdHuman ({})" + _UNREAD, _ending(".odgt"), f"{_BOXES}; fbox is the whole person"),
    _Format(
        "anomaly data as MVTec AD has it ({})" + _UNREAD,
        _mvtec,
        "its train/ has no defects: copy each test/KIND to images/KIND and ground_truth/KIND to masks/KIND",
    ),
    _Format("TFRecords ({})" + _UNREAD, _records, f"{_TOOLS}; {_ROBOFLOW} where they come from there"),
    _Format(
        "a project of VoTT ({})" + _UNREAD,
        lambda preview: (
            _ending(".vott")(preview) or _in_json('"(visitedAssets|lastVisitedAssetId|asset)"', '"tags"')(preview)
        ),
        'choose "Pascal VOC" in its export settings and export again',
    ),
    _Format("an augmented manifest of SageMaker ({})" + _UNREAD, _ending(".manifest"), _BOXES),
    _Format(
        "a data set of Hugging Face ({})" + _UNREAD,
        lambda preview: _metadata(preview) or _ending(".parquet", ".arrow")(preview),
        "load it with the library datasets and write the images and a COCO json, or look for its COCO or YOLO edition",
    ),
    # json
    _Format("ISAT json ({})" + _UNREAD, _in_json(r'"description"\s*:\s*"ISAT"'), "convert it to COCO in ISAT"),
    _Format(
        "a data set of FiftyOne ({})" + _UNREAD,
        _in_json(r'"samples"\s*:', '"(filepath|_cls|ground_truth|detections)"'),
        "export it from FiftyOne as COCODetectionDataset",
    ),
    _Format(
        "captions of COCO ({}) and no boxes",
        _in_json(r'"images"\s*:', r'"caption"\s*:'),
        "put the file of the objects (instances_...json) there, or name it with --train_json",
    ),
    _Format("CreateML json ({})" + _UNREAD, _in_json(r'"coordinates"\s*:\s*\{', '"(label|image)"'), _ROBOFLOW),
    _Format("labels of BDD100K or Scalabel ({})" + _UNREAD, _in_json(r'"box2d"\s*:'), _TOOLS),
    _Format(
        "a project of Supervisely ({})" + _UNREAD,
        _in_json('"(classTitle|geometryType)"'),
        'run "Export to COCO" or "Export to Pascal VOC" on the project in Supervisely',
    ),
    _Format(
        "Datumaro's own json ({})" + _UNREAD,
        _in_json(r'"categories"\s*:\s*\{\s*"label"'),
        "run `datum convert -i FOLDER -if datumaro -f coco -o OUT -- --save-media`",
    ),
    _Format(
        "a project of VIA 3 ({})" + _UNREAD + " (VIA 2 is)",
        lambda preview: (
            _in_json('"(vid_list|loc_prefix)"')(preview) or _in_table("VGG Image Annotator|CSV_HEADER")(preview)
        ),
        "export it from VIA 3 as COCO",
    ),
    _Format(
        "a list of detections, COCO results ({}), which is no data set",
        _in_json(r"^\s*\[\s*\{", '"image_id"', '"category_id"', '"score"'),
        "name the file with images, annotations and categories that it was made for; `detrkit eval --detections` takes "
        "the results",
    ),
    _Format(
        "an export of Labelbox ({})" + _UNREAD,
        _in_json('"(data_row|DataRow ID|Labeled Data|project_labels)"'),
        _BOXES,
    ),
    _Format(
        "NDJSON of Ultralytics ({})" + _UNREAD,
        _in_json(r'^\s*\{[^\n]*"type"\s*:\s*"dataset"'),
        "convert it to YOLO with convert_ndjson_to_yolo of ultralytics.data.converter",
    ),
    _Format("polygons of Cityscapes ({})" + _UNREAD, _in_json('"imgHeight"', '"polygon"'), _TOOLS),
    _Format(
        "Darwin json of V7 ({})" + _UNREAD,
        _in_json(r'"bounding_box"\s*:', '"(dataset|item|slots|slot_names)"'),
        "run `darwin convert coco FILES OUT`, or export it from V7 as COCO",
    ),
    _Format("MMDetection's json ({})" + _UNREAD, _mmdetection, _BOXES),
    _Format(
        "a json file that is nearly COCO's ({})",
        lambda preview: (
            _in_json(r'"images"\s*:\s*\{', r'"annotations"\s*:')(preview)
            or _in_json(r'"(Images|IMAGES)"\s*:', r'"(Annotations|ANNOTATIONS)"\s*:')(preview)
        ),
        "write images, annotations and categories in lower case, each as a list of objects",
    ),
    _Format("JSON a line ({})" + _UNREAD, _json_lines, _BOXES),
    # xml
    _Format("XML of dlib's imglab ({})" + _UNREAD, _in_xml("<dataset[\\s>]", "<box\\s"), _BOXES),
    _Format("XML of UA-DETRAC ({})" + _UNREAD, _in_xml("<sequence\\s", "<target"), _BOXES),
    # text
    _Format("WIDER FACE's list ({})" + _UNREAD, _in_text("", "wider_?face|bbx_gt"), _TOOLS),
    _Format(
        "tracks as MOTChallenge has them ({})" + _UNREAD,
        _in_text(rf"\d+,\s*-?\d+(,\s*{_NUMBER}){{5,8}}$", r"(^|/)(gt|det)[.]txt$"),
        f"{_BOXES}; columns 3 to 6 are left, top, width, height",
    ),
    _Format(
        "labels of VisDrone ({})" + _UNREAD,
        _in_text(r"-?\d+(\s*,\s*-?\d+){7},?$"),
        f"{_BOXES}; its columns are left, top, width, height, score (0: a region to ignore), class",
    ),
    _Format(
        "texts with corners as ICDAR has them ({})" + _UNREAD,
        _in_text(r"-?\d+(\s*,\s*-?\d+){7}\s*,\s*\S"),
        f"{_BOXES}, with an upright box around the corners",
    ),
    _Format(
        "labels of DOTA, rotated boxes ({})" + _UNREAD,
        _in_text(rf"(?:{_NUMBER}\s+){{8}}[A-Za-z][^\s]*(\s+\d)?$"),
        f"{_BOXES}, with an upright box around the four corners, or the corners as polygon: boxes here are upright",
    ),
    _Format(
        "labels of KITTI ({})" + _UNREAD,
        _in_text(rf"[A-Za-z]\S*(\s+{_NUMBER}){{14,15}}$"),
        f"{_TOOLS}; columns 5 to 8 are left, top, right, bottom, and DontCare is no object",
    ),
    _Format(
        "a list with the boxes of an image on a line, as YOLO for Keras has it ({})" + _UNREAD,
        _in_text(rf".*[.]\w{{3,4}}(\s+{_NUMBER}(,{_NUMBER}){{4}})+"),
        _BOXES,
    ),
    _Format(
        "labels that begin with the names of classes ({}), where YOLO has numbers",
        _in_text(rf"[A-Za-z].*(\s+{_NUMBER}){{4}}$"),
        "write the number of each class in their place, center and size as fractions of the image, and the names in a "
        "data.yaml",
    ),
    _Format(
        "boxes of whole numbers in pixels, as DeepPCB has them ({})" + _UNREAD,
        _in_text(r"\d+([\s,]+\d+){4}$"),
        f"{_BOXES}; DeepPCB's are left, top, right, bottom, class",
    ),
    # tables
    _Format(
        "a table of masks as run lengths ({})" + _UNREAD,
        _in_table(r"EncodedPixels|\brle\b"),
        "convert it to COCO json with polygons or RLE as segmentation",
    ),
    _Format("a table of Excel ({})" + _UNREAD, _ending(".xlsx", ".xls", ".ods"), _BOXES),
    _Format(
        "a table of Open Images ({})" + _UNREAD, _in_table("ImageID.*XMin"), f"{_BOXES}; its corners are fractions"
    ),
    _Format(
        "a table of boxes ({})" + _UNREAD,
        lambda preview: (
            _in_table(r"\b(x_?min|xmin|x_?1|bbox\w*|left|x_?max|bounding_?box\w*)\b")(preview)
            or _in_table(rf"^[^,;]+[.]\w{{3,4}}[,;](\s*{_NUMBER}\s*[,;]){{4}}")(preview)
            or _in_table(r"^[^,;]+[.]\w{3,4}[,;]{5}$")(preview)
        ),
        f"{_ROBOFLOW} where it comes from there, else {_BOXES}",
    ),
    _Format(
        "a table of the classes of whole images ({})" + _UNREAD,
        _in_table(r"^(?!.*region_)(file_?name|image(_?id|_?path|_?name)?|path)\b"),
        "detection needs boxes: label some with labelme, CVAT or Label Studio",
    ),
    # the rest
    _Format("arrays of MATLAB, NumPy or Python ({})" + _UNREAD, _ending(".mat", ".npz", ".npy", ".pkl", ".h5"), _BOXES),
    _Format("an archive ({}), which is not opened", _ending(*_ARCHIVES), "unpack it and name the folder"),
    _Format(
        "folders of images and no annotations ({})",
        _class_folders,
        "folders may say what an image shows, but not where: label boxes with labelme, CVAT or Label Studio",
    ),
    _Format(
        "images and no annotations ({})",
        _images_alone,
        "name the folder that holds both, or label boxes with labelme, CVAT or Label Studio",
    ),
    _Format("images in a format that cannot be read ({})", _unread_images, "convert them to JPEG or PNG"),
    _Format(
        "videos ({}) and no labeled images",
        _ending(*_VIDEOS),
        "save frames as images and label boxes with labelme, CVAT or Label Studio",
    ),
)
