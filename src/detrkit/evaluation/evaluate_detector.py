"""Evaluate a detector, or a file of predictions, on a data set: metrics, notes for the user, and a report folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.config.commands import EvalConfig
from detrkit.config.options import config_from_options
from detrkit.config.train import TrainConfig
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.coco_layout import holds_segments
from detrkit.data.formats.detect import holds_panoptic, open_dataset
from detrkit.data.validation.held_out import listed_images, read_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, DetrkitWarning
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.class_match import ClassMatch, match_classes
from detrkit.evaluation.coco_metrics import merge_ranks, read_detection_arrays, summary
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticMetrics, panoptic_quality
from detrkit.evaluation.prediction_files import PanopticPredictions, find_images, read_predictions
from detrkit.inference.load_detector import load_detector
from detrkit.models.checkpoints import rows_without_names
from detrkit.ops.text import command_line, first_names
from detrkit.structures import Categories

if TYPE_CHECKING:
    from detrkit.data.formats.raw import RawImage
    from detrkit.data.records import Split
    from detrkit.inference.detector import Detector

Note = Callable[[str], object]
"""Takes a sentence for the user."""

ChooseClasses = Callable[[Categories, Categories], Categories]
"""Makes the classes of a model from its own classes and those of the data set."""


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of an evaluation, and where its report is. Printed, it is the table of the official metrics."""

    metrics: dict[str, float]
    """The twelve COCO metrics of boxes (AP, AP50, ...), those of masks as mask_AP, mask_AP50, ..., and panoptic quality
    as PQ, SQ, RQ, PQ_things, ...; whichever were measured. In 0..1, or -1 where there is no object to detect."""
    report: dict[str, Any] = field(repr=False)
    """The content of `metrics.json`, see `report.write_report`."""
    output_dir: Path
    """The report's folder."""

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval (low, high) of each metric that has one, under the names of `metrics`: AP, AP50,
        AP75, mask_AP, ..., PQ, SQ, RQ, .... Empty with `bootstrap=0`, or with fewer than five images."""
        intervals = self.report.get("intervals", {}).get("metrics", {})
        return {name: (pair[0], pair[1]) for name, pair in intervals.items() if pair is not None}

    def __str__(self) -> str:
        coco = self.report.get("coco", {})
        lines = [summary(metrics, iou_type) for iou_type, metrics in coco.items()]
        panoptic = {name: value for name, value in self.metrics.items() if name[1:2] == "Q"}
        if panoptic:
            lines.append(
                "Panoptic quality:\n" + "\n".join(f" {name} = {value:.3f}" for name, value in panoptic.items())
            )
        return "\n".join(lines)


def evaluate(weights: str | os.PathLike[str], data: str | os.PathLike[str], **options: Any) -> EvaluationResult:
    """Evaluate a detector on a data set and write the report.

        result = detrkit.evaluate("runs/mine", "DATA", split="val")
        result.metrics["AP"]

    Args:
        weights: a run folder, a checkpoint, a published name, a .pth of the reference DETR, a Hugging Face folder or an
            exported file.
        data: folder or file of the data set.
        options: further settings of `detrkit eval`, under the names of its flags (`EvalConfig`).

    Raises:
        ConfigError: there is no such option, a value does not fit it, or the data set has no such split.
        DataError: the data set cannot be read.
        WeightsError: the weights cannot be read.
    """
    options = {"quiet": True, **options}
    config = config_from_options(EvalConfig, weights=os.fspath(weights), data=os.fspath(data), **options)
    return evaluate_detector(config, note=lambda sentence: warnings.warn(DetrkitWarning(sentence), stacklevel=4))


def evaluate_detector(
    config: EvalConfig,
    *,
    classes: ChooseClasses | None = None,
    note: Note = lambda sentence: None,
    show_data: Note = lambda line: None,
) -> EvaluationResult:
    """Evaluate what `config` names and write the report.

    Args:
        config: the settings of `detrkit eval`.
        classes: makes the classes of the model; None: its own.
        note: takes sentences about assumptions, such as how classes were matched, and about what is left out.
        show_data: takes the lines of the data set's check.

    Raises:
        ConfigError: neither or both of weights and detections are given, or the data set has no such split.
        DataError: the data set or the detections cannot be read, or do not belong together.
        WeightsError: the weights cannot be read.
    """
    from detrkit.evaluation.report import write_report

    if bool(config.weights) == bool(config.detections):
        found = "both" if config.weights else "neither"
        raise ConfigError(f"expected either --weights or --detections, found {found}; name the one to be measured")
    detector = _load_detector(config, classes) if config.weights else None
    data_format = "coco_panoptic" if wants_maps(config, detector) else ""
    raw = open_dataset(**config.dataset_kwargs(data_format), **read_split(config.weights))
    check = check_dataset(
        raw,
        num_queries=100 if detector is None else detector.backend.num_queries,
        required_splits={config.split},
        value_range="find" if detector is None else detector.value_range,
    )
    split = check.splits[config.split]
    for line in check.summary():
        show_data(line)

    gt_maps = PanopticGroundTruth.from_split(split) if all(image.panoptic for image in split.images) else None
    tiling = detector.preprocessing.tiling if detector else None
    if tiling:
        note(f"Images are cut into {tiling}, whose detections are merged")
        if gt_maps and detector and detector.backend.makes_masks:
            note("Panoptic quality is not measured, since maps are not made of tiles; use --tiles off for it")
        gt_maps = None
    detections: Sequence[Mapping[str, Any]] | None
    if detector is None:
        detections, panoptic = read_prediction_file(config, split, listed_images(raw, config.split), gt_maps, note)
    else:
        own = classes(detector.categories, split.categories) if classes else detector.categories
        detections, panoptic = predict_split(config, detector, own, split, gt_maps, note)
    masks = detections is not None and any("segmentation" in row for row in detections) and split.has_masks
    gt = split.to_coco(masks=masks)
    if detections is not None:
        detections = _read_arrays(gt, detections, config)

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
        bootstrap=config.bootstrap,
        meta={
            "command": command_line(),
            "weights": config.weights,
            "detections": config.detections,
            "data": config.data or config.val_json or config.train_json,
            "split": config.split,
            "image_size": None if detector is None else detector.image_size,
            "tiling": tiling and tiling.to_plain(),
        },
        title=f"Evaluation of {Path(config.weights or config.detections).name}",
        settings=asdict(config),
    )
    return EvaluationResult(_metrics(content, panoptic), content, output_dir)


def default_folder(config: EvalConfig) -> Path:
    """`report/` beside the weights or detections; runs/NAME/report for a published name.

    An evaluation on other data than the run was trained to be measured on gets a folder of its own, and leaves the
    run's report alone.
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


def _metrics(content: Mapping[str, Any], panoptic: PanopticMetrics | None) -> dict[str, float]:
    """All metrics of a report in one dict."""
    coco = content.get("coco", {})
    masks = {f"mask_{name}": value for name, value in coco.get("segm", {}).items()}
    return {**coco.get("bbox", {}), **masks, **(panoptic.metrics if panoptic else {})}


def _load_detector(config: EvalConfig, classes: ChooseClasses | None) -> Detector:
    """The detector; a file without a class head gets the classes of the data."""

    def new_classes() -> Categories:
        data = open_dataset(**config.dataset_kwargs(""), **read_split(config.weights))
        own = data.splits.get(config.split, next(iter(data.splits.values()))).categories
        return classes(Categories((), ()), own) if classes else own

    return load_detector(config, precision=config.precision, compile=config.compile, new_classes=new_classes)


def _read_arrays(gt: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], config: EvalConfig) -> DetectionArrays:
    """The detections as arrays, without those that overlap a better one too much."""
    arrays = read_detection_arrays(gt, detections, where=config.detections)
    return arrays if config.max_overlap is None else arrays.without_overlaps(config.max_overlap)


def predict_split(
    config: EvalConfig,
    detector: Detector,
    classes: Categories,
    split: Split,
    gt_maps: PanopticGroundTruth | None,
    note: Note,
) -> tuple[Sequence[Mapping[str, Any]], PanopticMetrics | None]:
    """The detections of a detector on a split and, where both have maps, panoptic quality."""
    classes = _assume_classes(classes, split.categories, note)
    match = match_classes(classes, split.categories)
    _note_match(match, note)
    collector = DetectionAccumulator(
        match.id_of,
        counted=split.categories.thing_ids,
        masks=detector.backend.makes_masks and split.has_masks,
        panoptic_gt=gt_maps if detector.backend.makes_masks else None,
        panoptic_threshold=config.panoptic_threshold,
    )
    collect_split(
        detector.backend,
        split,
        classes,
        collector,
        preprocessing=detector.preprocessing,
        device=detector.device,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        quiet=config.quiet,
    )
    detections = merge_ranks([(collector.image_ids, collector.detections)])
    quality = collector.sums.result() if collector.sums else None
    return detections, quality


def read_prediction_file(
    config: EvalConfig, split: Split, listed: Sequence[RawImage], gt_maps: PanopticGroundTruth | None, note: Note
) -> tuple[list[dict[str, Any]] | None, PanopticMetrics | None]:
    """The content of a file of predictions: detections, or the panoptic quality of its maps."""
    predictions = read_predictions(config.detections)
    dropped = {as_id(image.id) for image in listed} - {image.id for image in split.images}

    def of_checked_images(rows: list[dict[str, Any]], noun: str) -> list[dict[str, Any]]:
        rows = find_images(rows, listed, where=config.detections)
        kept = [row for row in rows if as_id(row.get("image_id")) not in dropped]
        if len(kept) < len(rows):
            note(
                f"{len(rows) - len(kept)} {noun} are left out: they are for images that the check dropped (see "
                "detrkit check)"
            )
        return kept

    if not isinstance(predictions, PanopticPredictions):
        detections = of_checked_images(predictions, "detections")
        stuff = set(split.categories.ids) - split.categories.thing_ids
        counted = [row for row in detections if row.get("category_id") not in stuff]
        if len(counted) < len(detections):
            note(f"{len(detections) - len(counted)} detections of stuff are left out: only things are counted")
        return counted, None
    if gt_maps is None:
        raise DataError(
            f"expected COCO panoptic data to compare the maps in {config.detections} with, found none in "
            f"{split.source}; see --panoptic_json"
        )
    predictions = replace(predictions, rows=of_checked_images(predictions.rows, "maps"))
    missing = len(split) - len(predictions.rows)
    if missing > 0:
        note(f"{missing} images have no map in {config.detections}; their segments count as missed")
    return None, panoptic_quality(gt_maps, predictions, [image.id for image in split.images])


def wants_maps(config: EvalConfig, detector: Detector | None) -> bool:
    """Whether to read the data as panoptic maps: no format is given, there are maps, and either the detector knows
    stuff or the predictions are maps too."""
    root, predictions = Path(config.data), Path(config.detections)
    if config.data_format != "auto" or config.train_json or config.val_json or not root.exists():
        return False
    if detector is None:
        maps = predictions.is_file() and holds_segments(predictions)
    else:
        maps = not all(detector.categories.isthing or ())
    return maps and holds_panoptic(root)


def _assume_classes(model: Categories, data: Categories, note: Note) -> Categories:
    """If the model's classes have no names and match no ids, but are as many as the data's, assume the data's, in the
    order of their ids."""
    rows = rows_without_names(len(model), data.ids)
    if model != Categories.unnamed(len(model)) or None in rows or rows == [*data.ids]:
        return model
    model = data.by_id()
    note(
        f"The model has no names for its {len(model)} classes; they are taken to be those of the data in the order of "
        f"their ids ({first_names(model.names)}); if they are not, the metrics mean nothing"
    )
    return model


def _note_match(match: ClassMatch, note: Note) -> None:
    if match.by_id:
        note(
            "No class has the same name in the model and in the data set, so classes with the same id are taken to be "
            f"the same ({match.by_id}, ...); if they are not, the metrics mean nothing"
        )
    if match.unknown_to_data:
        note(
            f"{len(match.unknown_to_data)} of the model's classes are not in the data set, their detections are "
            f"dropped: {first_names(match.unknown_to_data)}"
        )
    if match.unknown_to_model:
        note(
            f"The model does not know {len(match.unknown_to_model)} classes of the data set, their objects count as "
            f"missed: {first_names(match.unknown_to_model)}"
        )
