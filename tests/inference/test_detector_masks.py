"""Detector with a mask head: masks and panoptic maps of the image's own size, whatever form the image has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detections, Detector, build_model, postprocess
from detrkit.errors import ConfigError, OutOfMemoryError
from detrkit.inference.postprocess import PANOPTIC_THRESHOLD, PANOPTIC_THRESHOLD_SIGMOID
from detrkit.results import PanopticMap
from tests.inference.conftest import CATEGORIES, MODEL, SHAPES


def by_hand(detector: Detector, path: Path) -> Detections:
    """All detections of an image from the masks of all queries, as `DETR.forward` makes them."""
    one_image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    batch = detector.prepare([one_image])
    with torch.no_grad():
        out = detector.model(batch.images, batch.padding_mask)
    assert out.masks is not None
    sizes = torch.tensor([one_image.shape[1:]])
    actual = postprocess(out, sizes, processed_sizes=torch.tensor([batch.images.shape[2:]]))[0]
    return actual[actual.scores.argsort(descending=True)].with_categories(detector.categories)


@pytest.mark.parametrize("name", SHAPES)
def test_masks_have_the_size_of_the_image(mask_detector: Detector, some_images: Path, name: str) -> None:
    actual, expected = (
        mask_detector.predict(some_images / name, threshold=0),
        by_hand(mask_detector, some_images / name),
    )
    assert actual.masks is not None
    assert expected.masks is not None
    assert actual.masks.dtype == torch.bool
    assert tuple(actual.masks.shape) == (9, *SHAPES[name])
    assert actual.class_names == expected.class_names
    assert torch.equal(actual.masks, expected.masks)
    assert 0.02 < actual.masks.float().mean() < 0.98
    assert len(actual.masks.flatten(1).unique(dim=0)) > 5


def test_only_masks_above_the_threshold_are_made(
    mask_detector: Detector, some_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = mask_detector.predict(some_images / "5.png", threshold=0)
    limit = float(everything.scores[3])
    made: list[int] = []
    head = mask_detector.model.mask_head
    forward = head.forward

    def spy(projected, high_res_features, images, attention):
        made.append(len(images))
        return forward(projected, high_res_features, images, attention)

    monkeypatch.setattr(head, "forward", spy)
    actual = mask_detector.predict(some_images / "5.png", threshold=limit)
    assert made == [4]
    assert torch.equal(actual.masks, everything.masks[:4])
    made.clear()
    none = mask_detector.predict(some_images / "5.png", threshold=1)
    assert made == []
    assert tuple(none.masks.shape) == (0, 60, 80)
    of_pairs = mask_detector.predict(some_images / "5.png", threshold=0, top_k=20)
    assert sum(made) == len(of_pairs.xyxy.unique(dim=0)) < 10  # a query under two classes has one mask
    assert tuple(of_pairs.masks.shape) == (20, 60, 80)


@pytest.mark.parametrize("turned", range(2, 9))
def test_masks_are_upright(mask_detector: Detector, some_images: Path, tmp_path: Path, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.open(some_images / "wide.png").save(tmp_path / "turned.png", exif=exif)
    back = {2: "lr", 3: "r180", 4: "ud", 5: "t", 6: "r270", 7: "tt", 8: "r90"}[turned]
    pixels = np.array(Image.open(some_images / "wide.png"))
    upright = {
        "lr": lambda p: p[:, ::-1],
        "r180": lambda p: p[::-1, ::-1],
        "ud": lambda p: p[::-1],
        "t": lambda p: p.transpose(1, 0, 2),
        "r270": lambda p: np.rot90(p, -1),
        "tt": lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        "r90": lambda p: np.rot90(p, 1),
    }[back](pixels)
    actual = mask_detector.predict(tmp_path / "turned.png", threshold=0)
    expected = mask_detector.predict(np.ascontiguousarray(upright), threshold=0)
    assert tuple(actual.masks.shape[1:]) == upright.shape[:2]
    assert torch.equal(actual.masks, expected.masks)
    segments = mask_detector.panoptic(tmp_path / "turned.png", threshold=0.4)
    assert tuple(segments.ids.shape) == upright.shape[:2]
    assert torch.equal(segments.ids, mask_detector.panoptic(np.ascontiguousarray(upright), threshold=0.4).ids)


def test_a_panoptic_map_has_original_ids_and_names(mask_detector: Detector, some_images: Path) -> None:
    actual = mask_detector.panoptic(some_images / "5.png", threshold=0.4)
    assert isinstance(actual, PanopticMap)
    assert tuple(actual.ids.shape) == (60, 80)
    assert len(actual.segments) >= 3
    names = dict(zip(CATEGORIES.ids, CATEGORIES.names, strict=True))
    for row in actual.segments:
        assert row["category_name"] == names[row["category_id"]]
        assert row["isthing"] == (row["category_id"] != 20)
        assert row["area"] == int((actual.ids == row["id"]).sum())
        assert 0.4 < row["score"] <= 1
    assert sum(row["area"] for row in actual.segments) == 60 * 80
    kinds = [row["category_id"] for row in actual.segments]
    assert kinds.count(20) == 1  # stuff is one segment a class
    assert kinds.count(3) > 1


def test_panoptic_takes_every_source(
    mask_detector: Detector, some_images: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    one = mask_detector.panoptic(some_images / "5.png", threshold=0.4)
    for form in (
        str(some_images / "5.png"),
        Image.open(some_images / "5.png"),
        np.array(Image.open(some_images / "5.png")),
    ):
        again = mask_detector.panoptic(form, threshold=0.4)
        assert torch.equal(again.ids, one.ids)
        assert again.segments == one.segments
    alone = mask_detector.panoptic(some_images, threshold=0.4)
    together = mask_detector.panoptic([some_images], threshold=0.4, batch_size=4)
    assert [tuple(each.ids.shape) for each in alone] == [SHAPES[n] for n in sorted(SHAPES)]
    assert torch.equal(alone[1].ids, one.ids)
    for a, b in zip(alone, together, strict=True):
        assert (a.ids != b.ids).float().mean() < 0.01
    frames = mask_detector.stream_panoptic(make_video(tmp_path / "clip.mp4"), threshold=0.4)
    assert [tuple(each.ids.shape) for _, each in frames] == [(60, 80)] * 6


def test_the_usual_threshold_of_panoptic_maps_is_that_of_the_kind_of_scores(
    mask_detector: Detector, detector: Detector, some_images: Path
) -> None:
    assert mask_detector.panoptic_threshold() == PANOPTIC_THRESHOLD == 0.85
    usual = mask_detector.panoptic(some_images / "5.png")
    assert 0 < len(usual.segments) < len(mask_detector.panoptic(some_images / "5.png", threshold=0.4).segments)
    assert all(row["score"] > 0.85 for row in usual.segments)
    sigmoid = build_model(**MODEL | {"hidden_dim": 128, "nheads": 8, "masks": True, "sigmoid": True})
    assert Detector(sigmoid, CATEGORIES, 64).panoptic_threshold() == PANOPTIC_THRESHOLD_SIGMOID
    with pytest.raises(ConfigError, match="mask head"):
        detector.panoptic(some_images / "5.png")
    with pytest.raises(ConfigError, match="mask head"):
        detector.panoptic("no such video.mp4")
    with pytest.raises(ConfigError, match="threshold"):
        mask_detector.panoptic(some_images / "5.png", threshold=1.2)


def test_all_classes_are_things_by_default(mask_detector: Detector, some_images: Path) -> None:
    all_things = Detector(mask_detector.model, CATEGORIES, 64)
    actual = all_things.panoptic(some_images / "5.png", threshold=0.4)
    assert all(row["isthing"] for row in actual.segments)
    assert [row["category_id"] for row in actual.segments].count(20) > 1


def test_hostile_images_and_scores(mask_checkpoint: Path, some_images: Path) -> None:
    detector = Detector.load(mask_checkpoint, device="cpu")
    pixel = np.zeros((1, 1, 3), dtype=np.uint8)
    assert tuple(detector.predict(pixel, threshold=0).masks.shape) == (9, 1, 1)
    assert tuple(detector.panoptic(pixel, threshold=0).ids.shape) == (1, 1)
    assert tuple(detector.predict(np.zeros((1, 90, 3), np.uint8), threshold=0).masks.shape) == (9, 1, 90)
    with torch.no_grad():
        detector.model.class_embed.bias.fill_(float("nan"))
    assert len(detector.predict(some_images / "5.png", threshold=0.01)) == 0
    actual = detector.panoptic(some_images / "5.png", threshold=0)
    assert actual.segments == []
    assert not actual.ids.any()


def test_out_of_memory_is_an_error_with_advice(
    mask_detector: Detector, some_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(mask_detector.model, "forward_detection", full)
    with pytest.raises(OutOfMemoryError, match="threshold"):
        mask_detector.predict(some_images / "5.png")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(mask_detector.model, "forward_detection", broken)
    with pytest.raises(RuntimeError, match="something else"):
        mask_detector.panoptic(some_images / "5.png")
