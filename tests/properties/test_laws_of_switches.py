"""Switches thrown at random: combinations either work or are refused in one sentence."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError
from detrkit.structures import Categories, Target
from detrkit.training.model_setup import ModelSetup
from detrkit.training.setup import build_training_model

CHOICES: dict[str, tuple[Any, ...]] = {
    "feature_levels": ("", "16,32", "8,16,32", "32,64"),
    "encoder": ("full", "deformable", "hybrid"),
    "decoder": ("full", "conditional", "deformable"),
    "query_init": ("learned", "anchors", "two_stage", "topk_features", "mixed_selection"),
    "two_stage_head": ("encoder", "dense"),
    "query_nms_iou": (0.0, 0.7),
    "box_refine": (True, False),
    "look_forward_twice": (True, False),
    "score_refine": (True, False),
    "dense_head": ("none", "fcos", "atss", "tood"),
    "denoising": ("none", "plain", "contrastive"),
    "query_groups": (1, 2),
    "num_queries_one2many": (0, 7),
    "k_one2many": (1, 3),
    "class_loss": ("softmax", "focal", "varifocal", "matchability"),
    "pre_norm": (True, False),
    "no_aux_loss": (False, False, True),
    "enc_layers": (0, 1, 2),
    "dec_layers": (1, 2),
    "num_queries": (1, 8),
    "position_embedding": ("sine", "learned"),
    "backbone_norm": ("batch", "group"),
    "checkpoint_activations": (True, False),
    "task": ("detect", "instance", "panoptic"),
}
CLASSES = Categories((1, 2, 3), ("a", "b", "c"), isthing=(True, True, False))
HEIGHT, WIDTH = 64, 96


def started(seed: int) -> ModelSetup | None:
    """The parts of a training with a quarter of the switches thrown; None where they do not fit together."""
    rng = random.Random(seed)
    thrown = {name: rng.choice(values) for name, values in CHOICES.items() if rng.random() < 0.25}
    small = {"backbone": "nano", "backbone_weights": "none", "hidden_dim": 64, "nheads": 4, "dim_feedforward": 32}
    usual = {"num_queries": 10, "image_size": 64, "batch_size": 2, "masks": thrown.get("task", "detect") != "detect"}
    recipe, model = rng.choice(("fast", "classic")), rng.choice(("detrkit_n", "deformable_r50", "dino_r50", "dab_r50"))
    torch.manual_seed(seed)
    try:
        config = TrainConfig.from_recipe(recipe, model=model, data="data", **{**small, **usual, **thrown})
        start = build_training_model(config, CLASSES, None)
    except ConfigError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert re.fullmatch(r"expected .+ found .+", refused)
        return None
    if config.checkpoint_activations:
        start.model.checkpoint_activations()
    return start


def some_objects(count: int) -> Target:
    return Target(
        labels=torch.randint(0, 3, (count,)),
        boxes=torch.rand(count, 4) * 0.5 + 0.01,
        masks=torch.rand(count, HEIGHT, WIDTH) > 0.5,
        size=(HEIGHT, WIDTH),
        noise_seed=count,
    )


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_switches_thrown_at_random(first: int) -> None:
    """Two steps, with and without objects, give every parameter a gradient, which processes that exchange gradients
    need; and in evaluation a batch equals its images alone, with or without the heads of earlier layers."""
    fitting = [start for seed in range(first, first + 10) if (start := started(seed))]
    assert len(fitting) >= 3  # of ten
    for model, criterion in ((start.model, start.criterion) for start in fitting):
        images = torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8)
        padding = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        model.train()
        for targets in ([some_objects(13), some_objects(1)], [some_objects(0), some_objects(0)]):
            model.zero_grad()
            criterion.weighted_sum(criterion(model(images, padding, targets), targets)).backward()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, name
                    assert parameter.grad.isfinite().all(), name
        model.eval()
        with torch.no_grad():
            out, last = (
                model.forward_detection(images, padding),
                model.forward_detection(images, padding, last_only=True),
            )
            alone = model.forward_detection(images[:1], padding[:1])
        for logits, boxes in ((last.logits[:1], last.boxes[:1]), (alone.logits, alone.boxes)):
            torch.testing.assert_close(logits, out.logits[:1], rtol=0, atol=1e-4)
            torch.testing.assert_close(boxes, out.boxes[:1], rtol=0, atol=1e-4)
