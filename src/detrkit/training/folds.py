"""Cross-validation: a run per fold, the detections of all of them, and the report on these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from detrkit.config.commands import EvalConfig
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord, Split
from detrkit.data.validation.fold_split import assign_folds, classes_of_one_group, group_images
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import merge_ranks
from detrkit.evaluation.evaluate_detector import predict_split
from detrkit.evaluation.prediction_files import read_detections
from detrkit.files import BEST, DETECTIONS, FOLDS, GROUND_TRUTH, LAST, write_atomic
from detrkit.inference.detector import Detector
from detrkit.ops.console import TextConsole, make_console
from detrkit.ops.value_range import ValueRange
from detrkit.training.checkpoint import read
from detrkit.training.folds_report import FoldMetrics, measure_fold, write_folds_report
from detrkit.training.training_run import TrainResult, run_training

_MAY_CHANGE = ("output_dir", "resume", "quiet", "num_workers", "device", "final", "wandb", "mlflow", "save_minutes")
"""Settings that folds which are continued may change."""


@dataclass(frozen=True)
class FoldPlan:
    """The images of a data set, divided into folds."""

    images: Split
    """All images, train and val."""
    fold_of: list[int]
    """Fold of each image, 0..K-1."""
    groups: int
    """Number of groups of images that stay together, those of one image included."""

    def held_out(self, fold: int) -> list[ImageRecord]:
        """The images of a fold."""
        return [image for image, of in zip(self.images.images, self.fold_of, strict=True) if of == fold]

    def to_plain(self) -> dict[str, int]:
        """File name -> fold, from 1."""
        return {image.file_name: fold + 1 for image, fold in zip(self.images.images, self.fold_of, strict=True)}


def train_folds(config: TrainConfig) -> TrainResult:
    """Train a model per fold and, with `final`, one on all images; finished folds are not repeated.

    Args:
        config: settings with `folds` of at least 2.

    Returns:
        The folder, the metrics of all detections together, and the result of each fold.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the fold is saved; the same command continues.
        DetrkitError: see `training_run.train`; or the folder holds something else.
    """
    folder, console = choose_folds_folder(config), make_console(quiet=config.quiet)
    config = replace(config, output_dir=str(folder))
    plan = plan_folds(config, console)
    _claim(folder, config, plan)
    results = []
    for fold in range(config.folds):
        held_out = plan.held_out(fold)
        run_dir = folder / f"fold{fold + 1}"
        ready = (run_dir / DETECTIONS).exists()
        counts = f"{len(plan.images) - len(held_out)} train and {len(held_out)} val images"
        console.row("Fold", f"{fold + 1} of {config.folds}: {counts}{'; done before' if ready else ''}")
        if not ready:
            _write_split(run_dir, config.seed, plan, fold)
            result = run_training(_settings_of_run(config, run_dir))
            if result.interrupted:
                raise KeyboardInterrupt
            _write_detections(run_dir, _detect(config, run_dir, plan.images, held_out), held_out)
        results.append(_measure(run_dir, plan.images, held_out))
    epochs = ceil(median(result.epoch for result in results))
    pooled = _write_pooled(folder, plan, results, config, epochs)
    if config.final:
        console.row("Final", f"all {len(plan.images)} images, {epochs} epochs: the median of the best of the folds")
        _train_final(config, folder / "final", epochs, plan)
    folds = tuple(TrainResult(row.run_dir, {**row.metrics, "epoch": row.epoch}) for row in results)
    return TrainResult(folder, {**pooled, "epoch": epochs}, folds)


def choose_folds_folder(config: TrainConfig) -> Path:
    """`--output_dir`, or runs/NAME-OF-DATA-folds.

    Raises:
        ConfigError: the folder has a run without folds.
    """
    data = Path(config.data or config.train_json).resolve()
    name = data.stem if data.is_file() else data.name
    folder = Path(config.output_dir) if config.output_dir else Path("runs") / f"{name}-folds"
    if (folder / LAST).exists():
        raise ConfigError(
            f"expected a new folder or one of folds, found a single run in {folder}; name another --output_dir"
        )
    return folder


def plan_folds(config: TrainConfig, console: TextConsole) -> FoldPlan:
    """Read and check the data set, and divide its images into folds.

    Raises:
        DataError: the data cannot be used, or there are fewer groups of images than folds.
        ConfigError: `group_by` is no regular expression with a group.
    """
    data_format = "coco_panoptic" if config.task == "panoptic" else ""
    raw = open_dataset(**config.dataset_kwargs(data_format), val_fraction=0, seed=config.seed, pooled=True)
    report = check_dataset(
        raw, masks=config.masks, value_range=ValueRange.parse(config.value_range) or "find", compare_images=True
    )
    images = report.splits["train"]
    copies = report.duplicates.group_of() if report.duplicates else {}
    groups = group_images(images.images, copies, config.group_by)
    plan = FoldPlan(images, assign_folds(images.images, groups, config.folds, config.seed), len(set(groups)))
    if plan.groups < len(images):
        kind = "copies of one image" + (" or are of one name" if config.group_by else "")
        console.row("Groups", f"{plan.groups} of {len(images)} images; those that are {kind} stay in one fold")
    for name in classes_of_one_group(images, groups):
        make_console().print(
            f"Note: all objects of {name} are in one group of images, so the model that is measured on them has seen "
            "none; its AP says nothing."
        )
    return plan


def _claim(folder: Path, config: TrainConfig, plan: FoldPlan) -> None:
    """Write the settings and folds, or compare them with those of an earlier start.

    Raises:
        ConfigError: they differ.
    """
    path, settings = folder / FOLDS, config.to_dict()
    content = {"folds": config.folds, "fold_of": plan.to_plain(), "settings": settings}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if name not in _MAY_CHANGE and before["settings"].get(name, value) != value:
                raise ConfigError(
                    f"the folds in {folder} were begun with --{name} {before['settings'][name]}, found {value}; keep "
                    "the settings to continue, or name another --output_dir"
                )
        if before["fold_of"] != content["fold_of"]:
            raise ConfigError(
                f"the images or labels of {config.data} are not those that the folds in {folder} were begun with; name "
                "another --output_dir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=1) + "\n")
    write_atomic(folder / "config.yaml", config.to_yaml())


def _write_split(run_dir: Path, seed: int, plan: FoldPlan, fold: int | None) -> None:
    """Write the file that tells a run its images; `fold` None: all of them for training."""
    sides: dict[str, list[str]] = {"train": [], "val": []}
    for image, of in zip(plan.images.images, plan.fold_of, strict=True):
        sides["val" if of == fold else "train"].append(image.file_name)
    run_dir.mkdir(parents=True, exist_ok=True)
    content = {"seed": seed, "val_fraction": 0 if fold is None else 0.5, **sides, "pooled": True}
    write_atomic(run_dir / "split.json", json.dumps(content, indent=1) + "\n")


def _settings_of_run(config: TrainConfig, run_dir: Path, **changes: Any) -> TrainConfig:
    """The settings of one run: those that it has stored, if it was begun before."""
    stored = run_dir / "config.yaml"
    own: dict[str, Any] = {
        "output_dir": str(run_dir),
        "resume": "auto",
        "quiet": config.quiet,
        "num_workers": config.num_workers,
    }
    if stored.exists() and (run_dir / LAST).exists():
        return replace(TrainConfig.from_yaml(stored), **own, device=config.device)
    return replace(config, folds=0, group_by="", final=False, **own, **changes)


def _detect(config: TrainConfig, run_dir: Path, images: Split, held_out: list[ImageRecord]) -> DetectionArrays:
    """Detect on the images of a fold by the best checkpoint of its run, as its validation did."""
    detector = Detector.load(run_dir, device=config.device, precision="plain", compile="off")
    split = replace(images, name="val", images=held_out, value_range=detector.value_range)
    settings = EvalConfig(weights=str(run_dir), num_workers=config.num_workers, quiet=config.quiet)
    rows, _ = predict_split(settings, detector, detector.categories, split, None, lambda note: None)
    return DetectionArrays.from_rows(rows)


def _write_detections(run_dir: Path, detections: DetectionArrays, images: Sequence[ImageRecord]) -> None:
    """Write COCO results with the names of the files."""
    names = {image.id: image.file_name for image in images}
    rows = [{**row, "file_name": names[row["image_id"]]} for row in detections]
    write_atomic(run_dir / DETECTIONS, json.dumps(rows))


def _measure(run_dir: Path, images: Split, held_out: list[ImageRecord]) -> FoldMetrics:
    """The metrics of a fold by its detections, and the epoch of its best checkpoint."""
    detections = DetectionArrays.from_rows(read_detections(run_dir / DETECTIONS))
    row = read(run_dir / BEST, mmap=True)["detrkit"]["metrics"]
    return measure_fold(run_dir, replace(images, images=held_out), detections, epoch=int(row["epoch"]))


def _write_pooled(
    folder: Path, plan: FoldPlan, results: Sequence[FoldMetrics], config: TrainConfig, epochs: int
) -> dict[str, float]:
    """Write the detections of all folds, the ground truth and the report; returns the metrics of all together."""
    detections = DetectionArrays.concatenate([result.detections for result in results])
    detections = merge_ranks([([image.id for image in plan.images.images], detections)])
    _write_detections(folder, detections, plan.images.images)
    gt = plan.images.to_coco(masks=detections.segmentations is not None)
    write_atomic(folder / GROUND_TRUTH, json.dumps(gt))
    return write_folds_report(folder, plan.images, gt, detections, results, config, epochs=epochs)


def _train_final(config: TrainConfig, run_dir: Path, epochs: int, plan: FoldPlan) -> None:
    """Train on all images, with one evaluation at the end."""
    _write_split(run_dir, config.seed, plan, None)
    changes = {"epochs": epochs, "eval_every": epochs, "patience": 0}
    changes["no_aug_epochs"] = min(config.no_aug_epochs, epochs)
    if run_training(_settings_of_run(config, run_dir, **changes)).interrupted:
        raise KeyboardInterrupt
