"""Images that are copies of one another are found, reported, and never divided between train and val."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation import near_duplicates
from detrkit.data.validation.hash_lookup import RADIUS, HashIndex
from detrkit.data.validation.image_hash import SIDE, WINDOWS, hash_thumbnails
from detrkit.data.validation.near_duplicates import find_near_duplicates
from detrkit.data.validation.validate import CheckReport, check_dataset

Pixels = NDArray[np.uint8]


def photograph(seed: int, height: int = 240, width: int = 320) -> Pixels:
    """An image with large and small structures in color."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.uniform(0, 1, (n, n, 3)), (width, height), interpolation=cv2.INTER_CUBIC) for n in (4, 9, 20)
    ]
    mixed = sum(weight * layer for weight, layer in zip((0.5, 0.3, 0.2), layers, strict=True))
    return np.clip(30 + 190 * mixed, 0, 255).astype(np.uint8)


def save(folder: Path, name: str, pixels: Pixels, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


def groups_of(paths: list[Path], orientations: list[int] | None = None) -> list[list[str]]:
    found = find_near_duplicates(paths, orientations or [1] * len(paths))
    return [[path.name for path in group] for group in found.groups]


ALTERATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "resized": lambda image: np.asarray(Image.fromarray(image).resize((150, 110))),
    "brighter": lambda image: np.clip(image * 1.2 + 10, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.7).astype(np.uint8),
    "cropped": lambda image: image[7:236, 4:309],
    "cropped at one side": lambda image: image[:, 20:],
    "mirrored": lambda image: image[:, ::-1],
    "gray": lambda image: np.asarray(Image.fromarray(image).convert("L")),
    "all": lambda image: np.asarray(
        Image.fromarray(np.clip(image[5:230, 10:310, :][:, ::-1] * 1.1, 0, 255).astype(np.uint8)).resize((200, 150))
    ),
}


@pytest.mark.parametrize("kind", ALTERATIONS)
@pytest.mark.parametrize("quality", [None, 60])
def test_altered_copies_are_found_and_other_images_are_not(tmp_path: Path, kind: str, quality: int | None) -> None:
    originals = [save(tmp_path, f"{seed}.jpg", photograph(seed), quality=90) for seed in range(8)]
    suffix, options = (".png", {}) if quality is None else (".jpg", {"quality": quality})
    copies = [
        save(tmp_path, f"{seed}-copy{suffix}", ALTERATIONS[kind](photograph(seed)), **options) for seed in range(4)
    ]
    assert groups_of(originals + copies) == [[f"{seed}.jpg", f"{seed}-copy{suffix}"] for seed in range(4)]


def test_the_same_scene_with_an_object_elsewhere_is_no_copy(tmp_path: Path) -> None:
    paths = []
    for number, x in enumerate((40, 90, 260)):
        scene = photograph(0)
        cv2.circle(scene, (x, 120), 12, (250, 250, 250), -1)
        paths.append(save(tmp_path, f"{number}.png", scene))
    assert groups_of(paths) == []


def test_images_without_contrast_or_content_have_no_copies(tmp_path: Path) -> None:
    paths = [save(tmp_path, f"{k}.png", np.full((40, 50, 3), 120 + k, dtype=np.uint8)) for k in range(3)]
    (tmp_path / "text.jpg").write_text("no image")
    assert groups_of([*paths, tmp_path / "text.jpg", tmp_path / "absent.png"]) == []
    assert groups_of([]) == []


def test_rotated_and_deep_images_are_compared_as_they_are_shown(tmp_path: Path) -> None:
    pixels = photograph(3)
    upright = save(tmp_path, "upright.png", pixels)
    turned = save(tmp_path, "turned.png", np.rot90(pixels, 1))  # EXIF orientation 6 turns it clockwise
    assert groups_of([upright, turned], [1, 6]) == [["upright.png", "turned.png"]]
    assert groups_of([upright, turned]) == []
    values = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint16)
    for name, factor in (("dim.png", 9), ("bright.tif", 16)):
        assert cv2.imwrite(str(tmp_path / name), values * factor)
    assert groups_of([tmp_path / "dim.png", tmp_path / "bright.tif"]) == [["dim.png", "bright.tif"]]


def test_lookup_finds_every_hash_within_the_radius() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 3000, dtype=np.uint64)
    hashes[1000:] &= np.uint64(0xFFFF_0000_FFFF_00FF)  # crowded bands
    index = HashIndex(hashes)
    for number in range(60):
        bits = rng.permutation(64)[: number % (RADIUS + 4)].astype(np.uint64)
        queries = np.array([hashes[number * 50] ^ (np.uint64(1) << bits).sum(), hashes[7]], dtype=np.uint64)
        distances = np.bitwise_count(queries[:, None] ^ hashes)
        rows, nearest, bits = index.query(queries)
        np.testing.assert_array_equal(rows, np.flatnonzero(distances.min(axis=0) <= RADIUS))
        np.testing.assert_array_equal(nearest, distances.argmin(axis=0)[rows])
        np.testing.assert_array_equal(bits, distances.min(axis=0)[rows])


def test_the_hash_of_the_mirrored_image_is_one_of_the_hashes() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE), dtype=np.uint8)
    hashes, mirrored = hash_thumbnails(thumbnails), hash_thumbnails(thumbnails[:, :, ::-1])
    half = len(WINDOWS) // 2
    assert np.bitwise_count(hashes[:, half] ^ mirrored[:, 0]).max() <= 1  # up to rounding
    assert np.bitwise_count(hashes[:, 0] ^ mirrored[:, half]).max() <= 1


def test_many_copies_of_one_image_are_not_compared_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path, f"{k}.jpg", photograph(1)[: 220 + k % 20], quality=60 + k) for k in range(40)]
    paths += [save(tmp_path, f"same{k}.jpg", photograph(2), quality=80) for k in range(40)]
    calls = []
    compare = near_duplicates._are_copies
    monkeypatch.setattr(near_duplicates, "_are_copies", lambda *args: calls.append(1) or compare(*args))
    assert [len(group) for group in groups_of(paths)] == [40, 40]
    assert len(calls) < 120


def write_set(root: Path, images: int, copies: int, *, with_val: bool = False) -> Path:
    """A COCO data set of photographs, each of the first with as many copies; in val the last copy of each."""
    rows: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    for seed, copy in ((seed, copy) for seed in range(images) for copy in range(copies + 1)):
        pixels = photograph(seed, 120, 160)[copy:, : 160 - copy]
        path = save(
            root / "images", f"{seed:02d}-{copy}.png", np.clip(pixels * (1 + copy / 40), 0, 255).astype(np.uint8)
        )
        split = "val" if with_val and copy and copy == copies else "train"
        rows[split].append({"file_name": path.name, "height": pixels.shape[0], "width": pixels.shape[1]})
    for split in ("train", "val") if with_val else ("train",):
        listed = [{"id": number, **row} for number, row in enumerate(rows[split], start=1)]
        boxes = [
            {
                "id": row["id"],
                "image_id": row["id"],
                "category_id": 1,
                "bbox": [9, 9, 30, 30],
                "area": 900,
                "iscrowd": 0,
            }
            for row in listed
        ]
        content = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def test_leakage_by_look_names_the_pair(tmp_path: Path) -> None:
    report = check_dataset(open_dataset(write_set(tmp_path, 3, 2, with_val=True)), decode_all=True)
    assert report.counts() == {"leakage_look": 3, "near_duplicate": 3}
    leak = next(finding for finding in report.findings if finding.kind == "leakage_look")
    assert Path(leak.file).name == "00-2.png"
    assert leak.detail in (f"like {leak.file.replace('00-2', '00-0')}", f"like {leak.file.replace('00-2', '00-1')}")
    assert leak.action == "noted"
    assert "metrics will be too good" in leak.message
    quick = check_dataset(open_dataset(tmp_path))  # as at the start of training
    assert quick.counts() == {}


def test_the_held_out_split_never_separates_copies(tmp_path: Path) -> None:
    root = write_set(tmp_path, 10, 1)
    seen = set()
    for seed in range(6):
        raw = open_dataset(root, seed=seed, val_fraction=0.3)
        report = check_dataset(raw)
        sides = {name: {image.file_name[:2] for image in split.images} for name, split in report.splits.items()}
        assert not sides["train"] & sides["val"]
        assert len(report.splits["val"]) == 6
        assert "10 groups of images that look alike were kept together" in report.notes[-1]
        seen.add(frozenset(sides["val"]))
    assert len(seen) > 3  # the seed chooses


def test_a_group_that_is_too_large_for_val_stays_in_train(tmp_path: Path) -> None:
    root = write_set(tmp_path, 1, 6)
    for seed in (1, 2):
        save(root / "images", f"0{seed}-0.png", photograph(seed, 120, 160))
    content = json.loads((root / "train.json").read_text())
    content["images"] += [{"id": 90 + s, "file_name": f"0{s}-0.png", "height": 120, "width": 160} for s in (1, 2)]
    (root / "train.json").write_text(json.dumps(content))
    report: CheckReport = check_dataset(open_dataset(root))
    names = {image.file_name for image in report.splits["val"].images}
    assert names
    assert not any(a[:2] == b[:2] for a, b in combinations(sorted(names), 2))
    assert {image.file_name for image in report.splits["train"].images} >= {f"00-{k}.png" for k in range(7)}
