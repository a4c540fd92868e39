"""Overfitting a few images, the first thing to try on new data."""

from pathlib import Path

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.structures import Batch
from detrkit.training import train
from detrkit.training.optim import build_optimizer

from .helpers import loss_and_gradients, make_setup, some_images
from .test_any_batch import strange_boxes

pytestmark = pytest.mark.timeout(240)


def test_default_settings_overfit_four_images(defects: Path, tmp_path: Path, capsys):
    """Every setting is what `detrkit train --overfit 4` takes without a GPU, but for half of the epochs."""
    config = TrainConfig.from_recipe(
        "fast", data=str(defects), overfit=4, model="detrkit_n", device="cpu", num_workers=0,
        image_size=64, epochs=25, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    assert train(config).metrics["AP"] >= 0.95


@pytest.mark.parametrize("kind", ["detr_resnet50", "detrkit_n", "dino_r50"])
def test_extreme_boxes_can_be_overfitted(kind):
    """A pixel, a line, the whole image and one twice over; of the second class there is a single example."""
    setup = make_setup(kind, num_queries=12, dn_queries=30)
    given = strange_boxes(64)
    one_batch = Batch(*some_images(1), [given])
    steps, lr = 300 if kind == "detrkit_n" else 100, 1e-3  # its separable convolutions are slow to learn
    optimizer = build_optimizer(setup.model, lr=lr, lr_backbone=lr, weight_decay=1e-4)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, 2 * (1 - step / steps))
        losses.append(loss_and_gradients(setup, one_batch).item())
        torch.nn.utils.clip_grad_norm_(setup.model.parameters(), 1.0)
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        out = setup.model(one_batch.images, one_batch.padding_mask, one_batch.targets)
    queries, objects = setup.criterion.match(out, one_batch.targets)[0]
    off = (cxcywh_to_xyxy(out.boxes[0, queries]) - cxcywh_to_xyxy(given["boxes"][objects])).abs().amax(1) * 64
    assert off.median() < 4  # pixels; 20 at first
