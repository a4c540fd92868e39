"""Packed data: start and memory with a large index, epochs beside loose files, and large COCO files.

    python benchmarks/shards.py index --images 1000000 --objects 7000000
    python benchmarks/shards.py epochs --data DATA --rounds 5
    python benchmarks/shards.py cold --images 5000
    python benchmarks/shards.py coco --megabytes 500

`index` writes an index of generated images and objects, opens it as training does, in a process of its own, up to the
first batch of keys, and reports seconds and memory. `epochs` packs a data set and reads epochs of it and of the loose
files in turns, decoded and augmented as in training. `cold` generates small images, empties the cache of the system,
which needs root, and reads all files, loose and packed, in the order of the data set and in that of an epoch. `coco`
generates a COCO json of this size, packs it, and reports
seconds and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MANY_PIXELS = (480, 640)
_LINKS = 30_000
"""Names of one file; file systems have a limit."""


def memory() -> dict[str, float]:
    """Megabytes of this process: all pages, and those that no other process shares."""
    sums: dict[str, float] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        sums[name.rstrip(":")] = int(kilobytes) / 1000
    return {
        "rss": sums["Rss"],
        "private": sums["Private_Clean"] + sums["Private_Dirty"],
        "anonymous": sums["Anonymous"],
    }


def write_index(folder: Path, images: int, objects: int) -> None:
    """Write a packed data set with the index of generated images, and shards that are holes of the right size."""
    from detrkit.data.shards.columns import COLUMNS, ColumnWriter
    from detrkit.data.shards.packed_index import KIND, MANIFEST, PACK_VERSION

    (folder / "index").mkdir(parents=True)
    rng = np.random.default_rng(0)
    splits = {}
    for name, n, m in (("train", images, objects), ("val", images // 200, objects // 200)):
        heights, widths = rng.integers(300, 700, n), rng.integers(300, 700, n)
        ends = np.sort(rng.integers(0, m + 1, n))
        ends[-1] = m
        of = np.repeat(np.arange(n), np.diff(ends, prepend=0))
        corner = rng.random((m, 2)) * 200
        boxes = np.concatenate([corner, corner + 5 + rng.random((m, 2)) * 90], axis=1)
        names = np.frombuffer(b"".join(b"images/%012d.jpg" % k for k in range(n)), np.uint8)
        shards = 1 + np.arange(n) // 2500
        values: dict[str, Any] = {
            "image_id": np.arange(n),
            "height": heights,
            "width": widths,
            "shard": shards - 1,
            "image_offset": np.arange(n) % 2500 * 100_000,
            "image_length": np.full(n, 90_000),
            "image_crc": np.zeros(n),
            "image_suffix": np.zeros(n),
            "panoptic": np.full(n, -1),
            "group": np.full(n, -1),
            "digest": rng.integers(0, 256, (n, 16)),
            "extent": np.full((n, 5), np.nan),
            "name_end": np.arange(1, n + 1) * 23,
            "objects_end": ends,
            "masks_end": np.zeros(n),
            "shapes_end": np.zeros(n),
            "object_id": np.arange(1, m + 1),
            "class_index": rng.integers(0, 80, m),
            "box": boxes,
            "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
            "crowd": rng.random(m) < 0.01,
            "masked": np.zeros(m),
            "names": names,
        }
        assert len(of) == m
        columns = {}
        for column, kind in COLUMNS.items():
            writer = ColumnWriter(folder / "index" / f"{name}.{column}.npy", kind)
            if column in values:
                writer.add(values[column])
            columns[column] = writer.close()
        listed = []
        for k in range(int(shards[-1])):
            with (folder / f"{name}-{k:06}.tar").open("wb") as shard:
                shard.truncate(250_000_000)
            listed.append({"name": f"{name}-{k:06}.tar", "bytes": 250_000_000, "images": 2500, "sha256": ""})
        facts = {"images": n, "objects": m, "has_masks": False, "deep": False, "shards": listed, "columns": columns}
        splits[name] = facts | {"statistics": statistics_of(folder, name, facts)}
    manifest = {
        "format": KIND,
        "version": PACK_VERSION,
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(80)],
        "suffixes": [".jpg"],
        "splits": splits,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def statistics_of(folder: Path, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The statistics that `detrkit pack` stores."""
    from detrkit.data.records import Split
    from detrkit.data.shards.packed_images import PackedImages
    from detrkit.data.shards.packed_index import open_split
    from detrkit.data.validation.statistics import split_statistics
    from detrkit.structures import Categories

    categories = Categories(tuple(range(1, 81)), tuple(f"class {k}" for k in range(80)))
    packed = open_split(str(folder), name, facts, (".jpg",), folder)
    return split_statistics(Split(name, PackedImages(packed, categories), categories, str(folder)), 100)


def start(folder: str) -> None:
    """Do what a run does with its data before the first batch, and print seconds and memory."""
    import torch

    from detrkit.config.train import TrainConfig
    from detrkit.data.fingerprint import fingerprint
    from detrkit.data.loader import train_loader
    from detrkit.data.repeat_factors import repeat_factors
    from detrkit.models import build_model
    from detrkit.training.loaders import make_datasets
    from detrkit.training.monitor import chosen_monitor
    from detrkit.training.resolve_auto import resolve_auto, resolve_tiles
    from detrkit.training.setup import load_data, warn_of_crowds

    torch.set_num_threads(1)
    config = TrainConfig.from_recipe("fast", model="detrkit_n", data=folder, device="cpu", weights="none", cache_gb=0)
    config_args = {"backbone": "nano", "hidden_dim": 32, "nheads": 2, "enc_layers": 1, "dec_layers": 1}
    model = build_model(num_classes=80, num_queries=10, **config_args)
    before, begin, cpu = memory(), time.perf_counter(), time.process_time()
    steps = {}

    def done(name: str) -> None:
        steps[name] = round(time.perf_counter() - begin, 2)

    data = load_data(config)
    done("open and check")
    config, _ = resolve_tiles(config, data.train, None, on_cpu=True)
    config, _ = resolve_auto(config, data.train, None, on_cpu=True)
    warn_of_crowds(data, 300)
    chosen_monitor("", "detect", data.val)
    done("automatic settings")
    prints = [fingerprint(data.train), fingerprint(data.val)]
    done("fingerprints")
    datasets = make_datasets(config, data, model, 320)
    loader = train_loader(datasets.train, batch_size=16, repeats=repeat_factors(data.train, 0.01))
    keys = next(iter(loader.batch_sampler))
    records = [data.train.images[key.image] for key in keys]
    done("first batch of records")
    after = memory()
    grown = {f"{name}_grown": round(after[name] - before[name], 1) for name in after}
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(
        json.dumps(
            {
                "seconds": steps,
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "megabytes_of_imports": round(before["rss"], 1),
                "megabytes": {name: round(value, 1) for name, value in after.items()},
                **grown,
                "largest_rss_grown": round(largest - before["rss"], 1),
                "images": len(data.train),
                "objects": int(data.train.arrays.counts.sum()),
                "records": len(records),
                "fingerprints": prints,
            },
            indent=1,
        )
    )


def measure_index(arguments: argparse.Namespace) -> None:
    """Write the index, and start on it in a process of its own."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        begin = time.perf_counter()
        write_index(Path(folder) / "packed", arguments.images, arguments.objects)
        size = sum(path.stat().st_size for path in (Path(folder) / "packed" / "index").iterdir())
        print(f"index of {size / 1e6:.0f} MB written in {time.perf_counter() - begin:.1f} s", flush=True)
        subprocess.run([sys.executable, __file__, "start", "--data", str(Path(folder) / "packed")], check=True)


def measure_epochs(arguments: argparse.Namespace) -> None:
    """Read epochs of loose files and of shards in turns."""
    import torch

    import detrkit
    from detrkit.data.dataset import DetectionDataset
    from detrkit.data.formats.detect import open_dataset
    from detrkit.data.loader import train_loader
    from detrkit.data.transforms.resize_crop import train_transform
    from detrkit.data.validation.validate import check_dataset

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        begin = time.perf_counter()
        detrkit.pack(arguments.data, Path(folder) / "packed")
        print(f"packed in {time.perf_counter() - begin:.1f} s", flush=True)
        print(
            "| workers | loose, images/s | packed, images/s | packed / loose | of the rounds |\n|---|---|---|---|---|"
        )
        for workers in arguments.workers:
            loaders = {}
            for name, data in (("loose", arguments.data), ("packed", Path(folder) / "packed")):
                split = check_dataset(open_dataset(data)).splits["train"]
                dataset = DetectionDataset(split, split.categories, train_transform("detr", arguments.image_size))
                loaders[name] = train_loader(dataset, batch_size=8, num_workers=workers)
            seconds: dict[str, list[float]] = {name: [] for name in loaders}
            clock = time.perf_counter if workers else time.process_time
            for turn in range(arguments.rounds + 1):  # the first fills the cache of the system
                for loader in loaders.values():
                    loader.set_epoch(turn)
                passes = {name: iter(loader) for name, loader in loaders.items()}
                spent = dict.fromkeys(loaders, 0.0)
                for batch in range(len(loaders["loose"])):  # in turns, since other programs disturb both alike then
                    for name in (*loaders,) if batch % 2 else (*reversed(loaders),):
                        before = clock()
                        next(passes[name])
                        spent[name] += clock() - before
                if turn:
                    for name, value in spent.items():
                        seconds[name].append(value)
            images = len(loaders["loose"]) * 8
            rates = {name: [images / value for value in values] for name, values in seconds.items()}
            loose, packed = (median(rates[name]) for name in ("loose", "packed"))
            ratios = sorted(b / a for a, b in zip(rates["loose"], rates["packed"], strict=True))
            spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
            print(f"| {workers} | {loose:.1f} | {packed:.1f} | {median(ratios):.3f} | {spread} |", flush=True)


def write_small(folder: Path, images: int) -> None:
    """Write a COCO data set of small images of noise, which differ."""
    import cv2

    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "noise"}]}
    for k in range(1, images + 1):
        noise = cv2.resize(rng.integers(0, 255, (40, 54, 3), dtype=np.uint8), (216, 160))
        cv2.imwrite(str(folder / "images" / f"{k}.jpg"), noise, [cv2.IMWRITE_JPEG_QUALITY, 93])
        rows["images"].append({"id": k, "file_name": f"{k}.jpg", "height": 160, "width": 216})
        rows["annotations"].append({"id": k, "image_id": k, "category_id": 1, "bbox": [9, 9, 90, 90], "area": 8100})
    (folder / "train.json").write_text(json.dumps(rows))


def measure_cold(arguments: argparse.Namespace) -> None:
    """Read all files of a data set that are not in the cache of the system, loose and packed."""
    import detrkit
    from detrkit.data.formats.detect import open_dataset
    from detrkit.data.shards.packed_index import read_file
    from detrkit.data.validation.validate import check_dataset

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_small(Path(folder) / "loose", arguments.images)
        detrkit.pack(Path(folder) / "loose", Path(folder) / "packed")
        paths = {}
        for name in ("loose", "packed"):
            split = check_dataset(open_dataset(f"{folder}/{name}", val_fraction=0)).splits["train"]
            paths[name] = [str(image.path) for image in split.images]
        size = sum(path.stat().st_size for path in Path(folder, "loose", "images").iterdir()) / arguments.images
        print(f"{arguments.images} images of {size / 1000:.1f} KB")
        print("\n| | loose, images/s | packed, images/s |\n|---|---|---|")
        rows = np.arange(arguments.images)
        orders = {"as in the data set": rows, "shuffled": np.random.default_rng(1).permutation(rows)}
        for cache in ("cold", "warm"):
            for order, chosen in orders.items():
                rates: dict[str, list[float]] = {name: [] for name in paths}
                for _ in range(arguments.rounds):
                    for name, listed in paths.items():
                        if cache == "cold":
                            os.sync()
                            Path("/proc/sys/vm/drop_caches").write_text("3")
                        begin = time.perf_counter()
                        for row in chosen:
                            read_file(listed[row])
                        rates[name].append(arguments.images / (time.perf_counter() - begin))
                print(
                    f"| {cache}, {order} | {median(rates['loose']):.0f} | {median(rates['packed']):.0f} |", flush=True
                )


def write_coco(folder: Path, megabytes: float) -> tuple[int, int]:
    """Write a COCO json of polygons, with images that are links to one file; returns their numbers."""
    from PIL import Image

    from detrkit.files import JsonRows

    (folder / "images").mkdir(parents=True)
    height, width = MANY_PIXELS
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)).resize(
        (width, height)
    )
    noise.save(folder / "images" / "0.jpg", quality=60)
    objects, images = 0, 0
    with (folder / "instances_train.json").open("w") as file:
        rows = JsonRows(file, '{"categories": ' + json.dumps([{"id": k, "name": f"class {k}"} for k in range(80)]))
        file.write(', "annotations": [')
        while file.tell() < 0.985 * megabytes * 1e6:
            corners = rng.random((7, 2)) * 300
            for x, y in corners:
                outline = (rng.random((30, 2)) * 90 + [x, y]).round(2)
                (x1, y1), (x2, y2) = outline.min(0).tolist(), outline.max(0).tolist()
                box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
                objects += 1
                row = {"id": objects, "image_id": images, "category_id": int(rng.integers(80)), "iscrowd": 0}
                area = round(box[2] * box[3] / 2, 2)
                rows.add(row | {"bbox": box, "area": area, "segmentation": [outline.ravel().tolist()]})
            images += 1
        rows.close("]")
        listed = JsonRows(file, ', "images": [')
        for k in range(images):
            listed.add({"id": k, "file_name": f"{k}.jpg", "height": height, "width": width})
            target, first = folder / "images" / f"{k}.jpg", folder / "images" / f"{k - k % _LINKS}.jpg"
            if k % _LINKS:
                os.link(first, target)
            elif k:
                shutil.copy(folder / "images" / "0.jpg", target)
        listed.close("]}")
    return images, objects


def measure_coco(arguments: argparse.Namespace) -> None:
    """Generate a large json and pack it in a process of its own."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        images, objects = write_coco(Path(folder) / "data", arguments.megabytes)
        size = (Path(folder) / "data" / "instances_train.json").stat().st_size / 1e6
        print(f"json of {size:.0f} MB with {images} images and {objects} objects", flush=True)
        command = [sys.executable, "-m", "detrkit", "pack", f"{folder}/data", f"{folder}/packed", "--quiet"]
        begin = time.perf_counter()
        child = subprocess.Popen(command)
        _, status, used = os.wait4(child.pid, 0)
        seconds, packed = (
            time.perf_counter() - begin,
            sum(p.stat().st_size for p in Path(folder, "packed").glob("*.tar")),
        )
        print(
            f"status {status}, {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, largest memory "
            f"{used.ru_maxrss / 1000:.0f} MB, shards of {packed / 1e6:.0f} MB"
        )


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["index", "epochs", "cold", "coco", "start"])
    parser.add_argument("--images", type=int, default=0, help="1,000,000 of `index`, 5,000 of `cold`")
    parser.add_argument("--objects", type=int, default=7_000_000)
    parser.add_argument("--data", default="", help="data set of `epochs`")
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--folder", help="where temporary files are written")
    arguments = parser.parse_args()
    if arguments.part == "start":
        start(arguments.data)
        return
    arguments.images = arguments.images or (5_000 if arguments.part == "cold" else 1_000_000)
    parts = {"index": measure_index, "epochs": measure_epochs, "cold": measure_cold, "coco": measure_coco}
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
