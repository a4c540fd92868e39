"""Writers of data sets: what they write comes back equal through our own readers, and the rest is said."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detrkit import convert_data
from detrkit.cli import main
from detrkit.config.commands import ConvertDataConfig
from detrkit.data.decode.object_masks import decode_masks
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.registry import FORMATS
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.ops.masks import encode_rle
from detrkit.structures import Categories

from ..conftest import CocoFolder, make_object, write_image

WRITERS = {row.name: row.writer for row in FORMATS if row.writer is not None}


def read(folder: Path) -> CheckReport:
    """The data set in a folder, with no split held out."""
    return check_dataset(open_dataset(folder, val_fraction=0))


def save(splits: Sequence[Split], folder: Path, to: str) -> Any:
    """Write splits as the command does, and return the closed writer."""
    writer_class = WRITERS[to]
    assert writer_class is not None
    writer = writer_class(folder, splits[0].categories, masks=any(split.has_masks for split in splits))
    for split in splits:
        for image in split.images:
            writer.add(image, split.name)
    writer.close()
    return writer


def pixels(image: ImageRecord, objects: Sequence[ObjectRecord]) -> torch.Tensor:
    boxes = torch.tensor([obj.box for obj in objects]).reshape(-1, 4)
    return decode_masks([obj.segmentation for obj in objects], boxes, image.height, image.width)


def assert_equal(old: Split, new: Split, to: str, *, masks: bool = True) -> None:
    """Two splits have the same classes in the same order, images, boxes, crowds and masks."""
    assert new.categories.names == old.categories.names
    images = {image.path.read_bytes(): image for image in new.images}
    assert len(images) == len(new.images) == len(old.images)
    for image in old.images:
        copy = images[image.path.read_bytes()]
        assert (copy.width, copy.height) == (image.width, image.height)
        objects = [obj for obj in image.objects if not (to == "yolo" and obj.crowd)]
        names = [old.categories.names[old.categories.index_of_id[obj.category_id]] for obj in objects]
        assert [new.categories.names[new.categories.index_of_id[obj.category_id]] for obj in copy.objects] == names
        assert [obj.crowd for obj in copy.objects] == [obj.crowd for obj in objects]
        as_outlines = to == "yolo" and new.has_masks  # boxes are then those around the polygons
        for one, other in zip(objects, copy.objects, strict=True):
            if as_outlines and one.segmentation is not None:
                continue
            box = one.box
            if to == "yolo":
                limits = (image.width, image.height) * 2
                box = tuple(min(max(value, 0), limit) for value, limit in zip(box, limits, strict=True))
            assert other.box == pytest.approx(box, abs=2e-5)
        if masks and to != "voc":
            # a box that became a polygon may end half a pixel to the eighth decimal, where rounding decides the pixel
            kept = [k for k, obj in enumerate(objects) if not as_outlines or obj.segmentation is not None]
            old_masks, new_masks = (pixels(image, [some[k] for k in kept]) for some in (objects, copy.objects))
            assert torch.equal(old_masks, new_masks)


NAMES = st.text(st.sampled_from("ab:#'\"-, .é日本{}&<>1%?"), min_size=1, max_size=6).map(str.strip).filter(bool)
FILE_NAMES = st.text(st.sampled_from("abéü日 ._-#%&'1"), min_size=1, max_size=5).filter(lambda text: text.strip(" ."))
FOLDERS = st.sampled_from(["", "", "one", "two", "one/deep", "images", "labels", "été"])


@st.composite
def segmentations(draw: st.DrawFn, width: int, height: int) -> Any:
    """A mask of random rectangles as RLE, two polygons, or none."""
    kind = draw(st.sampled_from(["none", "rle", "polygons"]))
    x, y = draw(st.integers(0, width - 9)), draw(st.integers(0, height - 9))
    if kind == "none":
        return None
    if kind == "polygons":
        return [[x, y, x + 4, y, x + 4, y + 5], [x + 5.3, y, x + 8.0, y + 0.5, x + 8, y + 8, x + 5.3, y + 7]]
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + 8, x : x + 8] = True
    mask[y + 2 : y + 4, x + 3 : x + 5] = False
    if draw(st.booleans()):
        mask[0:2, 0:3] = True
    return encode_rle(mask)


def first_of_each(objects: Sequence[ObjectRecord], key: Callable[[ObjectRecord], Any]) -> list[ObjectRecord]:
    """The objects without those whose key an earlier one has."""
    found: dict[Any, ObjectRecord] = {}
    for obj in objects:
        found.setdefault(key(obj), obj)
    return list(found.values())


@st.composite
def datasets(draw: st.DrawFn, folder: Path, *, masks: bool) -> list[Split]:
    """A data set of two splits; the first has an object that is no crowd."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=lambda name: " ".join(name.split()).casefold()))
    first = draw(st.integers(0, 3))
    categories = Categories(tuple(first + 2 * k for k in range(len(names))), tuple(names))
    splits = []
    number = 0
    for split in ("train", "val"):
        stems = draw(st.lists(st.tuples(FOLDERS, FILE_NAMES), min_size=1, max_size=4, unique=True))
        images = []
        for place, stem in stems:
            number += 1
            width, height = draw(st.sampled_from([(40, 30), (24, 24), (31, 57)]))
            name = "/".join(filter(None, [place, f"{stem}.png"]))
            path = write_image(folder / split / name, width, height, seed=number)
            objects = []
            for k in range(draw(st.integers(0, 3)) or (split == "train" and not images)):
                shape = draw(segmentations(width, height)) if masks else None
                x1 = draw(st.one_of(st.just(0.0), st.floats(0, width - 2)))
                y1 = draw(st.one_of(st.just(0.0), st.floats(0, height - 2)))
                x2 = draw(st.one_of(st.just(float(width)), st.floats(x1 + 1, width)))
                y2 = draw(st.one_of(st.just(float(height)), st.floats(y1 + 1, height)))
                crowd = k > 0 and draw(st.booleans())
                category = draw(st.sampled_from(categories.ids))
                objects.append(
                    make_object(100 * number + k, category, (x1, y1, x2, y2), crowd=crowd, segmentation=shape)
                )
            objects = first_of_each(objects, lambda obj: (obj.category_id, obj.box))  # equal ones are read as one
            # YOLO has the boxes of the outlines alone
            objects = first_of_each(objects, lambda obj: (obj.category_id, str(obj.segmentation or obj.box)))
            images.append(ImageRecord(number, path, name, height, width, objects))
        splits.append(Split(split, images, categories, str(folder)))
    return splits


# Hypothesis also draws constants of all modules that are imported, so the examples depend on the tests that ran before.
@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("masks", [False, True])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_any_data_set_comes_back_equal(to: str, masks: bool, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        splits = data.draw(datasets(Path(place) / "from", masks=masks))
        save(splits, Path(place) / "to", to)
        report = read(Path(place) / "to")
        for split in splits:
            assert_equal(split, report.splits[split.name], to)
        outcomes = {kind: ACTIONS[kind].outcome for kind in report.counts()}
        assert {kind for kind, outcome in outcomes.items() if outcome != "noted"} <= {"crowd", "difficult"}


# --- real data sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bccd", "coco_mini", "nuclei/val.json"])
@pytest.mark.parametrize("to", WRITERS)
def test_real_data_sets_come_back_equal(shared_data: Path, tmp_path: Path, name: str, to: str) -> None:
    result = convert_data(shared_data / name, tmp_path / "to", to)
    report = read(tmp_path / "to")
    for split, old in result.report.splits.items():
        some = replace(old, images=old.images[:20])
        chosen = {image.path.read_bytes() for image in some.images}
        new = report.splits[split]
        assert len(new) == len(old)
        kept = [image for image in new.images if image.path.read_bytes() in chosen]
        assert_equal(some, replace(new, images=kept), to, masks=to == "coco" or name.startswith("nuclei"))


def test_a_panoptic_set_gives_its_things_and_says_so(shared_data: Path, tmp_path: Path) -> None:
    result = convert_data(shared_data / "coco_panoptic_mini", tmp_path / "to", "coco", data_format="coco_panoptic")
    assert any(note.startswith("segments of stuff") for note in result.notes)
    old = result.report.splits["train"]
    new = read(tmp_path / "to").splits["train"]
    assert set(new.categories.ids) == old.categories.thing_ids
    image = next(
        image for image in old.images if any(obj.category_id in old.categories.thing_ids for obj in image.objects)
    )
    copy = next(copy for copy in new.images if copy.path.read_bytes() == image.path.read_bytes())
    things = [obj for obj in image.objects if obj.category_id in old.categories.thing_ids]
    assert torch.equal(pixels(image, things), pixels(copy, copy.objects))


# --- what is said ----------------------------------------------------------------------------------------------------


def test_what_a_format_cannot_hold_is_said(coco: CocoFolder, tmp_path: Path) -> None:
    coco.add(iscrowd=1)
    coco.add(bbox=[10, 10, 8, 8], segmentation=[[10, 10, 12, 10, 12, 12], [14, 14, 18, 14, 18, 18, 14, 18]])
    coco.write()
    notes = {to: sorted(convert_data(coco.root, tmp_path / f"as-{to}", to).notes) for to in WRITERS}
    assert notes["coco"] == []
    assert [note.split(",")[0] for note in notes["voc"]] == [
        "category ids that Pascal VOC",
        "masks",
    ]
    assert [(note.split(",")[0], note[-3:]) for note in notes["yolo"]] == [
        ("category ids that YOLO", ": 2"),
        ("crowds and objects marked difficult", ": 1"),
        ("objects of several polygons", ": 1"),
        ("objects without a mask", ": 3"),
    ]
    assert read(tmp_path / "as-voc").counts()["difficult"] == 1


def test_what_the_check_leaves_out_is_said(coco: CocoFolder, tmp_path: Path) -> None:
    coco.train["images"].append({"id": 8, "file_name": "gone.png", "width": 40, "height": 30})
    write_image(coco.root / "images" / "more.png", seed=9)
    coco.write()
    notes = convert_data(coco.root, tmp_path / "to", "coco").notes
    assert notes == ["left out by the check (see detrkit check): 1 image_unused, 1 image_missing"]


def test_a_box_that_is_not_that_of_its_polygon_is_said(coco: CocoFolder, tmp_path: Path) -> None:
    coco.train["annotations"] = [coco.box(1, bbox=[5, 6, 20, 20], segmentation=[[5, 6, 15, 6, 15, 18]])]
    coco.write()
    notes = convert_data(coco.root, tmp_path / "yolo", "yolo").notes
    assert any(note.startswith("objects whose box is not that around their polygon") for note in notes)


@pytest.mark.parametrize("to", WRITERS)
def test_names_that_differ_in_case_or_ending_alone_are_told_apart(tmp_path: Path, to: str) -> None:
    names = ["a.png", "A.png", "a.bmp", "b.png.png", "one/c.png", "images/d.png", "readme.png", "classes.png"]
    images = [
        ImageRecord(k, write_image(tmp_path / "from" / str(k) / name, seed=k), name, 30, 40, [])
        for k, name in enumerate(names)
    ]
    images[0].objects.append(make_object(1, 0, (1, 2, 30, 20)))
    split = Split("train", images, Categories((0,), ("x",)), "here")
    writer = save([split], tmp_path / "to", to)
    assert any(note.startswith("images that got another name") for note in writer.notes)
    assert_equal(split, read(tmp_path / "to").splits["train"], to)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("to", WRITERS)
def test_boxes_fit_images_with_an_exif_rotation(coco: CocoFolder, tmp_path: Path, to: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(coco.root / "images" / "train.jpg", seed=1, exif=exif)
    width, height = (40, 30) if orientation < 5 else (30, 40)
    coco.train["images"] = [{"id": 7, "file_name": path.name, "width": width, "height": height}]
    coco.write()
    result = convert_data(coco.root, tmp_path / "to", to)
    assert_equal(result.report.splits["train"], read(tmp_path / "to").splits["train"], to)
    assert any("EXIF" in note for note in result.notes) == (orientation > 1)


# --- files -----------------------------------------------------------------------------------------------------------


def test_images_are_hard_links_or_else_copies(
    coco: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco.write()
    convert_data(coco.root, tmp_path / "linked", "coco")
    original = coco.root / "images" / "train.png"
    assert (tmp_path / "linked/images/train/train.png").samefile(original)

    def refuse(*paths: object) -> None:
        raise OSError(18, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    notes = convert_data(coco.root, tmp_path / "copied", "coco").notes
    copy = tmp_path / "copied/images/train/train.png"
    assert not copy.samefile(original)
    assert copy.read_bytes() == original.read_bytes()
    assert notes == ["images that were copied, since a hard link was not possible: 2"]


def test_a_broken_off_conversion_leaves_nothing(
    coco: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco.write()
    before = sorted(tmp_path.iterdir())

    def stop(*paths: object) -> None:
        assert not (tmp_path / "to").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(WRITERS["yolo"], "close", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_data(coco.root, tmp_path / "to", "yolo")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(coco: CocoFolder, tmp_path: Path) -> None:
    coco.write()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"expected a new or empty folder to write to, found mine\.txt in .*full"):
        convert_data(coco.root, tmp_path / "full", "coco")
    with pytest.raises(ConfigError, match="expected a new or empty folder to write to, found a file at"):
        convert_data(coco.root, tmp_path / "full" / "mine.txt", "coco")
    with pytest.raises(ConfigError, match="expected a folder outside of the data set"):
        convert_data(coco.root, coco.root / "inside", "coco")
    (tmp_path / "empty").mkdir()
    assert convert_data(coco.root, tmp_path / "empty", "coco").images == {"train": 1, "val": 1}


def test_wrong_settings_are_named(coco: CocoFolder, tmp_path: Path) -> None:
    coco.write()
    with pytest.raises(ConfigError, match="to must be coco, voc or yolo, found 'labelme'"):
        convert_data(coco.root, tmp_path / "to", "labelme")
    with pytest.raises(ConfigError, match="there is no setting 'format'"):
        convert_data(coco.root, tmp_path / "to", "coco", format="coco")
    with pytest.raises(DataError, match="expected a data set at"):
        convert_data(tmp_path / "nowhere", tmp_path / "to", "coco")
    assert not (tmp_path / "to").exists()


def test_class_names_that_voc_cannot_tell_apart_are_refused(coco: CocoFolder, tmp_path: Path) -> None:
    coco.train["categories"] = coco.content["val"]["categories"] = [{"id": 3, "name": "a b"}, {"id": 9, "name": "a  b"}]
    coco.write()
    with pytest.raises(DataError, match="expected class names that differ in more than blanks, found 'a b' twice"):
        convert_data(coco.root, tmp_path / "to", "voc")
    assert not (tmp_path / "to").exists()


def test_a_polygon_tolerance_gives_polygons_with_few_corners(tmp_path: Path) -> None:
    y, x = np.ogrid[:90, :120]
    mask = torch.from_numpy((x - 60) ** 2 + (y - 45) ** 2 < 1600)
    obj = make_object(1, 0, (20, 5, 100, 85), segmentation=encode_rle(mask))
    image = ImageRecord(1, write_image(tmp_path / "a.png", 120, 90), "a.png", 90, 120, [obj])
    split = Split("train", [image], Categories((0,), ("disc",)), "here")
    corners = {}
    for tolerance in (0.0, 1.0):
        folder = tmp_path / str(tolerance)
        writer_class = WRITERS["yolo"]
        assert writer_class is not None
        writer = writer_class(folder, split.categories, masks=True, tolerance=tolerance)
        writer.add(image, "train")
        writer.close()
        corners[tolerance] = len((folder / "labels/train/a.txt").read_text().split()) // 2
        copy = read(folder).splits["train"].images[0]
        new = pixels(copy, copy.objects)[0]
        assert (new & mask).sum() / (new | mask).sum() > (0.999 if not tolerance else 0.97)
    assert 10 < corners[1.0] < corners[0.0] / 3


@pytest.mark.parametrize("to", WRITERS)
def test_the_command_says_what_it_wrote(
    coco: CocoFolder, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coco.write()
    assert main(["convert_data", str(coco.root), str(tmp_path / "to"), "--to", to]) == 0
    shown = capsys.readouterr()
    assert f"Wrote 1 train images and 1 val images with 3 objects as {to.upper()}" in " ".join(shown.out.split())


def test_coco_keeps_ids_areas_and_categories(coco: CocoFolder, tmp_path: Path) -> None:
    coco.train["annotations"][0]["area"] = 77
    coco.write()
    convert_data(coco.root, tmp_path / "to", "coco")
    content = json.loads((tmp_path / "to/annotations/instances_train.json").read_text())
    assert content["images"] == [{"id": 7, "file_name": "train.png", "height": 30, "width": 40}]
    assert content["categories"] == [{"id": 3, "name": "scratch"}, {"id": 9, "name": "dent"}]
    assert content["annotations"][0] == coco.train["annotations"][0] | {"bbox": [5, 6, 10, 12], "segmentation": []}


def test_every_format_with_a_writer_is_a_choice() -> None:
    assert sorted(WRITERS) == sorted(get_args(get_type_hints(ConvertDataConfig)["to"]))
