"""Original ids return on the way out; the report, and the real data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.commands.check import check
from detrkit.config.commands import CheckConfig
from detrkit.data.files.image_finder import tidy_name
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.structures import Categories


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True), st.data())
def test_sparse_ids_map_to_classes_and_back(ids: list[int], data: st.DataObject) -> None:
    categories = Categories(tuple(ids), tuple(f"class {i}" for i in ids))
    used = data.draw(st.lists(st.sampled_from(ids), max_size=20))
    objects = [ObjectRecord(k + 1, c, (0, 0, 2, 3), 6.0, False, None, "") for k, c in enumerate(used)]
    split = Split("train", [ImageRecord(5, Path("a.png"), "a.png", 10, 10, objects)], categories, "x")
    classes = [categories.index_of_id[obj.category_id] for obj in objects]
    assert all(0 <= k < len(categories) for k in classes)
    assert [categories.ids[k] for k in classes] == used
    plain = split.to_coco()
    assert [row["category_id"] for row in plain["annotations"]] == used
    assert all(row["bbox"] == [0, 0, 2, 3] for row in plain["annotations"])
    assert Categories.from_plain(plain["categories"]) == categories


@given(st.integers(-(10**12), 10**12))
def test_integers_are_ids_in_every_spelling(number: int) -> None:
    assert as_id(number) == as_id(str(number)) == as_id(f" {number} ") == number
    assert as_id(float(number)) == number


@given(st.one_of(st.none(), st.floats().filter(lambda f: not f.is_integer()), st.just("a7"), st.lists(st.integers())))
def test_other_values_are_no_ids(value: Any) -> None:
    assert as_id(value) is None


@given(st.text(max_size=40))
def test_tidy_names_stay_in_their_folder(name: str) -> None:
    tidy, _ = tidy_name(name)
    path = Path("images") / tidy
    assert path.parts[0] == "images"
    assert ".." not in path.parts


@pytest.mark.parametrize("counts", ["zz", "é", [5], [1200, -1, 1], [1200.0], 1200])
def test_masks_that_cannot_be_decoded_are_left_out(coco: Any, counts: Any) -> None:
    coco.add(segmentation={"size": [30, 40], "counts": counts})
    report = coco.check()
    assert report.counts() == {"segmentation_malformed": 1}
    assert report.splits["train"].images[0].objects[-1].segmentation is None


def test_crowds_and_masks_reach_the_ground_truth(coco: Any) -> None:
    coco.add(iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 36, 1164]})
    coco.add(bbox=[1, 1, 7, 7], area=24.5, segmentation=[[1, 1, 8, 1, 8, 8]])
    gt = coco.check().splits["train"].to_coco()
    assert [row["iscrowd"] for row in gt["annotations"]] == [0, 0, 1, 0]
    assert gt["annotations"][2]["segmentation"]["counts"] == [0, 36, 1164]
    assert gt["annotations"][3]["segmentation"] == [[1, 1, 8, 1, 8, 8]]
    assert gt["annotations"][3]["area"] == 24.5
    assert gt["images"] == [{"id": 7, "file_name": "train.png", "height": 30, "width": 40}]


def test_masks_can_be_left_out_to_save_memory(coco: Any) -> None:
    coco.add(segmentation=[[1, 1, 7, 1, 7, 7]])
    coco.write()
    report = check_dataset(open_dataset(coco.root, segmentations=False))
    assert report.splits["train"].images[0].objects[2].segmentation is None


# The report and the door


def test_the_door_prints_and_writes(coco: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco.add(bbox=[5, 5, 0, 4])
    coco.write()
    check(CheckConfig(data=str(coco.root), json=str(tmp_path / "out" / "report.json"), num_queries=1))
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "images without objects",
        "small objects (below 32 x 32 px)",
        "objects per image, median / max",
        "object width / height",
        "scratch",
        "1 x a box of zero or negative size; dropped: the object is left out",
        "train.json, annotations[2]: found [5, 5, 0, 4]",
        "more objects in an image than the model has queries",
    ):
        assert words in text
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    assert plain["counts"] == {"box_empty": 1, "objects_exceed_queries": 1}
    assert plain["findings"][0]["record"] == "annotations[2]"
    assert plain["categories"] == [{"id": 3, "name": "scratch"}, {"id": 9, "name": "dent"}]
    assert plain["statistics"]["train"]["objects_per_class"] == {"scratch": 1, "dent": 1}


def test_the_door_on_a_sound_data_set(coco: Any, capsys: pytest.CaptureFixture[str]) -> None:
    coco.train["categories"][0]["name"] = "scratch [deep]"  # brackets are rich's markup
    coco.content["val"]["categories"][0]["name"] = "scratch [deep]"
    coco.write()
    check(CheckConfig(data=str(coco.root)))
    out = capsys.readouterr().out
    assert "No defects found" in out
    assert "scratch [deep]" in out


def test_the_summary_of_a_run(coco: Any) -> None:
    coco.add(bbox=[5, 5, 0, 4])
    coco.add(area="absent")
    lines = coco.check().summary()
    assert "(COCO): train 1 images with 3 objects, val 1 images with 1 objects" in lines[0]
    assert lines[1:] == ["dropped: 1 box_empty", "repaired: 1 area_absent"]


def test_statistics(coco: Any) -> None:
    coco.add(area=2000)
    coco.add(bbox=[2, 2, 8, 8], area=10_000)
    numbers = coco.check().statistics["train"]
    assert (numbers["images"], numbers["objects"], numbers["crowds"]) == (1, 4, 0)
    assert (numbers["small"], numbers["medium"], numbers["large"]) == (2, 1, 1)
    assert numbers["objects_per_image"] == {"median": 4, "max": 4}
    assert numbers["side"]["p50"] == 8
    assert numbers["image_width"] == {"p5": 40, "p50": 40, "p95": 40}


# Real data


REAL = {
    "bccd": ("coco", (292, 3941), (72, 945), {}),
    "chess": ("coco", (209, 2107), (79, 754), {"annotation_twice": 1, "leakage_look": 2, "near_duplicate": 13}),
    "coco_mini": ("coco", (47, 524), (57, 517), {"crowd": 13, "category_not_in_train": 11, "category_unused": 9}),
    "coco_panoptic_mini": (
        "coco",
        (26, 181),
        (27, 174),
        {"crowd": 3, "category_not_in_train": 25, "category_unused": 19},
    ),
    "deeppcb": ("coco", (600, 4147), (300, 1878), {"image_gray": 900}),
    "nuclei": ("coco", (239, 7356), (61, 1853), {"objects_exceed_queries": 4}),
    "bccd/voc": ("voc", (59, 984), (21, 352), {"box_empty": 2}),
    "coco_panoptic_mini/data.yaml": (
        "yolo",
        (26, 181),
        (27, 173),
        {"category_not_in_train": 25, "category_unused": 19},
    ),
}
"""Format, then images and objects (crowds too) of train and val, then findings, as the READMEs there count them."""


def counted(report: CheckReport) -> tuple[tuple[int, int], ...]:
    return tuple((len(s), sum(len(image.objects) for image in s.images)) for s in report.splits.values())


@pytest.mark.parametrize("name", REAL)
def test_real_data_sets(shared_data: Path, name: str) -> None:
    data_format, train, val, findings = REAL[name]
    raw = open_dataset(shared_data / name)
    assert raw.format == data_format
    report = check_dataset(raw, decode_all=name != "deeppcb")
    assert counted(report) == (train, val)
    # some of these folders hold the same set in several formats, or a test split
    others = ("annotations_unused", "image_unused", "set_aside", "image_without_label", "other_task")
    assert {kind: n for kind, n in report.counts().items() if kind not in others} == findings


def test_a_folder_with_two_formats_names_the_one_read(shared_data: Path) -> None:
    assert (
        "read as COCO (train.json, val.json); there is also YOLO (data.yaml)"
        in open_dataset(shared_data / "coco_panoptic_mini").notes[0]
    )
    assert open_dataset(shared_data / "coco_panoptic_mini", data_format="yolo").format == "yolo"
    assert open_dataset(shared_data / "bccd", data_format="voc").format == "voc"


def test_voc_and_coco_forms_of_one_data_set_agree(shared_data: Path) -> None:
    """The README's factor of 0.75 between both forms holds for every box of the shared images."""
    coco = check_dataset(open_dataset(shared_data / "bccd"))
    voc = check_dataset(open_dataset(shared_data / "bccd" / "voc"))
    by_name = {image.file_name: image for split in coco.splits.values() for image in split.images}
    names_coco = dict(zip(coco.splits["train"].categories.ids, coco.splits["train"].categories.names, strict=True))
    names_voc = dict(zip(voc.splits["train"].categories.ids, voc.splits["train"].categories.names, strict=True))
    for split in voc.splits.values():
        for image in split.images:
            small = sorted((names_coco[o.category_id], *o.box) for o in by_name[image.file_name].objects)
            scaled = sorted((names_voc[o.category_id], *(0.75 * v for v in o.box)) for o in image.objects)
            assert [row[0] for row in small] == [row[0] for row in scaled]
            assert [v for row in small for v in row[1:]] == pytest.approx(
                [v for row in scaled for v in row[1:]], abs=0.02
            )


@pytest.mark.parametrize("split_name", ["train", "val"])
def test_round_trip_of_sparse_ids_scores_one(shared_data: Path, split_name: str) -> None:
    """coco_mini's truth, through class indices and back as detections, by the official evaluation: AP 1."""
    from faster_coco_eval import COCO, COCOeval_faster

    split = check_dataset(open_dataset(shared_data / "coco_mini")).splits[split_name]
    assert len(split.categories) == 80
    assert split.categories.ids[-1] == 90
    detections = []
    for image in split.images:
        for obj in image.objects:
            if not obj.crowd:
                class_index = split.categories.index_of_id[obj.category_id]
                x1, y1, x2, y2 = obj.box
                row = {"image_id": image.id, "category_id": split.categories.ids[class_index], "score": 0.9}
                detections.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    original = json.loads((shared_data / "coco_mini" / f"{split_name}.json").read_text())
    for gt in (split.to_coco(), original):  # our own truth, and the file itself
        coco = COCO(gt)
        evaluation = COCOeval_faster(coco, coco.loadRes(detections), "bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0, abs=1e-9)
