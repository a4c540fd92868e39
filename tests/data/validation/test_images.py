"""Defects of images and their records: damage, sizes, kinds of pixels, names, ids, EXIF rotation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data.decode.images import read_image
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.image_probe import probe_images
from tests.data.conftest import boxes, counts, only


def test_images_that_are_dropped_with_their_objects(coco: Any, make_image: Callable[..., Path]) -> None:
    broken = {
        "image_missing": None,
        "image_unreadable": b"this is text",
        "image_truncated": None,
        "image_too_small": None,
    }
    images = coco.root / "images"
    for number, (kind, content) in enumerate(broken.items(), start=20):
        path = images / f"{kind}.jpg"
        coco.train["images"].append({"id": number, "file_name": path.name, "width": 40, "height": 30})
        coco.add(image_id=number)
        if content is not None:
            path.write_bytes(content)
    whole = make_image(images / "image_truncated.jpg", 200, 200)
    coco.train["images"][3] |= {"width": 200, "height": 200}
    whole.write_bytes(whole.read_bytes()[:-4000])
    make_image(images / "image_too_small.jpg", 1, 1)
    (images / "empty.jpg").touch()
    coco.train["images"].append({"id": 30, "file_name": "empty.jpg", "width": 40, "height": 30})
    report = coco.check()
    assert report.counts() == {"image_missing": 1, "image_unreadable": 2, "image_truncated": 1, "image_too_small": 1}
    for finding in report.findings:
        assert Path(finding.file).parent == images
        assert finding.record.startswith("images[")
        assert finding.dropped_objects == (0 if finding.file.endswith("empty.jpg") else 1)
    assert len(report.splits["train"]) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_files_of_every_format(coco: Any, make_image: Callable[..., Path], suffix: str, keep: float) -> None:
    path = make_image(coco.root / "images" / f"cut.{suffix}", 160, 120)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    coco.train["images"].append({"id": 20, "file_name": path.name, "width": 160, "height": 120})
    counts = coco.check().counts()
    assert set(counts) & {"image_truncated", "image_unreadable"}


@pytest.mark.parametrize(
    ("kinds", "name", "mode"),
    [
        ({"image_gray"}, "a.png", "L"),
        ({"image_gray"}, "a.jpg", "L"),
        ({"image_gray"}, "a.png", "1"),
        ({"image_cmyk"}, "a.jpg", "CMYK"),
        ({"image_palette"}, "a.png", "P"),
        ({"image_alpha"}, "a.png", "RGBA"),
        ({"image_gray", "image_alpha"}, "a.png", "LA"),
    ],
)
def test_kinds_of_pixels(coco: Any, make_image: Callable[..., Path], kinds: set[str], name: str, mode: str) -> None:
    make_image(coco.root / "images" / name, mode=mode)
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    assert counts(report) == dict.fromkeys([k for k in ACTIONS if k in kinds], 1)
    assert len(boxes(report)) == 2


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits(coco: Any, name: str) -> None:
    pixels = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(pixels).save(coco.root / "images" / name)
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    assert counts(report) == {"image_gray": 1, "image_16bit": 1}


def test_sixteen_bits_in_three_channels(coco: Any) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(coco.root / "images" / "deep.png"), np.full((30, 40, 3), 40000, np.uint16))
    coco.train["images"][0]["file_name"] = "deep.png"
    only(coco.check(), "image_16bit")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animated_images(coco: Any, suffix: str) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    frames[0].save(coco.root / "images" / f"film.{suffix}", save_all=True, append_images=frames[1:])
    coco.train["images"][0]["file_name"] = f"film.{suffix}"
    report = coco.check(decode_all=True)
    assert report.counts()["image_animated"] == 1
    assert len(report.splits["train"]) == 1


def test_a_size_that_disagrees_after_resizing_scales_the_boxes(coco: Any) -> None:
    coco.train["images"][0] |= {"width": 80, "height": 60}
    coco.add(bbox=[60, 40, 20, 20], area=300, segmentation=[[60, 40, 80, 40, 80, 60]])
    report = coco.check()
    only(report, "image_size_differs")
    image = report.splits["train"].images[0]
    assert (image.width, image.height) == (40, 30)
    assert boxes(report) == [(2.5, 3, 7.5, 9), (10, 5, 14, 9), (30, 20, 40, 30)]
    assert image.objects[2].area == 75
    assert image.objects[2].segmentation == [[30, 20, 40, 20, 40, 30]]


# the last size has the shape of the image, but the boxes leave it
@pytest.mark.parametrize("size", [(30, 40), (500, 30), (20, 15)])
def test_a_size_that_disagrees_otherwise_is_only_replaced(coco: Any, size: tuple[int, int]) -> None:
    coco.train["images"][0] |= {"width": size[0], "height": size[1]}
    report = coco.check()
    only(report, "image_size_differs")
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]


@pytest.mark.parametrize("value", ["absent", 0, None, -3, "wide", math.nan])
def test_a_size_that_is_absent_is_read_from_the_file(coco: Any, value: Any) -> None:
    row = coco.train["images"][0]
    row["width"] = value
    coco.train["images"][0] = {k: v for k, v in row.items() if v != "absent"}
    report = coco.check()
    only(report, "image_size_absent")
    assert report.splits["train"].images[0].width == 40


def test_a_size_written_as_text(coco: Any) -> None:
    coco.train["images"][0]["width"] = "40"
    only(coco.check(), "number_as_text")


def test_the_same_image_listed_twice_counts_once(coco: Any) -> None:
    coco.train["images"].append({**coco.train["images"][0], "id": 8})
    coco.add(image_id=8)
    report = coco.check()
    only(report, "image_listed_twice")
    assert len(boxes(report)) == 3
    assert [image.id for image in report.splits["train"].images] == [7]


def test_two_images_of_one_id(coco: Any, make_image: Callable[..., Path]) -> None:
    make_image(coco.root / "images" / "other.png")
    coco.train["images"].append({**coco.train["images"][0], "file_name": "other.png"})
    report = coco.check()
    only(report, "image_id_twice")
    assert [image.file_name for image in report.splits["train"].images] == ["train.png"]


def test_image_ids_that_are_text(coco: Any) -> None:
    coco.train["images"][0]["id"] = "scan-7"
    for row in coco.train["annotations"]:
        row["image_id"] = "scan-7"
    report = coco.check()
    only(report, "image_id_not_integer")
    assert isinstance(report.splits["train"].images[0].id, int)
    assert len(boxes(report)) == 2


@pytest.mark.parametrize(
    "name", ["../../secret/train.png", "/data/scans/train.png", "https://x.org/train.png", "C:\\d\\train.png"]
)
def test_file_names_never_leave_their_folder(coco: Any, name: str) -> None:
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    only(report, "image_name_leaves_folder")
    assert report.splits["train"].images[0].file_name == "train.png"
    assert len(boxes(report)) == 2


@pytest.mark.parametrize("row", [None, 7, "a.png", {"id": 4}, {"id": 4, "file_name": 12}, {"id": 4, "file_name": " "}])
def test_image_records_that_are_none(coco: Any, row: Any) -> None:
    coco.train["images"].append(row)
    only(coco.check(), "record_malformed")


@pytest.mark.parametrize("row", [None, 7, []])
def test_annotation_records_that_are_none(coco: Any, row: Any) -> None:
    coco.train["annotations"].append(row)
    only(coco.check(), "record_malformed")


def show_upright(orientation: int, tmp: Path, name: str) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Save an image with one white box under an EXIF orientation; its stored size, and the box after PIL turned it."""
    from PIL import ImageOps

    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:18, 5:15] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp / name, exif=exif)
    with Image.open(tmp / name) as saved:
        upright = np.asarray(ImageOps.exif_transpose(saved).convert("L")) > 127
    ys, xs = np.nonzero(upright)
    return image.size, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_given_for_the_stored_size_are_turned(coco: Any, orientation: int) -> None:
    _, expected = show_upright(orientation, coco.root / "images", "turned.png")
    coco.train["images"][0]["file_name"] = "turned.png"
    coco.train["annotations"][0]["segmentation"] = [[5, 6, 15, 6, 15, 18, 5, 18]]
    report = coco.check()
    only(report, "image_rotated")
    image = report.splits["train"].images[0]
    assert (image.width, image.height) == (30, 40)
    assert image.objects[0].box == expected
    assert image.objects[0].area == 120
    polygon = np.reshape(image.objects[0].segmentation, (-1, 2))
    assert (*polygon.min(0), *polygon.max(0)) == expected


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turning_agrees_with_pil(tmp_path: Path, orientation: int) -> None:
    from detrkit.data.validation.image_probe import probe_images
    from detrkit.data.validation.object_validation import stored_image_transform

    _, expected = show_upright(orientation, tmp_path, "turned.png")
    (facts,) = probe_images([tmp_path / "turned.png"])
    assert facts.orientation == orientation
    assert stored_image_transform(facts).box((5, 6, 15, 18)) == expected


def test_boxes_given_for_the_upright_size_stay(coco: Any) -> None:
    show_upright(6, coco.root / "images", "turned.png")
    coco.train["images"][0] |= {"file_name": "turned.png", "width": 30, "height": 40}
    report = coco.check()
    only(report, "image_rotated")
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]


def test_rle_of_a_turned_image_is_left_out(coco: Any) -> None:
    show_upright(6, coco.root / "images", "turned.png")
    coco.train["images"][0]["file_name"] = "turned.png"
    coco.train["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [0, 1200]}
    assert counts(coco.check()) == {"image_rotated": 1, "segmentation_malformed": 1}


@pytest.mark.parametrize("name", ["x" * 400 + ".png", "a\0b.png", "half\ud800.png", "images"])
def test_impossible_file_names_are_missing_images(coco: Any, name: str) -> None:
    coco.train["images"].append({"id": 20, "file_name": name, "width": 40, "height": 30})
    report = coco.check()
    assert set(report.counts()) <= {"image_missing", "image_unreadable"}
    assert len(report.findings) == 1
    report.findings[0].message.encode()
    assert len(report.splits["train"]) == 1


@pytest.mark.filterwarnings("ignore:.*is truncated")
@pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"])
def test_images_that_pass_the_check_can_be_decoded(tmp_path: Path, make_image: Callable[..., Path], name: str) -> None:
    """Training must not end in the middle of an epoch on an image that the check let pass."""
    whole = make_image(tmp_path / name, 80, 60, **({"progressive": True} if "progressive" in name else {})).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        content = bytearray(whole)
        place, length = int(rng.integers(len(whole))), int(rng.integers(1, 300))
        if number % 4 == 0:
            for _ in range(20):
                content[int(rng.integers(len(whole)))] = int(rng.integers(256))
        elif number % 4 == 1:
            del content[place : place + length]
        elif number % 4 == 2:
            content[place : place + length] = bytes(len(content[place : place + length]))
        else:
            del content[place:]
        path = tmp_path / f"damaged-{name}"
        path.write_bytes(bytes(content))
        (facts,) = probe_images([path])
        if not facts.problem:
            assert tuple(read_image(path).shape) == (3, facts.upright[1], facts.upright[0])
