"""Every kind of model, shrunk until a step takes a moment, and images with objects for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from detrkit.config.loss import LossFlags
from detrkit.config.model import ModelFlags
from detrkit.config.presets import MODELS
from detrkit.config.train import TrainConfig
from detrkit.structures import Batch, Categories, Output, Target
from detrkit.training.model_setup import ModelSetup
from detrkit.training.setup import build_training_model

CLASSES = Categories((3, 7, 8), ("red", "green", "blue"))

SMALL: dict[str, Any] = {
    "backbone_weights": "none",
    "hidden_dim": 64,  # of 32, each of the 32 groups of a norm would hold a single number where a map is 1 x 1
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 32,
    "num_queries": 6,
    "dn_queries": 8,
}

FURTHER: dict[str, dict[str, Any]] = {
    "everything at once": {
        "model": "dino_r50",
        "class_loss": "varifocal",
        "query_groups": 2,
        "num_queries_one2many": 7,
        "k_one2many": 2,
        "dense_head": "tood",
    },
    "dense head selects, groups": {"model": "detrkit_n", "query_groups": 3, "denoising": "plain"},
    "ATSS, matchability": {"model": "rtdetr_r18", "dense_head": "atss", "class_loss": "matchability"},
    "FCOS beside anchors": {"model": "dn_r50", "dense_head": "fcos", "query_groups": 2, "num_queries_one2many": 5},
    "anchors, softmax": {
        "decoder": "conditional",
        "query_init": "anchors",
        "denoising": "contrastive",
        "query_groups": 2,
        "pre_norm": True,
    },
    "learned, groups, hybrid": {"query_groups": 2, "num_queries_one2many": 8},
    "points": {
        "decoder": "deformable",
        "feature_levels": "16,32,64",
        "box_refine": True,
        "activation": "glu",
        "num_queries_one2many": 8,
    },
    "two-stage, softmax": {"decoder": "deformable", "query_init": "two_stage", "denoising": "plain"},
}
"""Switches that no named model has together."""


def shrunk(kind: str, **changes: Any) -> TrainConfig:
    """The settings of a named model, one of `FURTHER` or "fast", as small as its switches can be tried.

    Keywords override.
    """
    given: dict[str, Any] = FURTHER.get(kind, {} if kind == "fast" else {"model": kind})
    recipe = "fast" if kind == "fast" else "classic"
    config = TrainConfig.from_recipe(recipe, **given)
    small = SMALL | {"dropout": 0.0, "backbone": "resnet18" if config.dilation else "nano"}
    small |= {"num_queries_one2many": 8} if config.num_queries_one2many else {}
    return TrainConfig.from_recipe(recipe, **{**small, **given, **changes})


def _distinct(kinds: Iterable[str]) -> list[str]:
    """Keep one of the kinds that are equal once shrunk, as detr_resnet50 and detr_resnet101 are."""
    first_kind: dict[str, str] = {}
    for kind in kinds:
        config = replace(shrunk(kind), recipe="classic", model="")
        model = {f.name: getattr(config, f.name) for base in (ModelFlags, LossFlags) for f in fields(base)}
        first_kind.setdefault(str(model), kind)
    return list(first_kind.values())


KINDS = _distinct([*MODELS, "fast", *FURTHER])
"""Every kind of model: the named ones, that of the fast recipe, and further ones."""


def make_setup(kind: str, **changes: Any) -> ModelSetup:
    """Make model and criterion as a run does, with random weights that depend on the seed alone."""
    return build_training_model(shrunk(kind, **changes), CLASSES, None)


def some_images(count: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, and its padding: none."""
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images, torch.zeros(count, size, size, dtype=torch.bool)


def targets(*counts: int, seed: int = 0) -> list[Target]:
    """`counts[i]` random objects inside image i, with the seed of their noise."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(0, len(CLASSES), (n,), generator=generator),
            "boxes": torch.cat(
                [0.3 + 0.4 * torch.rand(n, 2, generator=generator), 0.1 + 0.4 * torch.rand(n, 2, generator=generator)],
                1,
            ),
            "noise_seed": 10 * seed + i,
        }
        for i, n in enumerate(counts)
    ]


def batch(*counts: int, size: int = 64, seed: int = 0) -> Batch:
    """Images of noise with so many objects."""
    return Batch(*some_images(len(counts), size, seed), targets(*counts, seed=seed))


def loss_and_gradients(setup: ModelSetup, batch: Batch) -> Tensor:
    """Run the forward and backward pass of a training step; return the loss, and leave the gradients in the model."""
    model = setup.model.train()
    model.zero_grad(set_to_none=True)
    losses = setup.criterion(model(batch.images, batch.padding_mask, batch.targets), batch.targets)
    assert_finite(losses)
    total = setup.criterion.weighted_sum(losses)
    total.backward()
    return total.detach()


def assert_finite(values: dict[str, Tensor]) -> None:
    broken = [name for name, value in values.items() if not value.isfinite().all()]
    assert not broken, broken


def assert_all_have_gradients(setup: ModelSetup) -> None:
    """Assert that every trainable parameter has a finite gradient."""
    trainable = {name: p for name, p in setup.model.named_parameters() if p.requires_grad}
    without_gradient = [name for name, p in trainable.items() if p.grad is None]
    assert not without_gradient, without_gradient
    assert_finite({name: p.grad for name, p in trainable.items() if p.grad is not None})


def with_random_heads(setup: ModelSetup) -> ModelSetup:
    """Draw the heads at random, so that queries and tokens differ in their predictions, unlike those of a new model."""
    torch.manual_seed(1)
    for name, parameter in setup.model.named_parameters():
        if "class_embed" in name or "bbox_embed" in name or name.endswith(("enc_class.weight", "layers.2.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return setup


def layers_of(out: Output) -> Sequence[Output]:
    return [*out.aux, out]
