"""The command `eval`: a file of detections or a detector, on a data set on disk."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.commands.eval import evaluate
from detrkit.config.commands import EvalConfig
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawImage
from detrkit.data.validation.held_out import read_split, write_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_batches, collect_split
from detrkit.evaluation.class_match import match_classes
from detrkit.evaluation.coco_metrics import compute_coco_metrics, merge_ranks
from detrkit.evaluation.evaluate_detector import default_folder
from detrkit.evaluation.prediction_files import find_images, read_detections
from detrkit.structures import Batch, Categories, Output, Preprocessing

from .cases import perfect, random_case


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder in COCO form with sparse ids, and its ground truth; images of two shapes."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    gt, _ = random_case(8)
    for k, image in enumerate(gt["images"]):
        image["width"] = 100 if k % 2 else 120
        noise = np.random.default_rng(k).integers(0, 255, (100, image["width"], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / image["file_name"])
    for number, row in enumerate(gt["annotations"], 1):
        x, y, w, h = row["bbox"]
        row["id"] = number
        row["bbox"] = [x, y, min(w, 100 - x), min(h, 100 - y)]
        row["area"] = row["bbox"][2] * row["bbox"][3]
    (folder / "val.json").write_text(json.dumps(gt), encoding="utf-8")
    return folder, gt


def test_a_detections_file_without_any_model(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, gt = dataset
    actual = tmp_path / "mine" / "found.json"
    actual.parent.mkdir()
    actual.write_text(json.dumps(perfect(gt)), encoding="utf-8")
    content = evaluate(EvalConfig(detections=str(actual), data=str(folder)))
    assert content["coco"]["bbox"]["AP"] == pytest.approx(1)
    assert content["made_by"]["detections"] == str(actual)
    assert json.loads((tmp_path / "mine/report/metrics.json").read_text(encoding="utf-8")) == content
    text = capsys.readouterr().out
    assert "Average Precision (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000" in text
    assert "class 7" in text
    assert "Best threshold: 0.900 (F1 1.000" in text


def test_the_reference_file_through_the_verb(shared: Path, tmp_path: Path) -> None:
    reference = json.loads((shared / "reference/coco_mini_detections.json").read_text(encoding="utf-8"))
    actual = tmp_path / "found.json"
    actual.write_text(json.dumps(reference["detections"]), encoding="utf-8")
    content = evaluate(EvalConfig(detections=str(actual), data=str(shared / "data/coco_mini")))
    for kind, numbers in content["coco"].items():
        assert list(numbers.values()) == pytest.approx(reference["expected_coco_stats"][kind], abs=1e-6)
    assert {p.name for p in (tmp_path / "report/errors").iterdir()} == {
        "missed.jpg",
        "wrong_class.jpg",
        "false_alarm.jpg",
    }


@pytest.mark.parametrize("kind", [float, str])
def test_ids_of_detections_may_be_written_as_in_a_data_set(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path, kind: type
) -> None:
    folder, gt = dataset
    actual = tmp_path / "found.json"
    rows = [row | {key: kind(row[key]) for key in ("image_id", "category_id")} for row in perfect(gt)]
    actual.write_text(json.dumps(rows), encoding="utf-8")
    assert evaluate(EvalConfig(detections=str(actual), data=str(folder)))["coco"]["bbox"]["AP"] == pytest.approx(1)


def test_an_image_id_that_is_none_is_an_error(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    actual = tmp_path / "found.json"
    actual.write_text('[{"image_id": [1], "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"image id \[1\]"):
        evaluate(EvalConfig(detections=str(actual), data=str(dataset[0])))


def test_detections_for_images_that_the_check_drops(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, gt = dataset
    (folder / "images" / gt["images"][0]["file_name"]).unlink()
    actual = tmp_path / "found.json"
    row = {"image_id": gt["images"][0]["id"], "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.9}
    actual.write_text(json.dumps([*perfect(gt), row]), encoding="utf-8")
    content = evaluate(EvalConfig(detections=str(actual), data=str(folder)))
    assert content["coco"]["bbox"]["AP"] == pytest.approx(1)
    assert "detections are left out" in capsys.readouterr().out


def test_user_errors(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, gt = dataset
    with pytest.raises(ConfigError, match="either weights or detections, found neither"):
        evaluate(EvalConfig(data=str(folder)))
    with pytest.raises(ConfigError, match="found both"):
        evaluate(EvalConfig(data=str(folder), weights="a", detections="b"))
    actual = tmp_path / "found.json"
    actual.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a train split"):
        evaluate(EvalConfig(data=str(folder), detections=str(actual), split="train"))
    actual.write_text(json.dumps([*perfect(gt)[:1], perfect(gt)[0] | {"image_id": 77}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"detection 1 of .*found.json is for image id 77"):
        evaluate(EvalConfig(data=str(folder), detections=str(actual)))
    with pytest.raises(DataError, match="no such file"):
        read_detections(tmp_path / "absent.json")
    actual.write_text("[{", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        read_detections(actual)
    actual.write_text(json.dumps(gt), encoding="utf-8")
    with pytest.raises(DataError, match="found an object with the keys images"):
        read_detections(actual)
    actual.write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="a list with something else"):
        read_detections(actual)


def test_classes_are_matched_by_name() -> None:
    model = Categories(ids=(1, 2, 3), names=("cat", "dog", "cow"))
    data = Categories(ids=(10, 7, 1), names=("dog", "cat", "bird"))
    match = match_classes(model, data)
    assert match.id_of == {0: 7, 1: 10}
    assert match.unknown_to_data == ("cow",)
    assert match.unknown_to_model == ("bird",)
    unnamed = match_classes(Categories.unnamed(3), data)
    assert unnamed.id_of == {1: 1}


class Knowing:
    """Stands for a DETR: finds the same three things in every image."""

    def __init__(self) -> None:
        self.calls = 0

    def eval(self) -> None:
        pass

    def forward_detection(self, images: torch.Tensor, padding_mask: torch.Tensor) -> Output:
        assert not padding_mask.any()  # only images of one shape share a pass
        self.calls += 1
        logits = torch.full((len(images), 3, 4), -9.0)
        logits[:, 0, 1] = 9  # one sure box of class 1
        logits[:, 1, 2] = 3  # a class that the data set does not have
        logits[:, 2, 3] = 9  # no object
        boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(len(images), 3, 4)
        return Output(logits, boxes)


def test_a_model_over_a_split(dataset: tuple[Path, dict[str, Any]]) -> None:
    folder, gt = dataset
    split = check_dataset(open_dataset(folder)).splits["val"]
    categories = Categories(ids=(0, 1, 2), names=("class 3", "class 7", "unicorn"))
    match = match_classes(categories, split.categories)
    model: Any = Knowing()
    collector = DetectionAccumulator(match.id_of)
    collect_split(model, split, categories, collector, preprocessing=Preprocessing(50), device="cpu", batch_size=2)
    actual = merge_ranks([(collector.image_ids, collector.detections)])
    assert model.calls == 2  # four images of two shapes
    assert {row["image_id"] for row in actual} == {image["id"] for image in gt["images"]}
    assert [row["image_id"] for row in actual] == sorted(row["image_id"] for row in actual)
    assert {row["category_id"] for row in actual} == {3, 7}  # the no-object query says its best class, faintly
    sure = [row for row in actual if row["score"] > 0.9]
    assert {row["category_id"] for row in sure} == {7}
    sizes = {image["id"]: [0, 0, image["width"], 100] for image in gt["images"]}
    for row in sure:
        assert row["bbox"] == pytest.approx(sizes[row["image_id"]], abs=1e-3)
    compute_coco_metrics(split.to_coco(), actual)


def test_images_stream_through() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def batches() -> Iterator[Batch]:
        nonlocal most
        for k in range(40):
            images = torch.zeros(1, 3, 32, 32)
            alive.append(weakref.ref(images))
            most = max(most, sum(r() is not None for r in alive))
            mask = torch.zeros(1, 32, 32, dtype=torch.bool)
            target: Any = {"image_id": k, "original_size": (32, 32), "size": (32, 32)}
            yield Batch(images, mask, [target])

    model: Any = Knowing()
    collector = DetectionAccumulator({1: 5})
    collect_batches(model, batches(), collector, device="cpu")
    assert collector.image_ids == list(range(40))
    assert [row["image_id"] for row in collector.detections] == collector.image_ids
    assert most <= 3  # this one, the generator's last and the loop's


def test_where_the_report_goes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").touch()
    assert default_folder(EvalConfig(weights=str(tmp_path / "run"))) == tmp_path / "run/report"
    assert default_folder(EvalConfig(weights=str(tmp_path / "run/best.ckpt"))) == tmp_path / "run/report"
    assert default_folder(EvalConfig(weights="detr_resnet50")) == Path("runs/detr_resnet50/report")


def test_the_report_of_a_run_is_its_own(tmp_path: Path) -> None:
    """Measured on other images than it was made for, a detector leaves that report alone."""
    run = tmp_path / "run"
    run.mkdir()
    for settings, ask, name in (
        (TrainConfig(data=str(tmp_path / "a")), {"data": str(tmp_path / "a")}, "report"),
        (TrainConfig(data=str(tmp_path / "a")), {"data": str(tmp_path / "b")}, "report-b-val"),
        (TrainConfig(data=str(tmp_path / "a")), {"data": str(tmp_path / "a"), "split": "train"}, "report-a-train"),
        (TrainConfig(data=str(tmp_path / "a"), overfit=4), {"data": str(tmp_path / "a")}, "report-a-val"),
    ):
        (run / "config.yaml").write_text(settings.to_yaml(), encoding="utf-8")
        assert default_folder(EvalConfig(weights=str(run), **ask)) == run / name


def test_detections_with_file_names_find_their_images(dataset: tuple[Path, dict[str, Any]]) -> None:
    folder, gt = dataset
    images = open_dataset(folder).splits["val"].images
    ids = {image["file_name"]: image["id"] for image in gt["images"]}
    name = images[0].file_name
    rows = [{"image_id": 12345, "file_name": str(images[0].path)}, {"image_id": 3, "file_name": f"elsewhere/{name}"}]
    actual = find_images([*rows, {"image_id": 8}], images, where="x.json")
    assert [row["image_id"] for row in actual] == [ids[name], ids[name], 8]
    with pytest.raises(DataError, match="which is none of them"):
        find_images([{"image_id": 1, "file_name": "other.jpg"}], images, where="x.json")


def test_images_of_one_name_are_told_apart_by_their_folders() -> None:
    images = [
        RawImage(number, Path("/data/train") / name, name, 8, 8, [], "x.json")
        for number, name in enumerate(("1.png", "a/1.png", "b/1.png"), 1)
    ]
    names = {"train/1.png": 1, "train/a/1.png": 2, "b/1.png": 3, "/elsewhere/train/b/1.png": 3}
    rows = find_images([{"image_id": 9, "file_name": name} for name in names], images, where="x.json")
    assert [row["image_id"] for row in rows] == list(names.values())
    with pytest.raises(DataError, match=r"which several of them are called"):
        find_images([{"image_id": 1, "file_name": "c/1.png"}], images, where="x.json")


def test_classes_matched_by_id_alone_are_noted() -> None:
    cells = Categories((1, 2), ("cell", "platelet"))
    assert match_classes(cells, Categories((1, 3), ("open", "short"))).by_id == "1 cell = open"
    assert match_classes(cells, Categories((7, 3), ("cell", "short"))).by_id == ""


def test_a_detector_through_the_verb(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights of a model that knows one class of the data set, one other, and not the second."""
    from detrkit.models import build_model

    args: dict[str, Any] = {
        "num_classes": 2,
        "backbone": "resnet18",
        "hidden_dim": 16,
        "nheads": 2,
        "enc_layers": 1,
        "dec_layers": 1,
        "dim_feedforward": 16,
        "num_queries": 8,
    }
    torch.manual_seed(0)
    model = build_model(**args)
    plain = {
        "version": 1,
        "model_args": args,
        "categories": [{"id": 1, "name": "unicorn"}, {"id": 2, "name": "class 7"}],
        "preprocessing": Preprocessing(64).to_plain(),
        "config": {},
        "metrics": {},
    }
    torch.save({"model": model.state_dict(), "detrkit": plain}, tmp_path / "best.ckpt")
    folder, gt = dataset
    config = EvalConfig(
        weights=str(tmp_path / "best.ckpt"), data=str(folder), num_workers=0, batch_size=2, device="cpu"
    )
    content = evaluate(config)
    actual = {row["name"]: row["detections"] for row in content["per_class"]}
    assert 0 < actual["class 7"] <= 8 * len(gt["images"])
    assert actual["class 3"] == actual["class 90"] == 0
    assert content["made_by"]["image_size"] == 64
    text = " ".join(capsys.readouterr().out.split())
    assert "1 of the model's classes are not in the data set, their detections are dropped: unicorn" in text
    assert "The model does not know 2 classes of the data set, their objects count as missed: class 3" in text
    again = evaluate(EvalConfig(weights=str(tmp_path), data=str(folder), num_workers=0, batch_size=1, device="cpu"))
    assert again["coco"]["bbox"] == pytest.approx(content["coco"]["bbox"], abs=1e-6)
    assert (tmp_path / "report/metrics.json").is_file()


def test_the_images_that_a_run_held_out_are_the_ones_it_is_measured_on(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, gt = dataset
    (folder / "val.json").rename(folder / "all.json")
    raw = open_dataset(folder, val_fraction=0.5, seed=7)
    held_out = check_dataset(raw).splits["val"].images
    write_split(tmp_path / "run" / "split.json", raw)
    again = check_dataset(open_dataset(folder, **read_split(str(tmp_path / "run")))).splits["val"].images
    names = [image.file_name for image in held_out]
    assert [image.file_name for image in again] == names
    known = {"seed": 7, "val_fraction": 0.5, "held_out": sorted(names)}
    assert read_split(str(tmp_path / "run" / "best.ckpt")) == known
    assert read_split("") == read_split("detr_resnet50") == {}
    assert len(held_out) == len(gt["images"]) / 2
