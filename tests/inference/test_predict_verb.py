"""`detrkit predict`: files found and named, copies and tables written."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detrkit import Detector
from detrkit.cli import main
from detrkit.errors import ConfigError, DataError
from detrkit.inference.sources import SourceFile, find_sources, image_ids
from tests.inference.helpers import files_in, run


def test_a_folder_gives_copies_and_tables(
    checkpoint: Path, detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    rows = run(checkpoint, tmp_path, some_images)
    copies = ["12.png", "5.png", "deep/7.png", "deep/tall.png", "wide.png"]
    assert files_in(tmp_path) == sorted([*copies, "detections.csv", "detections.json"])
    expected = []
    for name, image_id in zip(copies, (12, 5, 7, 1, 2), strict=True):
        actual = detector.predict(some_images / name, threshold=0)
        for row, class_name in zip(actual.to_coco(image_id), actual.class_names, strict=True):
            expected.append(row | {"file_name": str(some_images / name), "category_name": class_name})
        assert np.array_equal(np.array(Image.open(tmp_path / name)), actual.draw(some_images / name))
    assert rows == expected
    with (tmp_path / "detections.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "class_id", "class_name", "score", "x1", "y1", "x2", "y2"]
    assert len(table) == len(rows)
    for line, row in zip(table, rows, strict=True):
        x, y, w, h = row["bbox"]
        assert line["file"] == row["file_name"]
        assert (int(line["class_id"]), line["class_name"]) == (row["category_id"], row["category_name"])
        corners = [float(line[k]) for k in ("x1", "y1", "x2", "y2")]
        assert corners == pytest.approx([x, y, x + w, y + h], abs=0.006)


def test_a_batch_changes_nothing_in_the_tables(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    alone = run(checkpoint, tmp_path / "a", some_images, no_images=True)
    together = run(checkpoint, tmp_path / "b", some_images, no_images=True, batch_size=3)
    assert files_in(tmp_path / "a") == ["detections.csv", "detections.json"]
    for one, other in zip(alone, together, strict=True):
        assert one["file_name"] == other["file_name"]
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_no_detections_give_advice(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, tmp_path, some_images / "5.png", threshold=1.0) == []
    assert "0 detections with a score of at least 1 in 1 image; a lower --threshold shows" in capsys.readouterr().out
    assert len(run(checkpoint, tmp_path, some_images / "5.png", top_k=1)) == 1
    captured = capsys.readouterr().out
    assert "1 detection with a score of at least 0 in 1 image\n" in captured


def test_the_results_can_be_evaluated(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    from detrkit.evaluation.coco_metrics import compute_coco_metrics
    from detrkit.evaluation.prediction_files import read_detections

    run(checkpoint, tmp_path, some_images / "5.png", some_images / "12.png")
    rows = read_detections(tmp_path / "detections.json")
    best = {
        image_id: max((r for r in rows if r["image_id"] == image_id), key=lambda r: r["score"]) for image_id in (5, 12)
    }
    gt = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in (5, 12)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": r["category_id"], "bbox": r["bbox"], "iscrowd": 0, "area": 10000.0}
            for n, (i, r) in enumerate(best.items(), start=1)
        ],
        "categories": [{"id": i, "name": str(i)} for i in (3, 7, 20)],
    }
    assert compute_coco_metrics(gt, list(best.values())).metrics["AP"] == pytest.approx(1)
    assert compute_coco_metrics(gt, rows).metrics["AR100"] == pytest.approx(1)


def test_a_video_is_copied_with_its_rate(checkpoint: Path, make_video: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.avi.mp4", fps=12.5)
    rows = run(checkpoint, tmp_path / "out", clip, batch_size=4)
    assert {row["file_name"] for row in rows} == {f"{clip}#{k}" for k in range(6)}
    assert {row["image_id"] for row in rows} == set(range(1, 7))
    copy = cv2.VideoCapture(str(tmp_path / "out" / "clip.avi.mp4"))
    assert copy.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    copy.release()


def test_several_sources_and_equal_names(
    checkpoint: Path, some_images: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    for place in ("x", "y"):
        (tmp_path / place / "pics").mkdir(parents=True)
        shutil.copy(some_images / "5.png", tmp_path / place / "pics")
    clip = make_video(tmp_path / "clip.mp4")
    sources = [
        tmp_path / "x" / "pics",
        tmp_path / "y" / "pics",
        some_images / "wide.png",
        clip,
        tmp_path / "x" / "*" / "5.*",
    ]
    rows = run(checkpoint, tmp_path / "out", *sources)
    assert files_in(tmp_path / "out") == sorted(
        ["pics/5.png", "pics/5-2.png", "wide.png", "clip.mp4", "detections.csv", "detections.json"]
    )
    ids = {row["file_name"]: row["image_id"] for row in rows}
    assert len(ids) == len(set(ids.values())) == 3 + 6


def test_broken_files_are_passed_over(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(some_images / "5.png", folder)
    (folder / "bad.jpg").write_text("broken")
    (folder / "bad.mp4").write_text("broken")
    rows = run(checkpoint, tmp_path / "out", folder)
    assert {row["image_id"] for row in rows} == {5}
    assert files_in(tmp_path / "out") == ["5.png", "detections.csv", "detections.json"]
    captured = capsys.readouterr()
    assert captured.err.count("skipped") == 2
    assert "bad.jpg" in captured.err
    assert "2 of 3 files could not be read" in captured.out
    run(checkpoint, tmp_path / "quiet", folder, quiet=True)
    assert capsys.readouterr().err.count("skipped") == 2


def test_nothing_readable_is_an_error_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DataError, match="found none"):
        run(checkpoint, tmp_path / "out", folder)
    (folder / "bad.jpg").write_text("broken")
    (folder / "bad.png").write_text("broken")
    with pytest.raises(DataError, match="none of 2 files"):
        run(checkpoint, tmp_path / "out", folder)
    with pytest.raises(DataError, match=r"bad\.png"):
        run(checkpoint, tmp_path / "out", folder / "bad.png")
    with pytest.raises(DataError, match="found nothing"):
        run(checkpoint, tmp_path / "out", tmp_path / "no.jpg")
    assert not (tmp_path / "out").exists() or not files_in(tmp_path / "out")


def test_an_interrupted_run_leaves_no_half_files(
    checkpoint: Path, some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detrkit.commands import predict as module

    kept = module.save_image

    def interrupted(path: Path, one_image: object) -> None:
        if path.name == "5.png":
            raise KeyboardInterrupt
        kept(path, one_image)

    monkeypatch.setattr(module, "save_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, tmp_path, some_images)
    assert files_in(tmp_path) == ["12.png"]


def test_originals_are_never_replaced(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    one_image = shutil.copy(some_images / "5.png", tmp_path)
    for source in (one_image, tmp_path):
        with pytest.raises(ConfigError, match="replace"):
            run(checkpoint, tmp_path, source)
    run(checkpoint, tmp_path, one_image, no_images=True)


def test_copies_of_an_earlier_run_are_not_looked_at(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    shutil.copy(some_images / "5.png", tmp_path)
    for _ in range(2):
        rows = run(checkpoint, tmp_path / "predictions", tmp_path)
        assert {row["image_id"] for row in rows} == {5}
    assert files_in(tmp_path / "predictions") == ["5.png", "detections.csv", "detections.json"]


def test_endings_that_cannot_be_written_become_png(tmp_path: Path) -> None:
    for name in ("a.gif", "a.png", "A.PNG", "b.JPG"):
        (tmp_path / name).write_bytes(b"")
    names = {item.path.name: item.name for item in find_sources([str(tmp_path)], output_dir=Path("predictions"))}
    assert names == {"A.PNG": "A.PNG", "a.gif": "a-2.png", "a.png": "a-3.png", "b.JPG": "b.JPG"}


def test_image_ids_are_the_numbers_files_are_named_by() -> None:
    names = ["x/000000000139.jpg", "y/139.jpg", "cat.jpg", "1.jpg", "²3.jpg"]
    actual = [SourceFile(Path(name), name) for name in names]
    assert list(image_ids(actual).values()) == [139, 2, 3, 1, 4]


def test_the_command_line(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--weights", str(checkpoint), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert (
        main(
            [
                "predict",
                str(some_images / "5.png"),
                str(some_images / "12.png"),
                "--top_k",
                "5",
                "--threshold",
                "0",
                *fixed,
            ]
        )
        == 0
    )
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 10
    assert "10 detections" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "no.jpg"), *fixed]) == 2
    assert main(["predict", str(some_images), "--threshold", "2", *fixed]) == 2
    stderr = capsys.readouterr().err
    assert "no.jpg" in stderr
    assert "--threshold must be at most 1" in stderr
