"""`detrkit detr`: the command line of the reference DETR (main.py of facebookresearch/detr), flag by flag.

The flags are converted to the settings of `detrkit train` or `detrkit eval`; the rest of the code is shared. `detr`
differs from `train` in three points: classes are indexed by their COCO ids (91, as in the published checkpoints, unless
`--num_classes` is given; see `detr_classes`); `log.txt` is written in the reference's format beside the other files;
and no setting is chosen automatically: the backbone starts from ImageNet weights with frozen norms, and the device is
`cuda` unless `--device` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from detrkit.commands.detr_classes import choose_classes, one_class_per_id, rows_note
from detrkit.config.commands import EvalConfig
from detrkit.config.suggestions import suggestion
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DetrkitError, DetrkitWarning, edit_outside_commands
from detrkit.ops.text import print_text

if TYPE_CHECKING:
    from detrkit.structures import Categories


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises `ConfigError` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: ([^\s=]+)", message)
        if unknown:
            known = [word.removeprefix("--") for action in self._actions for word in action.option_strings]
            raise ConfigError(f"main.py has no flag {unknown[1]}{suggestion(unknown[1], known)}")
        raise ConfigError(f"{message} (see detrkit detr --help)")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of main.py's flags, in its order, with its defaults."""
    parser = _Parser(
        prog="detrkit detr",
        usage="detrkit detr --coco_path COCO [flags of main.py]",
        description="Train or evaluate DETR with the command line of the reference DETR's main.py.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=True,  # argparse's default, which scripts written for main.py may rely on
    )

    group = parser.add_argument_group("optimization")
    group.add_argument("--lr", default=1e-4, type=float, help="learning rate of the transformer and heads")
    group.add_argument("--lr_backbone", default=1e-5, type=float, help="learning rate of the backbone; 0 freezes it")
    group.add_argument("--batch_size", default=2, type=int, help="images per step and device")
    group.add_argument("--weight_decay", default=1e-4, type=float, help="weight decay of AdamW")
    group.add_argument("--epochs", default=300, type=int, help="epoch at which training ends")
    group.add_argument("--lr_drop", default=200, type=int, help="epochs between drops of the learning rates to a tenth")
    group.add_argument("--clip_max_norm", default=0.1, type=float, help="largest gradient norm; 0: no clipping")

    group = parser.add_argument_group("model")
    group.add_argument("--frozen_weights", default=None, help="detector to freeze; only a mask head on it is trained")
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
    group.add_argument("--pre_norm", action="store_true", help="normalize before each sublayer, not after it")
    group.add_argument("--masks", action="store_true", help="train the segmentation head")

    group = parser.add_argument_group("matching and losses")
    group.add_argument(
        "--no_aux_loss", dest="aux_loss", action="store_false", help="compute losses only at the last decoder layer"
    )
    group.add_argument("--set_cost_class", default=1, type=float, help="class term of the matching cost")
    group.add_argument("--set_cost_bbox", default=5, type=float, help="L1 term of the matching cost")
    group.add_argument("--set_cost_giou", default=2, type=float, help="generalized IoU term of the matching cost")
    group.add_argument("--mask_loss_coef", default=1, type=float, help="weight of the focal mask loss")
    group.add_argument("--dice_loss_coef", default=1, type=float, help="weight of the dice mask loss")
    group.add_argument("--bbox_loss_coef", default=5, type=float, help="weight of the L1 box loss")
    group.add_argument("--giou_loss_coef", default=2, type=float, help="weight of the generalized IoU loss")
    group.add_argument("--eos_coef", default=0.1, type=float, help="class weight of no-object, relative to the others")

    group = parser.add_argument_group("data and run")
    group.add_argument("--dataset_file", default="coco", help="coco or coco_panoptic")
    group.add_argument(
        "--coco_path", help="folder with train2017, val2017 and annotations, or a data set of any supported format"
    )
    group.add_argument("--coco_panoptic_path", help="folder with annotations/panoptic_train2017.json and the PNGs")
    group.add_argument("--remove_difficult", action="store_true", help="accepted and without effect, as in main.py")
    group.add_argument("--output_dir", default="", help="folder to write to; empty: write nothing")
    group.add_argument("--device", default="cuda", help="cuda, cuda:NUMBER, cpu, mps or auto")
    group.add_argument("--seed", default=42, type=int, help="seed of the run")
    group.add_argument("--resume", default="", help="checkpoint to continue from: a path or an https address")
    group.add_argument("--start_epoch", default=0, metavar="N", type=int, help="number of the first epoch")
    group.add_argument("--eval", action="store_true", help="evaluate only")
    group.add_argument("--num_workers", default=2, type=int, help="processes that load images")

    group = parser.add_argument_group("not in main.py")
    group.add_argument(
        "--num_classes",
        default=None,
        type=int,
        help="rows of the class head: as many as the data has classes, one per class; or more than the highest "
        "category id, one per id; not given: 91 as in main.py, or 250 for coco_panoptic",
    )
    group.add_argument(
        "--backbone_weights", default="imagenet", help="imagenet as in main.py, none, or the path of a file"
    )
    group.add_argument("--quiet", action="store_true", help="print no progress; results, warnings and errors remain")

    group = parser.add_argument_group("several processes")
    group.add_argument("--world_size", default=1, type=int, help="processes; torchrun and Slurm set it themselves")
    group.add_argument("--dist_url", default="env://", help="where processes meet: env:// or tcp://HOST:PORT")
    return parser


def main(argv: Sequence[str]) -> None:
    """Train or evaluate as main.py does with these flags.

    Raises:
        DetrkitError: an error that the user can fix.
    """
    flags = build_parser().parse_args(argv)
    with _translated_messages():
        _check_data(flags)
        _set_rendezvous(flags.dist_url)
        _choose_device(flags)
        flags.resume = _find_checkpoint(flags.resume)
        if flags.output_dir:
            _run(flags, Path(flags.output_dir))
            return
        with tempfile.TemporaryDirectory(prefix="detrkit-") as folder:
            print_text(f"Without --output_dir nothing is kept: the files in {folder} are deleted at the end.")
            _run(flags, Path(folder))


@contextlib.contextmanager
def _translated_messages() -> Iterator[None]:
    """Rewrite errors and warnings, which name flags of `detrkit train`, to name the flags of main.py."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def translated(message: Warning | str, *rest: Any, **more: Any) -> None:
            text = message.message if isinstance(message, DetrkitWarning) else str(message)
            show(translate(text), *rest, **more)

        warnings.showwarning = translated
        try:
            yield
        except DetrkitError as error:
            error.args = (translate(error.message),)
            raise


_OTHER_NAMES = {
    "--weights": "--resume WEIGHTS.pth (written by detrkit convert)",
    "--data": "--coco_path",
    "--panoptic_json": "--coco_panoptic_path",
}
"""Flag of `detrkit train` -> its equivalent in `detrkit detr`."""


def translate(sentence: str) -> str:
    """Replace the flags of `detrkit train` in a message by those of `detrkit detr`.

    Switches lose their value: `--dilation true` becomes `--dilation`, `--dilation false` becomes `no --dilation`. A
    flag without an equivalent is kept, and a note at the end says that it belongs to `detrkit train`. Commands within
    the message (`detrkit train ...`) are not changed.
    """
    actions = {word: action for action in build_parser()._actions for word in action.option_strings}
    lacking: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        flag, value = match["flag"], match["value"] or ""
        if flag in _OTHER_NAMES:
            return _OTHER_NAMES[flag] + value
        if flag not in actions:
            lacking.append(flag)
        elif actions[flag].nargs == 0 and value:
            return f"no {flag}" if value == " false" else flag
        return flag + value

    flag = re.compile(r"(?<![\w-])(?P<flag>--[a-z]\w*)(?P<value> (?:true|false)\b)?")
    translated = edit_outside_commands(sentence, lambda part: flag.sub(replacement, part))
    if lacking:
        verb = "is a flag" if len({*lacking}) == 1 else "are flags"
        translated += f" ({' and '.join(dict.fromkeys(lacking))} {verb} of detrkit train)"
    return translated


def to_config(flags: argparse.Namespace, output_dir: str) -> TrainConfig:
    """Convert the flags of main.py to the settings of `detrkit train`."""
    shared = {f.name for f in fields(TrainConfig)} & set(vars(flags))
    values: dict[str, Any] = {name: getattr(flags, name) for name in shared}
    values |= {"output_dir": output_dir, "frozen_weights": flags.frozen_weights or "", **_data(flags)}
    return TrainConfig(
        **values,
        task=("panoptic" if flags.dataset_file == "coco_panoptic" else "instance") if flags.masks else "detect",
        no_aux_loss=not flags.aux_loss,
        backbone_norm="frozen",
        # main.py saves a checkpoint before each drop of the learning rates, and every 100 epochs
        checkpoint_every=100 if flags.lr_drop % 100 == 0 else flags.lr_drop,
    )


def _run(flags: argparse.Namespace, output_dir: Path) -> None:
    if flags.eval:
        _evaluate(flags, output_dir / "report")
    else:
        _train(flags, output_dir)


def _train(flags: argparse.Namespace, output_dir: Path) -> None:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from detrkit.training import run_training

    def classes(data: Categories) -> Categories:
        chosen = choose_classes(data, flags.num_classes)
        note = "" if flags.num_classes else rows_note(data, chosen)
        if note and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print_text(f"Classes   {note}")
        return chosen

    result = run_training(
        to_config(flags, str(output_dir)),
        classes=classes,
        classic_log=True,
        start_epoch=flags.start_epoch,
        overwrite=True,  # main.py writes into the folder whether or not it is empty
    )
    if result.interrupted:
        raise KeyboardInterrupt


def _evaluate(flags: argparse.Namespace, output_dir: Path) -> None:
    from detrkit.commands.eval import evaluate

    if not flags.resume:
        raise ConfigError("expected a checkpoint to evaluate with --eval, found none; name it with --resume")

    def classes(model: Categories, data: Categories) -> Categories:
        if not len(model):  # the file has no class head
            return choose_classes(data, flags.num_classes)
        if flags.num_classes not in (None, len(model)):
            raise ConfigError(
                f"{flags.resume} has {len(model)} classes, found --num_classes {flags.num_classes}; leave the flag out"
            )
        return one_class_per_id(data) if len(model) in (91, 250) else model

    evaluate(
        EvalConfig(
            **_data(flags),
            weights=flags.resume,
            # The default of a flag yields to the setting stored in the file.
            dilation=flags.dilation or None,
            nheads=flags.nheads if flags.nheads != TrainConfig.nheads else None,
            output_dir=str(output_dir),
            batch_size=flags.batch_size,
            num_workers=flags.num_workers,
            device=flags.device,
            quiet=flags.quiet,
        ),
        classes=classes,
    )


def _data(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings of `DataChoice` for main.py's flags."""
    if flags.dataset_file == "coco":
        return {"data": flags.coco_path}
    return {
        "data": flags.coco_path,
        "data_format": "coco_panoptic",
        "panoptic_json": str(Path(flags.coco_panoptic_path) / "annotations"),
        "panoptic_dir": flags.coco_panoptic_path,
    }


def _check_data(flags: argparse.Namespace) -> None:
    if flags.dataset_file not in ("coco", "coco_panoptic"):
        raise ConfigError(f"--dataset_file must be coco or coco_panoptic, found {flags.dataset_file!r}")
    if not flags.coco_path:
        raise ConfigError("expected the folder of the data set, found none; name it with --coco_path")
    if flags.dataset_file == "coco_panoptic" and not flags.coco_panoptic_path:
        raise ConfigError(
            "expected the folder of the panoptic annotations, found none; name it with --coco_panoptic_path"
        )
    if flags.frozen_weights and not flags.masks:
        raise ConfigError("--frozen_weights names the detector on which a mask head is trained; add --masks")


def _choose_device(flags: argparse.Namespace) -> None:
    """Turn `--device cuda:N` into `cuda` with that GPU alone visible; torch must not have been imported before."""
    device = re.fullmatch(r"(?P<kind>auto|cpu|cuda|mps)(:(?P<number>\d+))?", flags.device)
    if device is None or (device["number"] and device["kind"] not in ("cuda", "cpu")):
        raise ConfigError(f"--device must be cuda, cuda:NUMBER, cpu, mps or auto, found {flags.device!r}")
    flags.device = device["kind"]
    if device["kind"] == "cuda" and device["number"]:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        number = int(device["number"])
        if visible and number >= len(visible):
            raise ConfigError(
                f"--device cuda:{number}, but CUDA_VISIBLE_DEVICES leaves {len(visible)} GPUs; choose a lower number"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)


def _set_rendezvous(dist_url: str) -> None:
    """Set the rendezvous address of several processes in the environment, where Lightning reads it."""
    if dist_url == "env://":
        return
    address = re.fullmatch(r"tcp://(?P<host>[^:/]+):(?P<port>\d+)", dist_url)
    if address is None:
        raise ConfigError(f"--dist_url must be env:// or tcp://HOST:PORT, found {dist_url!r}")
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address["host"], address["port"]


def _find_checkpoint(resume: str) -> str:
    """The local path of `--resume`; a URL is downloaded into torch.hub's cache, and its hash is checked.

    Raises:
        ConfigError: the file name of a URL has no hash, or a path names a checkpoint of main.py that does not exist.
        WeightsError: the download failed.
    """
    if resume.startswith(("https://", "http://")):
        from detrkit.models.checkpoints.published import Published, fetch

        name = PurePosixPath(urlsplit(resume).path).stem
        if not re.search(r"-[0-9a-f]{8,}$", name):
            raise ConfigError(
                f"expected an https address whose file name ends in its hash (NAME-HASH.pth), found {resume}; "
                "download the file and name it with --resume"
            )
        return str(fetch(Published(name, resume, {}, float("nan"))))
    path = Path(resume)
    if path.name.startswith("checkpoint") and not path.exists() and path.with_name("last.ckpt").exists():
        raise ConfigError(
            f"expected a checkpoint at {path}, found none, but {path.with_name('last.ckpt')}, detrkit's name for it; "
            "name that file with --resume"
        )
    return resume
