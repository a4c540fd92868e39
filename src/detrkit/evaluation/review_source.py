"""The labels of a data set and what detectors see there: out-of-fold detections, or those of one detector."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.config.commands import EvalConfig
from detrkit.config.data import DatasetKwargs
from detrkit.config.reviewing import ReviewConfig
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.held_out import read_split
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.evaluation.arrays import Floats
from detrkit.evaluation.evaluate_detector import Note, predict_split
from detrkit.evaluation.matching import EvalArrays
from detrkit.evaluation.prediction_files import read_detections
from detrkit.files import BEST, DETECTIONS, FOLDS, GROUND_TRUTH, LAST, run_folder
from detrkit.inference.load_detector import load_detector
from detrkit.ops.text import first_names

if TYPE_CHECKING:
    from detrkit.data.formats.raw import RawDataset


@dataclass(frozen=True, eq=False)
class ReviewData:
    """Labels and detections of the images to review."""

    arrays: EvalArrays
    """Image k of `images` has the id k + 1; label k of `labels` is row k of the objects."""
    images: Sequence[ImageRecord]
    split_of: Sequence[str]
    """Split of each image, train or val."""
    labels: Sequence[ObjectRecord]
    source: str
    """The data set, for people."""
    check: CheckReport
    folds: int
    """Number of folds that the detections come from; 0: from one detector."""

    @property
    def sizes(self) -> Floats:
        """Width and height of each image in pixels, [I, 2]."""
        return np.array([(image.width, image.height) for image in self.images], dtype=np.float64)


def read_review_data(config: ReviewConfig, note: Note) -> ReviewData:
    """Read the data set and the out-of-fold detections, or detect on it.

    Raises:
        ConfigError: the folds are not finished, the data set is not known, or it has no such split.
        DataError: the data set or the detections cannot be read, or they do not belong together.
        WeightsError: the weights cannot be read.
    """
    folder = Path(config.source)
    if (folder / FOLDS).is_file():
        return _of_folds(folder, config, note)
    return _of_detector(config, note)


def _of_folds(folder: Path, config: ReviewConfig, note: Note) -> ReviewData:
    if not (folder / DETECTIONS).is_file():
        raise ConfigError(
            f"expected out-of-fold detections in {folder / DETECTIONS}, found none, since the folds are not finished; "
            "start the same `detrkit train ... --folds` command again, which continues them"
        )
    plain = ReviewConfig(source=config.source)
    for name in ("image_size", "tiles", "tile_overlap", "value_range"):
        if getattr(config, name) != getattr(plain, name):
            raise ConfigError(
                f"--{name} {getattr(config, name)} is for a detector, but {folder} holds folds, which have detected "
                f"already; leave --{name} out"
            )
    kwargs = _known_data(config, folder)
    raw = open_dataset(**kwargs, val_fraction=0)
    key_of = _pooled_names(raw)
    check = check_dataset(raw)
    rows = read_detections(folder / DETECTIONS)
    known = json.loads((folder / GROUND_TRUTH).read_text(encoding="utf-8"))
    names = {row["file_name"] for row in known["images"]}
    splits = _chosen(check.splits, config.split)
    listed = {key_of[split.name, image.file_name] for split in splits for image in split.images}
    if not listed & names:
        raise DataError(
            f"expected the images of the folds in {folder}, such as {min(names, default='none')}, in {check.source}, "
            "found none of them; name the data set of the folds with --data"
        )
    if listed - names:
        note(f"{len(listed - names)} images are not in the folds and are left out: {first_names(listed - names, 3)}")
        splits = [
            replace(split, images=[image for image in split.images if key_of[split.name, image.file_name] in names])
            for split in splits
        ]
    category_of = _categories(known["categories"], splits[0], note)
    numbers = _number_images(splits)
    number_of = {
        key_of[split.name, image.file_name]: number
        for split, own in zip(splits, numbers, strict=True)
        for image, number in zip(split.images, own.values(), strict=True)
    }
    kept = [
        {**row, "image_id": number_of[row["file_name"]], "category_id": category_of[row["category_id"]]}
        for row in rows
        if row.get("file_name") in number_of and row["category_id"] in category_of
    ]
    folds = json.loads((folder / FOLDS).read_text(encoding="utf-8"))["folds"]
    return _gather(check, splits, numbers, kept, folds, where=str(folder / DETECTIONS))


def _of_detector(config: ReviewConfig, note: Note) -> ReviewData:
    shared = {field.name for field in fields(EvalConfig)} & {field.name for field in fields(config)}
    settings = {name: getattr(config, name) for name in shared - {"split"}}
    single = EvalConfig(**settings, weights=config.source)
    detector = load_detector(single, precision=single.precision, compile=single.compile)
    folder = run_folder(config.source)
    kwargs = _known_data(config, folder)
    raw = open_dataset(**kwargs, **(read_split(config.source) or {"val_fraction": 0}))
    check = check_dataset(raw, num_queries=detector.backend.num_queries, value_range=detector.value_range)
    splits = _chosen(check.splits, config.split)
    seen = sum(len(split) for split in splits if split.name == "train") if _was_trained_on(kwargs, folder) else 0
    if seen:
        note(
            f"The model was trained on {seen} of these {sum(map(len, splits))} images, and repeats the wrong "
            "labels among them: few are found there. Folds (`detrkit train DATA --folds 5`) review every image "
            "by a model that has not seen it"
        )
    numbers = _number_images(splits)
    rows: list[Mapping[str, Any]] = []
    for split, own in zip(splits, numbers, strict=True):
        ranged = replace(split, value_range=detector.value_range or split.value_range)
        detections, _ = predict_split(single, detector, detector.categories, ranged, None, note)
        rows += [{**row, "image_id": own[row["image_id"]]} for row in detections]
    return _gather(check, splits, numbers, rows, 0, where=config.source)


def _known_data(config: ReviewConfig, folder: Path) -> DatasetKwargs:
    """The data set that is named, or that of the folds or run.

    Raises:
        ConfigError: no data set is named, and the folder does not state one.
        DataError: the data set that it states is not there.
    """
    if config.data or config.train_json or config.val_json:
        return config.dataset_kwargs()
    stored = folder / "config.yaml"
    if not stored.is_file() or not any((folder / name).is_file() for name in (FOLDS, BEST, LAST)):
        raise ConfigError(
            f"expected the data set whose labels to review, since {config.source} does not state one; name it with "
            "--data"
        )
    run = TrainConfig.from_yaml(stored)
    if run.data and not Path(run.data).exists():
        raise DataError(
            f"expected the data set of {config.source} in {run.data}, found nothing there; name its place with --data"
        )
    return run.dataset_kwargs()


def _was_trained_on(kwargs: DatasetKwargs, folder: Path) -> bool:
    """Whether the run in a folder was trained on this data set."""
    stored = folder / "config.yaml"
    if not stored.is_file():
        return False
    run = TrainConfig.from_yaml(stored)
    names = ("data", "train_json")
    return all(Path(str(kwargs.get(name))).resolve() == Path(getattr(run, name)).resolve() for name in names)


def _pooled_names(raw: RawDataset) -> dict[tuple[str, str], str]:
    """(split, file name) -> the name of the image where the splits are pooled, see `pool_splits`."""
    names = {name: [image.file_name for image in split.listed] for name, split in raw.splits.items()}
    counts = Counter(name for own in names.values() for name in own)
    return {
        (split, name): f"{split}/{name}" if counts[name] > 1 else name for split, own in names.items() for name in own
    }


def _chosen(splits: Mapping[str, Split], name: str) -> list[Split]:
    """The splits to review.

    Raises:
        ConfigError: there is no such split.
    """
    if name == "all":
        return list(splits.values())
    if name not in splits:
        raise ConfigError(f"expected a {name} split in the data set, found {' and '.join(splits)}; change --split")
    return [splits[name]]


def _categories(rows: Iterable[Mapping[str, Any]], split: Split, note: Note) -> dict[int, int]:
    """Category id of the folds -> that of the data set, by name."""
    id_of = dict(zip(split.categories.names, split.categories.ids, strict=True))
    unknown = [row["name"] for row in rows if row["name"] not in id_of]
    if unknown:
        note(
            f"{len(unknown)} classes of the folds are not in the data set, and are left out: {first_names(unknown, 5)}"
        )
    return {row["id"]: id_of[row["name"]] for row in rows if row["name"] in id_of}


def _number_images(splits: Sequence[Split]) -> list[dict[int, int]]:
    """Image id -> number from 1 over all splits, for each split."""
    first, numbers = 1, []
    for split in splits:
        numbers.append({image.id: first + k for k, image in enumerate(split.images)})
        first += len(split)
    return numbers


def _gather(
    check: CheckReport,
    splits: Sequence[Split],
    numbers: Sequence[Mapping[int, int]],
    rows: Sequence[Mapping[str, Any]],
    folds: int,
    *,
    where: str,
) -> ReviewData:
    """Make arrays of the labels of all splits and the detections, whose image ids are numbers.

    Raises:
        DataError: there are no labels or no detections.
    """
    labels: list[ObjectRecord] = []
    annotations: list[dict[str, Any]] = []
    for split, own in zip(splits, numbers, strict=True):
        gt = split.to_coco(masks=False)
        annotations += [{**row, "image_id": own[row["image_id"]]} for row in gt["annotations"]]
        counted = {row["id"] for row in gt["categories"]}
        labels += [obj for image in split.images for obj in image.objects if obj.category_id in counted]
    if not annotations:
        raise DataError(f"expected labels to review in {check.source}, found none; see `detrkit check`")
    if not rows:
        raise DataError(f"expected detections on the images of {check.source} in {where}, found none; train longer")
    images = [{"id": number} for own in numbers for number in own.values()]
    categories = splits[0].to_coco(masks=False)["categories"]
    arrays = EvalArrays.from_coco({"images": images, "annotations": annotations, "categories": categories}, rows)
    return ReviewData(
        arrays,
        [image for split in splits for image in split.images],
        [split.name for split in splits for _ in split.images],
        labels,
        check.source,
        check,
        folds,
    )
