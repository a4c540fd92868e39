"""Polygons and RLE: what `detrkit check` says of them, and what they are as pixels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from detrkit.data.decode.object_masks import decode_masks
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from detrkit.ops.masks import encode_rle
from tests.data.conftest import only

SQUARE = [[1, 1, 7, 1, 7, 7, 1, 7]]
BOX = torch.tensor([[1.0, 1.0, 7.0, 7.0]])


def rle(*box: int) -> dict[str, Any]:
    mask = torch.zeros(30, 40, dtype=torch.bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    return encode_rle(mask)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("mask_empty", [[3.2, 3.2, 3.4, 3.2, 3.4, 3.4]]),  # smaller than a pixel
        ("mask_empty", [[2, 2, 2, 2, 2, 2]]),
        ("mask_empty", {"size": [30, 40], "counts": [1200]}),
        ("mask_empty", rle(0, 0, 0, 0)),
        ("mask_tiny", rle(3, 3, 4, 4)),
        ("mask_box_differs", rle(20, 1, 26, 7)),
        ("mask_box_differs", [[20, 1, 26, 1, 26, 7, 20, 7]]),
        ("polygon_outside", [[1, -4, 7, -4, 7, 7, 1, 7]]),
    ],
)
def test_doubtful_masks_are_reported(coco: Any, kind: str, shape: Any) -> None:
    for row in coco.train["annotations"] + coco.content["val"]["annotations"]:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert coco.check(decode_all=True).findings == []
    coco.add(segmentation=shape)
    report = coco.check(decode_all=True)
    counts = report.counts()
    assert counts.pop(kind) == 1
    assert set(counts) <= ({"mask_box_differs"} if kind == "mask_tiny" else set())
    finding = next(f for f in report.findings if f.kind == kind)
    assert (finding.record, finding.file) == ("annotations[2]", str(coco.root / "train.json"))
    assert report.splits["train"].images[0].objects[2].segmentation == shape
    assert coco.check().findings == []  # what changes nothing is not looked for in training


def test_objects_without_a_mask_among_others(coco: Any) -> None:
    assert coco.check(decode_all=True).findings == []
    with pytest.raises(DataError, match=r"expected masks of the objects in .*train\.json, found only boxes \(COCO\)"):
        coco.check(masks=True)
    coco.content["val"]["annotations"][0]["segmentation"] = [[5, 6, 15, 6, 15, 18, 5, 18]]
    coco.add(segmentation=SQUARE)
    report = coco.check(decode_all=True, masks=True)
    only(report, "mask_absent", 2)
    assert [f.record for f in report.findings] == ["annotations[0]", "annotations[1]"]
    shapes = [row["segmentation"] for row in report.splits["train"].to_coco()["annotations"]]
    assert shapes == [[[5, 6, 15, 6, 15, 18, 5, 18]], [[20, 10, 28, 10, 28, 18, 20, 18]], SQUARE]


@pytest.mark.parametrize("far", [1e8, -1e8])
def test_a_polygon_that_would_take_a_minute_to_draw_is_dropped(coco: Any, far: float) -> None:
    coco.add(segmentation=[[1, 1, far, 1, far, 7, 1, 7], *SQUARE])
    start = time.monotonic()
    report = coco.check(decode_all=True)
    assert time.monotonic() - start < 5
    assert report.counts().pop("segmentation_malformed") == 1
    assert report.splits["train"].images[0].objects[2].segmentation == SQUARE


def test_pixels_are_those_of_the_official_code(shared_data: Path) -> None:
    """Every polygon and RLE of two real sets, decoded an image at a time."""
    for name in ("coco_mini", "nuclei"):
        content = json.loads((shared_data / name / "val.json").read_text())
        for image in content["images"][:25]:
            height, width = image["height"], image["width"]
            shapes = [a["segmentation"] for a in content["annotations"] if a["image_id"] == image["id"]]
            masks = decode_masks(shapes, torch.zeros(len(shapes), 4), height, width)
            for mask, shape in zip(masks, shapes, strict=True):
                whole = shape
                if isinstance(shape, list):
                    whole = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
                elif isinstance(shape["counts"], list):
                    whole = coco_mask.frPyObjects(shape, height, width)
                assert np.array_equal(mask.numpy(), coco_mask.decode(whole))


def test_any_run_lengths_decode() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 12, 2)
        plane = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
        shape = encode_rle(torch.from_numpy(plane))
        flat = np.concatenate([[0], plane.T.ravel().astype(int), [0]])
        edges = np.flatnonzero(np.diff(flat))
        counts = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
        for form in (shape, {**shape, "counts": shape["counts"].encode()}, {**shape, "counts": counts}):
            mask = decode_masks([form], torch.tensor([[0.0, 0.0, 1.0, 1.0]]), int(height), int(width))[0].numpy()
            if plane.any():
                assert np.array_equal(mask, plane)
            else:
                assert mask.sum() == 1  # its box


@pytest.mark.parametrize("shape", [None, [], [[3.2, 3.2, 3.4, 3.2, 3.4, 3.4]], {"size": [30, 40], "counts": [1200]}])
def test_the_box_replaces_a_missing_mask(shape: Any) -> None:
    expected = torch.zeros(30, 40, dtype=torch.bool)
    expected[1:7, 1:7] = True
    assert torch.equal(decode_masks([shape], BOX, 30, 40)[0], expected)
    for tiny in ([3.1, 3.1, 3.2, 3.2], [39.8, 29.8, 40, 30], [0, 0, 0.1, 30]):
        assert decode_masks([shape], torch.tensor([tiny]), 30, 40).any()


def test_polygon_parts_outside_the_image_do_not_count() -> None:
    polygon = [[-8, -8, 10, -8, 10, 10, -8, 10], [30, 20, 60, 20, 60, 50, 30, 50]]
    mask = decode_masks([polygon], BOX, 30, 40)[0]
    expected = torch.zeros(30, 40, dtype=torch.bool)
    expected[:10, :10] = True
    expected[20:, 30:] = True
    assert torch.equal(mask, expected)


def test_yolo_polygons_are_masks_with_boxes_around_them(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    for split_name, number in (("train", 1), ("val", 2)):
        make_image(tmp_path / "images" / split_name / "a.png", seed=number)
        (tmp_path / "labels" / split_name).mkdir(parents=True)
        lines = ["1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6", "0 0.75 0.5 0.25 0.4", "0 0.5 0.5 0.9 0.5 0.9 1.3 0.5 1.3"]
        (tmp_path / "labels" / split_name / "a.txt").write_text("\n".join(lines))
    report = check_dataset(open_dataset(tmp_path), decode_all=True, masks=True)
    assert report.counts() == {"box_outside": 2, "mask_absent": 2, "polygon_outside": 2, "leakage_name": 1}
    assert {(Path(f.file).name, f.record) for f in report.findings if f.kind == "mask_absent"} == {("a.txt", "line 2")}
    first, second, third = report.splits["train"].images[0].objects
    assert first.box == pytest.approx((4, 6, 20, 18))
    assert first.area == pytest.approx(16 * 12)
    assert second.segmentation is None
    assert third.box == pytest.approx((20, 15, 36, 30))
    boxes = torch.tensor([o.box for o in (first, second, third)])
    masks = decode_masks([o.segmentation for o in (first, second, third)], boxes, 30, 40)
    expected = torch.zeros(30, 40, dtype=torch.bool)
    expected[6:18, 4:20] = True
    assert torch.equal(masks[0], expected)
    assert masks[2][15:, 20:36].all()
    assert masks[2].sum() == 15 * 16


def test_500_objects_in_one_image(coco: Any) -> None:
    coco.train["annotations"] = [
        coco.box(
            k + 1,
            bbox=[k % 20 * 2, k // 20, 1, 1],
            segmentation=[
                [k % 20 * 2, k // 20, k % 20 * 2 + 1, k // 20, k % 20 * 2 + 1, k // 20 + 1, k % 20 * 2, k // 20 + 1]
            ],
            category_id=3 + 6 * (k % 2),
        )
        for k in range(500)
    ]
    report = coco.check(decode_all=True)
    assert report.counts()["objects_exceed_queries"] == 1
    assert report.counts()["mask_tiny"] == 500
    objects = report.splits["train"].images[0].objects
    masks = decode_masks([o.segmentation for o in objects], torch.tensor([o.box for o in objects]), 30, 40)
    assert masks.flatten(1).sum(dim=1).tolist() == [1] * 500
    assert masks.any(dim=0).sum() == 500
