"""Detection in tiles: objects at borders come back as one, and one tile is plain inference."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detector
from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.ops.tiles import Tiling
from detrkit.ops.value_range import ValueRange
from detrkit.results import Detections
from tests.inference.blobs import CATEGORIES, blob_detector, draw_blobs
from tests.inference.helpers import run

TILING = Tiling(96, 32)


def rows_of(detections: Detections) -> set[tuple[int, ...]]:
    """x1, y1, x2, y2 and class of each detection."""
    boxes = detections.xyxy.round().int().tolist()
    return {(*box, CATEGORIES.ids.index(k)) for box, k in zip(boxes, detections.class_ids.tolist(), strict=True)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sides", [(4, 32), (20, 150)])
def test_objects_at_borders_come_back_as_one(seed: int, sides: tuple[int, int]) -> None:
    image, expected = draw_blobs(300, 410, 40, seed, sides)
    detections = blob_detector(96, TILING).predict(image, 0.5, batch_size=4)
    assert len(detections) == len(expected)
    assert rows_of(detections) == set(expected)
    assert rows_of(blob_detector(300, None).predict(image, 0.5)) == set(expected)


@pytest.mark.parametrize("sides", [(4, 32), (20, 150)])
def test_masks_at_borders_come_back_as_one(sides: tuple[int, int]) -> None:
    image, expected = draw_blobs(200, 260, 15, 1, sides)
    detections = blob_detector(96, TILING, masks=True).predict(image, 0.5)
    assert detections.masks is not None
    assert detections.masks.shape == (len(expected), 200, 260)
    for mask, box in zip(detections.masks, detections.xyxy.round().int().tolist(), strict=True):
        drawn = torch.zeros(200, 260, dtype=torch.bool)
        drawn[box[1] : box[3], box[0] : box[2]] = True
        assert torch.equal(mask, drawn)


def test_batches_are_of_tiles_and_their_size_changes_nothing() -> None:
    image, _ = draw_blobs(300, 410, 40, 2, (4, 100))
    detector = blob_detector(96, TILING)
    count = len(TILING.grid(300, 410))
    plain = detector.predict(image, 0.5)
    assert len(detector.backend.shapes) == count
    detector.backend.shapes.clear()
    batched = detector.predict(image, 0.5, batch_size=8)
    assert [shape[0] for shape in detector.backend.shapes] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    assert torch.equal(batched.xyxy, plain.xyxy)
    assert torch.equal(batched.scores, plain.scores)


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_one_tile_is_plain_inference_exactly(checkpoint: Path, some_images: Path, threshold: float) -> None:
    plain, tiled = Detector.load(checkpoint, device="cpu"), Detector.load(checkpoint, device="cpu", tiles=100)
    for one, other in zip(plain.predict(some_images, threshold), tiled.predict(some_images, threshold), strict=True):
        assert torch.equal(one.xyxy, other.xyxy)
        assert torch.equal(one.scores, other.scores)
        assert one.class_names == other.class_names
        assert one.source == other.source


def test_a_higher_threshold_and_top_k_only_leave_out_detections(mask_checkpoint: Path, some_images: Path) -> None:
    detector = Detector.load(mask_checkpoint, device="cpu", tiles=48)
    whole = detector.predict(some_images / "5.png", 0.0)
    threshold = float(whole.scores[len(whole) // 3])
    some = detector.predict(some_images / "5.png", threshold)
    assert 0 < len(some) < len(whole)
    assert torch.equal(some.xyxy, whole.xyxy[: len(some)])
    assert some.masks is not None
    assert whole.masks is not None
    assert torch.equal(some.masks, whole.masks[: len(some)])
    assert len(detector.predict(some_images / "5.png", 0.0, top_k=4)) == 4


@pytest.mark.parametrize("masks", [False, True])
def test_evaluation_merges_as_prediction_does(tmp_path: Path, masks: bool) -> None:
    images, expected = [], {}
    for number, (height, width) in enumerate([(300, 250), (96, 96), (120, 300)]):
        image, rows = draw_blobs(height, width, 12, number, (4, 60))
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        images.append(ImageRecord(10 + number, path, path.name, height, width, []))
        expected[10 + number] = {(x1, y1, x2 - x1, y2 - y1, CATEGORIES.ids[k]) for x1, y1, x2, y2, k in rows}
    detector = blob_detector(96, TILING, masks)
    split = Split("val", images, CATEGORIES, "")
    collector = DetectionAccumulator(dict(enumerate(CATEGORIES.ids)), masks=masks)
    settings = {"preprocessing": detector.preprocessing, "device": "cpu", "batch_size": 3, "quiet": True}
    collect_split(detector.backend, split, CATEGORIES, collector, **settings)
    assert collector.image_ids == [10, 11, 12]
    detections: DetectionArrays = collector.detections
    certain = detections.take(np.flatnonzero(detections.scores > 0.5))
    for image_id, rows in expected.items():
        mine = [row for row in certain if row["image_id"] == image_id]
        assert {(*map(round, row["bbox"]), row["category_id"]) for row in mine} == rows
        assert len(mine) == len(rows)
        if masks:
            predicted = detector.predict(split.images[image_id - 10].path, 0.5).to_coco(image_id)
            key = lambda row: (row["bbox"][0], row["bbox"][1])  # noqa: E731
            for row, other in zip(sorted(mine, key=key), sorted(predicted, key=key), strict=True):
                assert row["segmentation"] == other["segmentation"]


def test_rotated_and_16_bit_images_are_cut_upright_and_scaled(tmp_path: Path) -> None:
    image, expected = draw_blobs(200, 260, 12, 5, (4, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored = np.rot90(image)  # counterclockwise
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    detector = blob_detector(96, TILING)
    turned = detector.predict(tmp_path / "turned.png", 0.5)
    assert turned.image_size == (200, 260)
    assert rows_of(turned) == set(expected)
    deep = (image.astype(np.uint16) * 257)[:, :, 0]
    detector = blob_detector(96, TILING)
    detector.preprocessing = replace(detector.preprocessing, value_range=ValueRange(0, 65535))
    both = detector.predict(deep, 0.5)
    reds = {row[:4] for row in expected if row[4] == 0}
    assert {row[:4] for row in rows_of(both)} == reds


def test_memory_holds_an_image_and_a_few_batches_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = blob_detector(96, TILING)
    made, most = 0, 0
    sample, forward = detector._sample, detector.backend.forward_detection

    def count_samples(pixels: torch.Tensor) -> object:
        nonlocal made, most
        made += 1
        most = max(most, made)
        return sample(pixels)

    def count_batches(images: torch.Tensor, padding_mask: torch.Tensor) -> object:
        nonlocal made
        made -= len(images)
        return forward(images, padding_mask)

    monkeypatch.setattr(detector, "_sample", count_samples)
    monkeypatch.setattr(detector.backend, "forward_detection", count_batches)
    image = np.zeros((96, 20_000, 3), np.uint8)
    image[40:60, 50:19_900:200, 0] = 255  # lines of one pixel
    assert len(detector.predict(image, 0.5, batch_size=4)) == 100
    assert made == 0
    assert most <= 3 * 4


def test_frames_of_a_stream_are_cut_too() -> None:
    frames = [draw_blobs(200, 260, 9, seed, (4, 60)) for seed in range(3)]
    detector = blob_detector(96, TILING)
    for (_, detections), (_, expected) in zip(detector.stream(f for f, _ in frames), frames, strict=True):
        assert rows_of(detections) == set(expected)


def test_an_image_without_detections() -> None:
    detections = blob_detector(96, TILING, masks=True).predict(np.zeros((200, 260, 3), np.uint8), 0.5)
    assert len(detections) == 0
    assert detections.masks is not None
    assert detections.image_size == (200, 260)


def test_the_command_cuts_images_as_the_flags_say(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    plain = run(checkpoint, tmp_path / "plain", some_images / "5.png")
    assert run(checkpoint, tmp_path / "one", some_images / "5.png", tiles=80) == plain
    assert len(run(checkpoint, tmp_path / "cut", some_images / "5.png", tiles=40, tile_overlap=10)) > len(plain)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tiles": 40, "tile_overlap": 30}, "at most half of the 40"),
        ({"tiles": 40, "tile_overlap": -1}, "at least 0"),
        ({"tiles": 0}, "tiles must be at least 1"),
        ({"tiles": "large"}, "a whole number, auto or off"),
        ({"tile_overlap": "off"}, "a whole number or auto"),
        ({"tiles": "off", "tile_overlap": 3}, "found tiles off"),
        ({"tile_overlap": 3}, "add tiles"),
    ],
)
def test_flags_that_fit_no_tiles(
    checkpoint: Path, some_images: Path, tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(checkpoint, tmp_path, some_images / "5.png", **settings)


def test_panoptic_maps_are_of_whole_images(mask_checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use tiles off"):
        run(mask_checkpoint, tmp_path, some_images / "5.png", panoptic=True, tiles=40, threshold=None)
