"""Measure batch jobs: listing a million files, detection per core, memory, and merging a million results.

    python benchmarks/batch.py list --images 1000000
    python benchmarks/batch.py detect --weights detrkit_n
    python benchmarks/batch.py memory --images 20000
    python benchmarks/batch.py memory --images 20000 --engine ray
    python benchmarks/batch.py merge --images 1000000

Times are CPU seconds of one process with one thread, so that other work on the machine changes little. The images of
`detect` are links to a few generated JPEG files of 640 x 480 pixels, those of `memory` are small.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import detrkit
from detrkit.config.commands import PredictConfig
from detrkit.data.synthetic.scenes import draw_scene
from detrkit.inference.batch_job import run_share
from detrkit.inference.batch_results import ResultFile
from detrkit.inference.batch_share import Listing, Share, images_of_share

SHARES = 64
DISTINCT = 50
"""Different images of a folder of links."""


def memory_of(process: int | str = "self") -> int:
    """MiB of memory that a process has now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def children(process: int) -> Iterator[int]:
    """All processes below one."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == process:
            child = int(name.split()[0])
            yield child
            yield from children(child)


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """Measure the CPU seconds of a block, which are in the list when it has ended."""
    begin, seconds = time.process_time(), []
    yield seconds
    seconds.append(time.process_time() - begin)


def make_files(folder: Path, count: int) -> None:
    """Make empty files, a thousand per folder."""
    for k in range(count):
        path = folder / f"{k // 1000:04d}" / f"{k:012d}.jpg"
        if not k % 1000:
            path.parent.mkdir(parents=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def make_links(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> None:
    """Make a few images of a width and height, and links to them under `count` names."""
    rng = np.random.default_rng(0)
    (folder / ".images").mkdir(parents=True)
    for k in range(DISTINCT):
        scene = draw_scene(480, rng).pixels
        Image.fromarray(scene).resize(size).save(folder / ".images" / f"{k}.jpg", quality=90)
    for k in range(count):
        path = folder / f"{k // 1000:04d}" / f"{k:08d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(folder / ".images" / f"{k % DISTINCT}.jpg")


def settings(folder: Path, weights: str, **rest: object) -> PredictConfig:
    """Settings of one share that is everything."""
    given = {"shard": "1/1", "device": "cpu", "quiet": True, "output_dir": str(folder / "out")} | rest
    return PredictConfig(source=[str(folder / "images")], weights=weights, **given)  # type: ignore[arg-type]


def measure_listing(folder: Path, count: int) -> None:
    """Print time and memory of finding one share of the files, and all."""
    make_files(folder / "images", count)
    for shares in (SHARES, 1):
        before, listing = memory_of(), Listing()
        with cpu_seconds() as spent:
            mine = list(images_of_share([str(folder / "images")], Share(1, shares), listing))
        used = memory_of() - before
        print(f"share 1/{shares} of {count} files: {spent[0]:.1f} CPU seconds, {len(mine)} images, {used} MiB")


def measure_detection(folder: Path, weights: str, count: int) -> None:
    """Print CPU seconds per image, and those before the first image."""
    make_links(folder / "images", count)
    for size in (1, 8):
        seconds: list[float] = []
        for images in (count // 4, count):  # the difference has no start-up in it
            few = folder / f"few-{size}-{images}"
            few.mkdir()
            for path in sorted((folder / "images").glob("0*/*.jpg"))[:images]:
                (few / path.name).hardlink_to(path)
            config = settings(folder, weights, batch_size=size, output_dir=str(few / "out"))
            with cpu_seconds() as spent:
                run_share(replace(config, source=[str(few)]))
            seconds += spent
        each = (seconds[1] - seconds[0]) / (count - count // 4)
        print(
            f"{weights}, --batch_size {size}: {1000 * each:.1f} ms per image, {1 / each:.1f} images per second and core"
        )
        print(f"start: {seconds[0] - each * (count // 4):.1f} seconds")


def measure_memory(folder: Path, weights: str, count: int, engine: str, image_size: int) -> None:
    """Print the memory of this process and those that it has begun, ten times on the way."""
    make_links(folder / "images", count, (128, 96))
    path = folder / "out" / "results-00001-of-00001.jsonl"
    stop = threading.Event()

    def watch() -> None:
        told = 0
        while not stop.wait(0.5):
            done = path.read_bytes().count(b"\n") - 1 if path.is_file() else 0
            if done >= (told + 1) * count // 10:
                told = done * 10 // count
                actors = [memory_of(child) for child in children(os.getpid()) if is_actor(child)]
                print(f"{done} images: {memory_of()} MiB" + (f", actors {actors} MiB" if actors else ""), flush=True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        extra = {"engine": engine, "num_actors": 2} if engine == "ray" else {}
        run_share(settings(folder, weights, image_size=image_size, batch_size=8, **extra))
    finally:
        stop.set()
        watcher.join()
    print(f"{count / (time.perf_counter() - begin):.0f} images per second of wall time")


def is_actor(process: int) -> bool:
    """Whether a process is an actor of Ray that detects."""
    return b"MapWorker" in Path(f"/proc/{process}/cmdline").read_bytes()


def measure_merging(folder: Path, count: int) -> None:
    """Print time and memory of merging generated results, with ten detections per image."""
    names = [f"{k // 1000:04d}/{k:012d}.jpg" for k in range(count)]
    rng = np.random.default_rng(0)
    kind = {"category_id": 17, "category_name": "cat"}
    for number in range(1, 5):
        share = Share(number, 4)
        with ResultFile(folder / f"{share.file_stem}.jsonl", {"version": 1, "shard": str(share)}) as results:
            for name in filter(share.holds, names):
                numbers = rng.random((10, 5), dtype=np.float32).tolist()
                found = [kind | {"bbox": [640 * x for x in row[:4]], "score": row[4]} for row in numbers]
                results.write({"file": name, "height": 480, "width": 640, "detections": found})
            results.close({"images": count, "checksum": "0", "done": len(results.done)})
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    print(f"{count} images with 10 detections: {size / count:.0f} bytes per image")
    names.clear()
    for output in ("all.jsonl", "all.parquet", "all.json"):
        with cpu_seconds() as spent:
            detrkit.merge(folder, folder / output)
        length = (folder / output).stat().st_size / count
        print(f"{output}: {spent[0]:.1f} CPU seconds, {memory_of()} MiB, {length:.0f} bytes per image")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("list", "detect", "memory", "merge"))
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--weights", default="detrkit_n")
    parser.add_argument("--image_size", type=int, default=96, help="of `memory`, which is not about speed")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.part == "list":
            measure_listing(folder, args.images or 1_000_000)
        elif args.part == "detect":
            measure_detection(folder, args.weights, args.images or 200)
        elif args.part == "memory":
            measure_memory(folder, args.weights, args.images or 20_000, args.engine, args.image_size)
        else:
            measure_merging(folder, args.images or 1_000_000)


if __name__ == "__main__":
    main()
