"""`detrkit predict --shard i/n` and `detrkit merge`: nothing lost, nothing twice, whatever interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detrkit
from detrkit.cli import main
from detrkit.config.commands import PredictConfig
from detrkit.errors import ConfigError, DataError, MissingExtraError
from detrkit.inference.batch_job import run_share
from detrkit.inference.batch_share import Listing, Share, images_of_share

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two shapes in three folders, one of them broken, and a file that is none."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(1)
    for k in range(COUNT):
        path = root / ("", "a", "a-b")[k % 3] / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = (80, 60) if k % 2 else (50, 90)
        Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(path)
    (root / "a" / "broken.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("none either")
    return root


def settings(folder: Path, checkpoint: Path, output: Path, shard: str = "1/1", **rest: object) -> PredictConfig:
    given = {"threshold": 0.2, "device": "cpu", "quiet": True, "output_dir": str(output)} | rest
    return PredictConfig(source=[str(folder)], weights=str(checkpoint), shard=shard, **given)


def predict_share(config: PredictConfig) -> Path:
    return run_share(config).path


def rows_of(path: Path) -> list[dict]:
    return [row for row in map(json.loads, path.read_text().splitlines()) if "file" in row]


def test_shares_are_disjoint_complete_and_stay(folder: Path, tmp_path: Path) -> None:
    def names(share: Share, root: Path = folder) -> set[str]:
        return {image.name for image in images_of_share([str(root)], share, Listing())}

    everything = names(Share())
    assert len(everything) == COUNT + 1
    shares = [names(Share(k, 4)) for k in (1, 2, 3, 4)]
    assert set().union(*shares) == everything
    assert sum(map(len, shares)) == COUNT + 1
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    Image.new("RGB", (9, 9)).save(copy / "0000.png")
    assert all(names(Share(k, 4), copy) - {"0000.png"} == shares[k - 1] for k in (1, 2, 3, 4))
    listing = Listing()
    for k in range(10**4):  # large shares are even
        listing.mine += Share(3, 8).holds(f"{k:08d}.jpg")
    assert 1100 < listing.mine < 1400


def test_merged_shards_are_the_results_of_one_process(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in (3, 1):
        predict_share(settings(folder, checkpoint, tmp_path / "three", f"{k}/3"))
    flags = {"threshold": 0.2, "device": "cpu", "output_dir": tmp_path / "three"}
    result = detrkit.predict_shard(folder, checkpoint, "2/3", **flags)
    assert (result.total, result.before) == (COUNT + 1, 0)
    assert result.path.name == "results-00002-of-00003.jsonl"
    one = rows_of(predict_share(settings(folder, checkpoint, tmp_path / "one")))
    assert main(["merge", str(tmp_path / "three")]) == 0
    assert f"in {COUNT} images; 1 images could not be read" in capsys.readouterr().out
    assert rows_of(tmp_path / "three" / "results.jsonl") == one
    assert [row["file"] for row in one][:2] == ["0.png", "12.png"]
    assert [row["file"] for row in one if "error" in row] == ["a/broken.png"]
    detector = detrkit.Detector.load(checkpoint, device="cpu")
    expected = detector.predict(folder / "a-b" / "2.png", threshold=0.2)
    row = next(row for row in one if row["file"] == "a-b/2.png")
    assert (row["height"], row["width"]) == expected.image_size
    assert [d["bbox"] for d in row["detections"]] == [r["bbox"] for r in expected.to_coco()]
    assert tuple(d["category_name"] for d in row["detections"]) == expected.class_names
    merged = detrkit.merge(tmp_path / "three", tmp_path / "detections.json")
    coco = json.loads((tmp_path / "detections.json").read_text())
    assert len(coco) == merged.detections == sum(len(row.get("detections", ())) for row in one)
    assert {row["image_id"] for row in coco if row["file_name"] == "a-b/2.png"} <= {2}


def test_a_killed_share_continues_after_its_last_whole_line(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = predict_share(settings(folder, checkpoint, tmp_path / "whole")).read_text().splitlines(keepends=True)
    cut = tmp_path / "cut" / "results-00001-of-00001.jsonl"
    cut.parent.mkdir()
    for kept, torn in ((0, 0), (0, 9), (1, 0), (5, 17), (COUNT, 1), (len(whole) - 1, 3), (len(whole), 0)):
        cut.write_text("".join(whole[:kept]) + "".join(whole[kept : kept + 1])[:torn])
        before = cut.read_text()[: sum(map(len, whole[:kept]))]
        predict_share(settings(folder, checkpoint, cut.parent))
        assert cut.read_text().startswith(before)
        assert cut.read_text().splitlines(keepends=True) == whole, (kept, torn)
    changed = cut.stat().st_mtime_ns
    predict_share(settings(folder, checkpoint, cut.parent))
    assert cut.stat().st_mtime_ns == changed, "a complete share is left alone"


def test_a_process_killed_by_the_system_loses_nothing(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--weights", str(checkpoint), "--device", "cpu", "--output_dir", str(tmp_path), "--threshold", "0.2"]
    command = [sys.executable, "-m", "detrkit", "predict", str(folder), "--shard", "1/1", "--quiet", *flags]
    path = tmp_path / "results-00001-of-00001.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (path.is_file() and path.read_bytes().count(b"\n") > 3) and process.poll() is None:
        time.sleep(0.01)
    second = subprocess.run(command, capture_output=True, text=True) if process.poll() is None else None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if second is not None and second.returncode:
        assert "expected one process per share, but another one is writing" in second.stderr
    predict_share(settings(folder, checkpoint, tmp_path))
    names = [row["file"] for row in rows_of(path)]
    assert len(names) == len(set(names)) == COUNT + 1


def test_new_images_are_added_to_shards_that_were_complete(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    for k in (1, 2):
        predict_share(settings(images, checkpoint, tmp_path / "out", f"{k}/2"))
    Image.new("RGB", (40, 40)).save(images / "a" / "000.png")
    predict_share(settings(images, checkpoint, tmp_path / "out", "1/2"))
    with pytest.raises(DataError, match=r"saw 26 and .* saw 25, or other names; run all shards again"):
        detrkit.merge(tmp_path / "out")
    predict_share(settings(images, checkpoint, tmp_path / "out", "2/2"))
    assert detrkit.merge(tmp_path / "out").images == COUNT + 1
    order = [row["file"] for row in rows_of(tmp_path / "out" / "results.jsonl")]
    assert order == [row["file"] for row in rows_of(predict_share(settings(images, checkpoint, tmp_path / "one")))]


def test_merge_refuses_what_does_not_fit(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected results of shards .* found none"):
        detrkit.merge(tmp_path)
    first = predict_share(settings(folder, checkpoint, tmp_path, "1/3"))
    with pytest.raises(DataError, match=r"expected 3 shards in .*, but 2 are missing: 2/3, 3/3"):
        detrkit.merge(tmp_path)
    for k in (2, 3):
        predict_share(settings(folder, checkpoint, tmp_path, f"{k}/3"))
    with pytest.raises(ConfigError, match=r"ends in \.json or .*found out\.xml"):
        detrkit.merge(tmp_path, tmp_path / "out.xml")
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"expected a complete shard in .*00001-of-00003.*interrupted"):
        detrkit.merge(tmp_path)
    other = (tmp_path / "results-00002-of-00003.jsonl").read_text().splitlines(keepends=True)
    first.write_text("".join([*lines[:-2], other[1], lines[-1]]))
    with pytest.raises(DataError, match="expected each image in one shard, found"):
        detrkit.merge(tmp_path)
    first.write_text("".join([*lines[:2], "broken\n", *lines[2:]]))
    with pytest.raises(DataError, match=r"line 3 of .* is damaged"):
        detrkit.merge(tmp_path)
    first.write_text("".join(lines).replace('"threshold": 0.2', '"threshold": 0.3'))
    with pytest.raises(ConfigError, match=r"another value of threshold in"):
        detrkit.merge(tmp_path)
    (tmp_path / "results-00001-of-00004.jsonl").write_text("")
    with pytest.raises(DataError, match="found files of 3 and of 4 shards"):
        detrkit.merge(tmp_path)


def test_packed_images_have_the_results_of_loose_ones(checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "loose" / "images").mkdir(parents=True)
    rows = [{"id": k, "file_name": f"{k}.png", "height": 60, "width": 80} for k in range(6)]
    for row in rows:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(
            tmp_path / "loose" / "images" / row["file_name"]
        )
    boxes = [{"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400} for k in range(6)]
    labels = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "loose" / "annotations.json").write_text(json.dumps(labels))
    detrkit.pack(tmp_path / "loose", tmp_path / "packed")
    flags = {"threshold": 0.2, "device": "cpu"}
    for k in (1, 2):
        detrkit.predict_shard(tmp_path / "packed", checkpoint, f"{k}/2", output_dir=tmp_path / "out", **flags)
    packed = {Path(row["file"]).name: row["detections"] for row in rows_of(detrkit.merge(tmp_path / "out").path)}
    loose = detrkit.predict_shard(tmp_path / "loose" / "images", checkpoint, output_dir=tmp_path / "one", **flags)
    assert packed == {row["file"]: row["detections"] for row in rows_of(loose.path)}


def test_parquet_has_what_the_lines_have(
    folder: Path, mask_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is missing")
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    lines = predict_share(settings(images, mask_checkpoint, tmp_path / "lines"))
    written = [predict_share(settings(images, mask_checkpoint, tmp_path, f"{k}/2", format="parquet")) for k in (1, 2)]
    assert sorted(path.name for path in tmp_path.glob("results*")) == [path.name for path in written]
    detrkit.merge(tmp_path, tmp_path / "all.parquet")
    detrkit.merge(tmp_path, tmp_path / "all.jsonl")
    assert rows_of(tmp_path / "all.jsonl") == rows_of(lines)
    assert "segmentation" in next(row for row in rows_of(lines) if row.get("detections"))["detections"][0]
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column("file").to_pylist() == [row["file"] for row in rows_of(lines)]
    assert table.column("error").null_count == COUNT

    def refuse(*args: object, **rest: object) -> None:
        raise AssertionError("a complete share needs no model")

    monkeypatch.setattr("detrkit.inference.batch_job.load_detector", refuse)
    for k in (1, 2):
        predict_share(settings(images, mask_checkpoint, tmp_path, f"{k}/2", format="parquet"))
    monkeypatch.undo()
    Image.new("RGB", (40, 40)).save(images / "a" / "000.png")
    for k in (1, 2):
        predict_share(settings(images, mask_checkpoint, tmp_path, f"{k}/2", format="parquet"))
    names = [row["file"] for row in rows_of(detrkit.merge(tmp_path).path)]
    assert names == sorted({*names}, key=lambda name: name.rpartition("/")[::2])
    assert len(names) == COUNT + 2
    with pytest.raises(ConfigError, match=r"expected format parquet, in which .* is"):
        predict_share(settings(images, mask_checkpoint, tmp_path, "1/2"))
    (tmp_path / "results-00002-of-00002.jsonl").write_text("")
    with pytest.raises(DataError, match="expected one file per shard"):
        detrkit.merge(tmp_path)


def test_a_missing_pyarrow_is_named(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"detrkit\[parquet\]\""):
        predict_share(settings(folder, checkpoint, tmp_path, format="parquet"))


def test_wrong_flags_are_refused(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_share(settings(folder, checkpoint, tmp_path, "1/9"))
    (tmp_path / "empty").mkdir()
    for source, flags, sentence in (
        (folder, ["--shard", "0/3"], "expected --shard i/n with i from 1 to n"),
        (folder, ["--shard", "4/3"], "such as 1/8 for the first of eight, found '4/3'"),
        (folder, ["--shard", "1/9", "--threshold", "0.4"], "found another value of threshold; name another"),
        (folder, ["--shard", "1/9", "--panoptic"], "--shard or --engine ray without --panoptic"),
        (folder, ["--format", "parquet"], "expected --shard or --engine ray with --format parquet"),
        (folder, ["--num_actors", "2"], "expected --engine ray with --num_actors 2"),
        (tmp_path / "empty", ["--shard", "1/2"], "expected images in"),
        (tmp_path / "no", ["--shard", "1/2"], "found nothing; look at the path"),
    ):
        fixed = ["--weights", str(checkpoint), "--output_dir", str(tmp_path), "--device", "cpu"]
        assert main(["predict", str(source), *flags, *fixed]) == 2, flags
        assert sentence in capsys.readouterr().err
