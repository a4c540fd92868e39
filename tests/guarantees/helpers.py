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
from detrkit.training.setup import ModelSetup, build_training_model

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
    "seeds of the dense head, groups": {"model": "detrkit_n", "query_groups": 3, "denoising": "plain"},
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
    told = TrainConfig.from_recipe(recipe, **given)
    small = SMALL | {"dropout": 0.0, "backbone": "resnet18" if told.dilation else "nano"}
    small |= {"num_queries_one2many": 8} if told.num_queries_one2many else {}
    return TrainConfig.from_recipe(recipe, **{**small, **given, **changes})


def _unlike(kinds: Iterable[str]) -> list[str]:
    """The first of each of those that are the same once shrunk, as detr_resnet50 and detr_resnet101 are."""
    found: dict[str, str] = {}
    for kind in kinds:
        config = replace(shrunk(kind), recipe="classic", model="")
        model = {f.name: getattr(config, f.name) for base in (ModelFlags, LossFlags) for f in fields(base)}
        found.setdefault(str(model), kind)
    return list(found.values())


KINDS = _unlike([*MODELS, "fast", *FURTHER])
"""Every kind of model: the named ones, that of the fast recipe, and further ones."""


def begin(kind: str, **changes: Any) -> ModelSetup:
    """Model and criterion as a run has them, with random weights that depend on the seed alone."""
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


def supervised(start: ModelSetup, taught: Batch) -> Tensor:
    """Forward and backward through all that a training step has; the loss, with fresh gradients in the model."""
    model = start.model.train()
    model.zero_grad(set_to_none=True)
    losses = start.criterion(model(taught.images, taught.padding_mask, taught.targets), taught.targets)
    assert_finite(losses)
    total = start.criterion.weighted_sum(losses)
    total.backward()
    return total.detach()


def assert_finite(values: dict[str, Tensor]) -> None:
    broken = [name for name, value in values.items() if not value.isfinite().all()]
    assert not broken, broken


def assert_taught(start: ModelSetup) -> None:
    """Every parameter that learns has a gradient, and a finite one."""
    learning = {name: p for name, p in start.model.named_parameters() if p.requires_grad}
    idle = [name for name, p in learning.items() if p.grad is None]
    assert not idle, idle
    assert_finite({name: p.grad for name, p in learning.items() if p.grad is not None})


def excited(start: ModelSetup) -> ModelSetup:
    """The same with heads that say something else of every query and place, where those of a new model are alike."""
    torch.manual_seed(1)
    for name, parameter in start.model.named_parameters():
        if "class_embed" in name or "bbox_embed" in name or name.endswith(("enc_class.weight", "layers.2.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return start


def layers_of(out: Output) -> Sequence[Output]:
    return [*out.aux, out]
