"""Labels of the studio: what is confirmed is on the disk, in the formats of the command line, beside the source."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from detrkit.studio.label_store import LabelStore

from .conftest import HARMFUL, Answer, StudioClient, coco_folder, image_folder, studio_of

BOX = {"class_id": 1, "box": [5, 5, 25, 15], "polygons": []}


def save(studio: StudioClient, image: str, objects: list[dict[str, Any]], version: int = 0) -> Answer:
    return studio.send(f"/api/labels?image={image}", {"version": version, "objects": objects}, "PUT")


def labels_of(folder: Path, split: str = "train") -> dict[str, Any]:
    return dict(json.loads((folder / f"studio_labels/instances_{split}.json").read_text()))


def test_an_unlabeled_folder_becomes_a_data_set_that_the_command_line_reads(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    with studio_of(folder) as studio:
        assert studio.send("/api/classes", {"name": f"  {HARMFUL} "}).json["class"] == {"id": 1, "name": HARMFUL}
        assert studio.send("/api/classes", {"name": HARMFUL}).json["classes"] == [{"id": 1, "name": HARMFUL}]
        assert save(studio, "0.png", [BOX, {**BOX, "polygons": [[1, 1, 9, 1, 9, 200]]}]).json["version"] == 1
        assert save(studio, "1.png", []).json == {"version": 1, "split": "train"}
        assert studio.get("/api/labels?image=0.png").json["objects"][1]["box"] == [1, 1, 9, 60]
    for data in (folder / "studio_labels", folder):
        train = check_dataset(open_dataset(data, val_fraction=0)).splits["train"]
        assert [image.file_name for image in train.images] == ["0.png", "1.png"]
        assert [obj.box for obj in train.images[0].objects] == [(5, 5, 25, 15), (1, 1, 9, 60)]
        assert train.images[0].objects[1].area == 236
        assert train.categories.names == (HARMFUL,)


def test_the_source_is_never_written_and_unsaved_images_keep_its_labels(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    before = (folder / "train.json").read_bytes()
    with studio_of(folder) as studio:
        row = studio.get("/api/labels?image=images/1.png").json
        kept = [{**BOX, "class_id": 7, "keep": 1}, {**BOX, "box": [0, 0, 8, 8]}]
        assert save(studio, "images/1.png", kept, row["version"]).status == 200
    assert (folder / "train.json").read_bytes() == before
    content = labels_of(folder)
    by_name = {image["file_name"]: image["id"] for image in content["images"]}
    assert by_name == {f"images/{k}.png": 10 + k for k in range(4)}
    saved = [row for row in content["annotations"] if row["image_id"] == 11]
    assert [row["segmentation"] for row in saved] == [[[30, 20, 70, 20, 70, 50]], []]
    assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"]) == 8
    split = check_dataset(open_dataset(folder / "studio_labels", val_fraction=0)).splits["train"]
    assert len(split) == 4
    assert "a data set of their own" in open_dataset(folder, val_fraction=0).notes[-1]
    assert len(open_dataset(folder, val_fraction=0).splits["train"].images[1].objects) == 2


def test_masks_that_are_no_polygons_are_kept_to_the_pixel(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 1)
    content = json.loads((folder / "train.json").read_text())
    rle = {"size": [60, 80], "counts": [300, 5, 55, 5, 4435]}
    content["annotations"][1] |= {"segmentation": rle, "bbox": [5, 0, 2, 5]}
    (folder / "train.json").write_text(json.dumps(content))
    with studio_of(folder) as studio:
        row = studio.get("/api/labels?image=images/0.png").json
        assert row["objects"][1]["polygons"] == [[5, 0, 7, 0, 7, 5, 5, 5]] or len(row["objects"][1]["polygons"][0]) == 8
        assert save(studio, "images/0.png", [{**BOX, "class_id": 7, "keep": 1}]).status == 200
    split = check_dataset(open_dataset(folder / "studio_labels", val_fraction=0)).splits["train"]
    original = check_dataset(open_dataset(folder, val_fraction=0)).splits["train"]
    shapes = [each.to_coco()["annotations"][k]["segmentation"] for each, k in ((split, 0), (original, 1))]
    from detrkit.ops.masks import decode_segmentation

    masks = [decode_segmentation(shape, 60, 80) for shape in shapes]
    assert masks[0].equal(masks[1])
    assert masks[0].sum() == 10


def test_two_tabs_cannot_overwrite_one_another(tmp_path: Path) -> None:
    with studio_of(coco_folder(tmp_path / "set")) as studio:
        assert save(studio, "images/0.png", [BOX]).json["version"] == 1
        for objects in ([], [{**BOX, "keep": 1}]):
            refused = save(studio, "images/0.png", objects)
            assert refused.status == 409
            assert "saved in another tab" in refused.sentence
        assert save(studio, "images/0.png", [], 1).json["version"] == 2
        saves = studio.get("/api/history?image=images/0.png").json["saves"]
        assert [(row["version"], len(row["objects"])) for row in saves] == [(2, 0), (1, 1)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"class_id": 99}, "a class of the project"),
        ({"box": [5, 5, 5, 15]}, "at least 1 x 1 pixels inside the image"),
        ({"box": [90, 5, 99, 15]}, "inside the image"),
        ({"box": [1, 2, 3]}, "box"),
        ({"box": [1, 2, 3, "x"]}, "expected another value"),
        ({"polygons": [[1, 2, 3, 4]]}, "at least 6 items"),
        ({"keep": 7}, "reload it"),
        ({"other": 1}, "other"),
    ],
)
def test_objects_that_are_none_are_refused_in_a_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with studio_of(coco_folder(tmp_path / "set")) as studio:
        assert sentence in save(studio, "images/0.png", [{**BOX, **change}]).sentence
        assert studio.get("/api/labels?image=images/0.png").json["version"] == 0
    assert not (tmp_path / "set/studio_labels").exists()


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with studio_of(coco_folder(tmp_path / "set")) as studio:
        assert save(studio, "images/0.png", [{**BOX, "box": [float("nan"), 1, 2, float("inf")]}]).status == 422


def test_a_full_disk_is_said_and_nothing_is_half_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio:
        assert save(studio, "images/0.png", [BOX]).status == 200

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            answer = save(studio, "images/1.png", [BOX])
            assert answer.status == 507
            assert "make room on the disk" in answer.sentence
            assert studio.get("/api/labels?image=images/1.png").json["version"] == 0
        assert save(studio, "images/1.png", [BOX]).json["version"] == 1
    lines = (folder / "studio_labels/journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2]


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a", 30)
    arguments = [sys.executable, "-m", "detrkit", "studio", str(folder), "--port", "0", "--no_browser", "--quiet"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        port, _, token = process.stdout.readline().strip().removeprefix("Open http://127.0.0.1:").partition("/?token=")
        studio = StudioClient(int(port), {"Authorization": f"Bearer {token}"})
        studio.send("/api/classes", {"name": "x"})
        for k in range(20):
            assert save(studio, f"{k}.png", [BOX] * k).status == 200
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    with (folder / "studio_labels/journal.jsonl").open("ab") as file:
        file.write(b'{"sequence": 22, "image": "29.png", "ob')  # killed within a write
    with studio_of(folder) as studio:
        for k in range(20):
            assert len(studio.get(f"/api/labels?image={k}.png").json["objects"]) == k
        assert save(studio, "29.png", [BOX]).json["version"] == 1
    assert len(labels_of(folder)["images"]) == 21
    assert len(labels_of(folder)["annotations"]) == 191
    assert LabelStore(folder).saved["19.png"].version == 1


def test_the_coco_file_follows_soon_and_changes_made_in_it_are_kept(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio:
        save(studio, "images/0.png", [BOX])
        for _ in range(500):
            if (folder / "studio_labels/instances_train.json").exists():
                break
            time.sleep(0.02)
        assert len(labels_of(folder)["annotations"]) == 7
    content = labels_of(folder)
    for row in content["annotations"]:
        row["bbox"][0] += 1
    (folder / "studio_labels/instances_train.json").write_text(json.dumps(content))
    with studio_of(folder) as studio:
        assert studio.get("/api/labels?image=images/0.png").json["objects"][0]["box"] == [6, 5, 26, 15]


@pytest.mark.parametrize(("name", "text"), [("journal.jsonl", "no json\n"), ("instances_train.json", '{"info": {}}')])
def test_damaged_files_of_the_studio_are_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "studio_labels").mkdir()
    (tmp_path / "studio_labels" / name).write_text(text)
    with pytest.raises(DataError, match=name):
        LabelStore(tmp_path)


def test_an_export_is_a_data_set_of_another_format(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio:
        assert studio.send("/api/export", {"format": "yolo", "name": "before"}).json["objects"] == 8
        save(studio, "images/0.png", [])
        answer = studio.send("/api/export", {"format": "voc", "name": "as voc"}).json
        assert answer["folder"] == "studio_exports/as voc"
        assert (answer["images"], answer["objects"]) == (4, 6)
        assert "nothing is overwritten" in studio.send("/api/export", {"format": "voc", "name": "as voc"}).sentence
        assert "sideways" in studio.send("/api/export", {"format": "sideways", "name": "b"}).sentence
        for name in ("../a", "/tmp/a", "..", ".", "a/b"):
            assert studio.send("/api/export", {"format": "voc", "name": name}).status == 422
    assert open_dataset(folder / "studio_exports/as voc").format == "voc"
    with studio_of(image_folder(tmp_path / "unlabeled")) as studio:
        assert "label and save some first" in studio.send("/api/export", {"format": "voc", "name": "a"}).sentence
