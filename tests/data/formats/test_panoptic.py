"""COCO panoptic json with PNGs: what is read, what evaluation gets, and every defect with its finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from detrkit.data.decode.mask_files import FileMask, MaskFiles, read_ids, regions_of, resize_ids
from detrkit.data.formats.coco_panoptic import read_panoptic_gt
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError, DataError
from tests.data.conftest import only, write_image

CAT, SKY, CROWD = 70_000, 300, 5  # ids that need all three channels
INTENDED = ("crowd", "category_mostly_crowds", "category_unused", "category_not_in_train", "leakage_name")
CATEGORIES = [
    {"id": 200, "name": "cat", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 90, "name": "dog", "isthing": 1},
]


class PanopticFolder:
    """Two splits of one image each, to be broken: sky above, a cat below it, a crowd of dogs, and void."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ids: dict[str, np.ndarray[Any, Any]] = {}
        self.content: dict[str, dict[str, Any]] = {}
        for number, split_name in enumerate(("train", "val"), start=1):
            write_image(root / split_name / "a.png", seed=number)
            ids = np.zeros((30, 40), np.int64)
            ids[:10] = SKY
            ids[12:20, 5:15] = CAT
            ids[20:30, 30:40] = CROWD
            self.ids[split_name] = ids
            segments = [
                {"id": SKY, "category_id": 7, "area": 400, "bbox": [0, 0, 40, 10], "iscrowd": 0},
                {"id": CAT, "category_id": 200, "area": 80, "bbox": [5, 12, 10, 8], "iscrowd": 0},
                {"id": CROWD, "category_id": 90, "area": 100, "bbox": [30, 20, 10, 10], "iscrowd": 1},
            ]
            self.content[split_name] = {
                "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
                "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
                "categories": [dict(row) for row in CATEGORIES],
            }

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Those of the training image."""
        return self.content["train"]["annotations"][0]["segments_info"]

    def write(self) -> None:
        for split_name, content in self.content.items():
            (self.root / f"panoptic_{split_name}.json").write_text(json.dumps(content))
            ids = self.ids[split_name]
            pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            (self.root / f"panoptic_{split_name}").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(self.root / f"panoptic_{split_name}" / "a.png")

    def check(self, change: Callable[[Path], object] | None = None, **options: Any) -> CheckReport:
        """The report, less what is in the set on purpose; `change` gets the training PNG once all is written."""
        self.write()
        if change is not None:
            change(self.root / "panoptic_train" / "a.png")
        report = check_dataset(open_dataset(self.root), **options)
        report.findings = [f for f in report.findings if f.kind not in INTENDED]
        return report


@pytest.fixture
def panoptic(tmp_path: Path) -> PanopticFolder:
    return PanopticFolder(tmp_path / "set")


def test_segments_are_objects_and_the_file_declares_the_things(panoptic: PanopticFolder) -> None:
    report = panoptic.check(decode_all=True)
    assert report.findings == []
    assert report.format == "coco_panoptic"
    for split in report.splits.values():
        assert split.categories.ids == (200, 7, 90)
        assert split.categories.isthing == (True, False, True)  # an id of 200 is a thing, one of 7 is not
        (image,) = split.images
        assert image.panoptic == panoptic.root / f"panoptic_{split.name}" / "a.png"
        assert image.path == panoptic.root / split.name / "a.png"
        assert [(o.category_id, o.box, o.area, o.crowd) for o in image.objects] == [
            (7, (0, 0, 40, 10), 400, False),
            (200, (5, 12, 15, 20), 80, False),
            (90, (30, 20, 40, 30), 100, True),
        ]
        assert [o.segmentation for o in image.objects] == [FileMask(image.panoptic, i) for i in (SKY, CAT, CROWD)]


def test_ground_truth_of_an_image(panoptic: PanopticFolder) -> None:
    panoptic.ids["train"][0, 0] = 9  # of no segment: void
    image = panoptic.check().splits["train"].images[0]
    ids, rows = read_panoptic_gt(image)
    expected = panoptic.ids["train"].copy()
    expected[0, 0] = 0
    assert np.array_equal(ids.numpy(), expected)
    assert str(ids.dtype) == "torch.int64"
    assert [(r["id"], r["category_id"], r["area"], r["iscrowd"], r["bbox"]) for r in rows] == [
        (SKY, 7, 399, 0, [0, 0, 40, 10]),
        (CAT, 200, 80, 0, [5, 12, 10, 8]),
        (CROWD, 90, 100, 1, [30, 20, 10, 10]),
    ]


def test_average_precision_is_over_things(panoptic: PanopticFolder) -> None:
    split = panoptic.check().splits["train"]
    gt = split.to_coco()
    assert [row["id"] for row in gt["categories"]] == [200, 90]
    assert [(row["category_id"], row["iscrowd"]) for row in gt["annotations"]] == [(200, 0), (90, 1)]
    for row, segment in zip(gt["annotations"], (CAT, CROWD), strict=True):
        assert np.array_equal(coco_mask.decode(row["segmentation"]), panoptic.ids["train"] == segment)
    assert all("segmentation" not in row for row in split.to_coco(masks=False)["annotations"])


def gray(path: Path) -> None:
    Image.open(path).convert("L").save(path)


def palette(path: Path) -> None:
    Image.open(path).convert("P").save(path)


def half(path: Path) -> None:
    image = Image.open(path)
    image.resize((20, 15), Image.Resampling.NEAREST).save(path)


def other_shape(path: Path) -> None:
    Image.open(path).resize((40, 40), Image.Resampling.NEAREST).save(path)


def garbled(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50] + b"\0" * 40)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mask_file_missing", Path.unlink),
        ("mask_file_unreadable", garbled),
        ("panoptic_not_rgb", gray),
        ("panoptic_not_rgb", palette),
        ("mask_shape_differs", other_shape),
    ],
)
@pytest.mark.parametrize("decode_all", [False, True])
def test_a_image_whose_png_cannot_be_used(
    panoptic: PanopticFolder, kind: str, change: Callable[[Path], object], decode_all: bool
) -> None:
    content = panoptic.content["train"]  # a second image, so that the split is not empty
    write_image(panoptic.root / "train" / "b.png", seed=5)
    write_image(panoptic.root / "panoptic_train" / "b.png", seed=5)
    content["images"].append({"id": 8, "file_name": "b.png", "width": 40, "height": 30})
    segment = {"id": 1, "category_id": 200, "area": 9, "bbox": [1, 1, 3, 3], "iscrowd": 0}
    content["annotations"].append({"image_id": 8, "file_name": "b.png", "segments_info": [segment]})
    write = panoptic.write

    def write_both() -> None:
        write()
        ids = np.zeros((30, 40, 3), np.uint8)
        ids[1:4, 1:4, 0] = 1
        Image.fromarray(ids).save(panoptic.root / "panoptic_train" / "b.png")

    panoptic.write = write_both  # type: ignore[method-assign]
    report = panoptic.check(change, decode_all=decode_all)
    only(report, kind)
    assert report.findings[0].file.endswith("panoptic_train/a.png")
    assert report.findings[0].record == "images[0]"
    assert report.findings[0].dropped_objects == 3
    assert [image.id for image in report.splits["train"].images] == [8]


def test_no_usable_png_is_one_sentence(panoptic: PanopticFolder) -> None:
    with pytest.raises(DataError, match=r"none usable among the 1 listed .*not 8-bit RGB.*one channel \(gray\)"):
        panoptic.check(gray)


def test_a_smaller_png_is_stretched(panoptic: PanopticFolder) -> None:
    for split_name in panoptic.ids:  # odd rows and columns are then the even ones before them
        panoptic.ids[split_name] = panoptic.ids[split_name][::2, ::2].repeat(2, 0).repeat(2, 1)
    report = panoptic.check(half)
    only(report, "mask_size_differs")
    ids, _ = read_panoptic_gt(report.splits["train"].images[0])
    assert np.array_equal(ids.numpy(), panoptic.ids["train"])


@pytest.mark.parametrize(
    ("kind", "change", "count", "decode_all"),
    [
        ("segment_without_pixels", {"id": 77}, 2, True),
        ("record_malformed", {"id": SKY}, 2, False),
        ("box_from_mask", {"bbox": None}, 3, False),
        ("box_from_mask", {"bbox": [5, 12, 0, 8]}, 3, False),
        ("mask_box_differs", {"bbox": [25, 12, 10, 8]}, 3, True),
    ],
)
def test_a_broken_segment(
    panoptic: PanopticFolder, kind: str, change: dict[str, Any], count: int, decode_all: bool
) -> None:
    panoptic.segments[1] |= change
    report = panoptic.check(decode_all=decode_all)
    others = {"pixels_without_segment": 1} if decode_all and count == 2 else {}
    assert report.counts() == {kind: 1, **others}
    finding = next(f for f in report.findings if f.kind == kind)
    assert finding.record == "annotations[0].segments_info[1]"
    assert finding.file.endswith("panoptic_train.json")
    actual = report.splits["train"].images[0].objects
    assert len(actual) == count
    if kind == "box_from_mask":
        assert actual[1].box == (5, 12, 15, 20)


@pytest.mark.parametrize(
    ("kind", "change"), [("category_unknown", {"category_id": 1}), ("record_malformed", {"id": 0})]
)
def test_a_segment_that_cannot_be_understood_takes_its_image_along(
    panoptic: PanopticFolder, kind: str, change: dict[str, Any]
) -> None:
    panoptic.segments[1] |= change
    with pytest.raises(DataError, match=rf"none usable among the 1 listed \(1 {kind}, 1 image_object_lost"):
        panoptic.check()


def test_ids_without_a_segment_and_masks_of_one_pixel(panoptic: PanopticFolder) -> None:
    panoptic.ids["train"][25, 3] = 999
    only(panoptic.check(decode_all=True), "pixels_without_segment")
    assert panoptic.check().findings == []  # seen only where every PNG is decoded
    panoptic.segments.append({"id": 999, "category_id": 200, "area": 1, "bbox": [3, 25, 1, 1], "iscrowd": 0})
    report = panoptic.check(decode_all=True)
    only(report, "mask_tiny")
    assert report.splits["train"].images[0].objects[3].box == (3, 25, 4, 26)


def test_entries_and_images_that_do_not_meet(panoptic: PanopticFolder) -> None:
    content = panoptic.content["train"]
    entry = content["annotations"][0]
    content["annotations"] += [{**entry, "image_id": 99}, entry, {"image_id": 7}]
    write_image(panoptic.root / "train" / "b.png", seed=5)
    content["images"].append({"id": 8, "file_name": "b.png", "width": 40, "height": 30})
    report = panoptic.check()
    assert report.counts() == {"record_malformed": 2, "image_unlabeled": 1, "image_of_object_missing": 1}
    assert len(report.splits["train"].images) == 1


def test_what_a_person_must_mend(panoptic: PanopticFolder) -> None:
    del panoptic.content["train"]["categories"][1]["isthing"]
    with pytest.raises(DataError, match=r"expected isthing 1 .*'sky'.*found None"):
        panoptic.check()
    panoptic.content["train"]["categories"][1]["isthing"] = 1
    with pytest.raises(DataError, match=r"same value of isthing in all splits, found that 'sky' is a thing in .*train"):
        panoptic.check()
    panoptic.content["train"]["categories"][1]["isthing"] = 0
    panoptic.write()
    (panoptic.root / "panoptic_train").rename(panoptic.root / "elsewhere")
    with pytest.raises(DataError, match=r"expected the PNGs of .*panoptic_train\.json.*panoptic_dir"):
        open_dataset(panoptic.root)
    assert open_dataset(
        panoptic.root, train_json="panoptic_train.json", train_images="train", panoptic_dir="elsewhere"
    ).splits["train"]
    with pytest.raises(ConfigError, match="need data_format coco_panoptic"):
        open_dataset(panoptic.root, data_format="coco", panoptic_json="panoptic_train.json")


def test_layouts(panoptic: PanopticFolder, tmp_path: Path) -> None:
    """All of it in annotations/; the originals' two roots; a file named by hand, with the other side found."""
    panoptic.write()
    root = panoptic.root
    by_hand = open_dataset(root, panoptic_json="panoptic_val.json")
    assert {k: len(v.images) for k, v in by_hand.splits.items()} == {"train": 1, "val": 1}
    assert by_hand.notes == ["panoptic_train.json is used for train"]
    maps = tmp_path / "maps"
    (maps / "annotations").mkdir(parents=True)
    for split_name in ("train", "val"):
        (root / f"panoptic_{split_name}.json").rename(maps / "annotations" / f"panoptic_{split_name}2017.json")
        (root / f"panoptic_{split_name}").rename(maps / f"panoptic_{split_name}2017")
        (root / split_name).rename(root / f"{split_name}2017")
    raw = open_dataset(root, panoptic_json=str(maps))
    assert {k: v.images[0].path.parent.name for k, v in raw.splits.items()} == {"train": "train2017", "val": "val2017"}
    assert raw.splits["val"].images[0].panoptic == maps / "panoptic_val2017" / "a.png"
    for split_name in ("train", "val"):
        (maps / f"panoptic_{split_name}2017").rename(maps / "annotations" / f"panoptic_{split_name}2017")
    (maps / "annotations").rename(root / "annotations")
    assert check_dataset(open_dataset(root)).format == "coco_panoptic"


def test_instances_come_first_where_there_are_both(panoptic: PanopticFolder) -> None:
    panoptic.write()
    row = {"id": 1, "image_id": 7, "category_id": 200, "bbox": [5, 12, 10, 8], "area": 80, "iscrowd": 0}
    for split_name in ("train", "val"):
        content = {**panoptic.content[split_name], "annotations": [row]}
        (panoptic.root / f"{split_name}.json").write_text(json.dumps(content))
    raw = open_dataset(panoptic.root)
    assert raw.format == "coco"
    assert "there is also COCO_PANOPTIC (panoptic_train.json, panoptic_val.json)" in raw.notes[0]
    assert open_dataset(panoptic.root, data_format="coco_panoptic").format == "coco_panoptic"
    with pytest.raises(DataError, match=r"with segments_info, in .*found objects with boxes"):
        open_dataset(panoptic.root, data_format="coco_panoptic", train_json="train.json")


def test_ids_regions_and_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 6, (13, 17)) * 70_001
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray((ids // 70_001).astype(np.uint8)).save(tmp_path / "gray.png")
    Image.fromarray((ids // 10).astype(np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(read_ids(tmp_path / "rgb.png"), ids)
    assert np.array_equal(read_ids(tmp_path / "gray.png"), ids // 70_001)
    assert np.array_equal(read_ids(tmp_path / "deep.png"), ids // 10)
    regions = regions_of(ids)
    assert set(regions) == set(np.unique(ids).tolist())
    for value, region in regions.items():
        ys, xs = np.nonzero(ids == value)
        assert region == (len(ys), (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    assert np.array_equal(resize_ids(ids, 26, 34), ids.repeat(2, 0).repeat(2, 1))
    files = MaskFiles(13, 17)
    assert np.array_equal(files.mask(FileMask(tmp_path / "rgb.png", 140_002)), ids == 140_002)
    assert np.array_equal(files.mask(FileMask(tmp_path / "rgb.png", 0)), ids != 0)


def test_real_panoptic_data(shared_data: Path) -> None:
    """The ids, areas and boxes that its json lists, recounted from the PNGs."""
    folder = shared_data / "coco_panoptic_mini"
    report = check_dataset(open_dataset(folder, data_format="coco_panoptic"), decode_all=True)
    noted = {"crowd", "category_unused", "category_not_in_train"}
    assert set(report.counts()) <= noted | {"annotations_unused", "image_unused", "other_task"}
    assert {k: (len(s), sum(len(i.objects) for i in s.images)) for k, s in report.splits.items()} == {
        "train": (26, 285),
        "val": (27, 263),
    }
    split = report.splits["val"]
    assert len(split.categories) == 133
    assert sum(split.categories.isthing) == 80
    listed = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())["annotations"]
    segments_of = {entry["image_id"]: entry["segments_info"] for entry in listed}
    for image in split.images:
        _, rows = read_panoptic_gt(image)
        expected = {s["id"]: (s["category_id"], s["area"], s["iscrowd"], s["bbox"]) for s in segments_of[image.id]}
        assert {r["id"]: (r["category_id"], r["area"], r["iscrowd"], r["bbox"]) for r in rows} == expected
    gt = split.to_coco(masks=False)
    assert len(gt["annotations"]) == 174
    assert len(gt["categories"]) == 80
