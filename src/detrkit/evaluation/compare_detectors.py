"""Compare detectors, or files of predictions, on the same images: metrics, speed, and the images where they differ."""

from __future__ import annotations

import json
import os
import string
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detrkit.config.commands import CompareConfig, EvalConfig
from detrkit.config.data import DatasetKwargs
from detrkit.config.options import config_from_options
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.held_out import listed_images, read_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, DetrkitWarning
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.bootstrap import LEVEL
from detrkit.evaluation.coco_metrics import CocoMetrics, IouType, read_detection_arrays
from detrkit.evaluation.comparison import ComparedModel, ComparisonResult, class_values, paired_differences
from detrkit.evaluation.comparison_page import write_comparison_page
from detrkit.evaluation.evaluate_detector import Note, predict_split, read_prediction_file, wants_maps
from detrkit.evaluation.image_differences import ErrorCounts, draw_differences, rank_images
from detrkit.evaluation.intervals import PREFIXES, resample
from detrkit.evaluation.matching import EvalArrays
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticMetrics
from detrkit.files import BEST, LAST, run_folder, write_atomic
from detrkit.inference.load_detector import load_detector

if TYPE_CHECKING:
    from detrkit.data.formats.raw import RawDataset
    from detrkit.data.records import Split
    from detrkit.inference.detector import Detector


def compare(
    sources: Sequence[str | os.PathLike[str]], data: str | os.PathLike[str] = "", **options: Any
) -> ComparisonResult:
    """Compare detectors on the same images, and write report.html, comparison.json and drawn images.

        result = detrkit.compare(["runs/a", "runs/b"])
        result.difference("AP").interval

    Args:
        sources: two or more run folders, checkpoints, published names, exported files, or files of predictions; the
            first is the one that all others are compared with.
        data: folder or file of the data set; empty: that of the runs.
        options: further settings of `detrkit compare`, under the names of its flags (`CompareConfig`).

    Raises:
        ConfigError: there is no such option, a value does not fit it, there are fewer than two sources, or no data set
            is known to all of them.
        DataError: the data set or a file of predictions cannot be read, or they do not belong together.
        WeightsError: weights cannot be read.
    """
    if isinstance(sources, str | os.PathLike):
        raise ConfigError(f"expected a list of two or more sources to compare, found {os.fspath(sources)!r} alone")
    options = {"quiet": True, **options}
    names = [os.fspath(source) for source in sources]
    config = config_from_options(CompareConfig, sources=names, data=os.fspath(data), **options)
    return compare_detectors(config, note=lambda sentence: warnings.warn(DetrkitWarning(sentence), stacklevel=4))


@dataclass(frozen=True)
class _Source:
    """A detector or a file of predictions."""

    letter: str
    config: EvalConfig
    """Settings of its evaluation; one of `weights` and `detections` is given."""
    detector: Detector | None

    @property
    def name(self) -> str:
        return self.config.weights or self.config.detections


@dataclass(frozen=True, eq=False)
class _Measured:
    """Predictions of a source, and their metrics."""

    arrays: EvalArrays | None
    coco: dict[IouType, CocoMetrics]
    panoptic: PanopticMetrics | None


def compare_detectors(
    config: CompareConfig, *, note: Note = lambda sentence: None, show_data: Note = lambda line: None
) -> ComparisonResult:
    """Compare what `config` names, and write report.html, comparison.json and drawn images to its output folder.

    Args:
        config: the settings of `detrkit compare`.
        note: takes sentences about assumptions, such as how classes were matched, and about what is left out.
        show_data: takes the lines of the data set's check.

    Raises:
        ConfigError, DataError, WeightsError: see `compare`.
    """
    names = _check_sources(config.sources)
    config = _with_known_data(config)
    sources = [_load(letter, name, config) for letter, name in zip(string.ascii_uppercase, names, strict=False)]
    split, predictions = _predict_all(config, sources, note, show_data)
    measured = _measure(split, sources, predictions, config.max_dets)
    for source, each in zip(sources, measured, strict=True):
        _note_silent_images(source, each, note)
    image_ids = [image.id for image in split.images]
    samples = [resample(each.coco, each.panoptic, image_ids, config.bootstrap) for each in measured]
    errors = {
        source.letter: ErrorCounts.of(each.arrays)
        for source, each in zip(sources, measured, strict=True)
        if each.arrays is not None
    }
    times = _measure_speed(sources, [image.path for image in split.images[: config.speed_images]])
    models = [
        _model(source, each, errors.get(source.letter), times.get(source.letter))
        for source, each in zip(sources, measured, strict=True)
    ]
    output_dir = Path(config.output_dir)
    ranked = rank_images(errors, {image.id: image.file_name for image in split.images}) if errors else []
    paths = {image.id: image.path for image in split.images}
    result = ComparisonResult(
        data=split.source,
        split=split.name,
        image_count=len(image_ids),
        resamples=config.bootstrap,
        level=LEVEL,
        models=models,
        differences=paired_differences(models, samples),
        images=draw_differences(output_dir, ranked, errors, paths, split.value_range, config.max_images),
        output_dir=output_dir,
    )
    write_atomic(output_dir / "comparison.json", json.dumps(result.to_plain(), indent=1, ensure_ascii=False))
    page, value_range = output_dir / "report.html", split.value_range
    write_comparison_page(page, result, errors, paths, value_range, most=config.max_images, settings=asdict(config))
    return result


def _check_sources(names: Sequence[str]) -> list[str]:
    """Refuse lists that are no comparison.

    Raises:
        ConfigError: there are fewer than two sources, or too many, or one comes twice.
    """
    if len(names) < 2:
        found = names[0] if names else "none"
        raise ConfigError(
            f"expected two or more runs, checkpoints or files of detections to compare, found {found}"
            + (" alone; to measure one, use `detrkit eval`" if names else "")
        )
    if len(names) > len(string.ascii_uppercase):
        raise ConfigError(f"expected at most {len(string.ascii_uppercase)} sources to compare, found {len(names)}")
    for k, name in enumerate(names):
        if name in names[:k]:
            raise ConfigError(f"expected different sources to compare, found {name} twice; leave one out")
    return list(names)


def _prediction_file(name: str) -> str:
    """The file of predictions that a source names: itself, or that of a folder of `detrkit predict`; empty: none."""
    path = Path(name)
    if path.suffix.lower() == ".json":
        return name
    if path.is_dir() and not any((path / part).is_file() for part in (BEST, LAST)):
        for part in ("detections.json", "panoptic.json"):
            if (path / part).is_file():
                return str(path / part)
    return ""


def _with_known_data(config: CompareConfig) -> CompareConfig:
    """Fill in the data set that the runs were trained on, if none is given.

    Raises:
        ConfigError: no source knows its data set, or they know different ones.
        DataError: the data set is not there any more.
    """
    if config.data or config.train_json or config.val_json:
        return config
    known: dict[str, TrainConfig] = {}
    for name in config.sources:
        stored = run_folder(name) / "config.yaml"
        if not _prediction_file(name) and Path(name).exists() and stored.is_file():
            known[name] = TrainConfig.from_yaml(stored)
    if not known:
        raise ConfigError(
            "expected the data set to compare on, since none of the sources is a training run that states its own; "
            "name it with --data"
        )
    (first, run), *others = known.items()
    for name, other in others:
        if _resolved(other) != _resolved(run):
            raise ConfigError(
                f"expected runs on one data set, found {run.data or run.train_json} of {first} and "
                f"{other.data or other.train_json} of {name}; name the one to compare on with --data"
            )
    if run.data and not Path(run.data).exists():
        raise DataError(
            f"expected the data set of {first} in {run.data}, found nothing there; name its place with --data"
        )
    return replace(config, **{name: getattr(run, name) for name in DatasetKwargs.__annotations__})


def _resolved(run: TrainConfig) -> tuple[object, ...]:
    """The data set of a run, with absolute paths."""
    paths = {"data", "train_json", "val_json", "train_images", "val_images", "panoptic_json", "panoptic_dir"}
    kwargs = run.dataset_kwargs()
    return tuple(
        str(Path(str(value)).resolve()) if name in paths and value else value for name, value in kwargs.items()
    )


def _load(letter: str, name: str, config: CompareConfig) -> _Source:
    """Load a source; files of predictions are read later."""
    known = {field.name for field in fields(EvalConfig)}
    shared = {field.name: getattr(config, field.name) for field in fields(config) if field.name in known}
    file = _prediction_file(name)
    if file:
        return _Source(letter, EvalConfig(**{**shared, "detections": file}), None)
    single = EvalConfig(**{**shared, "weights": name})
    return _Source(letter, single, load_detector(single, precision=single.precision, compile=single.compile))


Predictions = tuple[Sequence[Mapping[str, Any]] | None, PanopticMetrics | None]
"""Detections and panoptic quality, whichever there are."""


def _predict_all(
    config: CompareConfig, sources: Sequence[_Source], note: Note, show_data: Note
) -> tuple[Split, list[Predictions]]:
    """Read the data set, and the predictions of each source on it."""
    detectors = [source.detector for source in sources if source.detector]
    maps = any(wants_maps(source.config, source.detector) for source in sources)
    held_out = next((kept for source in sources if (kept := read_split(source.config.weights))), {})
    raw = open_dataset(**config.dataset_kwargs("coco_panoptic" if maps else ""), **held_out)
    check = check_dataset(
        raw,
        num_queries=max((detector.backend.num_queries for detector in detectors), default=100),
        required_splits={config.split},
        value_range=detectors[0].value_range if detectors else "find",
    )
    _check_held_out(raw, sources)
    split = check.splits[config.split]
    for line in check.summary():
        show_data(line)
    gt_maps = PanopticGroundTruth.from_split(split) if all(image.panoptic for image in split.images) else None
    predictions: dict[str, Predictions] = {}
    for source in sorted(sources, key=lambda source: source.detector is not None):  # files first, they may be wrong
        tell = partial(_tell, note, source.letter)
        detector = source.detector
        if detector is None:
            listed = listed_images(raw, config.split)
            rows, panoptic = read_prediction_file(source.config, split, listed, gt_maps, tell)
            if rows is not None:
                read_detection_arrays(split.to_coco(masks=False), rows, where=source.name)  # refuses wrong ones
            predictions[source.letter] = rows, panoptic
        else:
            own = replace(split, value_range=detector.value_range or split.value_range)
            tiling = detector.preprocessing.tiling
            if tiling:
                tell(f"Images are cut into {tiling}, whose detections are merged")
            gt = None if tiling else gt_maps
            predictions[source.letter] = predict_split(source.config, detector, detector.categories, own, gt, tell)
    return split, [predictions[source.letter] for source in sources]


def _check_held_out(raw: RawDataset, sources: Sequence[_Source]) -> None:
    """Refuse runs that held out different images of the data set for validation.

    Raises:
        ConfigError: one of them was trained on images that another is measured on.
    """
    if raw.held_out_split is None:
        return
    names = {*raw.held_out_split["train"], *raw.held_out_split["val"]}
    first: tuple[str, set[str]] | None = None
    for source in sources:
        mine = names & set(read_split(source.config.weights).get("held_out", ()))
        if not mine:
            continue
        if first is None:
            first = source.name, mine
        elif mine != first[1]:
            raise ConfigError(
                f"expected runs that held out the same images of {raw.source} for validation, found {len(first[1])} of "
                f"{first[0]} and {len(mine)} of {source.name}, with {len(mine & first[1])} in common; each was trained "
                "on images that the other is measured on, so name images that neither has seen with --data"
            )


def _tell(note: Note, letter: str, sentence: str) -> None:
    """Pass on a sentence about one of the sources."""
    note(f"{letter}: {sentence}")


def _note_silent_images(source: _Source, measured: _Measured, note: Note) -> None:
    """Note a file of detections that has none for half of the images with objects."""
    if source.detector is not None or measured.arrays is None:
        return
    having = np.unique(measured.arrays.object_images)
    silent = np.setdiff1d(having, measured.arrays.images)
    if 2 * len(silent) > len(having):
        _tell(
            note,
            source.letter,
            f"there is no detection in {len(silent)} of {len(having)} images with objects; if the file was made on "
            "other images, the comparison means nothing",
        )


def _measure(
    split: Split, sources: Sequence[_Source], predictions: Sequence[Predictions], max_dets: int
) -> list[_Measured]:
    """Measure the predictions of all sources, by the metrics that all of them have.

    Raises:
        DataError: detections do not belong to the data set, or some sources have boxes alone and others maps alone.
    """
    from detrkit.evaluation.report import measure

    boxes = all(detections is not None for detections, _ in predictions)
    maps = all(panoptic is not None for _, panoptic in predictions)
    if not boxes and not maps:
        letters = {
            source.letter: "maps" if p[0] is None else "boxes" for source, p in zip(sources, predictions, strict=True)
        }
        raise DataError(
            "expected predictions of one kind to compare, found "
            + ", ".join(f"{kind} in {letter}" for letter, kind in letters.items())
            + "; compare boxes with boxes, or maps with maps"
        )
    rows = [detections for detections, _ in predictions if detections is not None] if boxes else []
    masks = split.has_masks and bool(rows) and all(any("segmentation" in row for row in part) for part in rows)
    gt = split.to_coco(masks=masks)
    measured = []
    for source, (detections, panoptic) in zip(sources, predictions, strict=True):
        arrays: DetectionArrays | None = None
        if boxes and detections is not None:
            arrays = read_detection_arrays(gt, detections, where=source.config.detections)
        measured.append(
            _Measured(
                None if arrays is None else EvalArrays.from_coco(gt, arrays),
                {} if arrays is None else measure(gt, arrays, max_dets=max_dets),
                panoptic if maps else None,
            )
        )
    return measured


def _measure_speed(sources: Sequence[_Source], paths: Sequence[Path]) -> dict[str, float]:
    """Measure the median time from the pixels of an image to its detections, in milliseconds by letter.

    The detectors take turns, so that other load on the machine affects all alike.
    """
    detectors = {source.letter: source.detector for source in sources if source.detector}
    seconds: dict[str, list[float]] = {letter: [] for letter in detectors}
    for path in [*paths[:1], *paths]:  # the first image warms up
        for letter, detector in detectors.items():
            pixels = detector.read(path)
            start = time.perf_counter()
            detector.predict(pixels)
            seconds[letter].append(time.perf_counter() - start)
    return {letter: 1000 * float(np.median(times[1:])) for letter, times in seconds.items() if len(times) > 1}


def _model(source: _Source, measured: _Measured, errors: ErrorCounts | None, ms: float | None) -> ComparedModel:
    metrics = {
        PREFIXES[iou_type] + name: value
        for iou_type, result in measured.coco.items()
        for name, value in result.metrics.items()
    }
    if measured.panoptic is not None:
        metrics |= measured.panoptic.metrics
    kind: Literal["detector", "predictions"] = "predictions" if source.detector is None else "detector"
    return ComparedModel(
        letter=source.letter,
        source=source.name,
        kind=kind,
        metrics=metrics,
        per_class=class_values(measured.coco, measured.panoptic),
        ms_per_image=ms,
        threshold=None if errors is None else errors.confusion.threshold,
        errors={} if errors is None else errors.totals,
    )
