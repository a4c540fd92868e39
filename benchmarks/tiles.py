"""AP with and without tiles on large images with small objects, and the time per image.

    python benchmarks/tiles.py --weights WEIGHTS --minutes 0 --tiles 224 --tile_size 224
    python benchmarks/tiles.py --weights WEIGHTS --minutes 3 --stitch DEEPPCB --per_side 6

The first line draws images of 4,000 pixels with 250 shapes of 10 to 40 pixels, of three families, and detects them with
weights of `benchmarks/pretrain.py`, which know these families, as they are. The second makes large images of a data set
by setting its images side by side. One model is trained on whole images and one on tiles, each for the same CPU time of
one thread, whatever else the machine does; each is then evaluated in both ways.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from detrkit import Detector
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.synthetic.coco_folder import complete_folder, write_coco, write_image
from detrkit.data.synthetic.contours import FAMILIES
from detrkit.data.synthetic.scenes import draw_scene, plan_scene
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation import accumulator
from detrkit.evaluation.class_match import match_classes
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.inference.tile_merging import TileDetections, merge_tiles
from detrkit.ops.tiles import Tile
from detrkit.training import run_training, state

FAMILIES_SHOWN = tuple(list(FAMILIES).index(name) for name in ("gear", "ring", "spiral"))
"""Classes of the drawn images, as indices into `FAMILIES`."""


def draw_large_images(folder: Path, *, train: int, val: int, size: int = 4000, objects: int = 250) -> Path:
    """Write a COCO folder of large drawn images, unless it is there."""
    info = {"description": "detrkit: large scenes", "train": train, "val": val, "size": size, "objects": objects}
    with complete_folder(folder, info) as new:
        for name, ids in (("train", range(1, train + 1)), ("val", range(train + 1, train + val + 1))) if new else ():
            (new / "images" / name).mkdir(parents=True)
            images: list[dict[str, Any]] = []
            rows: list[dict[str, Any]] = []
            for image_id in ids:
                rng = np.random.default_rng((7, image_id))
                sizes = np.exp(rng.uniform(np.log(10), np.log(40), objects)).tolist()
                looks = {"overlap": False, "colors": None, "contour": 0.3, "shadow": False}
                plan = replace(plan_scene(size, rng), sizes=sizes, families=list(FAMILIES_SHOWN), **looks)
                scene = draw_scene(size, rng, plan)
                file_name = f"{name}/{image_id:03d}.jpg"
                write_image(new / "images" / file_name, scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
                images.append({"id": image_id, "file_name": file_name, "height": size, "width": size})
                for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes.tolist(), strict=True):
                    rows.append(_row(len(rows) + 1, image_id, label + 1, (x1, y1, x2 - x1, y2 - y1)))
            names = list(FAMILIES)
            write_coco(
                new / f"{name}.json", info, images, rows, [{"id": k + 1, "name": names[k]} for k in FAMILIES_SHOWN]
            )
    return folder


def stitch_images(data: str, folder: Path, per_side: int) -> Path:
    """Write a COCO folder whose images are `per_side` x `per_side` images of a data set of one size."""
    info = {"description": "detrkit: stitched images", "source": str(Path(data).resolve()), "per_side": per_side}
    with complete_folder(folder, info) as new:
        for name, split in check_dataset(open_dataset(data)).splits.items() if new else ():
            (new / "images" / name).mkdir(parents=True)
            each, count = split.images[0], per_side**2
            images: list[dict[str, Any]] = []
            rows: list[dict[str, Any]] = []
            for start in range(0, len(split.images) // count * count, count):
                canvas = np.zeros((each.height * per_side, each.width * per_side, 3), np.uint8)
                image_id, file_name = len(images) + 1, f"{name}/{len(images) + 1:03d}.png"
                for k, image in enumerate(split.images[start : start + count]):
                    y, x = k // per_side * each.height, k % per_side * each.width
                    pixels = cv2.cvtColor(cv2.imread(str(image.path)), cv2.COLOR_BGR2RGB)
                    canvas[y : y + each.height, x : x + each.width] = pixels
                    for obj in image.objects:
                        x1, y1, x2, y2 = obj.box
                        rows.append(_row(len(rows) + 1, image_id, obj.category_id, (x1 + x, y1 + y, x2 - x1, y2 - y1)))
                write_image(new / "images" / file_name, canvas)
                size = {"height": canvas.shape[0], "width": canvas.shape[1]}
                images.append({"id": image_id, "file_name": file_name, **size})
            write_coco(new / f"{name}.json", info, images, rows, split.categories.to_plain())
    return folder


def _row(number: int, image_id: int, category_id: int, box: tuple[float, ...]) -> dict[str, Any]:
    row = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
    return row | {"bbox": list(box), "area": box[2] * box[3]}


def train(data: Path, run_dir: Path, minutes: float, settings: dict[str, Any]) -> Path:
    """Train detrkit_n by the clock of this process, unless the run is there; evaluate at its end alone."""
    if not (run_dir / "result.json").is_file():
        state.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
        usual: dict[str, Any] = {"backbone_weights": "none", "num_queries": 300, "num_threads": 1}
        config = TrainConfig.from_recipe(
            "fast",
            **usual | {"data": str(data), "output_dir": str(run_dir), "num_workers": 0, "device": "cpu"} | settings,
            max_minutes=minutes,
            epochs=1000,
            eval_every=1000,
        )
        result = run_training(config, overwrite=True)
        (run_dir / "result.json").write_text(json.dumps(result.metrics))
    return run_dir


def keep_all(parts: Sequence[TileDetections]) -> TileDetections:
    """The detections of all tiles, without merging."""
    order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
    boxes, scores, labels = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("boxes", "scores", "labels")
    )
    tile = Tile.whole(parts[0].tile.image_height, parts[0].tile.image_width)
    return TileDetections(tile, boxes, scores, labels)


def suppress_by_ios(parts: Sequence[TileDetections]) -> TileDetections:
    """Leave out each detection that overlaps a better one of its class by half of the smaller of both, of any tile."""
    given = keep_all(parts).best(10_000)
    left = np.ones(len(given), np.bool_)
    areas = (given.boxes[:, 2:] - given.boxes[:, :2]).clip(min=1e-9).prod(1)
    for k in range(len(given)):
        if left[k]:
            rest = k + 1 + np.flatnonzero(left[k + 1 :] & (given.labels[k + 1 :] == given.labels[k]))
            low = np.maximum(given.boxes[rest, :2], given.boxes[k, :2])
            common = (np.minimum(given.boxes[rest, 2:], given.boxes[k, 2:]) - low).clip(min=0).prod(1)
            left[rest[common >= 0.5 * np.minimum(areas[rest], areas[k])]] = False
    return TileDetections(given.tile, given.boxes[left], given.scores[left], given.labels[left])


MERGING = {"": merge_tiles, ", IoS of all": suppress_by_ios, ", not merged": keep_all}
"""Ways of merging by the end of their line; the first is that of detrkit."""


def measure(run_dir: Path, split: Split, image_size: int, tiles: Any, max_dets: int, merge: Any) -> list[str]:
    """AP, AP50, and CPU seconds per image of one thread, with or without tiles."""
    accumulator.merge_tiles = merge  # type: ignore[attr-defined]
    detector = Detector.load(run_dir, device="cpu", image_size=image_size, tiles=tiles, precision="plain")
    match = match_classes(detector.categories, split.categories)
    collector = accumulator.DetectionAccumulator(match.id_of)
    start = time.process_time()
    accumulator.collect_split(
        detector.backend,
        split,
        detector.categories,
        collector,
        preprocessing=detector.preprocessing,
        device="cpu",
        batch_size=8,
        quiet=True,
    )
    seconds = (time.process_time() - start) / len(split)
    metrics = compute_coco_metrics(split.to_coco(), collector.detections, max_dets=max_dets).metrics
    if max_dets > 100:  # AP50 is known for 100 detections alone
        return [f"{metrics[f'AP@{max_dets}']:.3f}", "", f"{seconds:.1f}"]
    return [f"{metrics['AP']:.3f}", f"{metrics['AP50']:.3f}", f"{seconds:.1f}"]


def main() -> None:
    """Make the data, train both models, and print a line of a table per model and way of evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="", help="weights to start from; empty: a detrkit_n of random ones")
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of each training; 0: none; default 3")
    parser.add_argument(
        "--images", type=int, nargs=2, default=(8, 2), help="drawn images of train and val; default 8 2"
    )
    parser.add_argument("--stitch", default="", help="data set to make large images of, in place of drawn ones")
    parser.add_argument("--per_side", type=int, default=6, help="its images side by side in a large one; default 6")
    parser.add_argument("--tiles", type=int, default=256, help="side of tiles in pixels; default 256")
    parser.add_argument("--tile_size", type=int, default=256, help="side to which tiles are resized; default 256")
    parser.add_argument(
        "--whole_size", type=int, default=640, help="side to which whole images are resized; default 640"
    )
    parser.add_argument("--max_dets", type=int, default=100, help="detections per class and image; default 100")
    parser.add_argument("--merging", action="store_true", help="also measure other ways of merging")
    parser.add_argument("--output_dir", default="runs/tiles")
    flags = parser.parse_args()
    root = Path(flags.output_dir)
    if flags.stitch:
        data = stitch_images(flags.stitch, root / f"{Path(flags.stitch).name}-stitched", flags.per_side)
    else:
        data = draw_large_images(root / "drawn", train=flags.images[0], val=flags.images[1])
    ways = {"tiles": (flags.tiles, flags.tile_size, 8), "whole": ("off", flags.whole_size, 2)}
    val = check_dataset(open_dataset(str(data))).splits["val"]
    print("| trained on | evaluated on | AP | AP50 | s per image |\n|---|---|--:|--:|--:|", flush=True)
    start = {"weights": flags.weights} if flags.weights else {"model": "detrkit_n"}
    for trained, (tiles, image_size, batch_size) in ways.items() if flags.minutes else [("weights", ways["tiles"])]:
        settings = start | {"tiles": tiles, "image_size": image_size, "batch_size": batch_size}
        run_dir = Path(flags.weights)
        if flags.minutes:
            run_dir = train(data, root / f"{data.name}-{trained}", flags.minutes, settings)
        for evaluated, (eval_tiles, eval_size, _) in ways.items():
            for word, merge in MERGING.items() if flags.merging and eval_tiles != "off" else [("", merge_tiles)]:
                cells = measure(run_dir, val, eval_size, eval_tiles, flags.max_dets, merge)
                print(f"| {trained} | {evaluated}{word} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
