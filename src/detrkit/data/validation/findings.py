"""The table of all defects that a data set can have, with the action on each, and the findings that refer to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from detrkit.errors import DataError


class Action(NamedTuple):
    """A kind of defect, and what is done about it."""

    outcome: Literal["repaired", "dropped", "unused", "noted"]
    """repaired: used with a corrected value; dropped: left out and counted; unused: a file that was not read; noted:
    nothing is changed."""
    defect: str
    """The defect, in a few words."""
    remedy: str
    """What is done about it, or what the user can do."""


ACTIONS: dict[str, Action] = {
    # what a whole file means
    "boxes_implausible": Action(
        "noted",
        "boxes that seem to be written in another format than that of the data format",
        "training and evaluation reject the data if nearly all boxes are so; --box_format names their format",
    ),
    "classes_misnumbered": Action(
        "noted",
        "class ids that seem to start at another number than the list of classes",
        "training and evaluation reject the data",
    ),
    "crowd_as_object": Action(
        "repaired",
        "a split whose objects are all crowds (iscrowd 1) with masks, as CVAT exports brush masks",
        "used as objects",
    ),
    "category_mostly_crowds": Action(
        "noted",
        "a class of which most objects in train are crowds or difficult",
        "crowds are not trained on; set iscrowd to 0 for single objects, as with brush masks of CVAT",
    ),
    "val_without_objects": Action(
        "noted", "a val split without objects, apart from crowds", "average precision cannot be measured on it"
    ),
    "box_rotated": Action("repaired", "a rotated rectangle", "the upright box around it is used"),
    # files
    "annotations_unused": Action("unused", "a file that looks like annotations and was not used", "it is left out"),
    "image_unused": Action("unused", "an image that was not used", "it is left out"),
    "file_unreadable": Action("unused", "a file or folder that cannot be read", "it is left out"),
    "image_format_unread": Action(
        "unused", "an image in a format that cannot be read", "it is left out; convert it to JPEG or PNG"
    ),
    "other_task": Action(
        "noted",
        "annotations of another task or format beside those that were read",
        "left alone; --data_format or --train_json reads them",
    ),
    "set_aside": Action("noted", "a file of a test split", "left alone: only train and val are used"),
    "text_encoding": Action("repaired", "a text file that is not UTF-8", "read in the encoding that fits its bytes"),
    "listed_without_annotation": Action(
        "dropped", "an image in a list of Pascal VOC without an xml file", "it is left out"
    ),
    "corners_swapped": Action("repaired", "a box whose first corner is not the upper left one", "corners are sorted"),
    "box_around_outline": Action(
        "repaired", "a rotated box or polygon without an upright box", "the box around it is used"
    ),
    "label_without_image": Action("dropped", "a label file whose image is not there", "it is left out"),
    "image_without_label": Action(
        "noted", "an image without a label file, where most have one", "used as an image without objects"
    ),
    "label_extra_columns": Action(
        "noted",
        "a YOLO file with columns beside class and box",
        "the box is read, confidences and key points are not",
    ),
    "label_shared": Action("noted", "a label file that fits several images", "all of them get its objects"),
    "label_ambiguous": Action(
        "dropped",
        "a label file that may belong to an image in another folder, without certainty",
        "the image is left out; give the folders of labels and of images the same names",
    ),
    "image_ambiguous": Action(
        "dropped", "an image name that several files of the data set match", "it is left out, with its objects"
    ),
    "image_moved": Action(
        "noted",
        "an image that is not in the folder of its name",
        "the only file whose path has the same end is used; check that it is the same image",
    ),
    "image_other_ending": Action(
        "repaired", "an image whose name has the ending of another format", "the existing file is used"
    ),
    "category_names_alike": Action("noted", "classes whose names differ only in case or blanks", "kept as two classes"),
    # annotation files
    "xml_malformed": Action(
        "dropped",
        "a Pascal VOC file that cannot be read, is invalid XML, or has a DTD",
        "its image is left out",
    ),
    "json_malformed": Action(
        "dropped", "a json file of an image, or an entry or shape in it, that cannot be read", "its image is left out"
    ),
    "shape_no_object": Action(
        "dropped", "a shape that encloses nothing, such as a point or a line", "the shape is left out"
    ),
    "image_shapes_unusable": Action(
        "dropped", "an image that has shapes, but none that can be an object", "it is left out"
    ),
    "image_embedded": Action(
        "dropped",
        "an image that is only inside its json file (imageData)",
        "it is left out, with its objects; write it as a file beside the json file",
    ),
    "txt_malformed": Action(
        "dropped",
        "a YOLO file, or a line in it, that cannot be read as boxes or polygons",
        "its image is left out",
    ),
    "record_malformed": Action(
        "dropped", "a record without the fields that it must have", "the record is left out, with what refers to it"
    ),
    # classes
    "category_name_twice": Action("repaired", "two categories of one name", "the id is added to the later name"),
    "category_name_absent": Action("repaired", "a category without a name", "its id becomes its name"),
    "category_listed_twice": Action("repaired", "the same category listed again", "used once"),
    "categories_absent": Action(
        "repaired", "a file without a list of categories", "the ids that occur become the categories"
    ),
    "categories_differ": Action(
        "repaired", "train and val list different categories without contradiction", "both use all of them"
    ),
    "category_not_in_train": Action("noted", "a class in val without an object in train", "it cannot be learned"),
    "category_unused": Action("noted", "a class without any object", "it keeps its place"),
    # images
    "image_missing": Action("dropped", "an image that is not there", "it is left out, with its objects"),
    "image_unreadable": Action("dropped", "a file that cannot be decoded", "it is left out, with its objects"),
    "image_truncated": Action("dropped", "an image that ends too early", "it is left out, with its objects"),
    "image_too_small": Action("dropped", "an image of less than 2 x 2 pixels", "it is left out, with its objects"),
    "image_too_large": Action(
        "dropped",
        "an image of more than 178 million pixels, which might exhaust the memory",
        "it is left out, with its objects; cut it into tiles or make it smaller",
    ),
    "image_id_twice": Action(
        "dropped", "two images of one id", "the first keeps the id and the objects; the other is left out"
    ),
    "image_listed_twice": Action("repaired", "one file listed again", "used once, with the objects of both"),
    "image_id_not_integer": Action(
        "repaired",
        'an image id that is no integer of 64 bits, or another spelling of one ("1", "01")',
        "it gets a new id",
    ),
    "image_name_leaves_folder": Action(
        "repaired",
        "a file name that is absolute, a URL, or leads out of the image folder",
        "used if it leads to a file; else the end of its path is searched for in the data set",
    ),
    "image_size_differs": Action(
        "repaired",
        "a size that disagrees with the file",
        "the size of the file is used; boxes are scaled if the image was only resized, else kept and clipped",
    ),
    "image_size_absent": Action("repaired", "an image without a size", "the size is read from the file"),
    "image_rotated": Action(
        "repaired",
        "an image that its EXIF data rotate or mirror",
        "used upright; boxes are rotated with it if the annotation file refers to images as stored, which its images "
        "decide together",
    ),
    "image_gray": Action("repaired", "an image with one channel", "expanded to RGB"),
    "image_16bit": Action(
        "repaired",
        "an image with more than 8 bits per channel",
        "scaled to 8 bits by the value range of the data set, which is printed",
    ),
    "value_out_of_range": Action(
        "noted", "a val image with values outside the range of those of train", "clipped to it"
    ),
    "value_scale_differs": Action(
        "noted",
        "an image whose values all lie in the lowest sixteenth of the range of the data set",
        "scaled like the others; if it was recorded on another scale, convert it first",
    ),
    "image_cmyk": Action("repaired", "a CMYK image", "converted to RGB"),
    "image_palette": Action("repaired", "a palette image", "converted to RGB"),
    "image_alpha": Action("repaired", "an image with transparency", "converted to RGB"),
    "image_animated": Action("repaired", "an image with several frames", "the first frame is used"),
    "image_unlabeled": Action(
        "dropped",
        "an image without an annotation file (Pascal VOC, labelme), a mask, or an entry (COCO panoptic)",
        "it is left out",
    ),
    # objects
    "image_of_object_missing": Action("dropped", "an object of an image that is not listed", "it is left out"),
    "box_malformed": Action("dropped", "a box that is not four numbers", "its image is left out"),
    "box_not_finite": Action("dropped", "a box with NaN or infinity", "its image is left out"),
    "box_empty": Action("dropped", "a box of zero or negative size", "the object is left out"),
    "box_off_image": Action("dropped", "a box wholly outside its image", "the object is left out"),
    "box_outside": Action("repaired", "a box that leaves its image by half a pixel or more", "clipped to the image"),
    "number_as_text": Action("repaired", "a number written as text", "read as the number"),
    "category_unknown": Action("dropped", "an object of a category that is not listed", "its image is left out"),
    "annotation_id_twice": Action("repaired", "two objects of one id", "the later gets a new id"),
    "annotation_id_absent": Action(
        "repaired", "an object without a positive id (official evaluation never matches id 0)", "it gets a new id"
    ),
    "annotation_twice": Action("dropped", "the same box of the same class again", "used once"),
    "image_object_lost": Action(
        "dropped",
        "an image with an object that cannot be read or understood, or without any object that can be used",
        "it is left out, with its other objects, so that no object on it is trained as background",
    ),
    "area_absent": Action("repaired", "an object without a usable area", "computed from the box"),
    "segmentation_malformed": Action(
        "repaired",
        "a mask that is neither polygons nor RLE of the image's size",
        "the box is kept without that part of it",
    ),
    "crowd": Action("noted", "a crowd region", "kept for evaluation, which ignores it; not trained on"),
    "difficult": Action("noted", "an object marked difficult", "treated as a crowd region"),
    # masks
    "mask_file_missing": Action(
        "dropped", "a file of masks that is not there", "its image is left out, with its objects"
    ),
    "mask_file_unreadable": Action(
        "dropped", "a file of masks that cannot be decoded", "its image is left out, with its objects"
    ),
    "panoptic_not_rgb": Action(
        "dropped",
        "a panoptic PNG that is not 8-bit RGB, so that its ids (R + 256 G + 65536 B) cannot be read",
        "its image is left out, with its objects",
    ),
    "mask_size_differs": Action(
        "repaired", "masks of another size than their image, but of its shape", "stretched to it, pixel by pixel"
    ),
    "mask_shape_differs": Action(
        "dropped", "masks of another shape than their image", "the image is left out, with its objects"
    ),
    "mask_without_image": Action("dropped", "a file of masks whose image is not there", "it is left out"),
    "segment_without_pixels": Action(
        "dropped", "a panoptic segment, or a file for one object, without a pixel", "it is left out"
    ),
    "pixels_without_segment": Action(
        "noted", "ids in a panoptic PNG that no segment has", "used as void, which is never counted as an error"
    ),
    "box_from_mask": Action("repaired", "a segment without a usable box", "it gets the box of its pixels"),
    "mask_box_differs": Action(
        "noted", "a mask that disagrees with its box", "both are kept: the box for boxes, the mask for masks"
    ),
    "mask_tiny": Action("noted", "a mask of one pixel", "kept"),
    "mask_smoothed": Action(
        "noted",
        "a file of masks whose values look like the smooth edge of one object",
        "each value is used as an object; save the mask with hard edges",
    ),
    "mask_in_parts": Action(
        "noted",
        "a mask of one value whose pixels are several separate regions",
        "used as one object; if they are several, give each a value or a file of its own",
    ),
    "mask_empty": Action("repaired", "polygons or RLE without a pixel in the image", "the box is used as mask"),
    "mask_absent": Action(
        "repaired",
        "an object without a mask, where others have one",
        "the box is used as mask, if masks are trained",
    ),
    "polygon_outside": Action(
        "repaired", "a polygon that leaves its image by more than a pixel", "the part outside is ignored"
    ),
    # the whole
    "objects_exceed_queries": Action(
        "noted", "more objects in an image than the model has queries", "the rest cannot be detected"
    ),
    "leakage_content": Action(
        "noted", "a val image whose file is byte for byte in train", "kept; metrics will be too good"
    ),
    "leakage_look": Action(
        "noted",
        "a val image that is a copy of a train image: resized, recompressed, brighter, cropped a little or mirrored",
        "kept; metrics will be too good; move it to train, or leave it out",
    ),
    "near_duplicate": Action(
        "noted",
        "an image that is a copy of another one of its split, as under leakage_look",
        "kept; it counts twice",
    ),
    "leakage_name": Action(
        "noted",
        "a val image with the file name of a different train image",
        "kept; check whether the images are the same",
    ),
}
"""Kind of finding -> action. Defects of a whole data set (a json file that does not parse, contradicting
categories, no usable image) are not in the table but raise a DataError."""


@dataclass(slots=True, frozen=True)
class Finding:
    """One defect in one file or record."""

    kind: str
    """A key of ACTIONS."""
    file: str
    """The annotation file or the image."""
    record: str = ""
    """The record in the file: `annotations[17]`, `line 3`, or empty for the whole file."""
    detail: str = ""
    """The value that was found, or further details."""
    dropped_objects: int = 0
    """Number of objects that were left out together with an image."""

    def __post_init__(self) -> None:
        assert self.kind in ACTIONS, self.kind

    @property
    def action(self) -> str:
        """`repaired`, `dropped`, `unused` or `noted`."""
        return ACTIONS[self.kind].outcome

    @property
    def message(self) -> str:
        """The finding as one line."""
        entry = ACTIONS[self.kind]
        place = f"{self.file}, {self.record}" if self.record else self.file
        detail = f" ({self.detail})" if self.detail else ""
        return f"{place}: {entry.defect}{detail}; {entry.remedy}"

    def to_plain(self) -> dict[str, str | int]:
        """The finding as JSON-like data."""
        plain: dict[str, str | int] = {"kind": self.kind, "action": self.action, "file": self.file}
        plain |= {"record": self.record, "detail": self.detail}
        if self.dropped_objects:
            plain["dropped_objects"] = self.dropped_objects
        return plain


class Findings:
    """The findings of one data set, in the order in which they were added."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._all: list[Finding] = list(findings)

    def add(self, kind: str, file: object, record: str = "", detail: str = "", dropped_objects: int = 0) -> None:
        """Add a finding."""
        self._all.append(Finding(kind, str(file), record, detail, dropped_objects))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def counts(self) -> dict[str, int]:
        """Kind -> number of findings, in the order of ACTIONS."""
        counted = Counter(finding.kind for finding in self._all)
        return {kind: counted[kind] for kind in ACTIONS if kind in counted}

    def refuse_left_out(self, source: str) -> None:
        """Raise an error if anything was left out.

        Raises:
            DataError: images, objects or files were left out.
        """
        left = [finding for finding in self if finding.action in ("dropped", "unused")]
        if left:
            counts = ", ".join(f"{n} {kind}" for kind, n in Findings(left).counts().items())
            raise DataError(
                f"expected everything in {source} to be used, as --strict asks, found {counts}; the first: "
                f"{left[0].message}; correct the data set, or leave --strict out"
            )

    def reasons(self) -> str:
        """Summarize the dropped records, as the end of an error message about missing ones."""
        dropped = [finding for finding in self if finding.action == "dropped" or finding.kind == "file_unreadable"]
        counts = ", ".join(f"{n} {kind}" for kind, n in Findings(dropped).counts().items())
        return f" ({counts}; the first: {dropped[0].message})" if dropped else "; add some, or look at the path"


def actions_table() -> str:
    """ACTIONS as a Markdown table, which `docs/your-own-data.md` contains."""
    rows = [f"| `{kind}` | {row.defect} | {row.outcome}: {row.remedy} |" for kind, row in ACTIONS.items()]
    return "\n".join(["| finding | defect | action |", "|---|---|---|", *rows])
