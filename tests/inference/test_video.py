"""Videos: frame by frame in, annotated copy out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from detrkit import Detector
from detrkit.errors import DataError
from detrkit.inference.video import Video, read_frames, video_writer


def test_a_video_gives_its_frames_one_at_a_time(
    detector: Detector, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4")
    actual = detector.stream(path, threshold=0)
    image, first = next(actual)
    assert first.source == f"{path}#0"
    assert first.image_size == (60, 80) == image.shape[1:]
    assert [d.source for _, d in actual] == [f"{path}#{k}" for k in range(1, 6)]
    assert len(list(detector.stream(path, batch_size=4))) == 6


def test_predict_refers_videos_to_stream(
    detector: Detector, mask_detector: Detector, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match=r"found the video .*clip\.mp4; Detector\.stream gives its frames"):
        detector.predict(path)
    with pytest.raises(DataError, match=r"clip\.mp4; Detector\.stream_panoptic gives"):
        mask_detector.panoptic(path)
    for camera in (0, "0", "rtsp://camera/1"):
        with pytest.raises(DataError, match=r"camera.*Detector\.stream"):
            detector.predict(camera)


def test_frames_are_rgb_tensors(make_video: Callable[..., Path], tmp_path: Path) -> None:
    with video_writer(tmp_path / "red.mp4", 10) as append:
        for _ in range(3):
            append(np.full((48, 64, 3), (220, 30, 30), dtype=np.uint8))
    frames = [frame for frame, _ in read_frames(tmp_path / "red.mp4")]
    assert len(frames) == 3
    assert frames[0].shape == (3, 48, 64)
    red, green, blue = frames[0].float().mean((1, 2)).tolist()
    assert red > 190
    assert green < 60
    assert blue < 60


def test_the_copy_keeps_rate_size_and_count(make_video: Callable[..., Path], tmp_path: Path) -> None:
    timeline = Video(make_video(tmp_path / "clip.mp4", fps=12.5)).timeline
    assert (timeline.fps, len(timeline.times)) == (pytest.approx(12.5), 6)
    with video_writer(tmp_path / "copy.mp4", timeline.fps, timeline.duration) as append:
        for frame, _ in read_frames(tmp_path / "clip.mp4"):
            append(frame.permute(1, 2, 0).numpy())
    copy = cv2.VideoCapture(str(tmp_path / "copy.mp4"))
    assert copy.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert (copy.get(cv2.CAP_PROP_FRAME_WIDTH), copy.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (80, 60)
    copy.release()


def test_odd_sides_become_even(tmp_path: Path) -> None:
    with video_writer(tmp_path / "odd.mp4", 10) as append:
        append(np.zeros((61, 81, 3), dtype=np.uint8))
    (frame, _), *_ = read_frames(tmp_path / "odd.mp4")
    assert frame.shape == (3, 62, 82)


def test_invalid_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_bytes(b"not a video at all")
    for path, complaint in ((tmp_path / "fake.mp4", "cannot be decoded"), (tmp_path / "no.mp4", "no such file")):
        with pytest.raises(DataError, match=complaint):
            next(read_frames(path))
        with pytest.raises(DataError, match=complaint):
            Video(path)


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with video_writer(tmp_path / "copy.mp4", 10) as append:
            append(np.zeros((48, 64, 3), dtype=np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not list(tmp_path.iterdir())
    with video_writer(tmp_path / "empty.mp4", 10):
        pass
    assert not list(tmp_path.iterdir())
