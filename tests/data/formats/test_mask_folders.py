"""Folders of mask PNGs: the layouts that are found, boxes and classes from them, and every defect with its finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.mask_files import FileMask
from detrkit.data.decode.object_masks import decode_masks
from detrkit.data.formats.detect import open_dataset
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError, DataError
from tests.data.conftest import write_image

FIRST, SECOND = (5, 6, 15, 18), (20, 3, 22, 29)


def values(**boxes: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    """A map whose value v1, v2, ... fills a box."""
    ids = np.zeros((30, 40), np.int64)
    for name, (x1, y1, x2, y2) in boxes.items():
        ids[y1:y2, x1:x2] = int(name[1:])
    return ids


def save(path: Path, ids: np.ndarray[Any, Any], kind: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "RGB":
        ids = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    image = Image.fromarray(ids.astype(np.uint16 if kind == "I;16" else np.uint8))
    if kind == "P":
        image = image.convert("P")
        image.putpalette([200, 0, 0, 0, 200, 0] * 128)  # colors repeat: only the index tells objects apart
        image.putdata(ids.ravel().tolist())
    image.save(path)
    return path


def check(root: Path, **options: Any) -> CheckReport:
    report = check_dataset(open_dataset(root, val_fraction=0), masks=True, **options)
    assert report.format == "masks"
    return report


def objects(report: CheckReport, split_name: str = "train") -> list[tuple[str, tuple[float, ...], float]]:
    """Class, box and area of each, image by image."""
    split = report.splits[split_name]
    names = split.categories.names
    return [(names[o.category_id], o.box, o.area) for image in split.images for o in image.objects]


def lay(root: Path, layout: str) -> None:
    """Two objects on image a, in several layouts; where it has classes, the first is a bolt."""
    both = values(v3=FIRST, v9=SECOND)
    one, two = values(v255=FIRST), values(v255=SECOND)
    if layout == "folder per image":
        write_image(root / "a" / "images" / "a.png")
        save(root / "a" / "masks" / "x1.png", one)
        save(root / "a" / "masks" / "x2.png", two)
        return
    if layout == "penn fudan":
        write_image(root / "PNGImages" / "a.png")
        save(root / "PedMasks" / "a_mask.png", both)
        return
    write_image(root / "images" / "a.jpg")
    masks = root / "masks"
    if layout in ("L", "P", "I;16", "RGB"):
        far = {"L": 1, "P": 1, "I;16": 300, "RGB": 70_000}[layout]
        save(masks / "a.png", both * far, layout)
    elif layout == "files":
        save(masks / "a" / "1.png", one)
        save(masks / "a" / "2.tif", two)
    elif layout == "class folders":
        save(masks / "bolt" / "a.png", values(v1=FIRST))
        save(masks / "nut" / "a.png", values(v1=SECOND))
    elif layout == "class folders of files":
        save(masks / "bolt" / "a" / "1.png", one)
        save(masks / "nut" / "a" / "1.png", two)
    elif layout == "files in class folders":
        save(masks / "a" / "bolt" / "1.png", one)
        save(masks / "a" / "nut" / "1.png", two)
    elif layout == "json":
        save(masks / "a.png", both)
        (masks / "a.json").write_text(json.dumps({"3": "bolt", "9": "nut"}))


@pytest.mark.parametrize(
    "layout",
    [
        *("L", "P", "I;16", "RGB", "files", "folder per image", "penn fudan"),
        *("class folders", "class folders of files", "files in class folders", "json"),
    ],
)
def test_layouts(tmp_path: Path, layout: str) -> None:
    lay(tmp_path, layout)
    report = check(tmp_path, decode_all=True)
    assert report.findings == []
    named = "class" in layout or layout == "json"
    assert report.splits["train"].categories.names == (("bolt", "nut") if named else ("object",))
    assert objects(report) == [
        ("bolt" if named else "object", FIRST, 120),
        ("nut" if named else "object", SECOND, 52),
    ]
    dataset = DetectionDataset(
        report.splits["train"],
        report.splits["train"].categories,
        eval_transform(30),
        with_masks=True,
    )
    masks = dataset[0][1]["masks"].numpy()
    assert np.array_equal(masks[0], values(v1=FIRST) > 0)
    assert np.array_equal(masks[1], values(v1=SECOND) > 0)
    assert ("no folder or json file names a class" in " ".join(report.notes)) != named


@pytest.mark.parametrize("inner", ["images/{}", "{}/images", "{}"])
def test_sides(tmp_path: Path, inner: str) -> None:
    for split_name in ("train", "valid"):
        folder = tmp_path / inner.format(split_name)
        if inner == "{}":
            write_image(folder / "a" / "images" / "a.png")
            save(folder / "a" / "masks" / "1.png", values(v1=FIRST))
            (folder / "b" / "masks").mkdir(parents=True)  # a folder without a mask: nothing is on the image
            write_image(folder / "b" / "images" / "b.png")
        else:
            write_image(folder / "a.png")
            save(tmp_path / inner.replace("images", "masks").format(split_name) / "a.png", values(v1=FIRST))
    report = check_dataset(open_dataset(tmp_path))
    assert {name: len(split) for name, split in report.splits.items()} == dict.fromkeys(
        ("train", "val"), 2 if inner == "{}" else 1
    )
    assert [o[1] for o in objects(report)] == [o[1] for o in objects(report, "val")] == [FIRST]


def test_folders_by_hand_and_classes_txt(tmp_path: Path) -> None:
    lay(tmp_path, "class folders")
    write_image(tmp_path / "images" / "b.jpg")
    save(tmp_path / "masks" / "nut" / "b.png", values(v1=SECOND))
    write_image(tmp_path / "more" / "images" / "b.png")
    save(tmp_path / "more" / "masks" / "nut" / "b.png", values(v1=SECOND))
    (tmp_path / "classes.txt").write_text("nut\nwasher\n")
    raw = open_dataset(tmp_path, data_format="masks", val_images="more/images")
    report = check_dataset(raw)
    assert report.splits["val"].categories.names == ("nut", "washer")
    assert objects(report) == [("nut", SECOND, 52)]
    assert objects(report, "val") == [("nut", SECOND, 52)]
    assert report.counts() == {"category_unused": 1, "category_unknown": 1, "image_object_lost": 1}
    assert [image.file_name for image in report.splits["train"].images] == ["b.jpg"]
    with pytest.raises(DataError, match="expected a folder masks/ beside the images"):
        open_dataset(tmp_path, data_format="masks", val_images=str(write_image(tmp_path / "x" / "y" / "c.png").parent))
    with pytest.raises(ConfigError, match="data_format is masks"):
        open_dataset(tmp_path, data_format="masks", panoptic_json="classes.txt")


def add_good(root: Path) -> None:
    write_image(root / "images" / "good.png")
    save(root / "masks" / "good.png", values(v1=FIRST))


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("image_unlabeled", 1),
        ("mask_without_image", 1),
        ("mask_file_unreadable", 1),
        ("mask_shape_differs", 1),
        ("mask_size_differs", 2),
        ("segment_without_pixels", 2),
        ("category_unknown", 1),
        ("mask_tiny", 2),
        ("mask_smoothed", 2),
        ("mask_in_parts", 2),
    ],
)
def test_defects(tmp_path: Path, kind: str, left: int) -> None:
    add_good(tmp_path)
    masks = tmp_path / "masks"
    where = masks / "bad.png"
    if kind != "mask_without_image":
        where = write_image(tmp_path / "images" / "bad.png") if kind == "image_unlabeled" else where
        write_image(tmp_path / "images" / "bad.png")
    if kind == "mask_without_image":
        save(where, values(v1=FIRST))
    elif kind == "mask_file_unreadable":
        save(where, values(v1=FIRST))
        where.write_bytes(where.read_bytes()[:60])
    elif kind == "mask_shape_differs":
        save(where, values(v1=FIRST)[:, :30])
    elif kind == "mask_size_differs":
        save(where, values(v1=FIRST)[::2, ::2])
    elif kind == "segment_without_pixels":
        save(masks / "bad" / "1.png", values(v1=FIRST))
        where = save(masks / "bad" / "2.png", values())
    elif kind == "category_unknown":
        save(where, values(v1=FIRST, v2=SECOND))
        (masks / "bad.json").write_text('{"1": "nut"}')
        (masks / "good.json").write_text('{"1": "nut"}')
    elif kind == "mask_in_parts":
        save(where, np.maximum(values(v255=FIRST), values(v255=SECOND)))
    elif kind == "mask_tiny":
        save(where, values(v1=(0, 0, 1, 1)))
    elif kind == "mask_smoothed":
        hard = values(v255=(3, 3, 37, 27)).astype(np.uint8)
        save(where, np.asarray(Image.fromarray(hard).rotate(20, Image.Resampling.BICUBIC)))
    report = check(tmp_path, decode_all=True)
    finding, *more = report.findings
    assert [finding.kind, *(f.kind for f in more)] == [kind, *["image_object_lost"] * (kind == "category_unknown")]
    assert str(where) in finding.message or where.name in finding.record
    assert len(report.splits["train"]) == left
    if kind == "mask_size_differs":  # columns 5..15 of every second one are 3..7 (6 to 14), rows 6..18 are 3..8
        assert report.splits["train"].images[0].objects[0].box == (6, 6, 16, 18)
        shape = report.splits["train"].images[0].objects[0].segmentation
        mask = decode_masks([shape], torch.zeros(1, 4), 30, 40)[0].numpy()
        assert np.array_equal(mask, values(v1=(6, 6, 16, 18)) > 0)


def test_what_a_person_must_mend(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"expected masks as PNG in .*masks, found none"):
        open_dataset(tmp_path)
    write_image(tmp_path / "masks" / "a.jpg")
    with pytest.raises(DataError, match=r"found a\.jpg, whose format changes values a little; save them again as PNG"):
        open_dataset(tmp_path)
    save(tmp_path / "masks" / "a_1.png", values(v1=FIRST))
    with pytest.raises(DataError, match=r"1 image_unlabeled, 1 mask_without_image; the first: .*a_1\.png"):
        open_dataset(tmp_path)
    (tmp_path / "masks" / "a_1.png").unlink()
    save(tmp_path / "masks" / "a.png", values(v1=FIRST))
    (tmp_path / "classes.txt").write_text("nut\nwasher\n")
    with pytest.raises(DataError, match="expected the classes of masks as folders or in json files"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("nut\n")
    assert open_dataset(tmp_path).splits["train"].categories.names == ("nut",)
    (tmp_path / "masks" / "a.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"expected masks that can be used of the 1 images .*a\.json"):
        open_dataset(tmp_path)


def test_records_are_small_and_ids_are_unique(tmp_path: Path) -> None:
    lay(tmp_path, "L")
    add_good(tmp_path)
    split = check(tmp_path).splits["train"]
    actual = [o for image in split.images for o in image.objects]
    assert [o.id for o in actual] == [1, 2, 3]
    assert actual[0].segmentation == FileMask(tmp_path / "masks" / "a.png", 3)
    gt = split.to_coco()
    assert [row["segmentation"]["size"] for row in gt["annotations"]] == [[30, 40]] * 3


@pytest.mark.parametrize("above", ["export", "set/export", "a/b/c"])
@pytest.mark.parametrize("layout", ["L", "files", "class folders", "folder per image"])
def test_any_depth(tmp_path: Path, above: str, layout: str) -> None:
    lay(tmp_path / above, layout)
    if layout != "folder per image":
        add_good(tmp_path / above) if layout != "class folders" else None
        write_image(tmp_path / above / "images" / "unlabeled.png")
    report = check(tmp_path)
    assert set(report.counts()) <= {"image_unlabeled"}
    assert [box for _, box, _ in objects(report)][:2] == [FIRST, SECOND]
    assert len(objects(report)) == (3 if layout in ("L", "files") else 2)


def test_several_folders_and_splits_down(tmp_path: Path) -> None:
    for site in ("site A", "site B"):
        for split_name in ("train", "val"):
            add_good(tmp_path / site / split_name)
    report = check(tmp_path)
    assert {name: len(split) for name, split in report.splits.items()} == {"train": 2, "val": 2}
    assert [image.file_name for image in report.splits["train"].images] == [
        "site A/train/images/good.png",
        "site B/train/images/good.png",
    ]
