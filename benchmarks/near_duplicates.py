"""Measure how `detrkit check` finds images that are copies of one another: recall, false pairs and time.

    python benchmarks/near_duplicates.py --data path/to/bccd path/to/chess --output_dir runs/near_duplicates

Copies are made of up to 100 images of each data set and of generated scenes, by one alteration at a time. A copy is
found if it is in the group of its original. A false pair is a group with images of two originals that the data set by
itself, without copies, does not have in one group. The groups of each data set as it is are listed, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.synthetic.scenes import draw_scene
from detrkit.data.validation.image_hash import read_thumbnails
from detrkit.data.validation.near_duplicates import find_near_duplicates

Generator = np.random.Generator


def crop(image: Image.Image, share: float, rng: Generator) -> Image.Image:
    """Cut up to a share of each side off, anywhere."""
    width, height = (round(side * rng.uniform(1 - share, 1)) for side in image.size)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def mirror(image: Image.Image) -> Image.Image:
    """Exchange left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def resize(image: Image.Image, factor: float) -> Image.Image:
    """Resize both sides by a factor."""
    return image.resize((max(8, round(image.width * factor)), max(8, round(image.height * factor))))


ALTERATIONS: dict[str, tuple[Callable[[Image.Image, Generator], Image.Image], int]] = {
    "resized to half": (lambda image, _: resize(image, 0.5), 90),
    "recompressed (JPEG quality 25)": (lambda image, _: image, 25),
    "brightness x 1.2": (lambda image, _: ImageEnhance.Brightness(image).enhance(1.2), 90),
    "brightness x 0.7": (lambda image, _: ImageEnhance.Brightness(image).enhance(0.7), 90),
    "contrast x 1.3": (lambda image, _: ImageEnhance.Contrast(image).enhance(1.3), 90),
    "cropped by up to 5 % of each side": (lambda image, rng: crop(image, 0.05, rng), 90),
    "cropped by up to 10 % of each side": (lambda image, rng: crop(image, 0.10, rng), 90),
    "mirrored": (lambda image, _: mirror(image), 90),
    "cropped (5 %), mirrored, resized (0.7), brightness x 1.1": (
        lambda image, rng: ImageEnhance.Brightness(resize(mirror(crop(image, 0.05, rng)), 0.7)).enhance(1.1),
        60,
    ),
}
"""Name -> the alteration, and the quality of the JPEG that is written."""


def main() -> None:
    """Measure, print, and write results.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", nargs="*", default=[], help="folders of data sets; their images are searched for")
    parser.add_argument("--copies", type=int, default=100, help="images of which copies are made")
    parser.add_argument("--scenes", type=int, default=100, help="generated scenes; 0: none")
    parser.add_argument("--crowd", type=int, default=10_000, help="images on which the time is measured; 0: none")
    parser.add_argument("--output_dir", default="runs/near_duplicates")
    args = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sets = {Path(folder).name: find_images(Path(folder)) for folder in args.data}
        if args.scenes:
            sets["scenes"] = make_scenes(Path(scratch) / "scenes", args.scenes)
        for name, images in sets.items():
            results[name] = measure(name, images, args.copies, Path(scratch) / name)
        if args.crowd:
            results["time"] = measure_time(args.crowd, Path(scratch) / "crowd")
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"Results: {output / 'results.json'}")


def find_images(folder: Path) -> list[Path]:
    """The images of a folder: of its folder images/, if there is one."""
    folder = folder / "images" if (folder / "images").is_dir() else folder
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def make_scenes(folder: Path, count: int) -> list[Path]:
    """Generate scenes of random objects."""
    folder.mkdir(parents=True)
    paths = []
    for seed in range(count):
        paths.append(folder / f"{seed:04d}.png")
        Image.fromarray(draw(seed)).save(paths[-1])
    return paths


def draw(seed: int) -> NDArray[np.uint8]:
    """One generated scene, uint8 [320, 320, 3]."""
    return draw_scene(320, np.random.default_rng(seed)).pixels


def measure(name: str, images: list[Path], copies: int, scratch: Path) -> dict[str, object]:
    """Recall and false pairs per alteration, and the groups of the data set as it is."""
    own = find_near_duplicates(images, [1] * len(images))
    known = own.group_of()
    listed = [[path.name for path in group] for group in own.groups]
    print(f"\n{name}: {len(images)} images, {len(listed)} groups of images that look alike")
    for group in listed:
        print(f"    {', '.join(group)}")
    originals = images[:: max(1, len(images) // copies)][:copies]
    rows = {}
    for kind, (alter, quality) in ALTERATIONS.items():
        folder = scratch / kind.replace("/", "-")
        folder.mkdir(parents=True)
        made = {}
        for number, path in enumerate(originals):
            made[folder / f"{number:05d}.jpg"] = path
            with Image.open(path) as image:
                altered = alter(image.convert("RGB"), np.random.default_rng(number))
            altered.save(folder / f"{number:05d}.jpg", quality=quality)
        paths = [*images, *made]
        found = find_near_duplicates(paths, [1] * len(paths))
        group_of = found.group_of()
        hits = sum(copy in group_of and group_of[copy] == group_of.get(path) for copy, path in made.items())
        false = 0
        for group in found.groups:
            sources = {known.get(source, source) for source in (made.get(path, path) for path in group)}
            false += len(sources) - 1
        rows[kind] = {"copies": len(made), "found": hits, "false_pairs": false}
        print(f"  {kind:58} {hits:4} of {len(made)} found, {false} false", flush=True)
    return {"images": len(images), "groups": listed, "alterations": rows}


def measure_time(count: int, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds to read and to compare many images: all different, all recompressed from one, and of one fixed camera."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    background = draw(0)
    rows = {}
    for kind in ("different images", "copies of one image", "one camera, other objects"):
        paths = []
        for number in range(count):
            if kind == "different images":
                pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).resize((96, 96)))
            elif kind == "copies of one image":
                pixels = background[: 300 + number % 20, : 300 + number // 20 % 20]
            else:
                pixels = background.copy()
                y, x = rng.integers(0, 280, 2)
                pixels[y : y + 40, x : x + 40] = rng.integers(0, 256, 3)
            paths.append(folder / f"{number:06d}.jpg")
            Image.fromarray(pixels).save(paths[-1], quality=int(rng.integers(70, 95)))
        start = time.process_time()
        read_thumbnails(paths, [1] * count)
        read = time.process_time() - start
        start = time.process_time()
        groups = find_near_duplicates(paths, [1] * count).groups
        total = time.process_time() - start
        rows[kind] = {"images": count, "read": round(read, 1), "compare": round(total - read, 1), "groups": len(groups)}
        print(f"{kind}: {count} images, CPU time {read:.1f} s to decode and {total - read:.1f} s to compare")
    return rows


if __name__ == "__main__":
    main()
