"""Good data sets of every format, changed at random: one sentence at most, and nothing that goes unmentioned."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DetrkitError
from tests.data.conftest import VOC_OBJECT, VOC_XML, write_image

EXAMPLES = 100
COUNT = 3
NUMBERS = ("", "-1", "1e9", "nan", "abc", "0", '"7"', "null", "[]", "99999999999999999999")


def coco(root: Path) -> None:
    for split_name, first in (("train", 0), ("val", COUNT)):
        names = [f"p{number}.png" for number in range(first, first + COUNT)]
        for number, name in enumerate(names):
            write_image(root / "images" / name, seed=first + number)
        images = [{"id": k, "file_name": n, "width": 40, "height": 30} for k, n in enumerate(names, 1)]
        rows = [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
            for k in range(1, COUNT + 1)
        ]
        content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "dent"}]}
        (root / f"{split_name}.json").write_text(json.dumps(content))


def yolo(root: Path) -> None:
    for split_name, first in (("train", 0), ("val", COUNT)):
        for number in range(first, first + COUNT):
            write_image(root / "images" / split_name / f"p{number}.png", seed=number)
            (root / "labels" / split_name).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split_name / f"p{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [dent, scratch]\n")


def voc(root: Path) -> None:
    for number in range(2 * COUNT):
        write_image(root / "JPEGImages" / f"p{number}.png", seed=number)
        (root / "Annotations").mkdir(exist_ok=True)
        text = VOC_XML.format(
            name=f"p{number}.png",
            width=40,
            height=30,
            objects=VOC_OBJECT.format(5, 6, 15, 18, name="dent", difficult=0),
        )
        (root / "Annotations" / f"p{number}.xml").write_text(text)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"p{number}\n" for number in range(COUNT)))
    (lists / "val.txt").write_text("".join(f"p{number}\n" for number in range(COUNT, 2 * COUNT)))


def masks(root: Path) -> None:
    for number in range(2 * COUNT):
        write_image(root / "images" / f"p{number}.png", seed=number)
        values = np.zeros((30, 40), np.uint8)
        values[6:18, 5:15] = 1
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / "masks" / f"p{number}.png")


def panoptic(root: Path) -> None:
    for split_name, first in (("train", 0), ("val", COUNT)):
        rows = []
        for number in range(first, first + COUNT):
            write_image(root / split_name / f"p{number}.png", seed=number)
            ids = np.zeros((30, 40, 3), np.uint8)
            ids[6:18, 5:15, 0] = 1
            (root / f"panoptic_{split_name}").mkdir(exist_ok=True)
            Image.fromarray(ids).save(root / f"panoptic_{split_name}" / f"p{number}.png")
            segment = {"id": 1, "category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
            rows.append({"image_id": number, "file_name": f"p{number}.png", "segments_info": [segment]})
        images = [{"id": n, "file_name": f"p{n}.png", "width": 40, "height": 30} for n in range(first, first + COUNT)]
        categories = [{"id": 1, "name": "dent", "isthing": 1}]
        content = {"images": images, "annotations": rows, "categories": categories}
        (root / f"panoptic_{split_name}.json").write_text(json.dumps(content))


def labelme(root: Path) -> None:
    for number in range(2 * COUNT):
        split_name = "train" if number < COUNT else "val"
        write_image(root / split_name / f"p{number}.png", seed=number)
        shapes = [{"label": "dent", "points": [[5, 6], [15, 18]], "shape_type": "rectangle", "group_id": None}]
        content = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": f"p{number}.png"}
        content |= {"imageData": None, "imageHeight": 30, "imageWidth": 40}
        (root / split_name / f"p{number}.json").write_text(json.dumps(content))


def via(root: Path) -> None:
    region = {"shape_attributes": {"name": "rect", "x": 5, "y": 6, "width": 10, "height": 12}}
    region |= {"region_attributes": {"type": "dent"}}
    entries = {}
    for number in range(2 * COUNT):
        size = write_image(root / f"p{number}.png", seed=number).stat().st_size
        entries[f"p{number}.png{size}"] = {"filename": f"p{number}.png", "size": size, "regions": [region]}
    (root / "via_region_data.json").write_text(json.dumps(entries))


FORMATS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "masks": masks,
    "panoptic": panoptic,
    "labelme": labelme,
    "via": via,
}


def change(root: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """One change of the kinds that people and tools make."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return
    file = draw(st.sampled_from(files))
    text = file.suffix.lower() not in IMAGE_SUFFIXES
    change = draw(
        st.sampled_from(["rename", "move", "upper", "delete", "copy", "cut", "empty", "number", "encode", "line"])
    )
    if change == "rename":
        target = file.with_name(
            draw(st.sampled_from(["x y.png", "Ä[1] #2.JPG", "b.txt", "c.json", "d.XML", "train.txt"]))
        )
        file.rename(target)
    elif change == "move":
        folder = root / draw(st.sampled_from(["test", "sub/deep", "Images", ".hidden", "labels"]))
        if not folder.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            file.rename(folder / file.name)
    elif change == "upper":
        file.rename(file.with_name(file.stem + file.suffix.upper()))
    elif change == "delete":
        file.unlink()
    elif change == "copy":
        shutil.copy(file, file.with_name("copy_" + file.name))
    elif change == "cut":
        file.write_bytes(file.read_bytes()[: draw(st.integers(0, max(1, file.stat().st_size)))])
    elif change == "empty":
        file.write_bytes(b"")
    elif text and change == "number":
        words = file.read_text(errors="replace").split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(NUMBERS))
        file.write_text(" ".join(words))
    elif text and change == "encode":
        content = file.read_text(errors="replace").replace("dent", "零件")
        file.write_bytes(content.encode(draw(st.sampled_from(["utf-16", "gb18030", "utf-8-sig"])), "replace"))
    elif text:
        lines = file.read_text(errors="replace").splitlines()
        lines.insert(
            draw(st.integers(0, len(lines))), draw(st.sampled_from(["0 0.5", "</annotation>", "{", "p0", "\0"]))
        )
        file.write_text("\n".join(lines))


def outcome(root: Path) -> tuple[CheckReport | None, set[str], str]:
    """The report and the annotation files that were read, or the sentence that stands for them."""
    try:
        raw = open_dataset(root)
        read = {image.file for split in raw.splits.values() for image in split.images}
        return check_dataset(raw, decode_all=True), read, ""
    except DetrkitError as error:
        return None, set(), str(error)


def unmentioned(root: Path, report: CheckReport, known: set[str]) -> list[Path]:
    """Images and labels of the folder that are neither among those known to be used nor listed."""
    for split in report.splits.values():
        for image in split.images:
            known |= {str(image.path), str(image.panoptic)}
            for obj in image.objects:
                known.add(str(getattr(obj.segmentation, "path", "")))
    message = " ".join([*known, *(finding.message for finding in report.findings)]).lower()
    files = [path for path in root.rglob("*") if path.is_file() and not any(p.startswith(".") for p in path.parts[-3:])]
    pixels = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    masks = [path for path in pixels if path.parts[-2].startswith(("masks", "panoptic"))]
    images = [path for path in pixels if path not in masks]
    labels = [path for path in files if path.suffix.lower() == ".xml" or path.match("labels/**/*.txt")]
    lost = [path for path in images if path.name.lower() not in message]
    return lost + [path for path in (*labels, *masks) if path.stem.lower() not in message]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_changed_data_sets_end_in_one_sentence_at_most(name: str) -> None:
    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve() / "set"
            root.mkdir()
            FORMATS[name](root)
            for _ in range(data.draw(st.integers(1, 3))):
                change(root, data.draw)
            report, used, message = outcome(root)
            assert report is None or unmentioned(root, report, used) == []
            assert report is not None or (message.strip() and "\n" not in message)

    run()
