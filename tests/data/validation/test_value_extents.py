"""What the check says of images of more than 8 bits, and of those that are too large to be decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.commands.check import check
from detrkit.config.commands import CheckConfig
from detrkit.data.decode.images import read_image
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange


def fill(coco: Any, split_name: str, **files: np.ndarray) -> None:
    """Put images of 40 x 30 in place of the one of a split; those of 8 bits end in png too."""
    images = []
    for number, (name, values) in enumerate(files.items(), start=7):
        file_name = f"{split_name}-{name}.{'tif' if values.dtype.kind == 'f' else 'png'}"
        Image.fromarray(values).save(coco.root / "images" / file_name)
        images.append({"id": number, "file_name": file_name, "width": 40, "height": 30})
    coco.content[split_name]["images"] = images


def noise(low: float, high: float, kind: Any = np.uint16) -> np.ndarray:
    values = np.random.default_rng(0).uniform(low, high, (30, 40))
    values[0, :2] = low, high
    return values.astype(kind)


@pytest.mark.parametrize("decode_all", [False, True])
def test_the_training_images_decide(coco: Any, decode_all: bool) -> None:
    fill(coco, "train", bright=noise(50, 4000), dark=noise(60, 300))
    fill(coco, "val", bright=noise(0, 9000))
    report = coco.check(decode_all=decode_all)
    assert report.value_range == ValueRange(0, 4095)
    assert {split.value_range for split in report.splits.values()} == {ValueRange(0, 4095)}
    (note,) = report.notes
    assert note.startswith("images of more than 8 bits per channel (2 in train) hold values 50 to 4000: 0..4095 is ")
    assert report.to_plain()["value_range"] == [0, 4095]
    clipped = [finding for finding in report.findings if finding.kind == "value_out_of_range"]
    assert [finding.detail for finding in clipped] == ["values 0 to 9000, the range is 0..4095"] * decode_all


def test_the_verb_prints_it(coco: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fill(coco, "train", a=noise(29000, 31000))
    fill(coco, "val", a=noise(29500, 30500))
    coco.write()
    check(CheckConfig(data=str(coco.root)))
    message = " ".join(capsys.readouterr().out.split())
    assert message.count("29000..31000 is mapped to 0..255 in every image") == 1
    assert "scaled to 8 bits by the value range of the data set" in message


def test_without_training_images_those_of_validation_decide(coco: Any) -> None:
    del coco.content["train"]
    fill(coco, "val", a=noise(0, 800))
    assert coco.check().splits["val"].value_range == ValueRange(0, 1023)


def test_images_of_8_bits_need_no_range(coco: Any) -> None:
    report = coco.check(decode_all=True)
    assert report.value_range is None
    assert not report.notes


def test_8_bits_beside_more_stay_as_they_are(coco: Any) -> None:
    fill(coco, "train", deep=noise(0, 4000), plain=noise(0, 255, np.uint8))
    report = coco.check()
    assert report.value_range == ValueRange(0, 4095)
    assert report.notes[1] == "the 2 images of 8 bits are used as they are, beside 1 of more bits"


def test_images_of_another_scale_are_named(coco: Any) -> None:
    fill(coco, "train", counts=noise(0, 60000), fractions=noise(0, 1, np.float32), black=noise(0, 0))
    report = coco.check()
    assert report.value_range == ValueRange(0, 60000)  # floats among them have no bits
    (finding,) = [finding for finding in report.findings if finding.kind == "value_scale_differs"]
    assert finding.file.endswith("train-fractions.tif")
    assert finding.detail == "values 0 to 1, the range is 0..60000"


def test_outliers_that_compress_the_value_range_are_reported(coco: Any) -> None:
    values = noise(29000, 31000)
    values[3, 4] = 0  # a dead pixel
    fill(coco, "train", a=values)
    report = coco.check()
    assert report.value_range == ValueRange(0, 65535)
    note = report.notes[0]
    assert "98 % of the pixels of each image lie within 290" in note
    assert "train with --value_range=290" in note


def test_a_given_range_is_taken(coco: Any) -> None:
    fill(coco, "train", a=noise(0, 4000))
    coco.write()
    report = check_dataset(open_dataset(coco.root), value_range=ValueRange(100, 200))
    assert report.splits["train"].value_range == ValueRange(100, 200)
    assert report.notes == ["in images of more than 8 bits per channel, 100..200 is mapped to 0..255"]
    unknown = check_dataset(open_dataset(coco.root), value_range=None)
    assert unknown.value_range is None
    assert unknown.notes == [UNKNOWN_RANGE]


def test_more_than_8_bits_in_validation_alone_are_reported(coco: Any) -> None:
    fill(coco, "val", a=noise(0, 4000))
    report = coco.check()
    assert report.value_range is None
    assert report.notes == ["no image of train has more than 8 bits, but others have: " + UNKNOWN_RANGE]


@pytest.mark.parametrize("decode_all", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_truncated_images_of_more_than_8_bits(coco: Any, decode_all: bool, suffix: str) -> None:
    fill(coco, "train", a=noise(0, 4000))
    path = coco.root / "images" / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (90, 90)).astype(np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    coco.train["images"].append({"id": 90, "file_name": path.name, "width": 90, "height": 90})
    report = coco.check(decode_all=decode_all)
    assert set(report.counts()) & {"image_truncated", "image_unreadable"}
    assert report.value_range == ValueRange(0, 4095)


def test_too_large_images_are_refused_with_advice(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = coco.root / "images" / "large.png"
    Image.new("L", (200, 100)).save(path)
    coco.train["images"].append({"id": 90, "file_name": path.name, "width": 200, "height": 100})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15000)  # PIL warns above it, and refuses twice as many
    assert read_image(path).shape == (3, 100, 200)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    report = coco.check()
    (finding,) = [finding for finding in report.findings if finding.kind == "image_too_large"]
    assert finding.detail == "20000 pixels"
    assert finding.message.endswith("cut it into tiles or make it smaller")
    with pytest.raises(DataError, match=r"large\.png: .* cut it into tiles or make it smaller"):
        read_image(path)
