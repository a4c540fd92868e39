"""The baselines do the same work as detrkit's own functions: their results are equal."""

from pathlib import Path

import numpy as np
import pytest
import torch

import baseline as plain
from detrkit.benchmark.noise_images import HEIGHT, OBJECTS, WIDTH, draw_images
from detrkit.benchmark.random_detections import random_detections
from detrkit.benchmark.suites import synthetic_output
from detrkit.benchmark.target import make_target
from detrkit.config.commands import BenchConfig
from detrkit.data.decode.images import read_image
from detrkit.evaluation.coco_metrics import COCO_NAMES, compute_coco_metrics
from detrkit.inference.postprocess import panoptic, postprocess
from detrkit.structures import Categories


@pytest.mark.parametrize("model", ["", "detrkit_n"])
def test_detections_and_panoptic_maps(model: str, tmp_path: Path) -> None:
    config = BenchConfig(model=model, masks=True, image_size=96, images=2)
    target = make_target(config, tmp_path)
    batch = target.batch(2)
    out = synthetic_output(target, batch, torch.device("cpu"))
    processed = torch.tensor([target["size"] for target in batch.targets])
    sizes = torch.tensor([[120, 160], [90, 100]])
    ours = postprocess(out, sizes, processed_sizes=processed, threshold=0.5, top_k=0)
    theirs = plain.detections(out, processed, sizes, 0.5)
    for actual, row in zip(ours, theirs, strict=True):
        assert len(actual) == 20
        torch.testing.assert_close(actual.scores, row["scores"])
        assert torch.equal(actual.class_ids, row["labels"])
        torch.testing.assert_close(actual.xyxy, row["boxes"])
        assert actual.masks is not None
        assert (actual.masks == row["masks"]).float().mean() > 0.999  # at borders rounding decides
        assert 0.01 < actual.masks.float().mean() < 0.5
    things = [k % 2 == 0 for k in range(91)]
    ours_maps, their_maps = (
        panoptic(out, processed, sizes, things, 0.5),
        plain.panoptic_maps(out, processed, sizes, things, 0.5),
    )
    for whole, ids in zip(ours_maps, their_maps, strict=True):
        assert len(ids.unique()) > 5
        assert (whole.ids == ids).float().mean() > 0.999


def test_coco_metrics() -> None:
    gt, actual = random_detections(12, 4)
    assert (len(gt["annotations"]), len(actual)) == (12 * 7, 12 * 100)
    ours = compute_coco_metrics(gt, actual).metrics
    theirs = plain.official_coco_metrics(gt, actual, "faster_coco_eval")
    np.testing.assert_allclose([ours[name] for name in COCO_NAMES], theirs, atol=1e-6)
    assert 0.05 < ours["AP"] < 0.95


def test_images_are_like_those_of_coco_and_the_same_each_time(tmp_path: Path) -> None:
    categories = Categories((3, 7), ("dent", "scratch"))
    split = draw_images(tmp_path / "a", 2, categories)
    again = draw_images(tmp_path / "b", 2, categories)
    for image, other in zip(split.images, again.images, strict=True):
        assert image.path.read_bytes() == other.path.read_bytes()
        assert 50_000 < image.path.stat().st_size < 400_000
        assert read_image(image.path).shape == (3, HEIGHT, WIDTH)
        assert len(image.objects) == OBJECTS
        assert {obj.category_id for obj in image.objects} <= {3, 7}


def test_the_pil_recipe_makes_images_for_the_model(tmp_path: Path) -> None:
    (image,) = draw_images(tmp_path, 1, Categories.unnamed(1)).images
    recipe = plain.PilRecipe(200)
    shapes = set()
    for seed in range(20):
        one_image = recipe(image.path, seed)
        assert one_image.dtype == torch.float32
        assert abs(float(one_image.mean())) < 1.5
        shorter = min(one_image.shape[1:])
        assert max(one_image.shape[1:]) <= 333
        assert shorter <= 200
        shapes.add(tuple(one_image.shape))
    assert len(shapes) > 5
    assert (
        plain.PilRecipe(64, square_resize=True)(image.path, 0).shape[1]
        == plain.PilRecipe(64, square_resize=True)(image.path, 0).shape[2]
    )
