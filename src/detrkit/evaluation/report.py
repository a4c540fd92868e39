"""The report of an evaluation: a folder with metrics, plots, images of mistakes, and one page that shows them all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.bootstrap import RESAMPLES
from detrkit.evaluation.coco_metrics import (
    OFFICIAL_MAX_DETS,
    CocoMetrics,
    IouType,
    compute_coco_metrics,
    read_detection_arrays,
)
from detrkit.evaluation.confusion import BACKGROUND, confusion_matrix, mistakes
from detrkit.evaluation.error_gallery import choose, describe, draw_mistakes
from detrkit.evaluation.image_pairs import write_image_pairs
from detrkit.evaluation.intervals import compute_intervals, interval_tables, resample
from detrkit.evaluation.matching import EvalArrays, match_detections
from detrkit.evaluation.panoptic_quality import PanopticMetrics
from detrkit.evaluation.per_class import DEFAULT_THRESHOLD, Operating, f1_curves
from detrkit.evaluation.report_page import ErrorAnalysis, error_section, metric_sections, summary_section
from detrkit.evaluation.report_plots import plot_confusion, plot_f1, plot_pr
from detrkit.files import write_atomic
from detrkit.ops.text import one_line
from detrkit.ops.value_range import ValueRange
from detrkit.version import __version__
from detrkit.visualization.html_report.page import Page, write_page
from detrkit.visualization.html_report.sections import Section, Settings


def write_report(
    gt: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]] | None,
    output_dir: str | Path,
    *,
    panoptic: PanopticMetrics | None = None,
    image_paths: Mapping[int, Path] | None = None,
    value_range: ValueRange | None = None,
    max_errors: int = 24,
    max_dets: int = OFFICIAL_MAX_DETS,
    bootstrap: int = RESAMPLES,
    meta: Mapping[str, Any] | None = None,
    title: str = "Evaluation",
    command: str = "",
    extra_sections: Sequence[Section] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute all metrics of detections and write the report.

    Writes to `output_dir`, each file whole or not at all: `report.html`, `metrics.json`, `images.json`,
    `pr_curves.png`, `f1_threshold.png`, `confusion_matrix.png` and, where images are given, `errors/missed.jpg`,
    `errors/wrong_class.jpg`, `errors/false_alarm.jpg`.

    Args:
        gt: COCO instances with the data set's own ids.
        detections: COCO results. Where every object of the ground truth has a `segmentation`, those with one are
            measured by their masks too. None: there are panoptic maps alone, without plots or images.
        output_dir: folder, made if it is not there.
        panoptic: panoptic quality, to be written down as well.
        image_paths: the file of each image id; None: no images of mistakes.
        value_range: values that become black and white in images of more than 8 bits, see `data.decode.read_image`.
        max_errors: most mistakes to list and draw, all kinds together.
        max_dets: see `coco_metrics.compute_coco_metrics`.
        bootstrap: number of resamples for the intervals of the metrics; 0: no intervals.
        meta: origin of the detections (command, weights, data, ...); stored under `made_by`.
        title: title of the page.
        command: command to show on the page; empty: that of `meta`.
        extra_sections: further sections of the page, after the summary.
        settings: settings to list on the page; None: `meta`.

    Returns:
        The content of `metrics.json`. A metric is -1 where there are no ground-truth objects (see `coco_metrics`).

    Raises:
        DataError: the detections do not belong to the ground truth, or an image to draw on cannot be read.
    """
    output_dir = Path(output_dir)
    content: dict[str, Any] = {
        "made_by": {"detrkit": __version__, **(meta or {})},
        "images": len(gt["images"]),
    }
    coco: dict[IouType, CocoMetrics] = {}
    analysis = None
    if detections is not None:
        rows = read_detection_arrays(gt, detections)
        coco = measure(gt, rows, max_dets=max_dets)
        part, analysis = _of_detections(gt, rows, coco, output_dir, max_errors)
        content |= part
        write_image_pairs(output_dir, gt, analysis.arrays, analysis.confusion, image_paths or {})
        draw_mistakes(
            output_dir / "errors", analysis.arrays, analysis.confusion, analysis.chosen, image_paths or {}, value_range
        )
    if panoptic is not None:
        content["panoptic"] = {**panoptic.groups, "per_class": [asdict(row) for row in panoptic.per_class]}
    if bootstrap:
        image_ids = [int(image["id"]) for image in gt["images"]]
        content["intervals"] = compute_intervals(resample(coco, panoptic, image_ids, bootstrap)).to_plain()
    write_atomic(output_dir / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False))

    sections = [summary_section(content), *extra_sections, *metric_sections(content, analysis)]
    if analysis and image_paths:
        sections.append(error_section(content, analysis, image_paths, value_range))
    meta = dict(meta or {})
    own_command = str(meta.pop("command", ""))
    sections.append(Settings({name: value for name, value in (settings or meta).items() if value not in ("", None)}))
    subtitle = ", ".join(str(meta[name]) for name in ("weights", "detections", "data", "split") if meta.get(name))
    write_page(output_dir / "report.html", Page(title, sections, subtitle, command or own_command))
    return content


def measure(
    gt: Mapping[str, Any], detections: DetectionArrays, *, max_dets: int = OFFICIAL_MAX_DETS
) -> dict[IouType, CocoMetrics]:
    """Compute the metrics of boxes and, if all objects and some detections have masks, those of masks."""
    coco: dict[IouType, CocoMetrics] = {"bbox": compute_coco_metrics(gt, detections, "bbox", max_dets=max_dets)}
    masked = detections.with_masks()
    if len(masked) and all(row.get("segmentation") for row in gt["annotations"]):
        coco["segm"] = compute_coco_metrics(gt, masked, "segm", max_dets=max_dets)
    return coco


def _of_detections(
    gt: Mapping[str, Any],
    rows: DetectionArrays,
    coco: Mapping[IouType, CocoMetrics],
    output_dir: Path,
    max_errors: int,
) -> tuple[dict[str, Any], ErrorAnalysis]:
    """Write plots of detections; returns their part of `metrics.json`, and what the page shows besides."""
    boxes = coco["bbox"]
    of_masks: list[dict[str, Any]] = [{} for _ in boxes.per_class]
    if "segm" in coco:
        masks = coco["segm"].per_class
        of_masks = [{f"mask_{name}": getattr(row, name) for name in _OF_A_CLASS} for row in masks]

    arrays = EvalArrays.from_coco(gt, rows)
    matches = match_detections(arrays)
    overall, curves = f1_curves(arrays, matches)
    best = overall.best
    threshold = DEFAULT_THRESHOLD if best.threshold is None else best.threshold
    confusion = confusion_matrix(arrays, matches, threshold)
    ranked = mistakes(arrays, confusion)
    chosen = choose(ranked, max_errors)
    files = {int(image["id"]): str(image.get("file_name", "")) for image in gt["images"]}

    plot_pr(output_dir / "pr_curves.png", boxes)
    plot_f1(output_dir / "f1_threshold.png", overall, curves, arrays.names)
    plot_confusion(output_dir / "confusion_matrix.png", confusion)
    content = {
        "objects": int(arrays.objects_per_class().sum()),
        "detections": len(rows),
        "coco": {iou_type: result.metrics for iou_type, result in coco.items()},
        "best_threshold": _operating(best),
        "per_class": [
            {**asdict(metrics), **masks_too, "best_threshold": _operating(curve.best)}
            for metrics, masks_too, curve in zip(boxes.per_class, of_masks, curves, strict=True)
        ],
        "confusion_matrix": {
            "threshold": threshold,
            "iou": 0.5,
            "labels": [*arrays.names, BACKGROUND],
            "rows_gt_columns_prediction": confusion.counts.tolist(),
        },
        "mistakes": {kind: len(of_kind) for kind, of_kind in ranked.items()},
        "worst_mistakes": [describe(arrays, mistake, files[mistake.image_id]) for mistake in chosen],
        "pr_curves": _curves(boxes),
    }
    return content, ErrorAnalysis(arrays, overall, curves, confusion, chosen)


def tables(content: Mapping[str, Any]) -> list[Any]:
    """The classes of a report as `rich` tables of 80 characters: boxes, masks, panoptic quality; intervals."""
    result = []
    if "coco" in content:
        result.append(class_table(content))
        if "segm" in content["coco"]:
            result.append(mask_table(content))
    if "panoptic" in content:
        result.append(panoptic_table(content))
    return [*result, *interval_tables(content)]


def class_table(content: Mapping[str, Any]) -> Any:
    """Table of the classes, best AP first; those without objects are only counted.

    F1, precision and recall (at IoU 0.5) are those at the score threshold with the best F1, in the column `score`.
    """
    names = ("objects", "AP", "AP50", "AP75", "AR", "F1", "score", "prec.", "recall")
    shown = [row for row in content["per_class"] if row["objects"]]
    table = _table("class", names, absent=len(content["per_class"]) - len(shown))
    for row in sorted(shown, key=lambda row: (-row["AP"], row["name"])):
        values = [row[name] for name in _OF_A_CLASS]
        table.add_row(one_line(row["name"]), str(row["objects"]), *_cells(*values, *_at(row["best_threshold"])))
    metrics = content["coco"]["bbox"]
    table.add_section()
    values = [metrics["AP"], metrics["AP50"], metrics["AP75"], metrics["AR100"], *_at(content["best_threshold"])]
    table.add_row("all", str(content["objects"]), *_cells(*values), style="bold")
    return table


def mask_table(content: Mapping[str, Any]) -> Any:
    """Table of the mask metrics of each class, best AP first."""
    shown = [row for row in content["per_class"] if row["objects"]]
    table = _table("masks of", ("objects", *_OF_A_CLASS), absent=len(content["per_class"]) - len(shown))
    for row in sorted(shown, key=lambda row: (-row["mask_AP"], row["name"])):
        table.add_row(
            one_line(row["name"]), str(row["objects"]), *_cells(*(row[f"mask_{name}"] for name in _OF_A_CLASS))
        )
    metrics = content["coco"]["segm"]
    table.add_section()
    values = _cells(*(metrics[name] for name in ("AP", "AP50", "AP75", "AR100")))
    table.add_row("all", str(content["objects"]), *values, style="bold")
    return table


def panoptic_table(content: Mapping[str, Any]) -> Any:
    """Table of the panoptic quality of each class, best PQ first, things before stuff.

    The column `segments` counts ground-truth segments, `predicted` predicted ones, right or wrong.
    """
    metrics = content["panoptic"]
    shown = [row for row in metrics["per_class"] if row["segments"] or row["predicted"]]
    names = ("kind", "segments", "predicted", "PQ", "SQ", "RQ")
    table = _table("class", names, absent=len(metrics["per_class"]) - len(shown))
    for row in sorted(shown, key=lambda row: (not row["isthing"], -row["pq"], row["name"])):
        counts = ("thing" if row["isthing"] else "stuff", str(row["segments"]), str(row["predicted"]))
        table.add_row(one_line(row["name"]), *counts, *_cells(row["pq"], row["sq"], row["rq"]))
    table.add_section()
    for group, kinds in (("Things", (True,)), ("Stuff", (False,)), ("All", (True, False))):
        rows = [row for row in shown if row["isthing"] in kinds]
        counts = ("", str(sum(row["segments"] for row in rows)), str(sum(row["predicted"] for row in rows)))
        values = _cells(*(metrics[group][name] for name in ("pq", "sq", "rq")))
        table.add_row(group.lower(), *counts, *values, style="bold")
    return table


_OF_A_CLASS = ("AP", "AP50", "AP75", "AR")


def _table(head: str, names: Sequence[str], *, absent: int) -> Any:
    from rich import box
    from rich.table import Table

    caption = f"{absent} more without an object in these images" if absent else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column(head, overflow="fold", min_width=12)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _at(best: Mapping[str, float | None]) -> list[float | None]:
    return [best["f1"], best["score"], best["precision"], best["recall"]]


def _cells(*values: float | None) -> list[str]:
    return ["–" if value is None or value == -1 else f"{value:.3f}" for value in values]


def _operating(point: Operating) -> dict[str, float | None]:
    return {"score": point.threshold, "f1": point.f1, "precision": point.precision, "recall": point.recall}


def _curves(result: CocoMetrics) -> dict[str, Any]:
    """Precision at recall 0, 0.01, ... 1 of every class that has objects, and their mean, for plots."""
    shown = [k for k, row in enumerate(result.per_class) if row.objects]
    tables = {"iou_0.50": result.precision[0], "iou_0.50_0.95": result.precision.mean(axis=0)}
    curves: dict[str, Any] = {"recall": [round(r, 2) for r in result.recall_points.tolist()]}
    for name, table in tables.items():
        curves[name] = {
            "all": table[:, shown].mean(axis=1).round(5).tolist() if shown else [],
            "per_class": {result.per_class[k].name: table[:, k].round(5).tolist() for k in shown},
        }
    return curves
