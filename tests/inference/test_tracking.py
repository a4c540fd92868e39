"""`detrkit.track` and `detrkit predict --track`: ids, zones and lines on videos whose tracks are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detrkit
from detrkit import Detections
from detrkit.cli import main
from detrkit.errors import ConfigError, DataError, MissingExtraError
from detrkit.inference.zones import parse_lines, parse_zones
from tests.inference.blobs import blob_detector
from tests.inference.moving import CROWD, HEIGHT, Mover, draw, mota_and_idf1, set_times, write_video

needs_trackers = pytest.mark.skipif(
    not __import__("importlib.util", fromlist=["util"]).find_spec("trackers"), reason="the extra `track` is missing"
)


@needs_trackers
def test_known_tracks_are_followed_through_a_gap(tmp_path: Path) -> None:
    path = write_video(tmp_path / "crowd.mp4", CROWD, range(60))
    frames = list(detrkit.track(blob_detector(HEIGHT, None), path))
    assert [frame.number for frame in frames] == list(range(60))
    assert frames[17].detections.source == f"{path}#17"
    assert frames[17].time == pytest.approx(17 / 25)
    mota, idf1 = mota_and_idf1(CROWD, frames, lambda frame: frame.number)
    assert mota > 0.95  # a track is confirmed in its second frame
    assert idf1 > 0.97
    assert {i for frame in frames for i in frame.detections.track_ids.tolist()} == {1, 2, 3, 4, 5}


@needs_trackers
def test_low_scores_continue_tracks_but_start_none() -> None:
    tracker = detrkit.inference.tracking.Tracker(threshold=0.5)

    def at(x: float, score: float) -> list[int]:
        box = torch.tensor([[x, 0, x + 20, 20], [200.0, 0, 220, 20]])
        given = Detections(box, torch.tensor([score, 0.3]), torch.tensor([1, 1]))
        return tracker.update(given).track_ids.tolist()

    assert [at(0, 0.9), at(2, 0.9), at(4, 0.2), at(6, 0.9)] == [[], [1], [1], [1]]


@needs_trackers
def test_irregular_times_keep_the_ids() -> None:
    """Frames of a phone or a busy camera: motion is a matter of time, not of the number of frames."""
    mover = (Mover(2, 10, 1.5, 0), Mover(140, 60, -1.5, 0))
    numbers = [k for k in range(90) if k % 7 not in (2, 3, 5)]
    detector = blob_detector(HEIGHT, None)
    tracker = detrkit.inference.tracking.Tracker(fps=30)
    seen = []
    for k in numbers:
        detections = detector.predict(draw(mover, k))
        seen += tracker.update(detections, k / 30).track_ids.tolist()
    assert set(seen) == {1, 2}


@needs_trackers
def test_a_file_of_irregular_times_keeps_its_tracks(tmp_path: Path) -> None:
    numbers = [k for k in range(60) if k % 9 not in (3, 4, 7)]
    path = write_video(tmp_path / "phone.mp4", CROWD, numbers)
    set_times(path, [*np.diff(numbers).tolist(), 1])
    frames = list(detrkit.track(blob_detector(HEIGHT, None), path))
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in numbers], abs=0.002)
    mota, idf1 = mota_and_idf1(CROWD, frames, lambda frame: round(frame.time * 25))
    assert mota > 0.95
    assert idf1 > 0.97


@needs_trackers
def test_zones_and_lines_count_through_occlusions(tmp_path: Path) -> None:
    movers = (
        Mover(4, 4, 2, 0),  # left to right along the top
        Mover(140, 60, -2, 0, hidden=frozenset(range(24, 38))),  # crosses x = 80 while hidden
        Mover(10, 30, 0, 0),  # stays
    )
    path = write_video(tmp_path / "gate.mp4", movers, range(60))
    up = [(80, HEIGHT), (80, 0)]  # seen upwards, the left side is the left side of the frame
    frames = list(
        detrkit.track(
            blob_detector(HEIGHT, None),
            path,
            lines={"gate": up},
            zones={"left": [(0, 0), (60, 0), (60, HEIGHT), (0, HEIGHT)]},
        )
    )
    gate, left = frames[-1].counts.lines["gate"], frames[-1].counts.zones["left"]
    assert (gate.left_to_right, gate.right_to_left) == (1, 1)
    assert (left.now, left.total) == (2, 3)
    assert frames[0].counts.zones["left"].total == 0  # no track is confirmed yet


@needs_trackers
def test_a_rotated_and_a_damaged_video_keep_ids_and_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "crowd.mp4", CROWD, range(60))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = b"".join(
        v.to_bytes(4, "big", signed=True) for v in (0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 1 << 30)
    )
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = list(detrkit.track(blob_detector(HEIGHT, None), tmp_path / "turned.mp4"))
    assert turned[0].image.shape[1:] == (160, HEIGHT)
    assert {i for frame in turned for i in frame.detections.track_ids.tolist()} == {1, 2, 3, 4, 5}

    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, HEIGHT))
    for k in range(60):
        writer.write(np.ascontiguousarray(draw(CROWD, k)[:, :, ::-1]))
    writer.release()
    damaged = bytearray((tmp_path / "whole.avi").read_bytes())
    starts = [i for i in range(len(damaged)) if damaged[i : i + 4] == b"00dc"][:60]
    for k in (30, 31, 32):
        damaged[starts[k] : starts[k + 1]] = bytes(starts[k + 1] - starts[k])
    (tmp_path / "damaged.avi").write_bytes(damaged)
    with pytest.warns(UserWarning, match="cannot be decoded and are left out"):
        frames = list(detrkit.track(blob_detector(HEIGHT, None), tmp_path / "damaged.avi"))
    assert len(frames) < 60
    assert frames[-1].number == 59
    assert mota_and_idf1(CROWD, frames, lambda frame: frame.number)[1] > 0.95


@needs_trackers
def test_the_command_writes_lines_ids_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("detrkit.commands.predict.load_detector", lambda *args, **rest: blob_detector(HEIGHT, None))
    path, out = write_video(tmp_path / "crowd.mp4", CROWD, range(40)), tmp_path / "out"
    flags = ["--lines", "gate:80,0 80,96", "--zones", "top left:0,0 80,0 80,40 0,40; all:-5,-5 200,-5 200,200 -5,200"]
    assert main(["predict", str(path), "--weights", "any", "--track", *flags, "--output_dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 tracks, listed in tracks.jsonl" in printed
    assert f"{path}: gate: 1 left to right, 1 right to left" in printed.replace("\n", " ")
    lines = [json.loads(line) for line in (out / "tracks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(40))
    assert lines[25]["time"] == 1.0
    assert sorted(track["id"] for track in lines[10]["tracks"]) == [1, 2, 3, 4, 5]
    assert set(lines[10]["tracks"][0]) == {"id", "category_id", "category_name", "bbox", "score"}
    assert lines[-1]["zones"]["all"] == {"now": 5, "total": 5}
    rows = json.loads((out / "detections.json").read_text())
    assert {row["track_id"] for row in rows} == {1, 2, 3, 4, 5}
    with (out / "detections.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["track_id"] for row in csv.DictReader(file)} == set("12345")
    capture = cv2.VideoCapture(str(out / "crowd.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 40
    capture.release()


@needs_trackers
def test_what_cannot_be_tracked_is_refused(
    some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_video(tmp_path / "clip.mp4", CROWD, range(3)))
    for arguments, sentence in (
        ([str(some_images / "5.png"), "--track"], "expected videos, a camera or a stream for --track, found the image"),
        ([clip, "--track", "--panoptic"], "expected --track or --panoptic, found both"),
        ([clip, "--zones", "a:0,0 9,0 9,9"], "expected --track with --zones"),
        ([clip, "--track", "--lines", "a:0,0"], "expected two different points for the line 'a', found 1"),
        ([clip, "--track", "--zones", "0,0 9,9"], "expected --zones as names with points in pixels"),
        ([clip, "--track", "--max_seconds", "3"], "expected a camera or stream, which --max_seconds 3 ends, found"),
        ([clip, "0", "--track"], "expected one camera or stream alone, found 2 sources"),
        (["/dev/video63", "--track"], "expected a camera or stream at /dev/video63, but it cannot be opened"),
    ):
        command = ["predict", *arguments, "--weights", "detrkit_n", "--output_dir", str(tmp_path / "out")]
        assert main(command) == 2, arguments
        assert sentence in capsys.readouterr().err


def test_zones_and_lines_are_parsed() -> None:
    assert parse_zones(" a: b :0,0 9,0 9.5,9;") == {"a: b": [(0, 0), (9, 0), (9.5, 9)]}
    assert parse_lines("gate:-1,0 5,5; 2:0,0 1,0") == {"gate": [(-1, 0), (5, 5)], "2": [(0, 0), (1, 0)]}
    for wrong in ("a:0,0 9,0", "a:0,0 9,0 x,9", "a:0,0 9,0 9,9; a:0,0 9,0 9,9", ":0,0 9,0 9,9"):
        with pytest.raises(ConfigError, match=r"zone|name"):
            parse_zones(wrong)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"detrkit\[track\]\""):
        detrkit.inference.tracking.Tracker()


def test_detections_keep_their_tracks() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]])
    detections = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), track_ids=torch.tensor([7, 4]))
    assert detections[1].track_ids.tolist() == [4]
    assert [row["track_id"] for row in detections.to_coco()] == [7, 4]
    assert detections.to_supervision().tracker_id.tolist() == [7, 4]
    assert detections.cpu().track_ids.tolist() == [7, 4]
    with pytest.raises(DataError, match=r"track_ids \[2\], found shape \[1\]"):
        Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), track_ids=torch.tensor([7]))
    plain = np.full((64, 64, 3), 128, np.uint8)
    assert not np.array_equal(detections.draw(plain), detections[[1, 0]].draw(plain) * 0 + 128)
