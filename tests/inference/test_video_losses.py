"""Videos that are damaged or come at irregular times: nothing is lost in silence, numbers and lengths stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detrkit import Detector
from detrkit.inference import video as module
from detrkit.inference.timeline import Timeline
from detrkit.inference.video import Video, read_frames
from tests.inference.helpers import run

FRAMES, FPS = 40, 12.5


def noisy_video(path: Path, code: str = "mp4v") -> Path:
    """Frame k has a mean of about 5 k; noise makes all of about one size in the file."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), FPS, (96, 64))
    for k in range(FRAMES):
        writer.write(rng.integers(0, 20, (64, 96, 3), dtype=np.uint8) + np.uint8(5 * k))
    writer.release()
    return path


def damaged(path: Path, start: float, end: float) -> Path:
    """The same file with zeros in a part of it, given as shares of its size."""
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def number_seen(frame: Any) -> int:
    return round((float(frame.float().mean()) - 9.5) / 5)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("mp4", "mp4v"), ("mov", "mp4v"), ("mkv", "mp4v"), ("flv", "FLV1"), ("avi", "MJPG"), ("avi", "XVID")],
)
def test_frames_after_a_damaged_part_are_read_under_their_own_numbers(tmp_path: Path, ending: str, code: str) -> None:
    path = damaged(noisy_video(tmp_path / f"clip.{ending}", code), 0.5, 0.6)
    with pytest.warns(UserWarning, match=rf"of {FRAMES} frames of .*clip\.{ending} cannot be decoded") as caught:
        frames = list(read_frames(path))
    numbers = [int(source.rpartition("#")[2]) for _, source in frames]
    lost = FRAMES - len(numbers)
    assert 2 <= lost <= 8
    assert numbers[-1] == FRAMES - 1
    assert str(caught[0].message).startswith(f"{lost} of {FRAMES} frames")
    first = next(k for k, number in enumerate(numbers) if number != k)
    assert f"(frames {first}-{first + lost - 1})" in str(caught[0].message)
    later = [(number, number_seen(frame)) for number, (frame, _) in zip(numbers, frames, strict=True)][-8:]
    assert all(abs(number - seen) <= 1 for number, seen in later)


def test_every_frame_of_a_whole_video_is_read_without_a_word(tmp_path: Path) -> None:
    for ending, code in (("mp4", "mp4v"), ("avi", "MJPG"), ("webm", "VP80"), ("ts", "mp4v"), ("wmv", "WMV2")):
        video = Video(noisy_video(tmp_path / f"clip.{ending}", code))
        assert [number for number, _ in video.frames()] == list(range(FRAMES)), ending
        assert video.losses() is None, ending
        assert video.timeline.fps == pytest.approx(FPS), ending


def test_frames_that_the_file_itself_no_longer_holds_are_counted(tmp_path: Path) -> None:
    avi = noisy_video(tmp_path / "clip.avi", "MJPG")
    avi.write_bytes(avi.read_bytes()[: avi.stat().st_size // 2])
    mkv = noisy_video(tmp_path / "clip.mkv")
    mkv.write_bytes(mkv.read_bytes()[: mkv.stat().st_size // 2])
    for path in (avi, mkv):
        with pytest.warns(UserWarning, match=r"promises \d+ more frames than the file holds") as caught:
            count = len(list(read_frames(path)))
        assert f"promises {FRAMES - count} more" in str(caught[0].message)


def test_predict_reports_losses_and_keeps_numbers_times_and_length(
    checkpoint: Path, detector: Detector, tmp_path: Path
) -> None:
    path = damaged(noisy_video(tmp_path / "clip.mp4"), 0.5, 0.6)
    with pytest.warns(UserWarning, match="cannot be decoded"):
        actual = [detections for _, detections in detector.stream(path, threshold=0)]
    with pytest.warns(UserWarning, match="cannot be decoded"):
        rows = run(checkpoint, tmp_path / "out", path, top_k=1)
    assert [row["file_name"] for row in rows] == [d.source for d in actual]
    assert len(rows) < FRAMES
    assert rows[-1]["file_name"] == f"{path}#{FRAMES - 1}"
    for row in rows:
        assert row["time"] == pytest.approx(int(row["file_name"].rpartition("#")[2]) / FPS, abs=0.001)
    copy = Video(tmp_path / "out" / "clip.mp4").timeline
    assert (len(copy.times), copy.fps) == (FRAMES, pytest.approx(FPS))  # the last good frame stays meanwhile


class Irregular:
    """In place of `cv2.VideoCapture`: six frames that come at irregular times."""

    stamps = (0, 40, 80, 580, 620, 1580)

    def __init__(self, path: str) -> None:
        self.next, self.packets = 0, False

    def isOpened(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def set(self, key: int, value: float) -> bool:
        self.packets = True
        return True

    def grab(self) -> bool:
        self.next += 1
        return self.next <= len(self.stamps)

    def read(self) -> tuple[bool, Any]:
        return (True, np.full((48, 64, 3), 30 * self.next, np.uint8)) if self.grab() else (False, None)

    def get(self, key: int) -> float:
        known = {cv2.CAP_PROP_FPS: 5.0, cv2.CAP_PROP_FRAME_COUNT: float(len(self.stamps))}
        return known[key] if key in known else float(self.stamps[self.next - 1])


def test_a_copy_plays_as_long_as_a_video_of_irregular_times(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"read by the class above")
    with monkeypatch.context() as patched:
        patched.setattr(module.cv2, "VideoCapture", Irregular)
        rows = run(checkpoint, tmp_path / "out", tmp_path / "clip.mp4", top_k=1)
    assert [row["time"] for row in rows] == [0, 0.04, 0.08, 0.58, 0.62, 1.58]
    copy = Video(tmp_path / "out" / "clip.mp4")
    assert copy.timeline.fps == pytest.approx(25)
    assert copy.timeline.duration == pytest.approx(1.62, abs=0.021)
    frames = [frame.float().mean() for _, frame in copy.frames()]
    changes = [k / 25 for k in range(1, len(frames)) if abs(frames[k] - frames[k - 1]) > 10]
    assert changes == pytest.approx([0.04, 0.08, 0.58, 0.62, 1.58], abs=0.021)


def timeline(milliseconds: Sequence[float], fps: float, claimed: int, **more: bool) -> Timeline:
    return Timeline.of([stamp / 1000 for stamp in milliseconds], fps, claimed, **more)


def test_timelines_from_stored_times() -> None:
    thirds = [round(k * 1000 / 30) for k in range(30)]  # rounded to milliseconds, as mkv has them
    assert timeline(thirds, 30, 30).fps == 30
    holes = timeline(thirds[:10] + thirds[14:], 30, 30)
    assert len(holes.times) == 30
    assert holes.number_of(thirds[14] / 1000, 10) == 14
    listed = timeline(thirds[:10] + thirds[14:], 26, 26)  # all frames that there are: none was recorded meanwhile
    assert len(listed.times) == 26
    wrong_rate = timeline([80 * k for k in range(60)], 25, 119)  # some containers guess
    assert (wrong_rate.fps, wrong_rate.missing) == (pytest.approx(12.5), 0)
    cut = timeline(thirds, 30, 90)
    assert (len(cut.times), cut.missing) == (30, 60)
    assert timeline(thirds, 30, 32).missing == 0  # the sound is a little longer
    assert timeline(thirds, 30, 32, counted=True).missing == 2
    trimmed = timeline([-200, -100, *[100 * k for k in range(10)]], 10, 12)
    assert (len(trimmed.times), trimmed.missing, trimmed.times[0]) == (10, 0, 0)
    without_stamps = timeline([0] * 20, 10, 20)
    assert (len(without_stamps.times), without_stamps.duration) == (20, pytest.approx(2))
    assert without_stamps.number_of(0, 7) == 7
    unsorted = timeline([0, 120, 40, 80], 25, 4)  # as frames that refer to later ones are stored
    assert [round(1000 * time) for time in unsorted.times] == [0, 40, 80, 120]
    assert timeline([], 0, 0).duration == 0
    assert timeline([0], 25, 1).duration == pytest.approx(0.04)


def test_times_are_in_the_polygons_too(mask_checkpoint: Path, make_video: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames=2)
    run(mask_checkpoint, tmp_path / "out", clip, polygons=True, no_images=True, threshold=0.9)
    images = json.loads((tmp_path / "out" / "polygons.json").read_text())["images"]
    assert [image["time"] for image in images] == [0, 0.08]
