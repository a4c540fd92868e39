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
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from detrkit.config import TrainConfig, did_you_mean
from detrkit.errors import ConfigError
from detrkit.verbs import EvalConfig


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

    group = parser.add_argument_group("not in main.py")
    group.add_argument(
        "--backbone_weights", default="imagenet", help="imagenet as in main.py, none, or the path of a file"
    )

    group = parser.add_argument_group("several processes")
    group.add_argument("--world_size", default=1, type=int, help="processes; torchrun and Slurm set it themselves")
    group.add_argument("--dist_url", default="env://", help="where processes meet: env:// or tcp://HOST:PORT")
    return parser


def main(argv: Sequence[str]) -> None:
    """Do what main.py would have done with these flags.

    Raises:
        DetrkitError: what the user can mend.
    """
    flags = build_parser().parse_args(argv)
    _refuse_what_is_missing(flags)
    _meet_at(flags.dist_url)
    if flags.resume.startswith(("https://", "http://")):
        flags.resume = str(_fetch(flags.resume))
    with tempfile.TemporaryDirectory(prefix="detrkit-") as nowhere:
        if flags.eval:
            _evaluate(flags, flags.output_dir or nowhere)
        else:
            _train(flags, flags.output_dir or nowhere)


def to_config(flags: argparse.Namespace, output_dir: str) -> TrainConfig:
    """The settings of `detrkit train` that mean the same."""
    shared = {f.name for f in fields(TrainConfig)} & set(vars(flags))
    values: dict[str, Any] = {name: getattr(flags, name) for name in shared}
    return TrainConfig(
        **values | {"output_dir": output_dir},
        data=flags.coco_path,
        no_aux_loss=not flags.aux_loss,
        backbone_norm="frozen",
    )


def _train(flags: argparse.Namespace, output_dir: str) -> None:
    from detrkit.models.weights.published import COCO_CATEGORIES
    from detrkit.training import run_training

    config = to_config(flags, output_dir)
    if not flags.resume and flags.output_dir:
        # main.py started anew over whatever the folder held, and appended to log.txt.
        result = run_training(
            config, categories=COCO_CATEGORIES, classic_log=True, start_epoch=flags.start_epoch, overwrite=True
        )
    else:
        result = run_training(
            config, categories=COCO_CATEGORIES, classic_log=bool(flags.output_dir), start_epoch=flags.start_epoch
        )
    if result.interrupted:
        raise KeyboardInterrupt


def _evaluate(flags: argparse.Namespace, output_dir: str) -> None:
    from detrkit.evaluation.run import evaluate

    if not flags.resume:
        raise ConfigError("--eval measures a checkpoint; name it with --resume")
    evaluate(
        EvalConfig(
            data=flags.coco_path,
            weights=flags.resume,
            output_dir=output_dir,
            batch_size=flags.batch_size,
            num_workers=flags.num_workers,
            device=flags.device,
            dilation=flags.dilation or None,
        )
    )


def _refuse_what_is_missing(flags: argparse.Namespace) -> None:
    if flags.masks or flags.frozen_weights or flags.coco_panoptic_path or flags.dataset_file == "coco_panoptic":
        raise ConfigError(
            "segmentation (--masks, --frozen_weights, --coco_panoptic_path, --dataset_file coco_panoptic) "
            "is not available yet; this version trains and evaluates detection"
        )
    if flags.dataset_file != "coco":
        raise ConfigError(f"--dataset_file must be coco or coco_panoptic, found {flags.dataset_file!r}")
    if not flags.coco_path:
        raise ConfigError("expected the data set's folder; name it with --coco_path")


def _meet_at(dist_url: str) -> None:
    """Hand the meeting place of several processes to the environment, where Lightning looks for it."""
    if dist_url == "env://":
        return
    place = re.fullmatch(r"tcp://(?P<host>[^:/]+):(?P<port>\d+)", dist_url)
    if place is None:
        raise ConfigError(f"--dist_url must be env:// or tcp://HOST:PORT, found {dist_url!r}")
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place["host"], place["port"]


def _fetch(url: str) -> Path:
    """The file behind an address, kept in torch.hub's cache, its hash checked against its name as main.py did."""
    from detrkit.models.weights.published import Published, fetch

    name = Path(url).stem
    if not re.search(r"-[0-9a-f]{8,}$", name):
        raise ConfigError(f"expected an address whose file name ends in its hash (NAME-HASH.pth), found {url}")
    return fetch(Published(name, url, {}, float("nan")))
