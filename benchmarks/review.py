"""Measure how `detrkit review` finds wrong labels: recall among the first suspects, and the AP after correction.

    python benchmarks/review.py spoil --data path/to/chess --output_dir runs/review-chess
    detrkit train runs/review-chess/spoiled --folds 3 --image_size 224 --epochs 12 --output_dir runs/review-chess/folds
    python benchmarks/review.py folds --output_dir runs/review-chess
    detrkit train runs/review-chess/corrected --folds 3 --image_size 224 --epochs 12 --output_dir runs/review-chess/new
    detrkit compare runs/review-chess/folds/detections.json runs/review-chess/new/detections.json \\
        --data runs/review-chess/clean
    python benchmarks/review.py unseen --weights runs/chess --data path/to/chess

`spoil` makes two COCO data sets of all images, or of some that are evenly spaced: clean/ (a validation split) with the
labels as they are, and spoiled/ (a training split) with 5 % of them changed, a quarter each: removed, added at a place
without an object, moved to another class, or shifted (IoU 0.3 to 0.6 with the true box). errors.json lists the changes.

`folds` reviews spoiled/ by the detections of folds/, counts the errors among the first suspects, as many as a tenth of
the labels (`--reviewed`), and writes corrected/, in which these errors are undone. `unseen` spoils the labels of the
validation images of a detector in memory, with several seeds. It also ranks the same suspects by plain scores, for
comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.config.reviewing import ReviewConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.label_errors import SuspectRow, find_suspects
from detrkit.evaluation.matching import EvalArrays, box_iou
from detrkit.evaluation.review_source import ReviewData, read_review_data
from detrkit.files import write_atomic

KINDS = ("removed", "added", "class", "box")
"""Ways to spoil a label, in the order of errors.json."""

Row = dict[str, Any]


def main() -> None:
    """Run the chosen step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    steps = parser.add_subparsers(dest="step", required=True)
    spoil = steps.add_parser("spoil", help="make a clean and a spoiled copy of a data set")
    spoil.add_argument("--data", required=True, help="data set with boxes; all splits are used")
    spoil.add_argument("--images", type=int, default=0, help="most images, evenly spaced; 0: all")
    spoil.add_argument("--share", type=float, default=0.05, help="share of the labels to spoil")
    spoil.add_argument("--seed", type=int, default=0)
    spoil.add_argument("--output_dir", required=True)
    folds = steps.add_parser("folds", help="review the spoiled copy by folds")
    folds.add_argument("--folds", default="folds", help="name of the folder of folds in --output_dir")
    folds.add_argument(
        "--reviewed",
        type=float,
        default=0.1,
        help="suspects that are corrected, as a share of the labels",
    )
    folds.add_argument("--output_dir", required=True)
    unseen = steps.add_parser("unseen", help="spoil and review the validation images of a detector")
    unseen.add_argument("--weights", required=True, help="a detector that has not seen the validation images")
    unseen.add_argument("--data", required=True, help="data set with a validation split")
    unseen.add_argument("--share", type=float, default=0.05, help="share of the labels to spoil")
    unseen.add_argument("--seeds", type=int, default=5, help="number of times that labels are spoiled")
    args = parser.parse_args()
    if args.step == "spoil":
        make_copies(args.data, args.images, args.share, args.seed, Path(args.output_dir))
    elif args.step == "folds":
        measure_folds(Path(args.output_dir), args.folds, args.reviewed)
    else:
        measure_unseen(args.weights, args.data, args.share, args.seeds)


def measure_folds(folder: Path, folds: str, reviewed: float) -> None:
    """Print the recall of a review by folds, and write corrected/, in which the errors found are undone."""
    config = ReviewConfig(source=str(folder / folds), data=str(folder / "spoiled"), num_workers=0)
    data = read_review_data(config, print)
    errors = json.loads((folder / "errors.json").read_text())
    ranked = find_suspects(data.arrays, data.sizes)
    suspects = ranked.rows
    shares = sorted({0.05, 0.1, 0.2, reviewed})
    hits = {share: found(errors, suspects[: round(share * len(data.labels))], data) for share in shares}
    print(f"{folder.name}: {len(data.images)} images, {len(data.labels)} labels, {len(errors)} of them spoiled")
    for share, each in hits.items():
        print(f"  first {share:.0%} of the labels: {describe(errors, each)}")
    budget = round(reviewed * len(data.labels))
    reasons = Counter(suspect.reason for suspect in suspects[:budget])
    print(f"  reasons of the first {budget}: {dict(reasons)}")
    print(f"  expected recall: { {kind: round(value, 2) for kind, value in ranked.expected_recall.items()} }")
    _write_corrected(folder, errors, hits[reviewed])
    clean = read_review_data(ReviewConfig(source=str(folder / folds), data=str(folder / "clean"), num_workers=0), print)
    for name, each in (("spoiled", suspects), ("clean", find_suspects(clean.arrays, clean.sizes).rows)):
        print(f"  {name}: {sum(suspect.score > 0.5 for suspect in each)} suspects above 0.5")


def measure_unseen(weights: str, data: str, share: float, seeds: int) -> None:
    """Print the recall of a review of the validation images, by calibrated and by plain scores."""
    config = ReviewConfig(source=weights, data=data, split="val", num_workers=0, quiet=True)
    original = read_review_data(config, print)
    images = [{"id": k, "width": i.width, "height": i.height} for k, i in enumerate(original.images, 1)]
    arrays = original.arrays
    categories = [{"id": int(i), "name": name} for i, name in zip(arrays.category_ids, arrays.names, strict=True)]
    labels = _rows(arrays.object_boxes, arrays.object_classes, arrays.object_images, arrays)
    detections = _rows(arrays.boxes, arrays.classes, arrays.images, arrays, arrays.scores)
    results: dict[str, list[Row]] = {"calibrated": [], "plain scores": []}
    for seed in range(seeds):
        spoiled, errors = spoil_labels(images, labels, categories, share, np.random.default_rng(seed))
        gt = {"images": images, "annotations": spoiled, "categories": categories}
        changed = EvalArrays.from_coco(gt, detections)
        sizes = original.sizes
        suspects = find_suspects(changed, sizes).rows
        for name, ranked in (("calibrated", suspects), ("plain scores", plain_order(changed, suspects))):
            ids = [row["id"] for row in spoiled]
            hits = _hits(errors, ranked[: len(spoiled) // 10], changed, ids)
            kinds = {kind: [hit for hit, e in zip(hits, errors, strict=True) if e["kind"] == kind] for kind in KINDS}
            results[name].append(
                {"all": np.mean(hits), **{kind: np.mean(some) for kind, some in kinds.items() if some}}
            )
    print(f"{data}: {len(images)} images, {len(labels)} labels, {seeds} seeds")
    for name, rows in results.items():
        means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        print(f"  {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in means.items()))


def plain_order(arrays: EvalArrays, suspects: Sequence[SuspectRow]) -> list[SuspectRow]:
    """Rank by scores of detections as they are.

    A missing label by the score of its detection; a label by the largest of one minus the best score of any class at
    its place, the score of another class times one minus that of its own, and the score of a detection of its class
    times how far its IoU is below 0.75.
    """
    ends = np.searchsorted(arrays.images, np.arange(len(arrays.image_ids) + 1))

    def score(suspect: SuspectRow) -> float:
        if suspect.object < 0:
            return float(arrays.scores[suspect.detection])
        image, box = arrays.object_images[suspect.object], arrays.object_boxes[suspect.object]
        rows = slice(ends[image], ends[image + 1])
        iou = box_iou(arrays.boxes[rows], box[None], np.zeros(1, dtype=np.bool_))[:, 0]
        own, scores = arrays.classes[rows] == arrays.object_classes[suspect.object], arrays.scores[rows]
        same, other = (np.where((iou >= 0.5) & mine, scores, 0).max(initial=0) for mine in (own, ~own))
        near = np.where((iou >= 0.2) & own, scores, 0)
        fit = near.max(initial=0) * np.clip((0.75 - iou[near.argmax()]) / 0.35, 0, 1) if len(near) else 0
        return float(max(1 - max(same, other), other * (1 - same), fit))

    return sorted(suspects, key=lambda suspect: -score(suspect))


def found(errors: Sequence[Row], suspects: Sequence[SuspectRow], data: ReviewData) -> list[bool]:
    """Whether each error is among the suspects, see `_hits`."""
    number_of = {image.id: number for number, image in enumerate(data.images, 1)}
    numbered = [
        error | {"before": error["before"] | {"image_id": number_of[error["before"]["image_id"]]}}
        if error["before"]
        else error
        for error in errors
    ]
    return _hits(numbered, suspects, data.arrays, [label.id for label in data.labels])


def _hits(errors: Sequence[Row], suspects: Sequence[SuspectRow], arrays: EvalArrays, ids: Sequence[int]) -> list[bool]:
    """Whether each error is among the suspects: by the id of its label, or by a detection with IoU 0.5 if it has none.

    Image ids of `errors` must be those of `arrays`.
    """
    listed = {ids[suspect.object] for suspect in suspects if suspect.object >= 0}
    shown = [suspect.detection for suspect in suspects if suspect.object < 0]
    hits = []
    for error in errors:
        if error["kind"] != "removed":
            hits.append(error["id"] in listed)
            continue
        x, y, width, height = error["before"]["bbox"]
        rows = [row for row in shown if arrays.image_ids[arrays.images[row]] == error["before"]["image_id"]]
        box = np.array([[x, y, x + width, y + height]])
        overlap = box_iou(arrays.boxes[rows], box, np.zeros(1, dtype=np.bool_))
        hits.append(bool((overlap >= 0.5).any()))
    return hits


def describe(errors: Sequence[Row], hits: Sequence[bool]) -> str:
    """The number of errors found, of all and of each kind."""
    parts = [f"{sum(hits)} of {len(errors)} ({sum(hits) / len(errors):.2f})"]
    for kind in KINDS:
        some = [hit for hit, error in zip(hits, errors, strict=True) if error["kind"] == kind]
        parts.append(f"{kind} {sum(some)} of {len(some)}")
    return ", ".join(parts)


def _write_corrected(folder: Path, errors: Sequence[Row], hits: Sequence[bool]) -> None:
    """Write the spoiled data set with the errors undone that were found."""
    content = json.loads((folder / "spoiled/train.json").read_text())
    by_id = {row["id"]: row for row in content["annotations"]}
    for error, hit in zip(errors, hits, strict=True):
        if hit:
            by_id.pop(error["id"], None)
            if error["before"]:
                by_id[error["id"]] = error["before"]
    content["annotations"] = sorted(by_id.values(), key=lambda row: (row["image_id"], row["id"]))
    shutil.copytree(folder / "spoiled/images", folder / "corrected/images", dirs_exist_ok=True)
    write_atomic(folder / "corrected/train.json", json.dumps(content))


def _rows(boxes: Any, classes: Any, images: Any, arrays: EvalArrays, scores: Any = None) -> list[Row]:
    """COCO rows of arrays."""
    rows: list[Row] = []
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        row: Row = {"id": k + 1, "image_id": int(arrays.image_ids[images[k]]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        row |= {"category_id": int(arrays.category_ids[classes[k]]), "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        rows.append(row if scores is None else row | {"score": float(scores[k])})
    return rows


def make_copies(data: str, images: int, share: float, seed: int, folder: Path) -> None:
    """Write clean/, spoiled/ and errors.json."""
    splits = check_dataset(open_dataset(data)).splits
    rows: list[Row] = []
    annotations: list[Row] = []
    categories: list[Row] = []
    paths: list[Path] = []
    for name, split in splits.items():
        gt, first = split.to_coco(masks=False), len(rows) + 1
        ids = {row["id"]: first + k for k, row in enumerate(gt["images"])}
        categories = gt["categories"]
        for row, image in zip(gt["images"], split.images, strict=True):
            rows.append({**row, "id": ids[row["id"]], "file_name": f"{name}-{image.path.name}"})
            paths.append(image.path)
        annotations += [{**row, "image_id": ids[row["image_id"]]} for row in gt["annotations"]]
    if images and images < len(rows):
        chosen = [k * len(rows) // images for k in range(images)]
        rows, paths = [rows[k] for k in chosen], [paths[k] for k in chosen]
    kept = {row["id"] for row in rows}
    annotations = [row for row in annotations if row["image_id"] in kept]
    for number, row in enumerate(annotations, 1):
        row["id"] = number
    spoiled, errors = spoil_labels(rows, annotations, categories, share, np.random.default_rng(seed))
    for name, split, labels in (("clean", "val", annotations), ("spoiled", "train", spoiled)):
        (folder / name / "images").mkdir(parents=True, exist_ok=True)
        for row, path in zip(rows, paths, strict=True):
            shutil.copyfile(path, folder / name / "images" / row["file_name"])
        write_atomic(
            folder / name / f"{split}.json",
            json.dumps({"images": rows, "annotations": labels, "categories": categories}),
        )
    write_atomic(folder / "errors.json", json.dumps(errors, indent=1))
    print(f"{len(rows)} images, {len(annotations)} labels, {len(errors)} spoiled: {folder}")


def spoil_labels(
    images: list[Row], labels: list[Row], categories: list[Row], share: float, rng: np.random.Generator
) -> tuple[list[Row], list[Row]]:
    """Spoil a share of the labels.

    Returns:
        The spoiled labels, and the changes: `kind`, `id` of the annotation, `before` and `after` (None: no label).
    """
    count = round(share * len(labels))
    order = rng.permutation(len(labels))[:count].tolist()
    sizes = {row["id"]: (row["width"], row["height"]) for row in images}
    class_ids = [row["id"] for row in categories]
    by_id = {row["id"]: row for row in labels}
    errors: list[Row] = []
    for k, index in enumerate(order):
        kind, label = KINDS[k % len(KINDS)], labels[index]
        new: Row | None = dict(label)
        if kind == "removed":
            new = None
        elif kind == "class":
            new = {**label, "category_id": int(rng.choice([i for i in class_ids if i != label["category_id"]]))}
        elif kind == "box":
            new = {**label, "bbox": _shifted(label["bbox"], *sizes[label["image_id"]], rng)}
        else:
            image = images[int(rng.integers(len(images)))]
            others = [row["bbox"] for row in labels if row["image_id"] == image["id"]]
            box = _free_place(label["bbox"], others, image["width"], image["height"], rng)
            new = {**label, "id": len(labels) + 1 + k, "image_id": image["id"], "bbox": box}
        if new is not None:
            new["area"] = new["bbox"][2] * new["bbox"][3]
        before = None if kind == "added" else label
        key = label["id"] if new is None else new["id"]
        by_id.pop(key, None)
        if new is not None:
            by_id[key] = new
        errors.append({"kind": kind, "id": key, "before": before, "after": new})
    return sorted(by_id.values(), key=lambda row: (row["image_id"], row["id"])), errors


def _shifted(box: list[float], width: int, height: int, rng: np.random.Generator) -> list[float]:
    """Move and stretch a box x, y, w, h inside the image until its IoU with itself is 0.3 to 0.6."""
    x, y, w, h = box
    while True:
        dx, dy = rng.uniform(-0.6, 0.6, 2)
        sx, sy = rng.uniform(0.7, 1.4, 2)
        left, top = max(0.0, x + dx * w), max(0.0, y + dy * h)
        new = [left, top, min(w * sx, width - left), min(h * sy, height - top)]
        if min(new[2:]) >= 2 and 0.3 <= _iou(box, new) <= 0.6:
            return new


def _free_place(
    box: list[float], others: list[list[float]], width: int, height: int, rng: np.random.Generator
) -> list[float]:
    """Move a box to a place of an image where it overlaps the others least: IoU below 0.1 if there is such a place."""
    w, h = min(box[2], width / 2), min(box[3], height / 2)
    places = [[rng.uniform(0, width - w), rng.uniform(0, height - h), w, h] for _ in range(200)]
    overlaps = [max((_iou(place, other) for other in others), default=0.0) for place in places]
    first = next((k for k, value in enumerate(overlaps) if value < 0.1), int(np.argmin(overlaps)))
    return [float(v) for v in places[first]]


def _iou(a: list[float], b: list[float]) -> float:
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (a, b)])
    return float(box_iou(corners[:1], corners[1:], np.zeros(1, dtype=np.bool_))[0, 0])


if __name__ == "__main__":
    main()
