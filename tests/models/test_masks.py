"""Functions on masks: polygons and run lengths."""

import pytest
import torch

from detrkit.errors import DataError
from detrkit.ops.masks import decode_segmentation, encode_rle, segmentation_fault


def test_rle_round_trip():
    torch.manual_seed(0)
    mask = torch.rand(13, 7) > 0.5
    assert torch.equal(decode_segmentation(encode_rle(mask), 13, 7), mask)


def test_polygons_are_united():
    square, bar = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0], [4.0, 3.0, 9.0, 3.0, 9.0, 5.0, 4.0, 5.0]
    mask = decode_segmentation([square, bar], 6, 10)
    expected = torch.zeros(6, 10, dtype=torch.bool)
    expected[1:4, 2:6] = True
    expected[3:5, 4:9] = True
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected)
    assert decode_segmentation([], 6, 10).sum() == 0


def test_uncompressed_rle_runs_down_the_columns():
    mask = decode_segmentation({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3)
    assert mask.tolist() == [[False, True, False], [True, True, False]]


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "three corners"),
        ([[1.0] * 7], "three corners"),
        ({"size": [3, 2], "counts": [6]}, r"RLE of size \[3, 2\] where the image has \[2, 3\]"),
        ({"size": 5, "counts": [6]}, "RLE of size 5"),
        ({"size": [2, 3], "counts": [2, -1, 5]}, "garbled"),
        ({"size": [2, 3], "counts": [2, 4.5]}, "garbled"),
        ({"size": [2, 3], "counts": "é"}, "garbled"),
        ({"size": [2, 3], "counts": "P"}, "garbled"),
        ({"size": [2, 3], "counts": 6}, "garbled"),
        ({"size": [2, 3], "counts": "13"}, "RLE of 4 pixels"),
        ({"size": [2, 3], "counts": [7]}, "RLE of 7 pixels"),
        ([[0.0, 0.0, 1.0, 0.0, float("nan"), 1.0]], "three corners"),
        ([7, 8], "three corners"),
        ({"counts": [6]}, "polygons or RLE"),
        ("abc", "polygons or RLE, found str"),
    ],
)
def test_broken_segmentations_are_refused(segmentation, sentence):
    with pytest.raises(DataError, match=sentence):
        decode_segmentation(segmentation, 2, 3)


def test_compressed_rle_is_measured_without_decoding_it():
    for seed in range(20):
        mask = torch.rand(31, 40, generator=torch.Generator().manual_seed(seed)) < seed / 19
        rle = encode_rle(mask)
        assert segmentation_fault(rle, 31, 40) == ""
        assert segmentation_fault(rle | {"counts": rle["counts"].encode()}, 31, 40) == ""
        assert segmentation_fault(rle | {"counts": rle["counts"][:-1]}, 31, 40)
