"""Comparisons: paired intervals against a plain bootstrap, runs that know their data, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit import cli
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.held_out import write_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, DetrkitWarning, WeightsError
from detrkit.evaluation.bootstrap import draw_images, percentile_interval
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.evaluation.comparison import NO_DIFFERENCE, Difference
from detrkit.models import build_model
from detrkit.structures import Preprocessing

from .cases import perfect, random_case
from .test_bootstrap import drawn_images

Rows = list[dict[str, Any]]


def noisy(gt: dict[str, Any], seed: int, scale: float) -> Rows:
    """The ground truth as detections whose corners are off, some of them missing, with false alarms."""
    rng = np.random.default_rng(seed)
    rows = [row for row in perfect(gt) if rng.random() < 0.8]
    rows += [{**row, "bbox": [1.0, 1.0, 30.0, 9.0]} for row in perfect(gt)[::4]]
    return [
        row | {"bbox": [float(v) for v in np.array(row["bbox"]) + rng.normal(0, scale, 4)], "score": float(score)}
        for row, score in zip(rows, rng.permutation(len(rows)) / len(rows), strict=True)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of 16 images in COCO form, with classes 3 and 7, and its ground truth."""
    folder = tmp_path_factory.mktemp("compare") / "data"
    (folder / "images").mkdir(parents=True)
    gt, _ = random_case(8, images=16, objects=6)
    rng = np.random.default_rng(0)
    for image in gt["images"]:
        noise = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / image["file_name"])
    for number, row in enumerate(gt["annotations"], 1):
        row["id"] = number
    (folder / "val.json").write_text(json.dumps(gt), encoding="utf-8")
    return folder, gt


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Rows], Path]:
    """Write detections to a file in a folder of its own."""

    def write(name: str, rows: Rows) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / "found.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


def checkpoint(folder: Path, names: tuple[str, ...] = ("class 3", "class 7"), data: str | Path = "") -> Path:
    """A run folder with random weights; with `data`, it remembers its data set."""
    args: dict[str, Any] = {"num_classes": len(names), "backbone": "resnet18", "hidden_dim": 16, "nheads": 2}
    args |= {"enc_layers": 1, "dec_layers": 1, "dim_feedforward": 16, "num_queries": 8}
    torch.manual_seed(len(folder.name))
    model = build_model(**args)
    plain = {
        "version": 1,
        "model_args": args,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "preprocessing": Preprocessing(64).to_plain(),
        "config": {},
        "metrics": {},
    }
    folder.mkdir()
    torch.save({"model": model.state_dict(), "detrkit": plain}, folder / "best.ckpt")
    if data:
        (folder / "config.yaml").write_text(TrainConfig(data=str(data)).to_yaml(), encoding="utf-8")
    return folder


FAST: dict[str, Any] = {"num_workers": 0, "device": "cpu"}


def test_metrics_are_those_of_an_evaluation_and_intervals_those_of_a_plain_paired_bootstrap(
    data: tuple[Path, dict[str, Any]], write: Callable[[str, Rows], Path], tmp_path: Path
) -> None:
    folder, gt = data
    good, bad = noisy(gt, 1, 1.0), noisy(gt, 2, 3.0)
    sources = write("a", good), write("b", bad)
    result = detrkit.compare(sources, folder, bootstrap=12, output_dir=str(tmp_path / "out"))
    for model, rows in zip(result.models, (good, bad), strict=True):
        assert model.metrics == compute_coco_metrics(gt, rows).metrics
        assert model.ms_per_image is None
    draws = draw_images(len(gt["images"]), 12)
    plain = [[compute_coco_metrics(*drawn_images(gt, rows, counts)) for rows in (good, bad)] for counts in draws]
    for name in ("AP", "AP50", "AP75"):
        expected = percentile_interval(np.array([b.metrics[name] - a.metrics[name] for a, b in plain]))
        assert result.difference(name).interval == pytest.approx(expected, abs=1e-9)
        of_class = [[next(row for row in each.per_class if row.id == 7) for each in pair] for pair in plain]
        expected = percentile_interval(np.array([getattr(b, name) - getattr(a, name) for a, b in of_class]))
        assert result.difference(name, "B", "class 7").interval == pytest.approx(expected, abs=1e-9)
    stored = json.loads((tmp_path / "out/comparison.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(result.to_plain()))
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    difference = result.difference("AP")
    assert difference.interval is not None
    low, high = difference.interval
    shown = f'{difference.difference:.3f} <span class="interval">({low:.3f} to {high:.3f})'
    assert shown in " ".join(page.split())
    assert page.count("<figure data-group") == sum(bool(image.drawing) for image in result.images)
    assert stored["differences"][0]["difference"] == pytest.approx(
        result.models[1].metrics["AP"] - result.models[0].metrics["AP"]
    )


def test_a_worse_detector_is_lower_and_the_same_one_is_no_different(
    data: tuple[Path, dict[str, Any]], write: Callable[[str, Rows], Path], tmp_path: Path
) -> None:
    folder, gt = data
    sources = [write("a", perfect(gt)), write("b", noisy(gt, 1, 3.0)), write("c", perfect(gt))]
    result = detrkit.compare(sources, folder, bootstrap=200, output_dir=str(tmp_path / "out"))
    lower, same = result.difference("AP", "B"), result.difference("AP", "C")
    assert lower.outcome == "lower"
    assert lower.interval is not None
    assert lower.interval[1] < 0
    assert "B is lower" in str(lower)
    assert (same.difference, same.interval, same.outcome) == (0, (0, 0), "no difference shown")
    assert NO_DIFFERENCE in str(same)
    assert str(result).count("AP: ") == 2


def test_the_images_that_differ_most_are_drawn_side_by_side(
    data: tuple[Path, dict[str, Any]], write: Callable[[str, Rows], Path], tmp_path: Path
) -> None:
    folder, gt = data
    crowded = max(gt["images"], key=lambda image: sum(row["image_id"] == image["id"] for row in gt["annotations"]))
    blind = [row for row in perfect(gt) if row["image_id"] != crowded["id"]]
    out = tmp_path / "out"
    (out / "differences").mkdir(parents=True)
    (out / "differences/07-old.jpg").touch()
    (out / "differences/mine.jpg").touch()
    result = detrkit.compare([write("a", perfect(gt)), write("b", blind)], folder, output_dir=str(out), bootstrap=5)
    (image,) = result.images
    assert image.file == crowded["file_name"]
    assert image.errors["A"] == {"missed": 0, "wrong class": 0, "false alarm": 0}
    assert image.errors["B"]["missed"] == image.spread >= 3
    names = {path.name for path in (out / "differences").iterdir()}
    assert names == {Path(image.drawing).name, "mine.jpg"}  # that of an earlier comparison is gone
    with Image.open(out / image.drawing) as drawing:
        width, height = drawing.size
    assert width > 2.9 * height * 0.8  # ground truth, A and B in a row
    none = detrkit.compare(
        [tmp_path / "a/found.json", tmp_path / "b/found.json"], folder, output_dir=str(out), max_images=0
    )
    assert [image.drawing for image in none.images] == [""]


def test_runs_are_compared_on_their_own_data_with_their_speed(
    data: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, gt = data
    monkeypatch.chdir(tmp_path)
    runs = [checkpoint(tmp_path / "a", data=folder), checkpoint(tmp_path / "bb", ("class 3", "unicorn"), folder)]
    with pytest.warns(DetrkitWarning) as caught:
        result = detrkit.compare(runs, bootstrap=5, speed_images=3, precision="plain", **FAST)
    notes = " ".join(str(warning.message) for warning in caught)
    assert "B: 1 of the model's classes are not in the data set, their detections are dropped: unicorn" in notes
    assert "B: The model does not know 2 classes of the data set" in notes
    assert "A: The model does not know 1 classes" in notes
    assert result.image_count == len(gt["images"])
    assert all(model.ms_per_image and 0 < model.ms_per_image < 60_000 for model in result.models)
    assert "Time per image, one at a time: A " in str(result)
    with pytest.warns(DetrkitWarning):
        alone = detrkit.evaluate(runs[0], folder, bootstrap=0, output_dir="report", **FAST)
    assert result.models[0].metrics == pytest.approx(alone.metrics, abs=1e-12)


def test_a_run_and_a_folder_of_predictions(data: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, gt = data
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/detections.json").write_text(json.dumps(perfect(gt)), encoding="utf-8")
    run = checkpoint(tmp_path / "a", data=folder)
    sources = [run, tmp_path / "predictions"]
    with pytest.warns(DetrkitWarning):
        result = detrkit.compare(sources, bootstrap=50, speed_images=0, output_dir=str(tmp_path / "out"), **FAST)
    assert [model.kind for model in result.models] == ["detector", "predictions"]
    assert [model.ms_per_image for model in result.models] == [None, None]
    assert result.difference().outcome == "higher"


def test_the_command_prints_outcomes_and_ends_with_a_sentence_where_it_cannot_compare(
    data: tuple[Path, dict[str, Any]],
    write: Callable[[str, Rows], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, gt = data
    a, b = str(write("a", perfect(gt))), str(write("b", noisy(gt, 1, 3.0)))
    where = ["--data", str(folder), "--output_dir", str(tmp_path / "out"), "--bootstrap", "50", "--max_images", "2"]
    assert cli.main(["compare", a, b, *where]) == 0
    text = capsys.readouterr().out
    for part in (f"A         {a}", "B - A", "lower", "AP of class 7", "without an outcome: " + NO_DIFFERENCE, "2 of "):
        assert part in text
    assert cli.main(["compare", a, *where]) == 2
    assert capsys.readouterr().err.startswith("detrkit: error: expected two or more runs, checkpoints or files of")
    assert cli.main(["compare", *where]) == 2
    assert "SOURCES" in capsys.readouterr().err


def test_a_wrong_file_is_refused_before_any_detector_runs(
    data: tuple[Path, dict[str, Any]],
    write: Callable[[str, Rows], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detrkit.evaluation.compare_detectors.predict_split", lambda *args: pytest.fail("ran"))
    wrong = write("b", [perfect(data[1])[0] | {"image_id": 77}])
    with pytest.raises(DataError, match="is for image id 77"):
        detrkit.compare([checkpoint(tmp_path / "run", data=data[0]), wrong], **FAST)


@pytest.mark.parametrize("objects", [True, False])
def test_one_image_and_images_without_objects(
    data: tuple[Path, dict[str, Any]],
    write: Callable[[str, Rows], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    objects: bool,
) -> None:
    gt = data[1]
    image_id = gt["annotations"][0]["image_id"]
    only = gt | {"images": [row for row in gt["images"] if row["id"] == image_id]}
    only |= {"annotations": [row for row in gt["annotations"] if objects and row["image_id"] == image_id]}
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(data[0] / "images")
    (folder / "val.json").write_text(json.dumps(only), encoding="utf-8")
    row = {"image_id": image_id, "category_id": 3, "bbox": [1.0, 1.0, 5.0, 5.0], "score": 0.5}
    sources = [str(write("a", [row])), str(write("b", []))]
    where = ["--data", str(folder), "--output_dir", str(tmp_path / "out")]
    assert cli.main(["compare", *sources, *where]) == 0
    text = capsys.readouterr().out
    if objects:
        assert "AP: B 0.000, A 0.000, +0.000; no interval from fewer than 5 images" in text
    else:
        assert "No metric can be compared, since there is no object in these images" in text


def test_a_file_of_other_images_is_noted(
    data: tuple[Path, dict[str, Any]], write: Callable[[str, Rows], Path], tmp_path: Path
) -> None:
    folder, gt = data
    few = [row for row in perfect(gt) if row["image_id"] < 50]
    sources = [write("a", perfect(gt)), write("b", few)]
    with pytest.warns(DetrkitWarning, match="B: there is no detection in .* the comparison means nothing"):
        detrkit.compare(sources, folder, bootstrap=5, output_dir=str(tmp_path / "out"))


def test_panoptic_maps_are_compared_by_pq(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference/panoptic_predictions"
    content = json.loads((source / "predictions.json").read_text(encoding="utf-8"))
    (tmp_path / "b").mkdir()
    for row in content["annotations"][::2]:
        for segment in row["segments_info"]:
            segment["category_id"] = 1
    (tmp_path / "b/predictions.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "b/predictions").symlink_to(source / "png")
    sources = [source / "predictions.json", tmp_path / "b/predictions.json"]
    result = detrkit.compare(sources, shared / "data/coco_panoptic_mini", output_dir=str(tmp_path / "out"))
    difference = result.difference("PQ")
    assert (difference.outcome, result.images) == ("lower", [])
    expected = json.loads((source / "expected_pq.json").read_text(encoding="utf-8"))["All"]["pq"]
    assert difference.baseline_value == pytest.approx(expected, abs=1e-6)


def test_sources_that_cannot_be_compared(
    data: tuple[Path, dict[str, Any]],
    write: Callable[[str, Rows], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, gt = data
    monkeypatch.chdir(tmp_path)
    a, b = write("a", perfect(gt)), write("b", [perfect(gt)[0] | {"image_id": 77}])
    with pytest.raises(ConfigError, match=r"expected two or more runs.*found .*found.json alone; .*`detrkit eval`"):
        detrkit.compare([a], folder)
    with pytest.raises(ConfigError, match="found none"):
        detrkit.compare([], folder)
    with pytest.raises(ConfigError, match="a list of two or more sources to compare, found 'runs/a' alone"):
        detrkit.compare("runs/a", folder)
    with pytest.raises(ConfigError, match=r"found .*found.json twice; leave one out"):
        detrkit.compare([a, a], folder)
    with pytest.raises(ConfigError, match="at most 26 sources to compare, found 27"):
        detrkit.compare([str(k) for k in range(27)], folder)
    with pytest.raises(
        ConfigError, match="since none of the sources is a training run that states its own; name it with"
    ):
        detrkit.compare([a, b])
    with pytest.raises(DataError, match=r"detection 0 of .*b/found.json is for image id 77"):
        detrkit.compare([a, b], folder)
    with pytest.raises(DataError, match="found no such file"):
        detrkit.compare([a, tmp_path / "absent.json"], folder)
    with pytest.raises(WeightsError, match="nowhere"):
        detrkit.compare([a, "nowhere"], folder)
    with pytest.raises(ConfigError, match="there is no setting 'max_image'; did you mean 'max_images'"):
        detrkit.compare([a, b], folder, max_image=3)
    with pytest.raises(ConfigError, match="bootstrap must be at least 1, found 0"):
        detrkit.compare([a, b], folder, bootstrap=0)


def test_runs_on_different_or_vanished_data_are_refused(data: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = data
    here, there = checkpoint(tmp_path / "a", data=folder), checkpoint(tmp_path / "b", data=tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"one data set, found .*data of .*a and .*gone of .*b; name the one"):
        detrkit.compare([here, there])
    with pytest.raises(DataError, match=r"the data set of .*b in .*gone, found nothing there; name its place with"):
        detrkit.compare([there, checkpoint(tmp_path / "c", data=tmp_path / "gone")])


def test_runs_that_held_out_different_images_are_refused(data: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(data[0] / "images")
    (folder / "all.json").write_text((data[0] / "val.json").read_text(encoding="utf-8"), encoding="utf-8")
    runs = []
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        runs.append(checkpoint(tmp_path / name, data=folder))
        raw = open_dataset(folder, val_fraction=0.5, seed=seed)
        check_dataset(raw)
        write_split(runs[-1] / "split.json", raw)
    with pytest.raises(
        ConfigError, match=r"held out the same images .* found 8 of .*a and 8 of .*b, with \d in common"
    ):
        detrkit.compare(runs[:2], output_dir=str(tmp_path / "out"), **FAST)
    with pytest.warns(DetrkitWarning):
        result = detrkit.compare([runs[0], runs[2]], output_dir=str(tmp_path / "out"), speed_images=0, **FAST)
    assert result.image_count == 8


def test_boxes_are_not_compared_with_maps(shared: Path, write: Callable[[str, Rows], Path]) -> None:
    maps = shared / "reference/panoptic_predictions/predictions.json"
    with pytest.raises(DataError, match="of one kind to compare, found maps in A, boxes in B"):
        detrkit.compare([maps, write("b", [])], shared / "data/coco_panoptic_mini")


def test_the_number_of_images_that_would_show_a_difference() -> None:
    def difference(interval: tuple[float, float] | None, value: float = 0.52) -> Difference:
        return Difference("AP", "A", "B", None, "", 60, 0.5, value, interval)

    unclear = difference((-0.02, 0.06))
    assert unclear.images_needed == 240  # half the width takes four times the images
    assert "one of this size takes about 240 images" in str(unclear)
    assert difference((0.01, 0.03)).images_needed is None
    assert difference((0.01, 0.03)).outcome == "higher"
    assert difference((-0.1, 0.1), 0.5).images_needed is None
    assert difference(None).outcome == "too few images"
    assert "no interval from fewer than 5 images" in str(difference(None))
