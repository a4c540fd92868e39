"""Videos through OpenCV: frames in, annotated frames out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.errors import DataError
from detrkit.files import atomic_path

USUAL_FPS = 25.0
"""Taken where a file does not say."""


def read_frames(path: str | Path) -> Iterator[tuple[Tensor, str]]:
    """The frames of a video, one at a time, upright.

    Yields:
        uint8 [3, H, W] (RGB), and `PATH#k` where k counts frames from 0.

    Raises:
        DataError: there is no such file, or it holds no frame that can be decoded.
    """
    with _opened(path) as video:
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            rgb = np.ascontiguousarray(frame[:, :, ::-1])
            yield torch.from_numpy(rgb).permute(2, 0, 1), f"{path}#{number}"
            number += 1
    if not number:
        raise DataError(f"expected a video in {path}, but none of its frames can be decoded")


def describe_video(path: str | Path) -> tuple[float, int]:
    """Frames a second, and the number of frames that the file claims to have (0: unknown).

    Raises:
        DataError: see `read_frames`.
    """
    with _opened(path) as video:
        fps, frames = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    return fps if math.isfinite(fps) and fps > 0 else USUAL_FPS, max(0, int(frames)) if math.isfinite(frames) else 0


@contextlib.contextmanager
def video_writer(path: str | Path, fps: float) -> Iterator[Callable[[npt.NDArray[np.uint8]], None]]:
    """A function that appends a frame (uint8 RGB [H, W, 3], all of one size) to a new mp4 (MPEG-4 part 2).

    The format wants even sides, so the last row or column is doubled where they are odd. The file takes its name only
    if the block ends without an error and at least one frame was written.

    Raises:
        DataError: OpenCV cannot write such a video here.
    """
    with contextlib.ExitStack() as stack:
        writer: list[cv2.VideoWriter] = []
        aside: list[Path] = []

        def append(frame: npt.NDArray[np.uint8]) -> None:
            frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if not writer:
                aside.append(stack.enter_context(atomic_path(path)))
                size = (frame.shape[1], frame.shape[0])
                writer.append(cv2.VideoWriter(str(aside[0]), cv2.VideoWriter.fourcc(*"mp4v"), fps, size))
                stack.callback(writer[0].release)  # before the file is given its name
                if not writer[0].isOpened():
                    raise DataError(f"cannot write the video {path} ({size[0]} x {size[1]} pixels); use --no_images")
            writer[0].write(np.ascontiguousarray(frame[:, :, ::-1]))

        yield append


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[cv2.VideoCapture]:
    if not Path(path).is_file():
        raise DataError(f"expected a video at {path}, found no such file; look at the path")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise DataError(f"expected a video in {path}, but it cannot be decoded; convert it to mp4 first")
        yield video
    finally:
        video.release()
