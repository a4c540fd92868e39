"""Packed data hold what the loose files held: records, pixels, masks, in the same order."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import detrkit
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.mask_files import FileMask
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.shards.packed_index import read_file
from detrkit.data.transforms.resize_crop import train_transform
from detrkit.data.validation.validate import CheckReport, check_dataset
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"


def check(data: Path | str, **options) -> CheckReport:
    return check_dataset(open_dataset(data, **options))


def assert_same_split(actual: Split, expected: Split) -> None:
    assert actual.categories == expected.categories
    assert len(actual) == len(expected)
    for one, other in zip(actual.images, expected.images, strict=True):
        assert replace(one, path=other.path, panoptic=other.panoptic, objects=[]) == replace(other, objects=[])
        assert read_file(one.path) == other.path.read_bytes()
        if other.panoptic:
            assert read_file(one.panoptic) == other.panoptic.read_bytes()
        for obj, original in zip(one.objects, other.objects, strict=True):
            assert replace(obj, where="", segmentation=None) == replace(original, where="", segmentation=None)
            if isinstance(original.segmentation, FileMask):
                assert obj.segmentation.value == original.segmentation.value
                assert read_file(obj.segmentation.path) == original.segmentation.path.read_bytes()
            elif isinstance(original.segmentation, dict) and isinstance(original.segmentation["counts"], bytes):
                assert obj.segmentation["counts"].encode() == original.segmentation["counts"]
            else:
                assert obj.segmentation == (original.segmentation or None)


def assert_same_items(actual: Split, expected: Split, **settings) -> None:
    datasets = [
        DetectionDataset(split, split.categories, train_transform("detr", 48), **settings)
        for split in (actual, expected)
    ]
    for index in range(len(expected)):
        (pixels, target), (other_pixels, other) = (dataset[3, index] for dataset in datasets)
        assert torch.equal(pixels, other_pixels)
        assert target.keys() == other.keys()
        for key, value in other.items():
            if key != "file":
                same = torch.equal(target[key], value) if isinstance(value, torch.Tensor) else target[key] == value
                assert same, key


def test_records_and_files_are_those_of_the_loose_data(loose: Path, packed: Path) -> None:
    actual, expected = check(packed), check(loose)
    assert actual.format == "packed"
    assert list(actual.splits) == ["train", "val"]
    for name, split in expected.splits.items():
        assert_same_split(actual.splits[name], split)
    assert actual.statistics == expected.statistics


@pytest.mark.parametrize("with_masks", [False, True])
def test_items_of_training_are_the_same_bit_for_bit(loose: Path, packed: Path, with_masks: bool) -> None:
    actual, expected = check(packed).splits["train"], check(loose).splits["train"]
    assert_same_items(actual, expected, with_masks=with_masks, seed=1)


@pytest.mark.parametrize("data", ["coco_mini", "coco_panoptic_mini", "nuclei"])
def test_real_data_are_the_same(data: str, tmp_path: Path) -> None:
    folder = SHARED / data
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    data_format = "coco_panoptic" if "panoptic" in data else "auto"
    detrkit.pack(folder, tmp_path / "packed", data_format=data_format)
    actual, expected = (check(each, data_format=data_format) for each in (tmp_path / "packed", folder))
    split, original = actual.splits["val"], expected.splits["val"]
    some = {name: replace(each, images=each.images[:12]) for name, each in (("a", split), ("b", original))}
    assert_same_split(some["a"], some["b"])
    assert_same_items(some["a"], some["b"], with_masks=True)


def test_a_split_that_training_holds_out_is_the_same(loose: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "images").symlink_to(loose / "images")
    (tmp_path / "one" / "train.json").write_bytes((loose / "train.json").read_bytes())
    detrkit.pack(tmp_path / "one", tmp_path / "packed")
    actual, expected = (check(tmp_path / each, val_fraction=0.3, seed=7) for each in ("packed", "one"))
    for name in ("train", "val"):
        assert_same_split(actual.splits[name], expected.splits[name])
        assert actual.splits[name].arrays.counts.tolist() == expected.splits[name].arrays.counts.tolist()
        assert np.array_equal(actual.splits[name].arrays.boxes, expected.splits[name].arrays.boxes)


def test_masks_in_files_are_packed_beside_their_image(tmp_path: Path) -> None:
    from PIL import Image

    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / "data" / "images" / f"{number}.jpg"
        )
        mask = np.zeros((40, 50), np.uint8)
        mask[5:15, 5 + number : 20] = 1
        mask[20:35, 20:45] = 2
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
    detrkit.pack(tmp_path / "data", tmp_path / "packed")
    actual, expected = check(tmp_path / "packed", val_fraction=0), check(tmp_path / "data", val_fraction=0)
    assert_same_split(actual.splits["train"], expected.splits["train"])
    assert_same_items(actual.splits["train"], expected.splits["train"], with_masks=True)


def test_images_of_16_bits_keep_the_range_of_values(tmp_path: Path) -> None:
    import cv2

    from tests.data.conftest import CocoFolder  # noqa: F401
    from tests.training.conftest import write_split

    (tmp_path / "data" / "images").mkdir(parents=True)
    write_split(tmp_path / "data", "train", 5, np.random.default_rng(0))
    for path in (tmp_path / "data" / "images").iterdir():
        pixels = cv2.imread(str(path))
        assert cv2.imwrite(str(path), pixels.astype(np.uint16) * 13)
    detrkit.pack(tmp_path / "data", tmp_path / "packed")
    actual, expected = (check(tmp_path / each, val_fraction=0.4) for each in ("packed", "data"))
    assert expected.value_range is not None
    assert actual.value_range == expected.value_range
    assert_same_items(actual.splits["train"], expected.splits["train"])


def test_shards_are_plain_tar_files_by_the_naming_of_webdataset(loose: Path, packed: Path) -> None:
    shards = sorted(packed.glob("*.tar"))
    assert len(shards) >= 3
    groups: dict[str, dict[str, bytes]] = {}
    for path in shards:
        with tarfile.open(path) as shard:
            keys = [member.name.split(".", 1)[0] for member in shard]
            assert [key for k, key in enumerate(keys) if k == 0 or keys[k - 1] != key] == sorted(set(keys))
            for member in shard:
                key, _, ending = member.name.partition(".")
                content = shard.extractfile(member)
                assert content is not None
                groups.setdefault(f"{path.name[:5]} {key}", {})[ending] = content.read()
    expected = check(loose)
    assert len(groups) == sum(map(len, expected.splits.values()))
    for row, image in enumerate(expected.splits["train"].images):
        members = groups[f"train {row:09}"]
        record = json.loads(members["json"])
        assert record["file_name"] == image.file_name
        assert members[image.path.suffix[1:].lower()] == image.path.read_bytes()
        assert [obj["id"] for obj in record["objects"]] == [obj.id for obj in image.objects]
        assert [obj["iscrowd"] for obj in record["objects"]] == [int(obj.crowd) for obj in image.objects]


def test_the_same_data_make_the_same_bytes(loose: Path, packed: Path, tmp_path: Path) -> None:
    detrkit.pack(loose, tmp_path / "again", shard_mb=0.03)
    files = sorted(path.relative_to(packed) for path in packed.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for file in files:
        assert (packed / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_killed_pack_leaves_nothing_that_is_taken_for_whole(loose: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, signal, detrkit\n"
        "from detrkit.data.shards.split_writer import SplitWriter\n"
        "whole = SplitWriter.add\n"
        "def add(self, image, *rest):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if self.images == 4 else whole(self, image, *rest)\n"
        "SplitWriter.add = add\n"
        f"detrkit.pack({str(loose)!r}, {str(tmp_path / 'packed')!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "packed").exists()
    detrkit.pack(loose, tmp_path / "packed")
    assert check(tmp_path / "packed").statistics == check(loose).statistics


def test_a_packed_image_reads_the_bytes_of_the_file(packed: Path) -> None:
    image = check(packed).splits["train"].images[0]
    with tarfile.open(image.path.parent) as shard:
        content = shard.extractfile(image.path.name)
        assert content is not None
        assert io.BytesIO(content.read()).getvalue() == read_file(image.path)


def test_the_check_compares_file_names_of_the_data_set_not_numbers_in_shards(packed: Path) -> None:
    assert "leakage_name" not in check_dataset(open_dataset(packed), decode_all=True).counts()


def test_a_fold_of_train_and_val_keeps_the_range_of_values(tmp_path: Path) -> None:
    import cv2

    from tests.training.conftest import write_split

    (tmp_path / "data" / "images").mkdir(parents=True)
    for seed, name in enumerate(("train", "val")):
        write_split(tmp_path / "data", name, 5, np.random.default_rng(seed))
    for path in (tmp_path / "data" / "images").iterdir():
        pixels = cv2.imread(str(path))
        assert cv2.imwrite(str(path), pixels.astype(np.uint16) * 13)
    detrkit.pack(tmp_path / "data", tmp_path / "packed")
    for chosen in ({"val_fraction": 0.5, "held_out": ["train_00.png", "val_01.png"]}, {"val_fraction": 0}):
        actual, expected = (check(tmp_path / each, pooled=True, **chosen) for each in ("packed", "data"))
        assert expected.value_range is not None
        assert actual.value_range == expected.value_range
        assert actual.splits.keys() == expected.splits.keys()
        for name, split in expected.splits.items():
            assert [image.file_name for image in actual.splits[name].images] == [i.file_name for i in split.images]
