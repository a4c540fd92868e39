"""What detrkit promises of training holds for models of transformers too."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detrkit.evaluation.evaluate_detector import evaluate
from detrkit.losses.transformers_losses import TransformersCriterion
from detrkit.models.checkpoints import fit_weights, load_weights
from detrkit.training.training_run import train

from . import tiny
from .test_training import config_of, data

__all__ = ["data"]

KINDS = ("rt_detr_v2", "deimv2", "rf_detr", "deformable_detr", "detr")
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


def test_two_ranks_equal_one(tmp_path):
    folders = [tmp_path / kind for kind in KINDS]
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_eight_images_are_learnt_by_heart(data, tmp_path, kind):
    tiny.save(kind, tmp_path / "weights")
    settings = {"overfit": 8, "epochs": 150, "eval_every": 150, "lr": 2e-3, "lr_backbone": 2e-3, "warmup_steps": 20}
    train(config_of(data, tmp_path / "weights", tmp_path / "run", **settings))
    metrics = evaluate(tmp_path / "run", data, split="train").metrics
    assert metrics["AP50"] > 0.5
