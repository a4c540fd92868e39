"""Images of more than 8 bits: one range for all of them, found over many, and the same from files and from memory."""

from __future__ import annotations

import itertools
import math
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Categories
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.decode.images import ignore_unknown_range, read_image, to_tensor
from detrkit.data.records import ImageRecord, Split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.data.validation.image_probe import probe_images
from detrkit.data.validation.value_extents import find_value_range, measure_extent
from detrkit.errors import ConfigError, DataError
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange

TWELVE = ValueRange(0, 4095)


@pytest.fixture
def gray() -> np.ndarray:
    """Counts of a camera of 12 bits."""
    return np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)


def gray_of(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    assert torch.equal(image[0], image[1])
    return image[0].numpy()


def save(path: Path, values: np.ndarray) -> Path:
    """In the way that the name of the file says: `.pgm` and `.ppm` with 4095 as white, color through OpenCV."""
    if path.suffix in (".pgm", ".ppm"):
        head = f"{'P5' if values.ndim == 2 else 'P6'}\n{values.shape[1]} {values.shape[0]}\n4095\n"
        path.write_bytes(head.encode() + values.astype(">u2").tobytes())
    elif values.ndim == 3:
        assert cv2.imwrite(str(path), values[..., ::-1])
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", np.int32), ("a.tif", np.float32), ("a.pgm", np.uint16)],
)
def test_gray_files_of_every_kind_are_scaled_alike(tmp_path: Path, gray: np.ndarray, name: str, kind: type) -> None:
    path = save(tmp_path / name, gray.astype(kind))
    expected = np.rint(gray / 4095 * 255)
    assert np.array_equal(gray_of(read_image(path, TWELVE)), expected)
    with Image.open(path) as image:
        assert np.array_equal(gray_of(to_tensor(image, TWELVE)), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_color_keeps_its_12_bits(tmp_path: Path, gray: np.ndarray, name: str) -> None:
    color = np.stack([gray, gray // 2, gray // 4], axis=2)
    path = save(tmp_path / name, color)
    expected = torch.from_numpy(np.rint(color / 4095 * 255).astype(np.uint8)).permute(2, 0, 1)
    assert torch.equal(read_image(path, TWELVE), expected)
    with Image.open(path) as image:  # PIL alone would keep the upper 8 of 16 bits
        assert torch.equal(to_tensor(image, TWELVE), expected)


def test_12_bits_packed_in_a_tiff_are_those_numbers(tmp_path: Path, gray: np.ndarray) -> None:
    pairs = gray.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    tags = {256: 30, 257: 20, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 20, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "a.tif"
    path.write_bytes(struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + struct.pack("<I", 0) + packed)
    assert np.array_equal(gray_of(read_image(path, TWELVE)), np.rint(gray / 4095 * 255))


def test_files_of_floats_that_pil_does_not_know(tmp_path: Path, gray: np.ndarray) -> None:
    color = np.stack([gray, gray // 2, gray // 4], axis=2)
    for name, values in (
        ("a.tif", gray.astype(np.float64)),
        ("b.tif", color.astype(np.float32)),
        ("c.tif", color.astype(np.float64)),
        ("d.pfm", color.astype(np.float32)),
    ):
        path = tmp_path / name
        assert cv2.imwrite(str(path), values if values.ndim == 2 else values[..., ::-1])
        expected = np.rint((color if values.ndim == 3 else gray) / 4095 * 255)
        got = read_image(path, TWELVE).permute(1, 2, 0).numpy()
        assert np.array_equal(got, expected if values.ndim == 3 else expected[..., None].repeat(3, 2))
        (facts,) = probe_images([path], values=True)
        assert (facts.width, facts.height, facts.problem, facts.deep) == (30, 20, "", True)
        assert facts.extent == measure_extent(values)


def test_transparency_of_16_bits_is_dropped(tmp_path: Path, gray: np.ndarray) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.stack([gray, gray, gray, gray // 2], axis=2))
    assert np.array_equal(gray_of(read_image(tmp_path / "a.png", TWELVE)), np.rint(gray / 4095 * 255))


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32", "float32", "float64", ">u2"])
def test_arrays_and_tensors_are_scaled_as_files_are(gray: np.ndarray, kind: str) -> None:
    values = gray.astype(kind)
    expected = np.rint(gray / 4095 * 255)
    for array in (values, values[..., None], values[..., None].repeat(3, 2), values[..., None].repeat(4, 2)):
        assert np.array_equal(gray_of(to_tensor(array, TWELVE)), expected)
    if kind != ">u2":
        assert np.array_equal(gray_of(to_tensor(torch.from_numpy(values)[None], TWELVE)), expected)


def test_float_tensors_in_0_to_1_equal_torchvision_8_bit_images() -> None:
    unit = torch.rand(3, 5, 6)
    for value_range in (None, TWELVE):
        assert torch.equal(to_tensor(unit, value_range), (unit * 255).round().to(torch.uint8))
    assert torch.equal(to_tensor(unit.permute(1, 2, 0).numpy()), (unit * 255).round().to(torch.uint8))
    with pytest.raises(DataError, match="value_range in Detector"):
        to_tensor(unit * 3000)


def test_values_beyond_the_range_are_clipped_and_nan_is_black() -> None:
    values = np.array([[-300, -50, 0, 50, 200, np.nan, np.inf, -np.inf]], np.float32)
    assert gray_of(to_tensor(values, ValueRange(-50, 50))).tolist() == [[0, 0, 128, 255, 255, 0, 255, 0]]


def test_8_bits_are_no_matter_of_the_range(tmp_path: Path, gray: np.ndarray) -> None:
    pixels = gray.astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for form in (tmp_path / "a.png", Image.fromarray(pixels), pixels, torch.from_numpy(pixels)[None]):
        assert np.array_equal(gray_of(to_tensor(form, TWELVE)), pixels)


def test_without_a_range_that_of_the_type_counts_with_a_warning(tmp_path: Path, gray: np.ndarray) -> None:
    unit = (gray / 4095).astype(np.float32)
    cases = [
        (save(tmp_path / "a.png", gray), gray / 65535),
        (save(tmp_path / "dark.png", gray // 64), gray // 64 / 65535),  # of which 255 would hold all
        (save(tmp_path / "i.tif", gray.astype(np.int32)), gray / 65535),
        (save(tmp_path / "f.tif", unit), unit),
        (save(tmp_path / "wide.tif", unit * 200), (unit * 200).clip(0, 1)),
        (gray, gray / 65535),
        (torch.from_numpy(gray)[None], gray / 65535),
    ]
    for form, expected in cases:
        with pytest.warns(UserWarning, match="no value range is known") as message:
            got = to_tensor(form)  # type: ignore[arg-type]
        assert [each.message.message for each in message] == [UNKNOWN_RANGE]
        assert np.array_equal(gray_of(got), np.rint(expected * 255))


NATURAL = [
    ("8 bits in 16", [0, 200], np.uint16, (0, 255)),
    ("10 bits", [3, 900], np.uint16, (0, 1023)),
    ("10 bits, all of them", [0, 1023], np.uint16, (0, 1023)),
    ("12 bits", [60, 4000], np.uint16, (0, 4095)),
    ("12 bits with a hot pixel", [60, 4095], np.uint16, (0, 4095)),
    ("12 bits as int32", [0, 4000], np.int32, (0, 4095)),
    ("12 bits as floats", [0, 4000], np.float32, (0, 4095)),
    ("14 bits", [0, 16000], np.uint16, (0, 16383)),
    ("16 bits", [0, 65535], np.uint16, (0, 65535)),
    ("20 bits", [0, 1_000_000], np.int32, (0, 1048575)),
    ("counts of a thermal camera", [29000, 31000], np.uint16, (29000, 31000)),
    ("Hounsfield units", [-1024, 3071], np.int16, (-1024, 3071)),
    ("degrees", [-18.5, 36.25], np.float32, (-18.5, 36.25)),
    ("fractions", [0.01, 0.9], np.float32, (0, 1)),
    ("small fractions", [0.001, 0.03], np.float64, (0.001, 0.03)),
    ("floats to 255", [0.5, 250], np.float32, (0, 255)),
    ("floats to 3000", [0.5, 3000], np.float32, (0.5, 3000)),
    ("NaN and infinity", [0.25, math.nan, math.inf, -math.inf, 0.75], np.float32, (0, 1)),
    ("nothing but NaN", [math.nan], np.float32, (0, 1)),
    ("black", [0, 0], np.uint16, (0, 255)),
    ("of one negative value", [-2.5], np.float32, (-2.5, -1.5)),
]


@pytest.mark.parametrize(("values", "kind", "expected"), [row[1:] for row in NATURAL], ids=[row[0] for row in NATURAL])
def test_the_natural_range_around_the_values(values: list[float], kind: type, expected: tuple[float, float]) -> None:
    parts = [measure_extent(np.array([[value]]).astype(kind)) for value in values]
    actual = find_value_range(parts)
    assert actual == ValueRange(*expected)
    assert all(find_value_range(order) == actual for order in itertools.permutations(parts))


def test_no_images_have_no_range() -> None:
    assert find_value_range([]) is None


def test_ranges_are_written_and_read() -> None:
    assert ValueRange.parse("auto") is None
    assert ValueRange.parse("-40,120.5") == ValueRange(-40, 120.5) == ValueRange.from_plain([-40, 120.5])
    assert str(ValueRange(0, 16777215)) == "0..16777215"
    assert ValueRange.of((0, 4095)) == ValueRange.of(TWELVE) == TWELVE
    for wrong in ("", "4095", "0..4095", "0,4095,1", "4095,0", "1,1", "0,nan", "a,b"):
        with pytest.raises(ConfigError, match="LOW,HIGH"):
            ValueRange.parse(wrong)
    for pair in ((5, 1), (1,), "ab", (0, math.inf)):
        with pytest.raises(ConfigError, match="value_range"):
            ValueRange.of(pair)  # type: ignore[arg-type]


def test_the_loader_and_its_cache_scale_by_the_range_of_the_split(tmp_path: Path, gray: np.ndarray) -> None:
    images = [
        ImageRecord(k, save(tmp_path / f"{k}.png", gray // factor), f"{k}.png", 20, 30, [])
        for k, factor in enumerate((1, 8))
    ]
    split = Split("train", images, Categories((1,), ("pit",)), str(tmp_path), TWELVE)
    transform = eval_transform(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = DetectionDataset(split, split.categories, transform)
        cached = DetectionDataset(split, split.categories, transform, cache=ImageCache([(20, 30)] * 2, 10**6))
        for k, factor in enumerate((1, 8)):
            expected = np.rint(gray // factor / 4095 * 255)
            for _ in range(2):
                assert np.array_equal(gray_of(dataset[k][0]), expected)
                assert np.array_equal(gray_of(cached[k][0]), expected)
        unknown = DetectionDataset(replace(split, value_range=None), split.categories, transform)
        assert torch.equal(unknown[0][0], read_image(images[0].path, unknown=ignore_unknown_range))
