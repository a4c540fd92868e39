"""`detrkit eval`: evaluate a detector, or a file of predictions, on a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detrkit.config.commands import EvalConfig
from detrkit.evaluation.coco_metrics import summary
from detrkit.evaluation.evaluate_detector import evaluate_detector
from detrkit.evaluation.report import tables
from detrkit.ops.console import make_console

if TYPE_CHECKING:
    from detrkit.evaluation.evaluate_detector import ChooseClasses


def evaluate(config: EvalConfig, *, classes: ChooseClasses | None = None) -> dict[str, Any]:
    """Evaluate, print the COCO metrics and a table of the classes, and write the report.

    Args:
        config: settings of the command.
        classes: function from the classes of the weights and of the data set to those of the model; None: those of the
            weights.

    Returns:
        The content of `metrics.json` (see `report.write_report`).

    Raises:
        ConfigError: weights and detections are both given or both missing, or the data set has no such split.
        DataError: the data set or the detections cannot be read, or do not belong together.
        WeightsError: the weights cannot be read.
    """
    console = make_console()
    result = evaluate_detector(config, classes=classes, note=console.print, show_data=console.print)
    content = result.report
    for iou_type, metrics in content.get("coco", {}).items():
        console.print(summary(metrics, iou_type))
    for table in tables(content):
        console.print(table)
    best = content.get("best_threshold", {"score": None})
    if best["score"] is not None:
        console.print(
            f"Best threshold: {best['score']:.3f} (F1 {best['f1']:.3f}, precision {best['precision']:.3f}, "
            f"recall {best['recall']:.3f} at IoU 0.5)"
        )
    console.print(f"Report: {result.output_dir}")
    return content
