"""Time of the COCO metrics of boxes, beside pycocotools and faster-coco-eval; and of the boxes of a batch, beside a
loop over its images.

    pip install pycocotools
    python benchmarks/evaluation.py [--images 5000] [--detections 100] [--device cuda]

The data are drawn with the statistics of COCO val2017: 7 objects per image, 80 classes of very different frequency,
three an image, two objects of five below 32 x 32 pixels, one in a hundred a crowd. Detections lie near an object or
anywhere. All tools get the same lists of dicts, and must give the same twelve metrics; times are those of the process,
the best of some runs in turns. Masks and panoptic maps: `postprocessing.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detrkit import Output, postprocess
from detrkit.evaluation.accumulator import DetectionAccumulator
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import compute_coco_metrics, read_detection_arrays
from detrkit.results import Detections

Rows = list[dict[str, Any]]
WIDTH, HEIGHT = 640, 480


def drawn(images: int, detections: int, seed: int = 0) -> tuple[dict[str, Any], Rows]:
    """COCO instances and results; numbers of detections have the precision of float32, as a model's do."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(np.arange(1, 91), 80, replace=False))
    share = 1 / np.arange(1, 81)
    share /= share.sum()
    counts = np.minimum(rng.geometric(1 / 7.3, images), 60)
    where = np.repeat(np.arange(images), counts)
    classes = rng.choice(80, (images, 3), p=share)[where, rng.integers(0, 3, len(where))]
    side, shape = np.exp(rng.normal(3.8, 1.1, len(where))).clip(4, 450), np.exp(rng.normal(0, 0.4, len(where)))
    size = np.stack([side * shape, side / shape], axis=1).clip(2, [WIDTH, HEIGHT])
    boxes = np.concatenate([rng.random((len(where), 2)) * ([WIDTH, HEIGHT] - size), size], axis=1).round(2)
    areas = boxes[:, 2] * boxes[:, 3] * rng.uniform(0.4, 0.9, len(where))
    crowd = rng.random(len(where)) < 0.012
    columns = (where + 1, ids[classes], boxes, areas, crowd.astype(int))
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    gt = {
        "images": [{"id": k + 1, "height": HEIGHT, "width": WIDTH} for k in range(images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in ids.tolist()],
        "annotations": [
            {"id": k, **dict(zip(keys, row, strict=True))}
            for k, row in enumerate(zip(*(column.tolist() for column in columns), strict=True), 1)
        ],
    }
    where = np.repeat(np.arange(images), detections)
    near = (rng.random(len(where)) < 0.25)[:, None]
    aim = (np.cumsum(counts) - counts)[where] + (rng.random(len(where)) * counts[where]).astype(np.int64)
    beside = boxes[aim]
    beside[:, :2] += rng.normal(0, 0.06, (len(where), 2)) * beside[:, 2:]
    beside[:, 2:] *= np.exp(rng.normal(0, 0.1, (len(where), 2)))
    size = np.exp(rng.normal(3.8, 1.1, (len(where), 2))).clip(4, 300)
    anywhere = np.concatenate([rng.random((len(where), 2)) * ([WIDTH, HEIGHT] - size), size], axis=1)
    known = near[:, 0] & (rng.random(len(where)) < 0.85)
    columns = (
        where + 1,
        ids[np.where(known, classes[aim], rng.choice(80, len(where), p=share))],
        np.where(near, beside, anywhere).astype(np.float32),
        np.where(near[:, 0], rng.beta(2, 2, len(where)), rng.beta(1, 12, len(where))).astype(np.float32),
    )
    keys = ("image_id", "category_id", "bbox", "score")
    return gt, [dict(zip(keys, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]


def pycocotools(gt: dict[str, Any], rows: Rows) -> list[float]:
    """The twelve numbers as everyone computes them; the tool writes into what it is given."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = COCO()
    objects.dataset = gt
    objects.createIndex()
    judge = COCOeval(objects, objects.loadRes(rows), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(value) for value in judge.stats]


def faster_coco_eval(gt: dict[str, Any], rows: Rows) -> list[float]:
    """The same in C++."""
    from faster_coco_eval import COCO
    from faster_coco_eval.core import COCOeval_faster

    objects = COCO(gt)
    judge = COCOeval_faster(objects, objects.loadRes(rows), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(value) for value in judge.stats[:12]]


def plain_boxes(out: Output, sizes: torch.Tensor) -> list[Detections]:
    """An image at a time: its scores, its boxes, sorted, moved."""
    results = []
    for logits, boxes, size in zip(out.logits, out.boxes, sizes.to(out.boxes.device), strict=True):
        scores, labels = logits.float().softmax(-1)[:, :-1].max(-1)
        order = scores.argsort(descending=True, stable=True)
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        xyxy = torch.cat([center - half, center + half], dim=1) * size.flip(0).repeat(2)
        results.append(Detections(xyxy[order].cpu(), scores[order].cpu(), labels[order].cpu()))
    return results


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Of this process, and what came out; whatever the work prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        result = work()
        return time.process_time() - start, result


def numbers_beside_others(images: int, detections: int, repeats: int) -> None:
    """Print the time of each tool, and stop where they disagree."""
    gt, rows = drawn(images, detections)
    crowds = sum(row["iscrowd"] for row in gt["annotations"])
    print(f"{images} images, {len(gt['annotations'])} objects ({crowds} crowds), {len(rows)} detections")
    columns = DetectionArrays.from_rows(rows)
    tools: dict[str, Callable[[dict[str, Any], Rows], list[float]]] = {
        "detrkit, from columns": lambda t, _: list(compute_coco_metrics(t, columns).metrics.values()),
        "detrkit, from dicts": lambda t, r: list(compute_coco_metrics(t, r).metrics.values()),
        "faster-coco-eval": faster_coco_eval,
        "pycocotools": pycocotools,
    }
    best = dict.fromkeys(tools, float("inf"))
    values: dict[str, list[float]] = {}
    for k in range(repeats):
        for name, tool in tools.items():
            if k and name == "pycocotools" and best[name] > 20:
                continue  # once is enough of this
            given = (gt, rows) if name.startswith("detrkit") else copy.deepcopy((gt, rows))
            spent, values[name] = seconds(lambda tool=tool, given=given: tool(*given))
            best[name] = min(best[name], spent)
    for name, spent in best.items():
        assert np.allclose(values[name], values["pycocotools"], rtol=0, atol=1e-9), (name, values[name])
        print(f"{name:24} {spent:7.2f} s   {best['pycocotools'] / spent:6.1f} x pycocotools")
    print("AP {:.4f}, all twelve numbers equal".format(values["pycocotools"][0]))
    memory(rows)
    spent, _ = seconds(lambda: read_detection_arrays(gt, rows))
    print(f"of the time from dicts, {spent:.2f} s are checking and reading them")


def memory(rows: Rows) -> None:
    """Print what detections take as columns and as dicts."""
    tracemalloc.start()
    columns = DetectionArrays.from_rows(rows)
    before = tracemalloc.get_traced_memory()[0]
    kept = list(columns)
    dicts = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    arrays = (columns.image_ids, columns.category_ids, columns.boxes, columns.scores)
    print(f"{len(kept)} detections take {sum(a.nbytes for a in arrays) / 2**20:.0f} MiB, {dicts / 2**20:.0f} as dicts")


def collecting(images: int) -> None:
    """Print what it takes to keep the boxes of all images, in batches of 8 with 100 queries."""
    random = torch.Generator().manual_seed(0)
    out = Output(torch.randn(8, 100, 92, generator=random), torch.rand(8, 100, 4, generator=random))
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 8)
    collector = DetectionAccumulator({k: k for k in range(91)})

    def columns() -> int:
        for first in range(0, images, 8):
            targets: Any = [
                {"image_id": first + k, "original_size": (HEIGHT, WIDTH), "size": (HEIGHT, WIDTH)} for k in range(8)
            ]
            collector.add(out, targets)
        return len(collector.detections)

    def dicts() -> int:
        rows: Rows = []
        for first in range(0, images, 8):
            for k, detections in enumerate(plain_boxes(out, sizes)):
                rows += detections.to_coco(first + k)
        return len(rows)

    (ours, count), (plain, same) = seconds(columns), seconds(dicts)
    assert count == same
    print(f"{count} boxes are collected in {ours:.2f} s, {plain:.2f} s as dicts, an image at a time")


def boxes_of_batches(device: torch.device, repeats: int) -> None:
    """Print what the boxes of a batch take once the model has spoken, in turns with the loop."""
    for size, queries in ((1, 100), (8, 100), (32, 100), (32, 300)):
        random = torch.Generator().manual_seed(0)
        out = Output(
            torch.randn(size, queries, 92, generator=random).to(device),
            torch.rand(size, queries, 4, generator=random).to(device),
        )
        sizes = torch.tensor([[HEIGHT, WIDTH]] * size)
        variants = {
            "loop": lambda out=out, sizes=sizes: plain_boxes(out, sizes),
            "batch": lambda out=out, sizes=sizes: postprocess(out, sizes, best_first=True, device="cpu"),
        }
        best = dict.fromkeys(variants, float("inf"))
        for _ in range(repeats):
            for name, variant in variants.items():
                start = time.perf_counter()
                variant()  # ends in main memory, so nothing is left to wait for
                best[name] = min(best[name], time.perf_counter() - start)
        loop, batch = 1000 * best["loop"], 1000 * best["batch"]
        print(f"boxes of {size:2} x {queries}: loop {loop:6.2f} ms   batch {batch:6.2f} ms   {loop / batch:4.1f} x")


def main() -> None:
    """Print a line for each tool, for memory, and for each size of a batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the batch of boxes"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    numbers_beside_others(args.images, args.detections, args.repeats)
    collecting(args.images)
    boxes_of_batches(torch.device(args.device), 30 * args.repeats)


if __name__ == "__main__":
    main()
