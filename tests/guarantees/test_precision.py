"""Half precision keeps every loss, gradient and weight finite, in both recipes."""

from typing import Any

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset
from detrkit.data.loader import collate, train_loader
from detrkit.data.transforms.resize_crop import train_transform
from detrkit.training.loaders import augmentation_of
from detrkit.training.optim import build_optimizer
from detrkit.training.setup import build_training_model, load_data

from .helpers import assert_finite, layers_of, shrunk

RECIPES: dict[str, dict[str, Any]] = {
    "classic": {"lr": 1e-3, "dropout": 0.1},
    "fast": {"num_queries": 12, "denoising": "contrastive"},
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def teach(config: TrainConfig, dtype: torch.dtype, steps: int) -> list[float]:
    """The losses of so many steps as a run takes them: its data, model, criterion, optimizer and clipping.

    Not a run itself, since that refuses float16 on the CPU.
    """
    data = load_data(config)
    setup = build_training_model(config, data.categories, None)
    model = setup.model.train()
    augmentation, augment = augmentation_of(config)
    transform = train_transform(augmentation, config.image_size)
    dataset = DetectionDataset(data.train, data.categories, transform, seed=config.seed, augment=augment)
    loader = train_loader(dataset, batch_size=config.batch_size, seed=config.seed)
    optimizer = build_optimizer(
        model, lr=config.lr, lr_backbone=setup.lr_backbone, weight_decay=1e-4, norm_decay=config.norm_decay
    )
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**14)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals, skipped = [], 0
    while len(totals) < steps:
        loader.set_epoch(len(totals))
        for batch in loader:
            with torch.autocast("cpu", dtype=dtype):
                out = model(batch.images, batch.padding_mask, batch.targets)
                losses = setup.criterion(out, batch.targets)
                total = setup.criterion.weighted_sum(losses)
            assert_finite(losses)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            scaler.unscale_(optimizer)
            if dtype == torch.bfloat16:
                assert_finite({name: p.grad for name, p in trainable.items()})
            norm = torch.nn.utils.clip_grad_norm_(list(trainable.values()), config.clip_max_norm)
            skipped += not norm.isfinite()  # the scaler leaves such a step out, and tries a smaller scale
            scaler.step(optimizer)
            scaler.update()
            totals.append(total.item())
    assert_finite(model.state_dict())
    assert skipped <= 5
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        one_image, _ = dataset[0]
        one = collate([dataset[0]])
        for layer in layers_of(model.eval()(one_image[None], one.padding_mask)):
            assert_finite({"logits": layer.logits, "boxes": layer.boxes})
    return totals


def tiny(recipe: str, defects: Any, **changes: Any) -> TrainConfig:
    kind = "detr_resnet50" if recipe == "classic" else "fast"
    size = {"image_size": 64, "batch_size": 4, "data": str(defects), "num_workers": 0}
    return shrunk(kind, **{**size, **RECIPES[recipe], **changes})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_thirty_steps(recipe, dtype, defects):
    totals = teach(tiny(recipe, defects, image_size=48), DTYPES[dtype], 30)
    assert sum(totals[-10:]) < sum(totals[:10])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_hundred_steps(recipe, dtype, defects):
    totals = teach(tiny(recipe, defects), DTYPES[dtype], 200)
    assert sum(totals[-20:]) < 0.8 * sum(totals[:20])
