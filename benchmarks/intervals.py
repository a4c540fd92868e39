"""Bootstrap intervals of average precision: their time, and how often they hold the true value.

    python benchmarks/intervals.py time [--images 5000] [--detections 100]
    python benchmarks/intervals.py coverage [--datasets 200] [--resamples 500]
    python benchmarks/intervals.py differences [--datasets 200] [--resamples 500]

`time` measures the resampling of matches on data with the statistics of COCO val2017 (`evaluation.drawn`), on one core.

`coverage` simulates: a pool of images stands for all images there could be, and its AP is the true one. Data sets of
few images are drawn from it, and each gives an interval. The share of intervals that hold the true AP should be 95 %.
Images differ in difficulty, which objects of one image share; classes are frequent, rarer and rare.

`differences` does so with two detectors on the same images, equally good ones and others: how often the paired interval
of the difference holds the true one, how often a difference is shown, and how wide unpaired intervals are.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from detrkit.evaluation.arrays import DetectionArrays, Floats, GroundTruthArrays, Ints
from detrkit.evaluation.average_precision import match
from detrkit.evaluation.bootstrap import draw_images, percentile_interval, resample_ap

SHARES = (0.6, 0.3, 0.1)
"""Share of the objects that each class of the simulation has."""

SIDE, GRID = 40.0, 16
"""Side of the objects in pixels, and places per side of an image, so that objects do not touch."""


@dataclass(frozen=True)
class Pool:
    """Objects of all images there could be, and detections of two detectors."""

    gt: GroundTruthArrays
    detections: tuple[DetectionArrays, DetectionArrays]


def simulated(images: int, *, gain: float = 0.0, seed: int = 0) -> Pool:
    """Objects and detections of a pool of images.

    An image has 1 to 12 objects. A detection's box is shifted, and its score lowered, by the difficulty of the image;
    some objects are missed, and false alarms score low.

    Args:
        images: number of images.
        gain: how much smaller the shifts of the second detector are, 0..1; 0: both are equally good.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    where = np.repeat(np.arange(images), rng.integers(1, 13, images))
    favorite = rng.choice(len(SHARES), images, p=SHARES)  # objects of a class come together
    classes = np.where(rng.random(len(where)) < 0.5, favorite[where], rng.choice(len(SHARES), len(where), p=SHARES))
    gt = GroundTruthArrays(
        image_ids=np.arange(images),
        category_ids=np.arange(len(SHARES)),
        names=tuple(f"class {k}" for k in range(len(SHARES))),
        images=where,
        classes=classes,
        boxes=np.concatenate([_corners(where, rng), np.full((len(where), 2), SIDE)], axis=1),
        areas=np.full(len(where), SIDE**2),
        crowd=np.zeros(len(where), dtype=np.bool_),
    )
    hard = rng.beta(2, 3, images)[where]
    return Pool(gt, (_detections(gt, hard, 1.0, rng), _detections(gt, hard, 1.0 - gain, rng)))


def _detections(gt: GroundTruthArrays, hard: Floats, shift: float, rng: np.random.Generator) -> DetectionArrays:
    """Detections of objects in images of a difficulty [M], their boxes shifted in proportion to `shift`."""
    count = len(gt.classes)
    kept = rng.random(count) > 0.4 * hard
    boxes = gt.boxes.copy()
    boxes[:, :2] += rng.normal(0, 1, (count, 2)) * (0.02 + 0.25 * hard[:, None]) * SIDE * shift
    scores = np.clip(0.9 - 0.5 * hard + rng.normal(0, 0.15, count), 0.01, 0.999)
    false = np.repeat(gt.image_ids, rng.poisson(3, len(gt.image_ids)))
    alarms = np.concatenate([_corners(false, rng), np.full((len(false), 2), SIDE)], axis=1)
    return DetectionArrays(
        image_ids=np.concatenate([gt.images[kept], false]),
        category_ids=np.concatenate([gt.classes[kept], rng.choice(len(SHARES), len(false), p=SHARES)]),
        boxes=np.concatenate([boxes[kept], alarms]),
        scores=np.concatenate([scores[kept], rng.beta(2, 5, len(false))]),
    )


def _corners(where: Ints, rng: np.random.Generator) -> Floats:
    """Left and top [n, 2] of boxes, at random places of a grid."""
    places = rng.integers(0, GRID**2, len(where))
    return np.stack([places % GRID, places // GRID], axis=1) * (2 * SIDE)


def subset(
    gt: GroundTruthArrays, detections: DetectionArrays, chosen: Ints
) -> tuple[GroundTruthArrays, DetectionArrays]:
    """The objects and detections of some images, in rising order."""
    objects = np.isin(gt.images, chosen)
    part = GroundTruthArrays(
        image_ids=chosen,
        category_ids=gt.category_ids,
        names=gt.names,
        images=np.searchsorted(chosen, gt.images[objects]),
        classes=gt.classes[objects],
        boxes=gt.boxes[objects],
        areas=gt.areas[objects],
        crowd=gt.crowd[objects],
    )
    return part, detections.take(np.flatnonzero(np.isin(detections.image_ids, chosen)))


def true_ap(pool: Pool, detector: int = 0) -> list[float]:
    """AP over the whole pool, of all classes together and of each."""
    once = np.ones((1, len(pool.gt.image_ids)), dtype=np.int16)
    samples = resample_ap(match(pool.gt, pool.detections[detector], 100), once, 100)
    return [float(samples.metrics["AP"][0]), *samples.per_class["AP"][0].tolist()]


def coverage(images: int, datasets: int, resamples: int, pool: Pool, seed: int = 0) -> list[dict[str, float]]:
    """Simulate data sets of so many images.

    Returns:
        A row for all classes together and for each class: the share of intervals of AP that hold the AP of the pool
        (`share`), those below and above it, their mean width, and the mean number of images with an object.
    """
    rng = np.random.default_rng(seed)
    true_values = true_ap(pool)
    ends: list[list[tuple[float, float]]] = [[] for _ in true_values]
    present: list[list[int]] = [[] for _ in true_values]
    for number in range(datasets):
        chosen = np.sort(rng.choice(len(pool.gt.image_ids), images, replace=False))
        matches = match(*subset(pool.gt, pool.detections[0], chosen), 100)
        samples = resample_ap(matches, draw_images(images, resamples, number), 100)
        having = [images, *(matches.objects_of_images > 0).sum(axis=1).tolist()]
        for k, values in enumerate([samples.metrics["AP"], *samples.per_class["AP"].T]):
            interval = percentile_interval(values)
            if interval is not None and having[k] > 1:
                ends[k].append(interval)
                present[k].append(having[k])
    return [
        _shares(value, pairs) | {"images": float(np.mean(counts)), "AP": value}
        for value, pairs, counts in zip(true_values, ends, present, strict=True)
    ]


def differences(images: int, datasets: int, resamples: int, pool: Pool, seed: int = 0) -> dict[str, float]:
    """Simulate comparisons of both detectors on data sets of so many images.

    Returns:
        Of the difference of AP: the true one (`difference`), the share of paired intervals that hold it (`share`), the
        share that does not hold 0 (`shown`), the mean width (`width`), and that of intervals by unpaired resamples.
    """
    rng = np.random.default_rng(seed)
    value = true_ap(pool, 1)[0] - true_ap(pool, 0)[0]
    paired, widths = [], []
    for number in range(datasets):
        chosen = np.sort(rng.choice(len(pool.gt.image_ids), images, replace=False))
        first, second = (match(*subset(pool.gt, part, chosen), 100) for part in pool.detections)
        draws, others = (draw_images(images, resamples, seed) for seed in (number, datasets + number))
        ap = resample_ap(first, draws, 100).metrics["AP"]
        of_second, unpaired = (resample_ap(second, each, 100).metrics["AP"] for each in (draws, others))
        interval, wide = percentile_interval(of_second - ap), percentile_interval(unpaired - ap)
        if interval is not None and wide is not None:
            paired.append(interval)
            widths.append(wide[1] - wide[0])
    shown = float(np.mean([low > 0 or high < 0 for low, high in paired]))
    return _shares(value, paired) | {"difference": value, "shown": shown, "unpaired": float(np.mean(widths))}


def _shares(value: float, pairs: list[tuple[float, float]]) -> dict[str, float]:
    """The share of intervals that hold a value, that are below and above it, and their mean width."""
    low, high = np.array(pairs).T
    return {
        "share": float(np.mean((low <= value) & (value <= high))),
        "below": float(np.mean(high < value)),
        "above": float(np.mean(low > value)),
        "width": float(np.mean(high - low)),
    }


def print_coverage(sizes: list[int], datasets: int, resamples: int) -> None:
    """Print a table of the shares, by the number of images."""
    pool = simulated(20_000)
    print(f"{datasets} data sets per row, {resamples} resamples; pool of {len(pool.gt.image_ids)} images")
    print("| images | of | images with it | true AP | intervals that hold it | too low | too high | mean width |")
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    for images in sizes:
        rows = coverage(images, datasets, resamples, pool)
        for name, row in zip(("all classes", *pool.gt.names), rows, strict=True):
            shares = " | ".join(f"{row[key]:.1%}" for key in ("share", "below", "above"))
            print(
                f"| {images} | {name} | {row['images']:.0f} | {row['AP']:.3f} | {shares} | {row['width']:.3f} |",
                flush=True,
            )


def print_differences(sizes: list[int], datasets: int, resamples: int) -> None:
    """Print a table of the comparisons of two detectors, equal ones and others."""
    print(f"{datasets} data sets per row, {resamples} resamples; pool of 20000 images")
    print("| images | true difference of AP | intervals that hold it | difference shown | width | unpaired |")
    print("|--:|--:|--:|--:|--:|--:|")
    for gain in (0.0, 0.1, 0.2):
        pool = simulated(20_000, gain=gain)
        for images in sizes:
            row = differences(images, datasets, resamples, pool)
            shares, widths = f"{row['share']:.1%} | {row['shown']:.1%}", f"{row['width']:.3f} | {row['unpaired']:.3f}"
            print(f"| {images} | {row['difference']:.3f} | {shares} | {widths} |", flush=True)


def print_time(images: int, detections: int, resamples: int) -> None:
    """Print the seconds of matching and of resampling."""
    from evaluation import drawn

    gt, rows = drawn(images, detections)
    objects, arrays = GroundTruthArrays.from_coco(gt), DetectionArrays.from_rows(rows)
    start = time.process_time()
    matches = match(objects, arrays, 100)
    matched = time.process_time()
    samples = resample_ap(matches, draw_images(images, resamples), 100)
    done = time.process_time()
    interval = percentile_interval(samples.metrics["AP"])
    print(f"{images} images, {len(arrays)} detections, {len(objects.classes)} objects, {len(objects.names)} classes")
    print(f"matching {matched - start:.2f} s, {resamples} resamples {done - matched:.2f} s (time of the process)")
    print("AP:", "no interval" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}")


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["time", "coverage", "differences"])
    parser.add_argument("--images", type=int, nargs="+", default=[])
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=0)
    args = parser.parse_args()
    if args.part == "time":
        print_time(*(args.images or [5000])[:1], args.detections, args.resamples or 1000)
    elif args.part == "differences":
        print_differences(args.images or [20, 60, 200], args.datasets, args.resamples or 500)
    else:
        print_coverage(args.images or [20, 60, 200, 1000], args.datasets, args.resamples or 500)


if __name__ == "__main__":
    main()
