"""`detrkit eval`: a detector, or a file of detections, measured on a data set."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.config import TrainConfig
from detrkit.data.coco import as_id
from detrkit.errors import ConfigError, DataError
from detrkit.evaluation.coco import check_detections, summary
from detrkit.verbs import EvalConfig

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from detrkit.data.raw import RawImage
    from detrkit.data.records import Split
    from detrkit.models import DETR
    from detrkit.structures import Batch, Categories


@dataclass(frozen=True)
class ClassMatch:
    """How the classes of a model meet those of a data set."""

    id_of: dict[int, int]
    """Class index of the model -> category id of the data set."""
    unknown_to_data: tuple[str, ...]
    """Names of the model's classes that the data set does not have; their detections are dropped."""
    unknown_to_model: tuple[str, ...]
    """Names of the data set's classes that the model does not have; their objects count as missed."""
    by_id: str = ""
    """Where no name is shared and ids had to do: one pair as an example, "1 cell = scratch"."""


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
    from rich.console import Console

    from detrkit.data.check import check_dataset
    from detrkit.data.find import open_dataset
    from detrkit.evaluation.report import class_table, write_report

    if bool(config.weights) == bool(config.detections):
        found = "both" if config.weights else "neither"
        raise ConfigError(f"expected either --weights or --detections, found {found}; name the one to be measured")
    console = Console()
    detector = None
    if config.weights:
        from detrkit.inference import Detector

        detector = Detector.load(
            config.weights,
            device=config.device,
            image_size=config.image_size,
            dilation=config.dilation,
            nheads=config.nheads,
        )
    raw = open_dataset(
        config.data,
        data_format=config.data_format,
        train_json=config.train_json,
        val_json=config.val_json,
        train_images=config.train_images,
        val_images=config.val_images,
        **made_split(config.weights),
    )
    if config.split not in raw.splits:
        raise ConfigError(
            f"expected a {config.split} split in {raw.source}, found {' and '.join(raw.splits) or 'none'}; "
            "choose another with --split"
        )
    raw.splits = {config.split: raw.splits[config.split]}  # the other side need not be in order
    listed = raw.splits[config.split].images
    report = check_dataset(raw, num_queries=100 if detector is None else detector.model.num_queries)
    split = report.splits[config.split]
    for line in report.summary():
        console.print(line, highlight=False, markup=False)

    truth = split.to_coco()
    if detector is not None:
        known = classes(detector.categories, split.categories) if classes else detector.categories
        match = match_classes(known, split.categories)
        _say_match(console, match)
        detections = detect_split(
            detector.model,
            split,
            known,
            match,
            image_size=detector.image_size,
            device=detector.device,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
        )
    else:
        detections = find_pictures(read_detections(config.detections), listed, where=config.detections)
        left_out = {as_id(image.id) for image in listed} - {image.id for image in split.images}
        kept = [row for row in detections if as_id(row.get("image_id")) not in left_out]
        if len(kept) < len(detections):
            console.print(
                f"{len(detections) - len(kept)} detections are left out: they are for images that the check dropped "
                "(see detrkit check)"
            )
        detections = kept
        check_detections(truth, detections, where=config.detections)

    output_dir = Path(config.output_dir) if config.output_dir else default_folder(config)
    content = write_report(
        truth,
        detections,
        output_dir,
        image_paths={image.id: image.path for image in split.images},
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
    for iou_type, numbers in content["coco"].items():
        console.print(summary(numbers, iou_type), highlight=False, markup=False, soft_wrap=True)
    console.print(class_table(content))
    best = content["best_threshold"]
    if best["score"] is not None:
        console.print(
            f"Best threshold: {best['score']:.3f} (F1 {best['f1']:.3f}, precision {best['precision']:.3f}, "
            f"recall {best['recall']:.3f} at IoU 0.5)"
        )
    console.print(f"Report: {output_dir}", highlight=False)
    return content


def detect_split(
    model: DETR,
    split: Split,
    categories: Categories,
    match: ClassMatch,
    *,
    image_size: int,
    device: torch.device | str,
    batch_size: int = 1,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Run a model over a split, one class a query as the original evaluates.

    Pictures stream through: at no time are more of them held than the loader prepares ahead.

    Args:
        model: on `device`.
        split: checked records.
        categories: the model's classes.
        match: see `match_classes`.
        image_size: shorter side of the pictures in pixels.
        device: where the model is.
        batch_size: most pictures a forward pass; only pictures of one shape share one.
        num_workers: processes that load pictures; 0: this one.

    Returns:
        COCO results with the data set's own category ids, in order of image id.
    """
    from rich.progress import track

    from detrkit.data.dataset import DetectionDataset
    from detrkit.data.loader import eval_loader
    from detrkit.data.transforms import eval_transform

    transform = eval_transform(image_size, model.input_mean, model.input_std)
    loader = eval_loader(DetectionDataset(split, categories, transform), batch_size=batch_size, num_workers=num_workers)
    model.eval()
    return detect_batches(model, track(loader, "Detecting", transient=True), match.id_of, device=device)


def detect_batches(
    model: DETR, batches: Iterable[Batch], id_of: dict[int, int], *, device: torch.device | str
) -> list[dict[str, Any]]:
    """The detections of a stream of batches as COCO results, in order of image id.

    Args:
        model: in evaluation mode, on `device`.
        batches: of an `eval_loader`.
        id_of: class index of the model -> category id of the data set; other classes are dropped.
        device: where the model is.
    """
    import torch

    from detrkit.evaluation.coco import merge_ranks
    from detrkit.postprocessing import postprocess

    found: dict[int, list[dict[str, Any]]] = {}
    with torch.inference_mode():
        for batch in batches:
            out = model(batch.images.to(device), batch.padding_mask.to(device))
            sizes = torch.tensor([target["original_size"] for target in batch.targets])
            for target, detections in zip(batch.targets, postprocess(out, sizes), strict=True):
                rows = detections.cpu().to_coco(target["image_id"])
                found[target["image_id"]] = [
                    row | {"category_id": id_of[row["category_id"]]} for row in rows if row["category_id"] in id_of
                ]
    return merge_ranks([found])


def match_classes(model: Categories, data: Categories) -> ClassMatch:
    """Match a model's classes to a data set's, by name where they share names, else by id."""
    index_of = model.index_map_from(data)
    id_of = {index: category_id for category_id, index in index_of.items()}
    name_of = dict(zip(data.ids, data.names, strict=True))
    pairs = [(i, model.names[index], name_of[i]) for i, index in index_of.items()]
    agree = any(ours == theirs for _, ours, theirs in pairs)
    return ClassMatch(
        by_id="" if agree or not pairs else f"{pairs[0][0]} {pairs[0][1]} = {pairs[0][2]}",
        id_of=id_of,
        unknown_to_data=tuple(name for index, name in enumerate(model.names) if index not in id_of),
        unknown_to_model=tuple(n for i, n in zip(data.ids, data.names, strict=True) if i not in index_of),
    )


def read_detections(path: str | Path) -> list[dict[str, Any]]:
    """Read a COCO results file; `coco.check_detections` looks at what is in it.

    Ids written as 7.0 or "7" are read as 7, as in a data set.

    Raises:
        DataError: there is no such file, or it is not a JSON list of objects.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"expected COCO results in {path}, found no such file; look at the path")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"expected COCO results in {path}, but it is not JSON ({error}); write it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"expected a JSON list of detections in {path}, found {_kind(rows)}; COCO results look like "
            '[{"image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, ...]'
        )
    for row in rows:
        row |= {key: number for key in ("image_id", "category_id") if (number := as_id(row.get(key))) is not None}
    return rows


def find_pictures(rows: list[dict[str, Any]], images: Sequence[RawImage], *, where: str) -> list[dict[str, Any]]:
    """The detections with the data set's own image ids, found by `file_name` where they have one.

    What `detrkit predict` writes has file names; its ids are those of the data set only by chance.

    Raises:
        DataError: a file is not among the pictures, or several of them are called so.
    """
    by_path = {image.path.resolve(): as_id(image.id) for image in images}
    by_name: dict[str, set[int | None]] = {}
    for image in images:
        by_name.setdefault(Path(image.file_name).name, set()).add(as_id(image.id))
    found = []
    for row in rows:
        name = row.get("file_name")
        if isinstance(name, str):
            path = Path(name)
            same = {by_path[path.resolve()]} if path.resolve() in by_path else by_name.get(path.name, set())
            if len(same) != 1:
                raise DataError(
                    f"expected in {where} only detections of pictures of the data set, found file_name {name!r}, "
                    f"{'which several of them are called' if same else 'which is none of them'}; "
                    "leave out what does not belong to it"
                )
            row = row | {"image_id": next(iter(same))}
        found.append(row)
    return found


def made_split(weights: str) -> dict[str, Any]:
    """How the run behind some weights held out its validation pictures, where its data set had no such split.

    So that a detector is never measured on pictures it was trained on. Empty where nothing was made.
    """
    path = Path(weights)
    written = (path if path.is_dir() else path.parent) / "split.json"
    if not weights or not written.is_file():
        return {}
    made = json.loads(written.read_text(encoding="utf-8"))
    return {"seed": made["seed"], "val_fraction": made["val_fraction"]}


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


def _say_match(console: Console, match: ClassMatch) -> None:
    if match.by_id:
        console.print(
            "No class has the same name in the model and in the data set, so classes with the same id are taken to be "
            f"the same ({match.by_id}, ...); if they are not, these numbers mean nothing",
            highlight=False,
        )
    if match.unknown_to_data:
        console.print(
            f"{len(match.unknown_to_data)} of the model's classes are not in the data set, their detections are "
            f"dropped: {_some(match.unknown_to_data)}",
            highlight=False,
        )
    if match.unknown_to_model:
        console.print(
            f"The model does not know {len(match.unknown_to_model)} classes of the data set, their objects count as "
            f"missed: {_some(match.unknown_to_model)}",
            highlight=False,
        )


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list with something else in it"
    return f"an object with the keys {_some(tuple(value))}" if isinstance(value, dict) else type(value).__name__


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
