"""The table of data formats. To add one, write `detect` and `load` in a file beside this one, and add a row.

A format that data sets can be converted to has a writer as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detrkit.data.files.source import Source
from detrkit.data.formats.coco import detect_coco, load_coco
from detrkit.data.formats.coco_panoptic import detect_panoptic, load_panoptic
from detrkit.data.formats.coco_writer import CocoWriter
from detrkit.data.formats.cvat import detect_cvat, load_cvat
from detrkit.data.formats.label_studio import detect_label_studio, load_label_studio
from detrkit.data.formats.label_writer import LabelWriter
from detrkit.data.formats.labelme import detect_labelme, load_labelme
from detrkit.data.formats.mask_png import detect_masks, load_masks
from detrkit.data.formats.packed import detect_packed, load_packed
from detrkit.data.formats.raw import RawSplit
from detrkit.data.formats.via import detect_via, load_via
from detrkit.data.formats.voc import detect_voc, load_voc
from detrkit.data.formats.voc_writer import VocWriter
from detrkit.data.formats.yolo import detect_yolo, explain_yolo, load_yolo
from detrkit.data.formats.yolo_writer import YoloWriter


@dataclass(frozen=True)
class DatasetFormat:
    """A format of data sets, as `--data_format` chooses it.

    Args:
        name: the value of `--data_format`.
        title: the name of the format in messages.
        layout: the files that make up such a data set, for the message that none is there.
        detect: names the files of the format that are there, such as `data.yaml`; empty if there are none. It looks at
            file names and at the first bytes of few files.
        load: reads the annotation files into the splits `train` and `val`, without checking or decoding anything.
        file_suffixes: endings of files that may be named in place of the folder.
        folder_suffixes: endings of files of the format that are no data set by themselves. A user who names one gets
            the advice to name its folder.
        explain: function that explains why files that look like the format cannot be loaded; empty if there are none.
        writer: writes data sets of the format; None: `detrkit convert_data` does not write it.
    """

    name: str
    title: str
    layout: str
    detect: Callable[[Source], str]
    load: Callable[[Source], dict[str, RawSplit]]
    file_suffixes: tuple[str, ...] = ()
    folder_suffixes: tuple[str, ...] = ()
    explain: Callable[[Source], str] = lambda source: ""
    writer: type[LabelWriter] | None = None

    @property
    def description(self) -> str:
        """Title and layout: `YOLO (data.yaml, or images/ and labels/)`."""
        return f"{self.title} ({self.layout})"


FORMATS: tuple[DatasetFormat, ...] = (
    DatasetFormat(
        "coco",
        "COCO",
        "train.json and val.json, annotations/instances_*.json, train/_annotations.coco.json",
        detect_coco,
        load_coco,
        file_suffixes=(".json",),
        writer=CocoWriter,
    ),
    DatasetFormat(
        "voc",
        "Pascal VOC",
        "ImageSets/Main, or xml files",
        detect_voc,
        load_voc,
        folder_suffixes=(".xml", ".txt"),
        writer=VocWriter,
    ),
    DatasetFormat(
        "yolo",
        "YOLO",
        "data.yaml, or images/ and labels/",
        detect_yolo,
        load_yolo,
        file_suffixes=(".yaml", ".yml", ".data"),
        folder_suffixes=(".txt", ".names", ".labels"),
        explain=explain_yolo,
        writer=YoloWriter,
    ),
    DatasetFormat(
        "labelme",
        "labelme",
        "one json file per image",
        detect_labelme,
        load_labelme,
        folder_suffixes=(".json",),
    ),
    DatasetFormat(
        "via",
        "VIA",
        "via_region_data.json or .csv",
        detect_via,
        load_via,
        folder_suffixes=(".json", ".csv"),
    ),
    DatasetFormat(
        "cvat",
        "CVAT for images",
        "annotations.xml",
        detect_cvat,
        load_cvat,
        folder_suffixes=(".xml",),
    ),
    DatasetFormat(
        "label_studio",
        "Label Studio",
        "its JSON or JSON-MIN",
        detect_label_studio,
        load_label_studio,
        folder_suffixes=(".json",),
    ),
    DatasetFormat(
        "masks",
        "masks as PNG",
        "images/ and masks/, or a folder per image with both",
        detect_masks,
        load_masks,
    ),
    DatasetFormat(
        "coco_panoptic",
        "COCO panoptic",
        "panoptic_train.json and PNGs in panoptic_train/, also in annotations/",
        detect_panoptic,
        load_panoptic,
        file_suffixes=(".json",),
    ),
    DatasetFormat(
        "packed",
        "packed",
        "pack.json and tar files, of detrkit pack",
        detect_packed,
        load_packed,
        file_suffixes=(".json",),
        folder_suffixes=(".tar",),
    ),
)
"""All formats; where a folder holds several, the first that loads is taken."""


def format_by_name(name: str) -> DatasetFormat:
    """The row of FORMATS of this name.

    Raises:
        KeyError: there is none.
    """
    return {row.name: row for row in FORMATS}[name]
