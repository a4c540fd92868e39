"""`detrkit eval`: a detector, or a file of what one predicted, measured on a data set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.config.commands import EvalConfig
from detrkit.config.train import TrainConfig
from detrkit.data.formats.coco import as_id
from detrkit.data.validation.held_out import read_split
from detrkit.errors import ConfigError, DataError
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.class_match import ClassMatch, match_classes
from detrkit.evaluation.coco_metrics import merge_ranks, read_detection_arrays, summary
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticMetrics, panoptic_quality
from detrkit.evaluation.prediction_files import PanopticPredictions, find_images, read_predictions
from detrkit.inference.load_detector import load_detector

if TYPE_CHECKING:
    from detrkit.data.formats.raw import RawImage
    from detrkit.data.records import Split
    from detrkit.inference import Detector
    from detrkit.ops.console import TextConsole
    from detrkit.structures import Categories


def evaluate(
    config: EvalConfig, *, classes: Callable[[Categories, Categories], Categories] | None = None
) -> dict[str, Any]:
    """Measure as `config` says, print the official numbers and a table of the classes, and write the report.

    Args:
        config: the settings.
        classes: makes the classes of the model from its own and those of the data set; None: its own.

    Returns:
        The content of `metrics.json` (see `report.write_report`).

    Raises:
        ConfigError: neither or both of weights and detections are given, or the data set has no such split.
        DataError: the data set or the detections cannot be read, or do not belong together.
        WeightsError: the weights cannot be read.
    """
    from detrkit.data.formats.detect import open_dataset
    from detrkit.data.validation.held_out import listed_images
    from detrkit.data.validation.validate import check_dataset
    from detrkit.evaluation.report import tables, write_report
    from detrkit.ops.console import make_console

    if bool(config.weights) == bool(config.detections):
        found = "both" if config.weights else "neither"
        raise ConfigError(f"expected either --weights or --detections, found {found}; name the one to be measured")
    console = make_console()
    detector = None
    if config.weights:
        from detrkit.structures import Categories

        def new_classes() -> Categories:
            """Those of the data, for a file without a class head."""
            data = open_dataset(**config.dataset_kwargs(""), **read_split(config.weights))
            found = data.splits.get(config.split, next(iter(data.splits.values()))).categories
            return classes(Categories((), ()), found) if classes else found

        detector = load_detector(config, precision=config.precision, compile=config.compile, new_classes=new_classes)
    data_format = "coco_panoptic" if _wants_maps(config, detector) else ""
    raw = open_dataset(**config.dataset_kwargs(data_format), **read_split(config.weights))
    report = check_dataset(
        raw,
        num_queries=100 if detector is None else detector.backend.num_queries,
        required_splits={config.split},
        value_range="find" if detector is None else detector.value_range,
    )
    split = report.splits[config.split]
    listed = listed_images(raw, config.split)
    for line in report.summary():
        console.print(line)

    things = split.categories.thing_ids
    gt_maps = PanopticGroundTruth.from_split(split) if all(image.panoptic for image in split.images) else None
    detections: Sequence[Mapping[str, Any]] | None
    panoptic: PanopticMetrics | None = None
    if detector is not None:
        known = classes(detector.categories, split.categories) if classes else detector.categories
        known = _in_order(known, split.categories, console)
        match = match_classes(known, split.categories)
        _say_match(console, match)
        collector = DetectionAccumulator(
            match.id_of,
            counted=things,
            masks=detector.backend.makes_masks and split.has_masks,
            panoptic_gt=gt_maps if detector.backend.makes_masks else None,
            panoptic_threshold=config.panoptic_threshold,
        )
        collect_split(
            detector.backend,
            split,
            known,
            collector,
            preprocessing=detector.preprocessing,
            device=detector.device,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            quiet=config.quiet,
        )
        detections = merge_ranks([(collector.seen, collector.found)])
        panoptic = collector.sums.result() if collector.sums else None
    else:
        detections, panoptic = _read(config, split, listed, gt_maps, console)
    masks = detections is not None and any("segmentation" in row for row in detections) and split.has_masks
    gt = split.to_coco(masks=masks)
    if detections is not None:
        detections = read_detection_arrays(gt, detections, where=config.detections)

    output_dir = Path(config.output_dir) if config.output_dir else default_folder(config)
    content = write_report(
        gt,
        detections,
        output_dir,
        panoptic=panoptic,
        image_paths={image.id: image.path for image in split.images},
        value_range=split.value_range,
        max_errors=config.max_errors,
        max_dets=config.max_dets,
        meta={
            "command": shlex.join(sys.argv),
            "weights": config.weights,
            "detections": config.detections,
            "data": config.data or config.val_json or config.train_json,
            "split": config.split,
            "image_size": None if detector is None else detector.image_size,
        },
    )
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
    console.print(f"Report: {output_dir}")
    return content


def _in_order(model: Categories, data: Categories, console: TextConsole) -> Categories:
    """The classes of a model: those of the data where it has as many, without names, that cannot be meant by id."""
    from detrkit.models.checkpoints import rows_without_names
    from detrkit.structures import Categories

    rows = rows_without_names(len(model), data.ids)
    if model != Categories.unnamed(len(model)) or None in rows or rows == [*data.ids]:
        return model
    model = data.by_id()
    console.print(
        f"The model has no names for its {len(model)} classes; they are taken to be those of the data in the order of "
        f"their ids ({_some(model.names)}); if they are not, these numbers mean nothing"
    )
    return model


def _read(
    config: EvalConfig,
    split: Split,
    listed: Sequence[RawImage],
    gt: PanopticGroundTruth | None,
    console: TextConsole,
) -> tuple[list[dict[str, Any]] | None, PanopticMetrics | None]:
    """What the file of predictions says: detections, or the panoptic quality of its maps."""
    found = read_predictions(config.detections)
    left_out = {as_id(image.id) for image in listed} - {image.id for image in split.images}

    def kept(rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
        rows = find_images(rows, listed, where=config.detections)
        judged = [row for row in rows if as_id(row.get("image_id")) not in left_out]
        if len(judged) < len(rows):
            console.print(
                f"{len(rows) - len(judged)} {what} are left out: they are for images that the check dropped (see "
                "detrkit check)"
            )
        return judged

    if not isinstance(found, PanopticPredictions):
        detections = kept(found, "detections")
        stuff = set(split.categories.ids) - split.categories.thing_ids
        counted = [row for row in detections if row.get("category_id") not in stuff]
        if len(counted) < len(detections):
            console.print(f"{len(detections) - len(counted)} detections of stuff are left out: only things are counted")
        return counted, None
    if gt is None:
        raise DataError(
            f"expected COCO panoptic data to compare the maps in {config.detections} with, found none in "
            f"{split.source}; see --panoptic_json"
        )
    predictions = replace(found, rows=kept(found.rows, "maps"))
    missing = len(split) - len(predictions.rows)
    if missing > 0:
        console.print(f"{missing} images have no map in {config.detections}; their segments count as missed")
    return None, panoptic_quality(gt, predictions, [image.id for image in split.images])


def _wants_maps(config: EvalConfig, detector: Detector | None) -> bool:
    """Whether the data, if nobody says how to read them, are maps, and the detector knows stuff as they do, or what it
    predicted are maps too."""
    from detrkit.data.formats.coco_layout import holds_segments
    from detrkit.data.formats.detect import holds_panoptic

    root, predicted = Path(config.data), Path(config.detections)
    if config.data_format != "auto" or config.train_json or config.val_json or not root.exists():
        return False
    if detector is None:
        maps = predicted.is_file() and holds_segments(predicted)
    else:
        maps = not all(detector.categories.isthing or ())
    return maps and holds_panoptic(root)


def default_folder(config: EvalConfig) -> Path:
    """`report/` beside the weights or detections; runs/NAME/report for a published name.

    What a run was not trained to be measured on gets a folder of its own, and leaves the run's report alone.
    """
    source = Path(config.weights or config.detections)
    if not source.exists():
        return Path("runs") / source.name / "report"
    folder = source if source.is_dir() else source.parent
    stored = folder / "config.yaml"
    if config.weights and stored.is_file():
        run = TrainConfig.from_yaml(stored)
        if run.overfit or config.split != "val" or Path(run.data).resolve() != Path(config.data).resolve():
            return folder / f"report-{Path(config.data).resolve().stem}-{config.split}"
    return folder / "report"


def _say_match(console: TextConsole, match: ClassMatch) -> None:
    if match.by_id:
        console.print(
            "No class has the same name in the model and in the data set, so classes with the same id are taken to be "
            f"the same ({match.by_id}, ...); if they are not, these numbers mean nothing"
        )
    if match.unknown_to_data:
        console.print(
            f"{len(match.unknown_to_data)} of the model's classes are not in the data set, their detections are "
            f"dropped: {_some(match.unknown_to_data)}"
        )
    if match.unknown_to_model:
        console.print(
            f"The model does not know {len(match.unknown_to_model)} classes of the data set, their objects count as "
            f"missed: {_some(match.unknown_to_model)}"
        )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
