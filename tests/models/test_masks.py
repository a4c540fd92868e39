import pytest
import torch

from detrkit.errors import DataError
from detrkit.masks import decode_segmentation, encode_rle


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
        ({"size": [3, 2], "counts": [6]}, r"size \[2, 3\]"),
        ({"counts": [6]}, "polygons or RLE"),
        ("abc", "polygons or RLE, found str"),
    ],
)
def test_broken_segmentations_are_told(segmentation, sentence):
    with pytest.raises(DataError, match=sentence):
        decode_segmentation(segmentation, 2, 3)
