"""A COCO file that is packed in parts gives what it gives as a whole, in memory that does not grow with the file."""

import json
import random
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

import detrkit
from detrkit import cli
from detrkit.commands import pack as pack_command
from detrkit.data.files.json_stream import stream_lists
from detrkit.data.formats.detect import open_dataset
from detrkit.data.shards import coco_parts, columns, pack_large
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError

from .test_packed_records import assert_same_split


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every COCO file is large, and a part has a few images."""
    monkeypatch.setattr(pack_large, "LARGE_BYTES", 100)
    monkeypatch.setattr(coco_parts, "PART_BYTES", 1000)


@pytest.fixture
def data(loose: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loose, tmp_path / "data"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: change(content[key]) for key, change in changes.items()}))


def check(data: Path):
    return check_dataset(open_dataset(data))


@pytest.mark.parametrize("layout", ["as it is", "annotations first", "indented", "no categories"])
def test_parts_give_the_records_of_the_whole(data: Path, tmp_path: Path, small_parts, layout: str) -> None:
    for path in data.glob("*.json"):
        content = json.loads(path.read_text())
        if layout == "annotations first":
            content = dict(sorted(content.items()))
        if layout == "no categories":
            del content["categories"]
        path.write_text(json.dumps(content, indent=1 if layout == "indented" else None))
    result = detrkit.pack(data, tmp_path / "packed")
    assert any("was read in" in note for note in result.notes)
    assert not (tmp_path / "packed" / ".parts").exists()
    actual, expected = check(tmp_path / "packed"), check(data)
    for name, split in expected.splits.items():
        assert_same_split(actual.splits[name], split)
    assert actual.statistics == expected.statistics


def test_missing_repeated_and_broken_records_are_treated_as_in_the_whole(
    data: Path, tmp_path: Path, small_parts
) -> None:
    def images(rows):
        again = {**rows[2], "id": 77}
        return [*rows[:5], {**rows[5], "file_name": "absent.png"}, 5, *rows[6:], again]

    def annotations(rows):
        more = [{**rows[0], "id": 900, "image_id": 77}, {**rows[1], "id": 901, "image_id": 12345}, "none"]
        return [*rows[:4], {**rows[4], "id": rows[3]["id"]}, {**rows[5], "bbox": [1, 2]}, *rows[6:], *more]

    edit(data / "train.json", images=images, annotations=annotations)
    result = detrkit.pack(data, tmp_path / "packed")
    expected = check(data)
    kinds = {kind: count for kind, count in expected.counts().items() if kind in str(result.notes)}
    assert {"record_malformed", "image_of_object_missing", "image_missing"} <= kinds.keys()
    assert all(f"{count} {kind}" in result.notes[-1] for kind, count in kinds.items())
    actual = check(tmp_path / "packed")
    for name, split in expected.splits.items():
        assert [image.file_name for image in actual.splits[name].images] == [i.file_name for i in split.images]
        boxes = [[obj.box for obj in image.objects] for image in split.images]
        assert [[obj.box for obj in image.objects] for image in actual.splits[name].images] == boxes
    ids = [obj.id for image in actual.splits["train"].images for obj in image.objects]
    assert len(set(ids)) == len(ids)


def test_text_ids_of_images_are_kept_apart(data: Path, tmp_path: Path, small_parts) -> None:
    edit(
        data / "train.json",
        images=lambda rows: [{**row, "id": f"img-{row['id']}"} for row in rows],
        annotations=lambda rows: [{**row, "image_id": f"img-{row['image_id']}"} for row in rows],
    )
    detrkit.pack(data, tmp_path / "packed")
    actual, expected = check(tmp_path / "packed").splits["train"], check(data).splits["train"]
    counts = [[(image.file_name, len(image.objects)) for image in split.images] for split in (actual, expected)]
    assert counts[0] == counts[1]


def test_a_file_of_nothing_but_crowds_is_one_of_objects(data: Path, tmp_path: Path, small_parts) -> None:
    shape = [[1, 1, 9, 1, 9, 9]]
    edit(
        data / "train.json",
        annotations=lambda rows: [{**row, "iscrowd": 1, "segmentation": row["segmentation"] or shape} for row in rows],
    )
    detrkit.pack(data, tmp_path / "packed")
    assert check(tmp_path / "packed").statistics["train"]["crowds"] == 0
    assert check(tmp_path / "packed").statistics["train"]["objects"] == check(data).statistics["train"]["objects"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda text: text[: len(text) // 2],
            r"expected JSON in .*train.json, found a mistake at character \d+: .*; the",
        ),
        (lambda text: text.replace('"bbox": [', '"bbox": [,', 1), "found a mistake at character"),
        (lambda text: text[1:], r"character 0: '\"' in place of {"),
        (
            lambda text: '{"images": [], "annotations": [' + "{}, " * 99 + "{}]}",
            "expected images under 'images' .*, found none",
        ),
        (lambda text: text.replace('"file_name": "', '"file_name": "no-'), "found none that can be used among the 11"),
        (lambda text: text.replace('"file_name": "', '"split": "val", "file_name": "', 1), ""),
    ],
)
def test_a_broken_large_file_is_refused_in_one_sentence(
    data: Path, tmp_path: Path, small_parts, damage, sentence: str, capsys
) -> None:
    path = data / "train.json"
    path.write_text(damage(path.read_text()))
    if not sentence:
        assert cli.main(["pack", str(data), str(tmp_path / "packed"), "--quiet"]) == 0
        return
    with pytest.raises(DataError, match=sentence):
        detrkit.pack(data, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    assert cli.main(["pack", str(data), str(tmp_path / "packed"), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_attributes_in_all_parts_are_noted_once(data: Path, tmp_path: Path, small_parts) -> None:
    total = 0
    for path in data.glob("*.json"):
        edit(path, annotations=lambda rows: [{**row, "attributes": {"depth": "deep"}} for row in rows])
        total += len(json.loads(path.read_text())["annotations"])
    notes = detrkit.pack(data, tmp_path / "packed").notes
    assert [note for note in notes if "attributes" in note] == [f"attributes of objects are not used: depth ({total})"]


def test_one_large_file_of_several_splits_is_refused(data: Path, tmp_path: Path, small_parts) -> None:
    (data / "val.json").unlink()
    path = (data / "train.json").rename(data / "all.json")
    edit(path, images=lambda rows: [{**row, "split": "val" if k % 3 else "train"} for k, row in enumerate(rows)])
    with pytest.raises(
        DataError, match=r"expected the images of one split in .*all.json, .* found images of train and val"
    ):
        detrkit.pack(data, tmp_path / "packed")


def test_two_large_files_of_one_split_are_refused(data: Path, tmp_path: Path, small_parts) -> None:
    shutil.copy(data / "train.json", data / "train_2.json")
    with pytest.raises(DataError, match=r"expected one COCO file for train, .* found 2: .*; join them, or name one"):
        detrkit.pack(data, tmp_path / "packed")


def test_strict_refuses_what_a_part_leaves_out(data: Path, tmp_path: Path, small_parts) -> None:
    edit(data / "train.json", annotations=lambda rows: [*rows, {**rows[0], "id": 99, "image_id": 4567}])
    with pytest.raises(DataError, match="image_of_object_missing"):
        detrkit.pack(data, tmp_path / "packed", strict=True)


def test_elements_are_read_across_the_borders_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.data.files.json_stream._CHUNK", 3)
    content = {"a": [1, 23456, {"x": "y" * 50, "z": [1.5, None]}, "ü€😀", []], "b": {"n": -1.25e3}, "c": [], "d": 12345}
    path = tmp_path / "x.json"
    for text in (json.dumps(content), json.dumps(content, indent=3, ensure_ascii=False)):
        path.write_text(text, encoding="utf-8-sig")
        expected = [("a", value) for value in content["a"]] + [("b", content["b"]), ("d", 12345)]
        assert [(key, value) for key, value, _ in stream_lists(path)] == expected
        assert [json.loads(text) for _, _, text in stream_lists(path)] == [value for _, value in expected]


def test_a_part_holds_a_share_of_the_file_however_large_it_is(data: Path, tmp_path: Path, small_parts) -> None:
    path = data / "train.json"
    (tmp_path / "parts").mkdir()
    parts = [part.content for part in coco_parts.CocoParts(path, tmp_path / "parts", Findings())]
    assert len(parts) > 3
    assert max(len(json.dumps(part)) for part in parts) < path.stat().st_size
    assert sum(len(part["images"]) for part in parts) == 11


def write_polygons(folder: Path, images: int) -> int:
    """Write a COCO file with 5 polygons of 200 corners per image; returns its size."""
    (folder / "images").mkdir(parents=True)
    rng = random.Random(0)
    rows: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for k in range(images):
        Image.new("RGB", (64, 64), (k, 0, 0)).save(folder / "images" / f"{k}.png")
        rows["images"].append({"id": k, "file_name": f"{k}.png", "width": 64, "height": 64})
        for number in range(5):
            outline = [round(rng.random() * 60, 2) for _ in range(400)]
            x1, x2, y1, y2 = min(outline[::2]), max(outline[::2]), min(outline[1::2]), max(outline[1::2])
            row = {"id": 5 * k + number + 1, "image_id": k, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows["annotations"].append(row | {"segmentation": [outline]})
    return (folder / "train.json").write_text(json.dumps(rows))


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_parts, "PART_BYTES", 40_000)
    monkeypatch.setattr(coco_parts, "_BUFFERED", 40_000)
    monkeypatch.setattr(columns, "_BUFFERED", 1000)
    monkeypatch.setattr("detrkit.data.files.json_stream._CHUNK", 10_000)
    sizes = {images: write_polygons(tmp_path / f"data-{images}", images) for images in (10, 100, 200)}
    peaks = {}
    for images, large_bytes in ((10, 100), (100, 100), (200, 100), (100, 10**9)):  # the first is for caches and imports
        monkeypatch.setattr(pack_large, "LARGE_BYTES", large_bytes)
        tracemalloc.start()
        detrkit.pack(tmp_path / f"data-{images}", tmp_path / f"packed-{images}-{large_bytes}")
        peaks[images, large_bytes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[200, 100] - peaks[100, 100] < 0.2 * (sizes[200] - sizes[100])
    assert peaks[100, 10**9] > 2 * peaks[100, 100]  # as a whole: what a mistake would take


def test_packing_says_how_long_it_will_take(
    data: Path, tmp_path: Path, small_parts, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(pack_command, "_FIRST", 0)
    monkeypatch.setattr(pack_command, "_EVERY", 0)
    monkeypatch.setattr("detrkit.data.files.json_stream._CHUNK", 1000)
    assert cli.main(["pack", str(data), str(tmp_path / "packed")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"Reading train.json: \d+% done, about 0.0 minutes left\n", err)
    assert re.search(r"Packing images: \d+% done, about \d.\d minutes left\n", err)
    assert re.search(r"Packed .*, in \d+\.\d s\n", out)
