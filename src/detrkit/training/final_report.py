"""Write the report of the best checkpoint at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrkit.data.records import Split
from detrkit.evaluation.report import write_report
from detrkit.files import BEST
from detrkit.ops.text import command_line
from detrkit.training.evaluation import Validation
from detrkit.visualization.plots import plot_training, read_curves, training_charts


def write_final_report(
    best: Validation, run_dir: Path, val: Split, *, best_epoch: int, settings: Mapping[str, Any]
) -> None:
    """Write report/ of the run folder: curves, and the evaluation of the best checkpoint.

    Args:
        best: evaluation of the best checkpoint.
        run_dir: run folder.
        val: validation images.
        best_epoch: epoch of the best checkpoint, from 1.
        settings: settings of the run.
    """
    curves = read_curves(run_dir)
    if curves:
        plot_training(run_dir / "report" / "training_curves.png", {run_dir.name: curves})
    write_report(
        val.to_coco(masks=best.detections.segmentations is not None),
        best.detections,
        run_dir / "report",
        panoptic=best.panoptic,
        image_paths={image.id: image.path for image in val.images},
        value_range=val.value_range,
        meta={"weights": str(run_dir / BEST), "data": val.source, "split": val.name},
        title=f"Training run {run_dir.name}, evaluated at its best epoch, {best_epoch}",
        command=command_line(),
        extra_sections=[training_charts({run_dir.name: curves})] if curves else [],
        settings=settings,
    )
