"""`detrkit detr`: the command line of the original main.py, every flag with its meaning and default.

The flags are read here and turned into the settings of `detrkit train`; from there on there is one code path. What
differs from the modern verb: classes are indexed by their COCO ids (91 of them, as in the published checkpoints),
`log.txt` is written in the original's format beside our own files, and nothing is chosen for the user: the backbone
starts from ImageNet weights with frozen norms, and the device is `cuda` unless told otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from detrkit.config import TrainConfig, did_you_mean
from detrkit.errors import ConfigError

DATASETS = ("coco", "coco_panoptic")


class _Parser(argparse.ArgumentParser):
    """Complains with our errors instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            known = [word for action in self._actions for word in action.option_strings]
            raise ConfigError(f"main.py has no flag {unknown[1]}{did_you_mean(unknown[1], known)}")
        raise ConfigError(f"{message} (see detrkit detr --help)")


def build_parser() -> argparse.ArgumentParser:
    """The flags of main.py, in its order, with its defaults."""
    parser = _Parser(
        prog="detrkit detr",
        usage="detrkit detr --coco_path COCO [flags of main.py]",
        description="Train or evaluate DETR with the command line of the original main.py.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=True,  # argparse's default, which scripts written for main.py may rely on
    )

    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", default=1e-4, type=float, help="learning rate of the transformer and heads")
    group.add_argument("--lr_backbone", default=1e-5, type=float, help="learning rate of the backbone; 0 freezes it")
    group.add_argument("--batch_size", default=2, type=int, help="pictures a step and device")
    group.add_argument("--weight_decay", default=1e-4, type=float, help="weight decay of AdamW")
    group.add_argument("--epochs", default=300, type=int, help="epoch at which training ends")
    group.add_argument("--lr_drop", default=200, type=int, help="epochs between drops of the learning rates to a tenth")
    group.add_argument("--clip_max_norm", default=0.1, type=float, help="largest gradient norm; 0: no clipping")

    group = parser.add_argument_group("model")
    group.add_argument("--frozen_weights", default=None, help="detector to train a mask head on (not available yet)")
    group.add_argument("--backbone", default="resnet50", help="ResNet of torchvision")
    group.add_argument("--dilation", action="store_true", help="dilate the last stage (DC5)")
    group.add_argument("--position_embedding", default="sine", choices=("sine", "learned"), help="position encoding")
    group.add_argument("--enc_layers", default=6, type=int, help="encoder layers")
    group.add_argument("--dec_layers", default=6, type=int, help="decoder layers")
    group.add_argument("--dim_feedforward", default=2048, type=int, help="width of the feed-forward blocks")
    group.add_argument("--hidden_dim", default=256, type=int, help="width of the transformer")
    group.add_argument("--dropout", default=0.1, type=float, help="dropout in the transformer")
    group.add_argument("--nheads", default=8, type=int, help="attention heads")
    group.add_argument("--num_queries", default=100, type=int, help="object queries")
    group.add_argument("--pre_norm", action="store_true", help="normalise before each block")
    group.add_argument("--masks", action="store_true", help="train the segmentation head (not available yet)")

    group = parser.add_argument_group("matching and losses")
    group.add_argument(
        "--no_aux_loss", dest="aux_loss", action="store_false", help="no losses at the earlier decoder layers"
    )
    group.add_argument("--set_cost_class", default=1, type=float, help="class term of the matching cost")
    group.add_argument("--set_cost_bbox", default=5, type=float, help="L1 term of the matching cost")
    group.add_argument("--set_cost_giou", default=2, type=float, help="generalised IoU term of the matching cost")
    group.add_argument("--mask_loss_coef", default=1, type=float, help="weight of the focal mask loss")
    group.add_argument("--dice_loss_coef", default=1, type=float, help="weight of the dice mask loss")
    group.add_argument("--bbox_loss_coef", default=5, type=float, help="weight of the L1 box loss")
    group.add_argument("--giou_loss_coef", default=2, type=float, help="weight of the generalised IoU loss")
    group.add_argument("--eos_coef", default=0.1, type=float, help="relative class weight of no-object")

    group = parser.add_argument_group("data and run")
    group.add_argument("--dataset_file", default="coco", help="coco, or coco_panoptic (not available yet)")
    group.add_argument("--coco_path", help="folder with train2017, val2017 and annotations, or any data set we read")
    group.add_argument("--coco_panoptic_path", help="folder of the panoptic annotations (not available yet)")
    group.add_argument("--remove_difficult", action="store_true", help="accepted and without effect, as in main.py")
    group.add_argument("--output_dir", default="", help="folder to write to; empty: write nothing")
    group.add_argument("--device", default="cuda", help="cuda, cpu or mps")
    group.add_argument("--seed", default=42, type=int, help="seed of the run")
    group.add_argument("--resume", default="", help="checkpoint to go on from: a path or an https address")
    group.add_argument("--start_epoch", default=0, metavar="N", type=int, help="epoch to start counting from")
    group.add_argument("--eval", action="store_true", help="evaluate and stop")
    group.add_argument("--num_workers", default=2, type=int, help="processes that load pictures")

    group = parser.add_argument_group("several processes")
    group.add_argument("--world_size", default=1, type=int, help="processes; torchrun and Slurm set it themselves")
    group.add_argument("--dist_url", default="env://", help="where processes meet: env:// or tcp://HOST:PORT")
    return parser
