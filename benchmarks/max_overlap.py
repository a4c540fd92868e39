"""The effect of leaving one detection per object (`--max_overlap`) on AP and on the number of detections.

    python benchmarks/max_overlap.py --weights runs/bccd --data data/bccd

Detects once on the validation images, then suppresses with each limit. Prints a table: AP, AP50 and AR100; for the
detections above each score, their number in all images, the true number, and the mean error of the count per image.
"""

from __future__ import annotations

import argparse

import numpy as np

from detrkit import Detector
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.held_out import read_split
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.arrays import DetectionArrays, Ints
from detrkit.evaluation.class_match import match_classes
from detrkit.evaluation.coco_metrics import compute_coco_metrics

LIMITS = (None, 0.9, 0.8, 0.7, 0.6, 0.5)


def main() -> None:
    """Measure one detector on one data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--weights", required=True, help="a run folder or checkpoint")
    parser.add_argument("--data", required=True, help="data set with a validation split, or held out as in the run")
    parser.add_argument("--scores", type=float, nargs="+", default=[0.3, 0.5], help="scores from which to count")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that load images")
    args = parser.parse_args()
    detector = Detector.load(args.weights, precision="plain")
    raw = open_dataset(args.data, **read_split(args.weights))
    split = check_dataset(raw, required_splits={"val"}, value_range=detector.value_range).splits["val"]
    collector = DetectionAccumulator(match_classes(detector.categories, split.categories).id_of)
    collect_split(
        detector.backend,
        split,
        detector.categories,
        collector,
        preprocessing=detector.preprocessing,
        device=detector.device,
        num_workers=args.num_workers,
    )
    gt = split.to_coco(masks=False)
    true = np.array([sum(not obj.crowd for obj in image.objects) for image in split.images])
    ids = np.array([image.id for image in split.images])
    counts = " | ".join(f"score {score:g}: detections ({true.sum()} objects), error per image" for score in args.scores)
    print(f"| `--max_overlap` | AP | AP50 | AR100 | {counts} |")
    print("|---|---|---|---|" + "---|" * len(args.scores))
    for limit in LIMITS:
        kept = collector.detections if limit is None else collector.detections.without_overlaps(limit)
        metrics = compute_coco_metrics(gt, kept).metrics
        cells = [f"{metrics[name]:.3f}" for name in ("AP", "AP50", "AR100")]
        for score in args.scores:
            found = count(kept, ids, score)
            cells.append(f"{found.sum()}, {np.abs(found - true).mean():.2f}")
        print(f"| {limit or 'off'} | {' | '.join(cells)} |", flush=True)


def count(detections: DetectionArrays, image_ids: Ints, score: float) -> Ints:
    """Number of detections of each image that reach a score."""
    chosen = detections.image_ids[detections.scores >= score]
    return np.array([(chosen == image_id).sum() for image_id in image_ids])


if __name__ == "__main__":
    main()
