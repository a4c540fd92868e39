"""Write the report of the best checkpoint at the end of a run."""

from __future__ import annotations

from pathlib import Path

from detrkit.data.records import Split
from detrkit.evaluation.report import write_report
from detrkit.files import BEST
from detrkit.training.evaluation import Validation
from detrkit.visualization.plots import plot_training, read_curves


def write_final_report(best: Validation, run_dir: Path, val: Split) -> None:
    """Write report/ of the run folder: curves, and the evaluation of the best checkpoint."""
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
    )
