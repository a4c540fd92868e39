"""Pretrain a named model as a whole detector on generated scenes, and write its weights as fp16 safetensors.

    nice python benchmarks/pretrain.py --model detrkit_n --max_minutes 120 --output_dir runs/pretrain-detrkit_n

Every image is drawn when it is loaded, as a function of the seed, the epoch and its number: nothing is downloaded, and
no image is seen twice. Started again with the same flags, a run that was stopped or killed continues from last.ckpt.
The folder gets last.ckpt and best.ckpt (which `--weights` takes), metrics.csv and, in the end, MODEL.safetensors: the
weights of best.ckpt in float16, running statistics in float32, with model, classes and preprocessing as JSON in the
metadata under "detrkit".

`--set backbone=timm:tf_efficientnet_lite0 --set backbone_weights=FILE` starts from a pretrained backbone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from detrkit.config.train import TrainConfig
from detrkit.data.loader import eval_loader, train_loader
from detrkit.data.synthetic.scene_dataset import SCENE_CATEGORIES, SceneDataset
from detrkit.files import BEST, LAST
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.models.checkpoints.weights_file import write_weights_file
from detrkit.ops.console import make_console
from detrkit.training.checkpoint import read
from detrkit.training.ema import Ema
from detrkit.training.evaluation import Validation, Validator
from detrkit.training.launch import launch
from detrkit.training.loop import Trainer
from detrkit.training.optim import LRSchedule, build_optimizer
from detrkit.training.progress import RunProgress
from detrkit.training.reporters import MetricsFile
from detrkit.training.setup import ModelSetup, build_training_model, find_processes
from detrkit.training.signals import StopSignals
from detrkit.training.state import RunSchedule, TrainingState
from detrkit.training.step import DetectionLoss
from detrkit.training.time_budget import TimeBudget

VAL_SEED = 1_000_003
"""Added to the seed for the scenes of evaluation."""


def main(arguments: list[str] | None = None) -> Path:
    """Train or continue, and write the weights; the path of the safetensors file."""
    flags = parse_flags(arguments)
    config = make_config(flags)
    folder = Path(flags.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    setup = build_training_model(config, SCENE_CATEGORIES, None)
    trainer = build_trainer(config, setup, folder, images=flags.images, val_images=flags.val_images)
    if (folder / LAST).exists():
        trainer.load_state_dict(read(folder / LAST))
    with StopSignals(lambda: trainer.flags.update(stop=True)).watched():
        trainer.fit()
    if trainer.end_reason == "signal":
        raise SystemExit(f"Stopped; start again with the same flags to continue from {folder / LAST}")
    return write_weights(folder / BEST, folder / f"{flags.model}.safetensors")


def parse_flags(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="detrkit_n", help="named model, see `detrkit models`")
    add("--output_dir", required=True)
    add("--size", type=int, default=224, help="side of the scenes in pixels")
    add("--images", type=int, default=4000, help="scenes per epoch; every epoch has new ones")
    add("--val_images", type=int, default=500, help="scenes that are evaluated on")
    add("--epochs", type=int, default=60)
    add("--max_minutes", type=float, default=0.0, help="plan the schedule for this limit; 0: none")
    add("--batch_size", type=int, default=16)
    add("--eval_every", type=int, default=4, help="epochs between evaluations")
    add("--num_workers", type=int, default=0)
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    add("--seed", type=int, default=0)
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of `detrkit train`")
    return parser.parse_args(arguments)


def make_config(flags: argparse.Namespace) -> TrainConfig:
    """The settings: the recipe fast, without augmentation, which scenes do not need."""
    others = {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in flags.set)}
    shared = (
        "model",
        "output_dir",
        "epochs",
        "max_minutes",
        "batch_size",
        "eval_every",
        "num_workers",
        "device",
        "seed",
    )
    settings: dict[str, Any] = {name: getattr(flags, name) for name in shared}
    settings["weights"] = "none"
    settings |= {"image_size": flags.size, "num_queries": 100, "no_aug_epochs": 0, "save_minutes": 5.0, "mosaic": 0.0}
    return TrainConfig.from_recipe("fast", **settings | others)


def build_trainer(config: TrainConfig, setup: ModelSetup, folder: Path, *, images: int, val_images: int) -> Trainer:
    """Assemble the training loop."""
    fabric = launch(config, find_processes(config))
    fabric.to_device(setup.model)
    ranks: dict[str, Any] = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    loading = {"batch_size": config.batch_size, "num_workers": config.num_workers, **ranks}
    train = SceneDataset(images, config.image_size, config.seed)
    val = SceneDataset(val_images, config.image_size, config.seed + VAL_SEED)
    train_batches, val_batches = train_loader(train, seed=config.seed, **loading), eval_loader(val, **loading)
    budget = None
    if config.max_minutes:
        budget = TimeBudget(config.max_minutes, config.epochs, len(train_batches), len(val_batches))
    validator = Validator(setup.criterion, val.to_coco(), SCENE_CATEGORIES.ids)

    def validate(*, should_stop: Callable[[], bool], advance: Callable[[int, int], None]) -> Validation | None:
        return validator.run(
            setup.model,
            val_batches,
            device=fabric.device,
            precision=fabric.autocast,
            should_stop=should_stop,
            advance=advance,
        )

    optimizer = build_optimizer(
        setup.model,
        lr=config.lr,
        lr_backbone=setup.lr_backbone,
        weight_decay=config.weight_decay,
        norm_decay=config.norm_decay,
    )
    console = make_console()
    console.row(
        "Scenes", f"{images} per epoch, {config.image_size} pixels, seed {config.seed}; {val_images} to evaluate on"
    )
    return Trainer(
        fabric,
        DetectionLoss(setup.model, setup.criterion, square_resize=True),
        optimizer,
        LRSchedule(
            base=tuple(group["lr"] for group in optimizer.param_groups),
            kind=config.lr_schedule,
            epochs=config.epochs,
            lr_drop=config.lr_drop,
            warmup_steps=config.warmup_steps,
        ),
        train_batches,
        validate,
        TrainingState(
            {"monitor": "AP", "val": f"scenes {val_images} {config.image_size} {config.seed}"}, 0, config.max_minutes
        ),
        RunSchedule(config.epochs, config.eval_every, save_minutes=config.save_minutes),
        run_dir=folder,
        metadata={
            "version": VERSION,
            "model_args": setup.model_args,
            "categories": SCENE_CATEGORIES.to_plain(),
            "preprocessing": setup.preprocessing.to_plain(),
            "config": config.to_dict(),
        },
        clip_max_norm=config.clip_max_norm,
        seed=config.seed,
        ema=Ema(config.ema, setup.model) if config.ema else None,
        budget=budget,
        reporters=[
            MetricsFile(folder / "metrics.csv"),
            RunProgress(console, epochs=config.epochs, budget=budget, spent=0.0, monitor="AP"),
        ],
    )


def write_weights(checkpoint: Path, path: Path) -> Path:
    """Write the weights of a checkpoint and what they belong to as one safetensors file."""
    content = read(checkpoint)
    metadata = {name: content["detrkit"][name] for name in ("version", "model_args", "categories", "preprocessing")}
    metadata["metrics"] = {name: content["detrkit"]["metrics"][f"val/{name}"] for name in ("AP", "AP50")}
    write_weights_file(path, content["model"], metadata)
    make_console().print(f"Wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
    return path


if __name__ == "__main__":
    main()
