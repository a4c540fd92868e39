"""What detrkit promises of training holds for models of transformers too."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import box_iou

from detrkit.inference.postprocess import postprocess
from detrkit.losses.transformers_losses import TransformersCriterion
from detrkit.models.checkpoints import fit_weights, load_weights
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.structures import Target

from . import tiny

KINDS = ("rt_detr_v2", "rf_detr", "detr")
"""All kinds of losses."""

NO_NOISE = {
    "dropout": 0.0,
    "num_denoising": 0,  # whose number depends on the other images of a process
    "weight_loss_ddf": 0.0,  # D-FINE's distillation, a mean over the queries of a process
}

COUNTS = ((1, 2, 0, 3), (0, 0, 2, 0), (0, 0, 0, 0))
"""Objects of the four images of each step."""


def gradients(folder: Path, rank: int | None) -> dict[str, torch.Tensor]:
    """Gradients and loss of three steps over all images, or over one rank's half."""
    weights = load_weights(folder)
    model = weights.build_model()
    fit_weights(model, weights, weights.categories)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # which looks at its own images
            module.eval()
    criterion = TransformersCriterion(model.network.config)
    wrapped = model if rank is None else DistributedDataParallel(model, find_unused_parameters=True)
    half = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    pixels, padding = tiny.images(4)
    found = {}
    for step, counts in enumerate(COUNTS):
        truth = tiny.targets(*counts)[half]
        total = criterion.weighted_sum(criterion(wrapped(pixels[half], padding[half], truth), truth))
        model.zero_grad()
        total.backward()
        found[f"loss {step}"] = total.detach()
        found |= {f"{name} {step}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found


def one_rank(rank: int, folders: list[Path], output: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output / 'store'}", rank=rank, world_size=2)
    for folder in folders:
        found = gradients(folder, rank)
        for step in range(len(COUNTS)):
            dist.all_reduce(found[f"loss {step}"])
            found[f"loss {step}"] /= 2
        if rank == 0:
            torch.save(found, output / f"{folder.name}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "kinds",
    [KINDS, pytest.param([kind for kind in tiny.CONFIGS if kind not in KINDS], marks=pytest.mark.slow)],
    ids=["kinds of losses", "others"],
)
def test_two_ranks_equal_one(tmp_path, kinds):
    folders = [tmp_path / kind for kind in kinds]
    for folder in folders:
        tiny.save(folder.name, folder, **NO_NOISE)
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=one_rank, args=(rank, folders, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    expected = {folder: gradients(folder, None) for folder in folders}
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0
    for folder, values in expected.items():
        found = torch.load(tmp_path / f"{folder.name}.pt", weights_only=True)
        assert max(value.abs().max() for value in values.values()) > 0.1
        for name, value in values.items():
            torch.testing.assert_close(
                found[name],
                value,
                rtol=1e-3,
                atol=1e-5,
                msg=lambda text, of=folder, key=name: f"{of.name} {key} {text}",
            )


def squares(count: int) -> tuple[torch.Tensor, list[Target]]:
    """Black images with one or two squares, whose color is their class."""
    noise = torch.Generator().manual_seed(0)
    pixels, truth = torch.zeros(count, 3, 64, 64, dtype=torch.uint8), []
    for image in range(count):
        boxes, classes = [], []
        for left in range(0, 32 * (1 + image % 2), 32):
            side, top, color = (
                int(torch.randint(*low_high, (1,), generator=noise)) for low_high in ((16, 32), (0, 32), (0, 3))
            )
            pixels[image, color, top : top + side, left : left + side] = 255
            boxes.append([left + side / 2, top + side / 2, side, side])
            classes.append(color)
        truth.append(Target(labels=torch.tensor(classes), boxes=torch.tensor(boxes) / 64))
    return pixels, truth


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_eight_images_are_learnt_by_heart(tmp_path, kind):
    tiny.save(kind, tmp_path, dropout=0.0)
    weights, steps = load_weights(tmp_path), 400
    model = weights.build_model()
    fit_weights(model, weights, weights.categories)
    criterion, (pixels, truth) = TransformersCriterion(model.network.config), squares(8)
    padding = torch.zeros(8, 64, 64, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        total = criterion.weighted_sum(criterion(model(pixels, padding, truth), truth))
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        out = model.eval()(pixels, padding)
    found = []
    for detections, objects in zip(postprocess(out, [(64, 64)] * 8), truth, strict=True):
        best = detections.scores.topk(len(objects["labels"])).indices
        overlaps = box_iou(cxcywh_to_xyxy(objects["boxes"]) * 64, detections.xyxy[best])
        same = objects["labels"][:, None] == detections.class_ids[best]
        found += ((overlaps > 0.5) & same).any(1).tolist()
    assert sum(found) >= 0.8 * len(found)
