"""Lightning's trainer with everything switched off that detrkit does itself, and what Lightning says unasked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.config.train import TrainConfig
from detrkit.training.checkpoint import AtomicCheckpointIO
from detrkit.training.setup import Processes

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "16-mixed",
}


def build_trainer(
    config: TrainConfig,
    processes: Processes,
    run_dir: Path,
    model: nn.Module,
    loggers: list[Any],
    callbacks: list[pl.Callback],
) -> pl.Trainer:
    """A trainer that only turns the loop over batches, on the devices and in the precision that are wanted.

    `EpochCycle` evaluates, saves and ends the run, and the loaders deal images out to the processes.
    """
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # see StopSignals
    strategy: Strategy | str = "auto"
    if processes.world > 1:
        strategy = DDPStrategy(find_unused_parameters=_leaves_parts_idle(config), gradient_as_bucket_view=True)
    learning = any(
        isinstance(m, _BatchNorm) and m.training for m in model.modules()
    )  # frozen ones have nothing to share
    with lightning_quiet():
        return pl.Trainer(
            accelerator=processes.accelerator,
            devices=processes.devices,
            num_nodes=processes.num_nodes,
            strategy=strategy,
            sync_batchnorm=learning and processes.accelerator == "cuda" and processes.world > 1,
            precision=_PRECISIONS[config.precision],
            accumulate_grad_batches=config.accumulate_grad_batches,
            max_epochs=-1,
            min_epochs=0,
            logger=loggers,
            callbacks=callbacks,
            plugins=plugins,
            default_root_dir=run_dir,
            use_distributed_sampler=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def _leaves_parts_idle(config: TrainConfig) -> bool:
    """Whether a kind of loss weighs nothing at all, so that no gradient reaches its heads."""
    masks = config.masks and not (config.mask_loss_coef or config.dice_loss_coef)
    return masks or not config.cls_loss_coef or not (config.bbox_loss_coef or config.giou_loss_coef)


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Without what Lightning says that is no concern of a user of detrkit."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")  # torch about Lightning
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
