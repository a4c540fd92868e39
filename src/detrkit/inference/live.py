"""Cameras and network streams through OpenCV: the newest frame each time, and a new connection when one is lost."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError
from detrkit.inference.sources import STREAMS, VIDEO_SUFFIXES
from detrkit.inference.timeline import COPY_FPS, USUAL_FPS

PLAYED = (".mjpeg", ".mjpg", ".ts")
"""Endings of videos that web servers of cameras send without end."""

OPEN_SECONDS = 10.0
"""Seconds after which OpenCV gives up opening an address or waiting for the next frame from it."""

WAITS = (0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to connect again; the last one repeats."""


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def isOpened(self) -> bool:  # noqa: N802
        """Whether frames can be read."""

    def read(self) -> tuple[bool, Any]:
        """Whether there is a frame, and the frame, uint8 [H, W, 3] (BGR)."""

    def get(self, prop: int) -> float:
        """A property, such as the frames per second."""

    def release(self) -> None:
        """Close the device or connection."""


def is_live(source: object) -> bool:
    """Whether a source is a camera (its number, or /dev/video0) or the address of a network stream.

    Addresses of web servers are, unless they end like an image or a video file, which is to be downloaded.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        return True
    if not isinstance(source, str):
        return False
    if re.fullmatch(r"\d\d?|/dev/video\d+", source):
        return not os.path.isfile(source)  # noqa: PTH113
    scheme, _, rest = source.partition("://")
    if not rest:
        return False
    if scheme.lower() in ("http", "https"):
        suffix = PurePosixPath(urlsplit(source).path).suffix.lower()
        return suffix in PLAYED or suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    return scheme.lower() in STREAMS


def cv2_capture(source: str | int) -> Capture:
    """Open a camera or an address with OpenCV, which gives up after a limited time."""
    import cv2

    text = str(source)
    if text.isdecimal():
        return cv2.VideoCapture(int(text))
    if text.startswith("/dev/"):
        return cv2.VideoCapture(text, cv2.CAP_V4L2)
    limit = round(1000 * OPEN_SECONDS)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    return cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)


class LiveStream:
    """A camera or network stream. A thread reads it, so that the newest frame is at hand and the others are dropped.

    Args:
        source: number or device of a camera, or an address.
        reconnect_seconds: how long after the last frame a lost connection is tried again.
        max_seconds: end after this time; 0: no limit.
        open_capture: opens the source; None: OpenCV does.

    Raises:
        DataError: the source cannot be opened.
    """

    def __init__(
        self,
        source: str | int,
        *,
        reconnect_seconds: float = 30.0,
        max_seconds: float = 0.0,
        open_capture: Callable[[str | int], Capture] | None = None,
    ) -> None:
        import cv2

        self.name = _without_password(str(source))
        self.dropped = 0
        """Frames that came while an earlier one was processed."""
        self.reconnected = 0
        """Times that a lost connection was made again."""
        self._source, self._open = source, open_capture or cv2_capture
        self._reconnect_seconds, self._max_seconds = reconnect_seconds, max_seconds
        self._capture = self._open(source)
        if not self._capture.isOpened():
            raise DataError(
                f"expected a camera or stream at {self.name}, but it cannot be opened; look at the address, "
                "with its user and password, and whether another program uses the camera"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        low, high = COPY_FPS
        self.fps = fps if math.isfinite(fps) and low <= fps <= high else USUAL_FPS
        self._changed = threading.Condition()
        self._newest: tuple[int, float, npt.NDArray[np.uint8]] | None = None
        self._stopped = threading.Event()
        self._ended = False
        self._lost: str | None = None
        self._time = (0, 0.0)  # number and time of the frame that was given last

    def frames(self) -> Iterator[tuple[int, Tensor]]:
        """Read frames as they come, once; those that come while the caller is busy are dropped, but counted.

        Yields:
            The number of a frame since the beginning, from 0, and the frame, uint8 [3, H, W] (RGB).

        Raises:
            DataError: no frame has come.
        """
        reader = threading.Thread(target=self._read, name="detrkit-live", daemon=True)
        begin = time.monotonic()
        reader.start()
        number = -1
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._newest is not None or self._ended or self._stopped.is_set(), self._left(begin)
                    )
                    newest, self._newest = self._newest, None
                if newest is None or self._stopped.is_set():
                    break
                number, when, frame = newest
                self._time = (number, when)
                rgb = np.ascontiguousarray(frame[:, :, ::-1])
                yield number, torch.from_numpy(rgb).permute(2, 0, 1)
                if self._left(begin) == 0:
                    break
        finally:
            self._stopped.set()
            reader.join(OPEN_SECONDS)
        if number < 0:
            raise DataError(f"expected frames from {self.name}, but none came{f': {self._lost}' if self._lost else ''}")

    def time_of(self, number: int) -> float:
        """Seconds from the first frame to the one that `frames` gave last."""
        assert number == self._time[0], "times of earlier frames are not kept"
        return self._time[1]

    def losses(self) -> str | None:
        """Describe dropped frames and lost connections; None: there were none."""
        parts = []
        if self.dropped:
            parts.append(
                f"{_count(self.dropped, 'frame')} of {self.name} came while an earlier one was processed and "
                f"{'were' if self.dropped > 1 else 'was'} dropped"
            )
        if self.reconnected:
            parts.append(f"the connection to {self.name} was lost and made again {_count(self.reconnected, 'time')}")
        if self._lost:
            parts.append(self._lost)
        return "; ".join(parts) or None

    def stop(self) -> None:
        """End `frames` after the frame at hand; may be called by a signal handler."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()

    def _left(self, begin: float) -> float | None:
        """Seconds until the end; None: without limit."""
        return max(0.0, begin + self._max_seconds - time.monotonic()) if self._max_seconds else None

    def _read(self) -> None:
        """Read frames until the end; runs in a thread of its own."""
        number, first, last, was_lost = -1, 0.0, time.monotonic(), False
        try:
            while not self._stopped.is_set():
                there, frame = self._capture.read()
                now = time.monotonic()
                if not there:
                    was_lost = True
                    if not self._connect_again(last + self._reconnect_seconds):
                        break
                    continue
                self.reconnected += was_lost
                number, last, was_lost = number + 1, now, False
                first = first if number else now
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = (number, now - first, frame)
                    self._changed.notify()
        finally:
            self._capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _connect_again(self, deadline: float) -> bool:
        """Open the source again; False: it was not there until the deadline, or reading is to end."""
        self._capture.release()
        waits = iter(WAITS)
        wait = WAITS[0]
        while not self._stopped.is_set():
            wait = next(waits, wait)
            left = deadline - time.monotonic()
            if left <= 0:
                self._lost = (
                    f"{self.name} was lost, and not there again within {self._reconnect_seconds:g} seconds "
                    "(--reconnect_seconds)"
                )
                return False
            if self._stopped.wait(min(wait, left)):
                return False
            with contextlib.suppress(Exception):  # OpenCV raises errors of its own for some addresses
                self._capture = self._open(self._source)
                if self._capture.isOpened():
                    return True
                self._capture.release()
        return False


@contextlib.contextmanager
def stopped_by_signals(stream: LiveStream) -> Iterator[None]:
    """End a live stream at the first Ctrl-C or SIGTERM, so that its results are written; a second Ctrl-C interrupts."""
    if threading.current_thread() is not threading.main_thread():  # no other thread may set handlers
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        stream.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_password(address: str) -> str:
    """An address without its user and password, for messages and results."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
