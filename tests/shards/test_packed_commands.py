"""The commands read packed data as they read any data set."""

import json
from pathlib import Path

import pytest

import detrkit
from detrkit import cli
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.inference import sources
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second on the packed data, with its report."""
    folder = tmp_path_factory.mktemp("run") / "run"
    detrkit.train(detrkit.TrainConfig(data=str(packed), output_dir=str(folder), **{**TINY, "epochs": 1}))
    return folder


def test_check_reports_what_it_reports_of_the_loose_files(loose: Path, packed: Path, tmp_path: Path, capsys) -> None:
    reports = {}
    for name, data in (("loose", loose), ("packed", packed)):
        page = str(tmp_path / f"{name}.html")
        assert cli.main(["check", str(data), "--json", str(tmp_path / name), "--html", page, "--quiet"]) == 0
        reports[name] = json.loads((tmp_path / name).read_text())
        assert (tmp_path / f"{name}.html").stat().st_size > 10_000
    for key in ("statistics", "categories", "recommended", "value_range"):
        assert reports["packed"][key] == reports["loose"][key]
    kinds = {"image_rotated", "category_mostly_crowds", "near_duplicate"}
    counts = [{kind: report["counts"].get(kind) for kind in kinds} for report in reports.values()]
    assert counts[0] == counts[1]


def test_metrics_are_those_of_the_loose_files(loose: Path, packed: Path, run: Path, tmp_path: Path) -> None:
    results = [
        detrkit.evaluate(run, data, output_dir=str(tmp_path / data.parent.name), num_workers=0).metrics
        for data in (loose, packed)
    ]
    assert results[0] == results[1]


def test_predict_reads_the_images_under_their_names(loose: Path, packed: Path, run: Path, tmp_path: Path) -> None:
    command = ["predict", str(packed), "--weights", str(run), "--threshold", "0", "--top_k", "2", "--quiet"]
    assert cli.main([*command, "--output_dir", str(tmp_path / "packed")]) == 0
    names = {path.name for path in (loose / "images").iterdir()}
    assert {path.name for path in (tmp_path / "packed").rglob("*.*") if path.suffix in (".png", ".jpg")} == names
    rows = json.loads((tmp_path / "packed" / "detections.json").read_text())
    assert len({row["image_id"] for row in rows}) == len(names)


def test_detections_in_a_file_are_measured_on_packed_data(loose: Path, packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    images = check_dataset(open_dataset(loose), required_splits={"val"}).splits["val"].images
    rows = [
        {
            "image_id": 0,
            "file_name": image.path.name,
            "category_id": obj.category_id,
            "bbox": [1, 2, 9, 9],
            "score": 0.5,
        }
        for image in images
        for obj in image.objects
    ]
    path.write_text(json.dumps(rows))
    results = [
        detrkit.evaluate("", data, detections=str(path), output_dir=str(tmp_path / name))
        for name, data in (("loose", loose), ("packed", packed))
    ]
    assert results[0].metrics == results[1].metrics


def test_packed_images_are_found_as_several(packed: Path, run: Path) -> None:
    assert sources.is_several(packed)
    detector = detrkit.Detector.load(run)
    detections = detector.predict(packed, threshold=0)
    assert len(detections) == 16


def test_packed_data_are_converted_back(loose: Path, packed: Path, tmp_path: Path) -> None:
    for data in (loose, packed):
        detrkit.convert_data(data, tmp_path / data.parent.name, "coco")
    a, b = (tmp_path / data.parent.name for data in (loose, packed))
    files = {path.relative_to(a): path.read_bytes() for path in a.rglob("*") if path.is_file()}
    assert {path.relative_to(b): path.read_bytes() for path in b.rglob("*") if path.is_file()} == files


def test_folds_are_those_of_the_loose_files(loose: Path, packed: Path) -> None:
    both = [
        check_dataset(open_dataset(data, val_fraction=0, pooled=True), compare_images=True) for data in (packed, loose)
    ]
    assert both[0].notes[-1:] == both[1].notes[-1:]
    records = [
        [(image.id, image.file_name, len(image.objects)) for image in each.splits["train"].images] for each in both
    ]
    assert records[0] == records[1]
    groups = [each.duplicates.groups for each in both]
    assert [len(group) for group in groups[0]] == [len(group) for group in groups[1]]
