"""Records of tiles: pixels, boxes and masks are those of the whole image, cropped."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.data.auto_tiles import suggest_overlap, suggest_tiles
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.decode.mask_files import FileMask
from detrkit.data.loader import EpochBatchSampler, ShapeBatchSampler, eval_loader
from detrkit.data.records import ImageRecord, Split
from detrkit.data.tile_records import tile_image, tile_split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.data.validation.validate import CheckReport
from detrkit.ops.masks import encode_patch, encode_rle
from detrkit.ops.tiles import Tiling
from detrkit.ops.value_range import ValueRange
from tests.data.conftest import CATEGORIES, make_object

TILING = Tiling(64, 24)
NO_RESIZE = eval_transform(64)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """An image of 150 x 200 pixels with objects of every kind of mask, and one that is a single tile."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(3)
    ids = np.zeros((150, 200), np.uint8)
    ids[30:110, 90:120] = 5
    Image.fromarray(ids).save(folder / "ids.png")
    disk = torch.zeros(150, 200, dtype=torch.bool)
    disk[20:60, 20:75] = True
    disk[30:35, 30:60] = False
    triangle = [[3, 100, 190, 148, 10.5, 140.25]]
    objects = [
        make_object(1, 3, (20, 20, 75, 60), segmentation=encode_rle(disk), area=2050.0),
        make_object(2, 7, (3, 100, 190, 148), segmentation=triangle),
        make_object(3, 20, (90, 30, 120, 110), segmentation=FileMask(folder / "ids.png", 5)),
        make_object(4, 3, (130.5, 10, 160, 42.25)),
        make_object(5, 7, (0, 0, 200, 150), crowd=True),
    ]
    images = []
    for name, (height, width), those in (("large", (150, 200), objects), ("small", (64, 50), [])):
        path = folder / f"{name}.png"
        assert cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        images.append(ImageRecord(len(images) + 1, path, path.name, height, width, those))
    return Split("train", images, CATEGORIES, str(folder))


def test_pixels_boxes_and_masks_are_those_of_the_image_cropped(large: Split) -> None:
    whole = DetectionDataset(large, CATEGORIES, eval_transform(150), with_masks=True)
    image, target = whole[0]
    scale = torch.tensor([200, 150] * 2)
    x_y, w_h = (target["boxes"] * scale).split(2, dim=1)
    boxes = torch.cat([x_y - w_h / 2, x_y + w_h / 2], dim=1)
    cut = tile_split(large, TILING)
    tiles = DetectionDataset(cut, CATEGORIES, NO_RESIZE, with_masks=True)
    assert len(tiles) == len(TILING.grid(150, 200)) + 1
    seen = set()
    for index, record in enumerate(cut.images[:-1]):
        assert record.tile
        pixels, part = tiles[index]
        x1, y1, x2, y2 = record.tile.box
        assert torch.equal(pixels, image[:, y1:y2, x1:x2])
        assert part["tile"] == record.tile
        assert part["original_size"] == part["size"] == (64, 64)
        assert part["image_id"] == 1
        for k, label in enumerate(part["labels"].tolist()):
            shown = (part["boxes"][k] * 64).tolist()
            corner = torch.tensor([x1, y1] * 2)
            sides = [shown[0] - shown[2] / 2, shown[1] - shown[3] / 2, shown[0] + shown[2] / 2, shown[1] + shown[3] / 2]
            clipped = torch.stack([(box - corner).clamp(0, 64) for box in boxes])
            (those,) = ((clipped - torch.tensor(sides)).abs().amax(1) < 1e-3).nonzero(as_tuple=True)
            of = next(j for j in those.tolist() if target["labels"][j] == label)
            assert torch.equal(part["masks"][k], target["masks"][of, y1:y2, x1:x2])
            seen.add(of)
    assert seen == {0, 1, 2, 3}
    assert "tile" not in tiles[len(tiles) - 1][1]


def test_an_image_that_fits_stays_as_it_is(large: Split) -> None:
    assert tile_image(large.images[1], TILING) == [large.images[1]]
    assert tile_split(large, Tiling(200, 0)).images == large.images


def test_objects_are_kept_by_the_share_that_is_visible_and_crowds_always(large: Split) -> None:
    records = tile_image(large.images[0], TILING)
    assert all(any(obj.crowd for obj in record.objects) for record in records)
    for record in records:
        for obj in record.objects:
            x1, y1, x2, y2 = obj.box
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64
    first = records[0]
    assert first.tile
    assert first.tile.box == (0, 0, 64, 64)
    assert [obj.id for obj in first.objects] == [1, 5]  # of 2 and 3 it shows less than a quarter, or nothing
    assert first.objects[0].box == (20, 20, 64, 60)
    assert first.objects[0].area == pytest.approx(2050 * 44 / 55)


@pytest.mark.parametrize("limit", [0, 40_000, 10**9])
def test_the_cache_of_tiles_changes_nothing_and_is_filled_image_by_image(large: Split, limit: int) -> None:
    cut = tile_split(large, TILING)
    cache = ImageCache([(image.height, image.width) for image in cut.images], limit)
    plain, cached = (DetectionDataset(cut, CATEGORIES, NO_RESIZE, cache=each) for each in (None, cache))
    for index in (7, 0, len(cut) - 1, 3, 7):
        assert torch.equal(plain[index][0], cached[index][0])
        assert (cache.get(index) is not None) == (index < cache.count)
    assert all(cache.get(index) is not None for index in range(min(cache.count, len(cut) - 1)))


def test_a_broken_image_gives_gray_tiles(large: Split, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    broken = replace(large, images=[replace(large.images[0], path=path)])
    dataset = DetectionDataset(tile_split(broken, TILING), CATEGORIES, NO_RESIZE)
    with pytest.warns(UserWarning, match="a gray image"):
        pixels, target = dataset[2]
    assert pixels.unique().tolist() == [128]
    assert target["labels"].numel() == 0
    Image.new("RGB", (30, 20)).save(path)
    with pytest.warns(UserWarning, match="expected 150 x 200 pixels"):
        dataset[2]


def test_tiles_of_rotated_and_of_16_bit_images(tmp_path: Path) -> None:
    deep = np.arange(150 * 200, dtype=np.uint16).reshape(150, 200) * 2
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    Image.fromarray(turned).save(tmp_path / "turned.png", exif=exif)
    images = [ImageRecord(k, tmp_path / name, name, 150, 200, []) for k, name in enumerate(("deep.png", "turned.png"))]
    split = Split("train", images, CATEGORIES, "", ValueRange(0, 60000))
    whole = DetectionDataset(split, CATEGORIES, eval_transform(150))
    cut = tile_split(split, TILING)
    tiles = DetectionDataset(cut, CATEGORIES, NO_RESIZE)
    for index, record in enumerate(cut.images):
        assert record.tile
        x1, y1, x2, y2 = record.tile.box
        assert torch.equal(tiles[index][0], whole[record.id][0][:, y1:y2, x1:x2])


def test_evaluation_keeps_the_tiles_of_an_image_together_on_one_rank(large: Split) -> None:
    split = replace(large, images=[replace(image, id=k) for k, image in enumerate(large.images * 3)])
    dataset = DetectionDataset(tile_split(split, TILING), CATEGORIES, NO_RESIZE)
    assert dataset.image_numbers is not None
    seen = []
    for rank in range(2):
        sampler = ShapeBatchSampler(dataset.shapes, 4, rank=rank, world_size=2, image_numbers=dataset.image_numbers)
        batches = list(sampler)
        indices = [index for batch in batches for _, index in batch]
        assert len(sampler) == len(batches)
        assert all(len({dataset.shapes[index] for _, index in batch}) == 1 for batch in batches)
        assert {int(dataset.image_numbers[index]) % 2 for index in indices} == {rank}
        assert indices == sorted(indices)
        seen += indices
    assert sorted(seen) == list(range(len(dataset)))
    batches = list(eval_loader(dataset, batch_size=4))
    assert sum(len(batch) for batch in batches) == len(dataset)
    assert len(EpochBatchSampler(len(dataset), 2)) == len(dataset) // 2


def test_an_encoded_patch_is_the_encoded_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = rng.integers(1, 30, 2)
        h, w = rng.integers(0, height + 1), rng.integers(0, width + 1)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        patch = rng.random((h, w)) < 0.6
        mask = np.zeros((height, width), np.bool_)
        mask[top : top + h, left : left + w] = patch
        encoded = encode_patch(patch, int(top), int(left), int(height), int(width))
        assert encoded == encode_rle(torch.from_numpy(mask))


def split_of(side: float, size: tuple[int, int], longest: float = 0) -> Split:
    objects = [make_object(k, 3, (0, 0, side, side)) for k in range(18)]
    objects += [make_object(18 + k, 3, (0, 0, max(longest, side), side)) for k in range(2)]
    return Split("train", [ImageRecord(1, Path("a.png"), "a.png", *size, objects)], CATEGORIES, "")


@pytest.mark.parametrize(
    ("side", "size", "image_size", "tiles"),
    [
        (20, (4000, 4000), 640, 800),  # 3 pixels after the resize
        (20, (1000, 1000), 640, None),  # 13
        (8, (4000, 4000), 640, 416),  # tiles are not enlarged by more than a half
        (4, (300, 300), 448, None),  # nor is there more to see in small images
        (60, (4000, 6000), 800, None),
        (36, (4000, 6000), 800, 1792),
    ],
)
def test_tiles_are_suggested_for_objects_that_the_resize_would_lose(
    side: float, size: tuple[int, int], image_size: int, tiles: int | None
) -> None:
    suggested, reason = suggest_tiles(split_of(side, size), image_size)
    assert suggested == tiles
    assert f"after the resize of whole images to {image_size} half of the objects are below" in reason


def test_tiles_are_not_recommended_for_panoptic_data_whose_training_refuses_them() -> None:
    split = split_of(20, (4000, 4000))
    panoptic = replace(split, images=[replace(image, panoptic=Path("a-map.png")) for image in split.images])
    recommended = [CheckReport("coco", "", {"train": each}, [], {}).recommended() for each in (split, panoptic)]
    assert [len(lines) for lines in recommended] == [1, 0]


def test_large_objects_speak_against_tiles() -> None:
    assert suggest_tiles(split_of(20, (4000, 4000), longest=1200), 640)[0] == 1216
    suggested, reason = suggest_tiles(split_of(20, (4000, 4000), longest=3500), 640)
    assert suggested is None
    assert "hardly larger" in reason
    assert suggest_tiles(replace(split_of(20, (99, 99)), images=[split_of(20, (99, 99)).images[0]]), 640)[0] is None


def test_the_overlap_shows_nearly_all_objects_whole() -> None:
    assert suggest_overlap(split_of(20, (4000, 4000), longest=100), 640) == 104
    assert suggest_overlap(split_of(20, (4000, 4000)), 640) == 80
    assert suggest_overlap(split_of(20, (4000, 4000), longest=900), 640) == 320
