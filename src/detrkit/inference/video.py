"""Videos through OpenCV: frames in, annotated frames out."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.errors import DataError
from detrkit.files import atomic_path
from detrkit.inference.avi import intact_frames
from detrkit.inference.timeline import Timeline
from detrkit.ops.text import first_names

Append = Callable[[npt.NDArray[np.uint8], float | None], None]

MAX_RUNS = 5
"""Runs of lost frames whose numbers a warning lists."""


class Video:
    """A video file: the times of its frames, and the frames themselves, which can be read repeatedly.

    Args:
        path: of the file; the times of its frames are read without decoding them.

    Raises:
        DataError: there is no such file, or it is no video that OpenCV can decode.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with _opened(path) as capture:
            fps, claimed = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            stamps = _stamps(capture)
        fps = fps if math.isfinite(fps) else 0.0
        count = int(claimed) if math.isfinite(claimed) and 0 < claimed < 2**40 else 0
        counted = Path(path).suffix.lower() in (".avi", ".divx")
        timeline = Timeline.of(stamps, fps, count, counted=counted)
        self.timeline = timeline.with_intact(intact_frames(Path(path))) if timeline.missing else timeline
        self._decoded: list[int] = []

    def frames(self) -> Iterator[tuple[int, Tensor]]:
        """Read the frames one at a time, upright; those that cannot be decoded are left out and keep their numbers.

        Yields:
            The number of a frame in the file, from 0, and the frame, uint8 [3, H, W] (RGB).

        Raises:
            DataError: none of them can be decoded.
        """
        self._decoded = []
        number, failures = -1, 0
        with _opened(self.path) as capture:
            while failures < max(1, len(self.timeline.times) - 1 - number):
                decoded, frame = capture.read()
                if not decoded:  # the end, or a damaged frame
                    failures += 1
                    continue
                failures = 0
                number = self.timeline.number_of(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, number + 1)
                self._decoded.append(number)
                rgb = np.ascontiguousarray(frame[:, :, ::-1])
                yield number, torch.from_numpy(rgb).permute(2, 0, 1)
        if not self._decoded:
            raise DataError(f"expected a video in {self.path}, but none of its frames can be decoded")

    @property
    def name(self) -> str:
        """The path as text."""
        return str(self.path)

    @property
    def fps(self) -> float:
        """Frames per second of a copy, see `Timeline`."""
        return self.timeline.fps

    def time_of(self, number: int) -> float:
        """Seconds from the first frame to a frame of some number."""
        times = self.timeline.times
        return times[number] if number < len(times) else number / self.timeline.fps

    def losses(self) -> str | None:
        """Describe the frames that `frames` left out, once it has ended; None: it gave all."""
        listed, missing = len(self.timeline.times), self.timeline.missing
        sentences = []
        runs = _runs_between([-1, *self._decoded, listed])
        if runs:
            which = first_names(runs, MAX_RUNS)
            lost = listed - len(self._decoded)
            sentences.append(
                f"{lost} of {listed} frames of {self.path} cannot be decoded and are left out (frames {which})"
            )
        if missing:
            sentences.append(
                f"the header of {self.path} promises {missing} more frame{'s' if missing > 1 else ''} than the file "
                "holds: it is damaged or was cut, or only its sound is longer"
            )
        return "; ".join(sentences) or None


def read_frames(path: str | Path) -> Iterator[tuple[Tensor, str]]:
    """Read the frames of a video, one at a time, upright. A warning at the end lists those that cannot be decoded.

    Yields:
        uint8 [3, H, W] (RGB), and `PATH#k` where k is the number of the frame in the file, from 0.

    Raises:
        DataError: there is no such file, or it holds no frame that can be decoded.
    """
    video = Video(path)
    for number, frame in video.frames():
        yield frame, f"{path}#{number}"
    losses = video.losses()
    if losses:
        warnings.warn(losses, stacklevel=2)


@contextlib.contextmanager
def video_writer(path: str | Path, fps: float, duration: float | None = None) -> Iterator[Append]:
    """Write a new mp4 (MPEG-4 part 2); gives a function that appends a frame (uint8 RGB [H, W, 3], all of one size).

    The second argument of that function is the time of the frame, in seconds from the start; None: right after the one
    before. A frame is shown until the next one, and the last one until `duration` seconds, so that lost frames and
    irregular times do not change the length.

    The format needs even sides, so the last row or column is doubled where they are odd. The file takes its name only
    if the block ends without an error and at least one frame was written.

    Raises:
        DataError: OpenCV cannot write such a video here.
    """
    with contextlib.ExitStack() as stack:
        writer: list[cv2.VideoWriter] = []
        held: list[npt.NDArray[np.uint8]] = []
        written = 0

        def show_until(time: float | None) -> None:
            """Write the pending frame, at least once."""
            nonlocal written
            end = max(written + 1, 0 if time is None else round(time * fps))
            if not writer:
                writer.append(_new_file(stack, Path(path), held[0], fps))
            for _ in range(written, end):
                writer[0].write(held[0])
            written = end

        def append(frame: npt.NDArray[np.uint8], time: float | None = None) -> None:
            if held:
                show_until(time)
            frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            held[:] = [np.ascontiguousarray(frame[:, :, ::-1])]

        yield append
        if held:
            show_until(duration)


def _new_file(stack: contextlib.ExitStack, path: Path, frame: npt.NDArray[np.uint8], fps: float) -> cv2.VideoWriter:
    """A writer for frames of the size of `frame`; its file gets its name when the stack is left."""
    aside = stack.enter_context(atomic_path(path))
    size = (frame.shape[1], frame.shape[0])
    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    stack.callback(writer.release)  # before the file is given its name
    if not writer.isOpened():
        raise DataError(f"cannot write the video {path} ({size[0]} x {size[1]} pixels); use --no_images")
    return writer


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[cv2.VideoCapture]:
    if not Path(path).is_file():
        raise DataError(f"expected a video at {path}, found no such file; look at the path")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise DataError(
                f"expected a video in {path}, but it cannot be decoded: it is damaged or incomplete (a recording or "
                "download that was cut short), or of a kind that OpenCV does not know; convert it to mp4 first"
            )
        yield video
    finally:
        video.release()


def _stamps(capture: cv2.VideoCapture) -> list[float]:
    """The time stamps in seconds of all frames, in the order of the file, read without decoding; empty where OpenCV
    cannot do that."""
    stamps: list[float] = []
    if capture.set(cv2.CAP_PROP_FORMAT, -1):  # packets as they are stored
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return stamps


def _runs_between(numbers: list[int]) -> list[str]:
    """The numbers that are missing in a rising list, as runs: "4-7", "9"."""
    runs = []
    for before, after in pairwise(numbers):
        if after - before == 2:
            runs.append(str(before + 1))
        elif after - before > 2:
            runs.append(f"{before + 1}-{after - 1}")
    return runs
