"""Cameras and streams: dropped frames are counted, lost connections made again, for a bounded time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

import detrkit
from detrkit.cli import main
from detrkit.errors import DataError
from detrkit.inference.live import LiveStream, cv2_capture, is_live
from tests.inference.blobs import blob_detector
from tests.inference.moving import HEIGHT, Mover, draw
from tests.inference.test_tracking import needs_trackers

MOVERS = (Mover(4, 4, 1, 0), Mover(140, 60, -1, 0))


class FakeCapture:
    """A camera of 50 frames per second that fails after some frames, as `cv2.VideoCapture` does it.

    Args:
        frames: how many it gives; negative: it cannot be opened.
        start: number of its first frame.
    """

    def __init__(self, frames: int, start: int = 0) -> None:
        self.left, self.next = frames, start
        self.released = False

    def isOpened(self) -> bool:
        return self.left >= 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.left <= 0:
            return False, None
        time.sleep(0.02)
        self.left -= 1
        self.next += 1
        return True, np.ascontiguousarray(draw(MOVERS, self.next - 1)[:, :, ::-1])

    def get(self, prop: int) -> float:
        return 50.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released = True


def test_a_slow_reader_gets_the_newest_frame_and_the_number_of_dropped_ones() -> None:
    stream = LiveStream(0, reconnect_seconds=0, open_capture=lambda source: FakeCapture(30))
    numbers = []
    for number, frame in stream.frames():
        assert frame.shape == (3, HEIGHT, 160)
        numbers.append((number, stream.time_of(number)))
        time.sleep(0.07)
    assert len(numbers) < 15
    assert numbers[-1][0] == 29
    assert stream.dropped == 30 - len(numbers)
    for number, seconds in numbers:
        assert seconds == pytest.approx(number * 0.02, abs=0.25)
    losses = stream.losses()
    assert losses is not None
    assert f"{stream.dropped} frames of 0 came while an earlier one was processed and were dropped" in losses
    assert "0 was lost, and not there again within 0 seconds" in losses


def test_a_lost_connection_is_made_again() -> None:
    opened: list[FakeCapture] = []

    def open_again(source: object) -> FakeCapture:
        frames = (10, -1, 10, -1)  # the second and all later attempts but the third fail
        opened.append(FakeCapture(frames[min(len(opened), 3)], 10 * len(opened)))
        if len(opened) == 5:
            raise cv2.error("no route to host")
        return opened[-1]

    stream = LiveStream("rtsp://user:secret@host/1", reconnect_seconds=2, open_capture=open_again)
    numbers = [number for number, _ in stream.frames()]
    assert numbers[-1] == 19
    assert numbers == sorted(numbers)
    assert stream.reconnected == 1
    assert opened[0].released
    losses = stream.losses()
    assert losses is not None
    assert "secret" not in losses
    assert "the connection to rtsp://host/1 was lost and made again 1 time; rtsp://host/1 was lost" in losses


def test_a_stream_ends_by_itself_and_by_its_limit() -> None:
    stream = LiveStream(0, max_seconds=0.3, open_capture=lambda source: FakeCapture(10**6))
    begin = time.monotonic()
    assert 3 < sum(1 for _ in stream.frames()) < 30
    assert time.monotonic() - begin < 3
    assert not stream.losses()
    with pytest.raises(DataError, match="expected frames from 3, but none came: 3 was lost"):
        list(LiveStream(3, reconnect_seconds=0, open_capture=lambda source: FakeCapture(0)).frames())
    with pytest.raises(DataError, match=r"camera or stream at rtsp://host/1, but it cannot be opened"):
        LiveStream("rtsp://me:pw@host/1", open_capture=lambda source: FakeCapture(-1))


@pytest.mark.parametrize(
    ("source", "live"),
    [
        (0, True),
        ("12", True),
        ("/dev/video0", True),
        ("rtsp://10.0.0.5:554/live", True),
        ("http://10.0.0.5/video", True),
        ("http://10.0.0.5/cam.mjpg?fps=5", True),
        ("https://example.com/bus.jpg", False),
        ("https://example.com/clip.mp4", False),
        ("s3://bucket/clip", False),
        ("clip.mp4", False),
        (True, False),
        (b"0", False),
    ],
)
def test_live_sources_are_known(source: object, live: bool) -> None:
    assert is_live(source) == live


@contextmanager
def mjpeg_server(frames: int) -> Iterator[str]:
    """A server of motion JPEG, as web cameras have it, that breaks each connection off after some frames."""
    counter = itertools.count()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
                    )
                    for _ in range(frames):
                        image = draw(MOVERS, next(counter))
                        jpeg = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        connection.sendall(head.encode() + jpeg + b"\r\n")
                        time.sleep(0.02)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/video"
    finally:
        listener.close()


def test_a_web_camera_that_breaks_off_is_read_on() -> None:
    with mjpeg_server(25) as address:
        probe = cv2_capture(address)
        if not probe.isOpened():
            pytest.skip("this OpenCV cannot read motion JPEG over HTTP")
        probe.release()
        stream = LiveStream(address, reconnect_seconds=5, max_seconds=6)
        numbers = [number for number, _ in stream.frames()]
    assert stream.reconnected >= 1
    assert numbers[-1] > 30


@needs_trackers
@pytest.mark.filterwarnings("ignore:.*came while an earlier one was processed")
@pytest.mark.parametrize("end", ["limit", "signal"])
def test_the_command_tracks_a_camera_until_it_is_stopped(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("detrkit.commands.predict.load_detector", lambda *args, **rest: blob_detector(HEIGHT, None))
    monkeypatch.setattr("detrkit.inference.live.cv2_capture", lambda source: FakeCapture(10**6))
    flags = ["--track", "--weights", "any", "--output_dir", str(tmp_path)]
    if end == "limit":
        flags += ["--max_seconds", "1"]
    else:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert main(["predict", "0", *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "tracks.jsonl").read_text().splitlines()]
    assert lines[-1]["file"] == "0"
    assert {track["id"] for line in lines for track in line["tracks"]} == {1, 2}
    assert {row["track_id"] for row in json.loads((tmp_path / "detections.json").read_text())} == {1, 2}
    assert (tmp_path / "live.mp4").is_file()
    assert "2 tracks, listed in tracks.jsonl" in capsys.readouterr().out


@needs_trackers
def test_a_program_may_track_its_own_frames() -> None:
    frames = detrkit.track(blob_detector(HEIGHT, None), (draw(MOVERS, k) for k in range(8)), fps=10)
    tracked = list(frames)
    assert [frame.time for frame in tracked] == pytest.approx([k / 10 for k in range(8)])
    assert tracked[-1].detections.track_ids.tolist() == [1, 2]
