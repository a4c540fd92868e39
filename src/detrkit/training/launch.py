"""Devices, precision and processes of a run, by Lightning Fabric."""

from __future__ import annotations

import logging
from typing import Any, Literal

from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.config.train import TrainConfig
from detrkit.training.setup import Processes


class Autocast(MixedPrecision):
    """Mixed precision by autocast alone: boxes of the ground truth stay float32, where Fabric would halve them."""

    def convert_input(self, data: Any) -> Any:
        """The same data."""
        return data


def launch(config: TrainConfig, processes: Processes, *, idle_parts: bool = False) -> Fabric:
    """Start the processes of a run that torchrun or Slurm did not start, and connect all of them.

    Each is started by the command of this one.

    Args:
        config: the settings.
        processes: device and number of processes.
        idle_parts: see `DetectionModel.has_idle_parts`.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # its notes do not concern users
    strategy: DDPStrategy | Literal["auto"] = "auto"
    if processes.world_size > 1:
        strategy = DDPStrategy(
            find_unused_parameters=idle_parts or _has_idle_parts(config), gradient_as_bucket_view=True
        )
    fabric = Fabric(
        accelerator=processes.accelerator,
        devices=processes.devices,
        num_nodes=processes.num_nodes,
        strategy=strategy,
        plugins=[_precision(config, processes.accelerator)],
    )
    fabric.launch()
    return fabric


def kill_children(fabric: Fabric) -> None:
    """End the processes that this one started, when it leaves them in the middle of a step."""
    for process in getattr(fabric.strategy.launcher, "procs", []):
        process.kill()


def share_batch_norm(model: nn.Module, processes: Processes) -> None:
    """Let batch norms that learn take their statistics over the images of all GPUs; in place."""
    learn = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
    if learn and processes.accelerator == "cuda" and processes.world_size > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def _precision(config: TrainConfig, accelerator: str) -> Precision:
    if config.precision == "32":
        return Precision()
    return Autocast(config.precision, accelerator)


def _has_idle_parts(config: TrainConfig) -> bool:
    """Whether all losses of one kind have weight 0, so that no gradient reaches their heads."""
    masks = config.masks and not (config.mask_loss_coef or config.dice_loss_coef)
    return masks or not config.cls_loss_coef or not (config.bbox_loss_coef or config.giou_loss_coef)
