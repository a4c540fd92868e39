"""What a data set hands out: right targets, reproducible images, and no crash whatever happens to a file."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.data.dataset import DetectionDataset
from detrkit.data.records import ImageRecord, Split
from detrkit.data.transforms.resize_crop import eval_transform, train_transform
from detrkit.errors import DataError
from detrkit.ops.masks import encode_rle
from detrkit.structures import Categories
from tests.data.conftest import CATEGORIES, make_object

EVAL = eval_transform(48)
TRAIN = train_transform("detr", 64)


def with_objects(split: Split, *objects: object) -> Split:
    image: ImageRecord = replace(split.images[2], objects=list(objects))
    return replace(split, images=[image])


def test_fields_of_a_target(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, EVAL)
    assert len(dataset) == 11
    image, target = dataset[6]
    assert image.shape == (3, 48, 72)
    assert target["labels"].tolist() == [0, 1]
    assert target["labels"].dtype == torch.int64
    expected = torch.tensor([[10 / 60, 15 / 40, 20 / 60, 20 / 40], [14 / 60, 15.5 / 40, 20 / 60, 21 / 40]])
    assert torch.allclose(target["boxes"], expected)
    assert target["area"].tolist() == pytest.approx([20 * 20 * 1.44, 20 * 21 * 1.44])
    assert target["image_id"] == 118
    assert target["file"] == str(split.images[6].path)
    assert target["original_size"] == (40, 60)
    assert target["size"] == (48, 72)
    assert "masks" not in target
    empty = dataset[8][1]
    assert empty["boxes"].shape == (0, 4)
    with pytest.raises(IndexError):
        dataset[11]


def test_depends_on_seed_epoch_and_index_alone(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, TRAIN, seed=3)
    first = dataset[2, 5]
    for _ in range(3):
        dataset[0]
    torch.manual_seed(99)
    assert torch.equal(dataset[2, 5][0], first[0])
    dataset.set_epoch(2)
    assert torch.equal(dataset[5][0], first[0])
    reference = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(reference[5][0], first[0])
    for other in (dataset[3, 5], dataset[2, 2], DetectionDataset(split, CATEGORIES, TRAIN, seed=4)[2, 5]):
        assert other[0].shape != first[0].shape or not torch.equal(other[0], first[0])


def test_global_random_state_is_left_alone(split: Split) -> None:
    before = torch.get_rng_state()
    DetectionDataset(split, CATEGORIES, TRAIN)[5]
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_meet_by_name(split: Split) -> None:
    model = Categories((0, 1, 2), ("washer", "screw", "bolt"))
    dataset = DetectionDataset(split, model, EVAL)
    assert dataset.dropped == sum(any(o.category_id == 7 for o in image.objects) for image in split.images)
    assert dataset[3][1]["labels"].tolist() == [2, 0]
    with pytest.raises(DataError, match="bolt, nut"):
        DetectionDataset(split, Categories((90, 91), ("cat", "dog")), EVAL)


def test_crowds_are_not_trained_on_and_boxes_are_clipped(split: Split) -> None:
    cut = with_objects(
        split,
        make_object(1, 3, (10, 10, 30, 30), crowd=True),
        make_object(2, 7, (-0.4, 10, 24, 48.4)),
        make_object(3, 20, (48.1, 5, 48.3, 20)),
    )
    _, target = DetectionDataset(cut, CATEGORIES, EVAL)[0]
    assert target["labels"].tolist() == [1]
    assert target["boxes"][0].tolist() == pytest.approx([0.25, 29 / 48, 0.5, 38 / 48])


def test_masks_from_polygons_run_lengths_and_boxes(split: Split) -> None:
    disk = torch.zeros(48, 48, dtype=torch.bool)
    disk[10:20, 5:30] = True
    rle = encode_rle(disk)
    columns = disk.T.flatten().numpy().astype(np.int8)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], columns, [0]])))
    counts = np.diff(np.concatenate([[0], changes, [len(columns)]])).tolist()
    box = (5, 10, 30, 20)
    objects = [
        make_object(1, 3, box, segmentation=rle),
        make_object(2, 3, box, segmentation={**rle, "counts": rle["counts"].encode()}),
        make_object(3, 3, box, segmentation={"size": [48, 48], "counts": counts}),
        make_object(4, 3, box, segmentation=[[5, 10, 30, 10, 30, 20, 5, 20]]),
        make_object(5, 3, box, segmentation=None),
        make_object(6, 3, box, segmentation=[]),
    ]
    _, target = DetectionDataset(with_objects(split, *objects), CATEGORIES, EVAL, with_masks=True)[0]
    assert target["masks"].dtype == torch.bool
    for mask in target["masks"]:
        assert torch.equal(mask, disk)
    _, target = DetectionDataset(with_objects(split), CATEGORIES, EVAL, with_masks=True)[0]
    assert target["masks"].shape == (0, 48, 48)


def test_a_file_that_breaks_after_the_check_never_stops_an_epoch(split: Split, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"gone")
    changed = copy.copy(split.images[3])
    changed.path = broken
    for with_masks in (False, True):
        dataset = DetectionDataset(replace(split, images=[changed]), CATEGORIES, EVAL, with_masks=with_masks)
        with pytest.warns(UserWarning, match=r"broken\.jpg.*gray image"):
            image, target = dataset[0]
        assert image.shape == (3, *dataset.shapes[0])
        assert len(target["boxes"]) == 0
        assert (image == 128).all()


def test_no_images_is_an_empty_data_set(split: Split) -> None:
    assert len(DetectionDataset(replace(split, images=[]), CATEGORIES, EVAL)) == 0
