"""The report of an evaluation: a folder with numbers, plots and pictures of what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import detrkit
from detrkit.evaluation.coco import OFFICIAL_MAX_DETS, CocoResult, coco_numbers
from detrkit.evaluation.confusion import BACKGROUND, confusion_matrix, mistakes
from detrkit.evaluation.gallery import choose, describe, draw_mistakes
from detrkit.evaluation.per_class import DEFAULT_THRESHOLD, Operating, f1_curves
from detrkit.evaluation.plots import plot_confusion, plot_f1, plot_pr
from detrkit.evaluation.verdicts import Columns, judge
from detrkit.files import write_atomic


def write_report(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    *,
    image_paths: Mapping[int, Path] | None = None,
    max_errors: int = 24,
    max_dets: int = OFFICIAL_MAX_DETS,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure detections and write down everything about them.

    Writes to `output_dir`, each file whole or not at all:
    `metrics.json`, `pr_curves.png`, `f1_threshold.png`, `confusion_matrix.png` and, where pictures are given,
    `errors/missed.jpg`, `errors/wrong_class.jpg`, `errors/false_alarm.jpg`.

    Args:
        truth: COCO instances with the data set's own ids.
        detections: COCO results; with `segmentation` in all of them, and in the truth, masks are measured too.
        output_dir: folder, made if it is not there.
        image_paths: where the picture of an image id lies; None: no error pictures.
        max_errors: most mistakes to list and draw, all kinds together.
        max_dets: see `coco.coco_numbers`.
        meta: what made the detections (command, weights, data, ...); stored under `made_by`.

    Returns:
        The content of `metrics.json`. A number is -1 where there is nothing to find (see `coco`).

    Raises:
        DataError: the detections do not belong to the truth, or a picture to draw on cannot be read.
    """
    output_dir = Path(output_dir)
    boxes = coco_numbers(truth, detections, "bbox", max_dets=max_dets)
    coco = {"bbox": boxes.numbers}
    if _has_masks(truth, detections):
        coco["segm"] = coco_numbers(truth, detections, "segm", max_dets=max_dets).numbers

    columns = Columns.from_coco(truth, detections)
    verdicts = judge(columns)
    overall, curves = f1_curves(columns, verdicts)
    best = overall.best
    threshold = DEFAULT_THRESHOLD if best.threshold is None else best.threshold
    confusion = confusion_matrix(columns, verdicts, threshold)
    ranked = mistakes(columns, confusion)
    chosen = choose(ranked, max_errors)
    files = {int(image["id"]): str(image.get("file_name", "")) for image in truth["images"]}

    content: dict[str, Any] = {
        "made_by": {"detrkit": detrkit.__version__, **(meta or {})},
        "images": len(columns.image_ids),
        "objects": int(columns.objects_per_class().sum()),
        "detections": len(detections),
        "coco": coco,
        "best_threshold": _operating(best),
        "per_class": [
            {**asdict(numbers), "best_threshold": _operating(curve.best)}
            for numbers, curve in zip(boxes.per_class, curves, strict=True)
        ],
        "confusion_matrix": {
            "threshold": threshold,
            "iou": 0.5,
            "labels": [*columns.names, BACKGROUND],
            "rows_truth_columns_prediction": confusion.counts.tolist(),
        },
        "mistakes": {kind: len(found) for kind, found in ranked.items()},
        "worst_mistakes": [describe(columns, mistake, files[mistake.image_id]) for mistake in chosen],
        "pr_curves": _curves(boxes),
    }
    plot_pr(output_dir / "pr_curves.png", boxes)
    plot_f1(output_dir / "f1_threshold.png", overall, curves, columns.names)
    plot_confusion(output_dir / "confusion_matrix.png", confusion)
    draw_mistakes(output_dir / "errors", columns, confusion, chosen, image_paths or {})
    write_atomic(output_dir / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False))
    return content


def class_table(content: Mapping[str, Any]) -> Any:
    """The classes of a report as a `rich` table of 80 letters, best AP first; classes without objects are only counted.

    F1, precision and recall (at IoU 0.5) are those at the score threshold with the best F1, which stands in `score`.
    """
    from rich import box
    from rich.table import Table

    absent = sum(not row["objects"] for row in content["per_class"])
    caption = f"{absent} more without an object in these images" if absent else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("class", overflow="fold", min_width=12)
    for name in ("objects", "AP", "AP50", "AP75", "AR", "F1", "score", "prec.", "recall"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(content["per_class"], key=lambda row: (-row["AP"], row["name"])):
        if row["objects"]:
            table.add_row(row["name"], str(row["objects"]), *_cells(row, row["best_threshold"]))
    numbers = content["coco"]["bbox"]
    table.add_section()
    total = {"AP": numbers["AP"], "AP50": numbers["AP50"], "AP75": numbers["AP75"], "AR": numbers["AR100"]}
    table.add_row("all", str(content["objects"]), *_cells(total, content["best_threshold"]), style="bold")
    return table


def _cells(numbers: Mapping[str, float], best: Mapping[str, float | None]) -> list[str]:
    values: list[float | None] = [numbers[name] for name in ("AP", "AP50", "AP75", "AR")]
    values += [best["f1"], best["score"], best["precision"], best["recall"]]
    return ["–" if value is None or value == -1 else f"{value:.3f}" for value in values]


def _operating(point: Operating) -> dict[str, float | None]:
    return {"score": point.threshold, "f1": point.f1, "precision": point.precision, "recall": point.recall}


def _curves(result: CocoResult) -> dict[str, Any]:
    """Precision at recall 0, 0.01, ... 1 for every class that has objects, and its mean: what plots are made from."""
    shown = [k for k, numbers in enumerate(result.per_class) if numbers.objects]
    tables = {"iou_0.50": result.precision[0], "iou_0.50_0.95": result.precision.mean(axis=0)}
    curves: dict[str, Any] = {"recall": [round(r, 2) for r in result.recall_points.tolist()]}
    for name, table in tables.items():
        curves[name] = {
            "all": table[:, shown].mean(axis=1).round(5).tolist() if shown else [],
            "per_class": {result.per_class[k].name: table[:, k].round(5).tolist() for k in shown},
        }
    return curves


def _has_masks(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> bool:
    return bool(detections) and all(row.get("segmentation") for row in (*truth["annotations"], *detections))
