"""Tracks: ids that stay with objects from frame to frame of a video or camera.

`Tracker` gives the ids, by ByteTrack of the package `trackers`; `track` runs a detector and a tracker over a source.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from detrkit.errors import DetrkitWarning, MissingExtraError
from detrkit.inference.guards import check_settings
from detrkit.inference.live import LiveStream, is_live
from detrkit.inference.sources import as_path
from detrkit.inference.streaming import PREFETCH
from detrkit.inference.timeline import USUAL_FPS
from detrkit.inference.video import Video
from detrkit.inference.zones import Counts, Points, ZoneCounter
from detrkit.results import Detections
from detrkit.visualization.matplotlib_backend import import_matplotlib

if TYPE_CHECKING:
    from detrkit.inference.detector import Detector

LOW_SCORE = 0.1
"""Lowest score of a detection that continues a track, as in ByteTrack."""

MAX_OVERLAP = 0.7
"""Largest IoU of two tracked detections unless another is set: two boxes of one object would become two tracks."""


class Frames(Protocol):
    """Frames with times: a video file or a live stream."""

    @property
    def name(self) -> str:
        """Name of the source for results, without password."""

    @property
    def fps(self) -> float:
        """Usual frames per second."""

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield the number of each frame and the frame, uint8 [3, H, W] (RGB)."""

    def time_of(self, number: int) -> float:
        """Seconds from the first frame to a frame of some number, which `frames` gave last or just before."""

    def losses(self) -> str | None:
        """Describe the frames that were left out, once `frames` has ended."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with its tracked objects."""

    image: Tensor
    """uint8 [3, H, W] (RGB)."""
    detections: Detections
    """The objects of confirmed tracks, with `track_ids`, best first."""
    number: int
    """Number of the frame in its source, from 0."""
    time: float
    """Seconds from the first frame."""
    counts: Counts
    """Counts of zones and lines."""


class GivenFrames:
    """Images that a program gives as frames, at equal distances in time.

    Args:
        images: in any form that `Detector.stream` knows.
        fps: frames per second.
    """

    name = "frames"

    def __init__(self, images: Iterable[Any], fps: float = USUAL_FPS) -> None:
        self.fps = fps
        self._images = images

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield the number of each image, from 0, and the image."""
        yield from enumerate(self._images)

    def time_of(self, number: int) -> float:
        """Seconds from the first image to the one of some number."""
        return number / self.fps

    def losses(self) -> None:
        """Nothing is left out."""


def open_frames(source: Any, fps: float | None = None) -> Frames:
    """Open a video file, a camera (its number, or /dev/video0), the address of a stream, or take images as they are.

    Args:
        source: one of these.
        fps: frames per second of images that a program gives; None: 25.

    Raises:
        DataError: it cannot be opened.
    """
    if is_live(source):
        return LiveStream(source)
    if isinstance(source, str | os.PathLike):
        return Video(as_path(source))
    return GivenFrames(source, fps or USUAL_FPS)


class Tracker:
    """Ids of objects from frame to frame, by ByteTrack (Zhang et al. 2022, arXiv:2110.06864).

    Detections of at least `threshold` start tracks and are matched first, by the IoU of boxes with those that a Kalman
    filter predicts; those of 0.1 and more continue tracks that are left. A track is confirmed, and has an id, in its
    second frame.

    Args:
        threshold: score from which a detection may start a track, 0..1.
        fps: usual frames per second.
        lost_seconds: how long a track without a detection is kept.

    Raises:
        MissingExtraError: the package `trackers` is not installed.
    """

    def __init__(self, threshold: float = 0.5, fps: float = 25.0, lost_seconds: float = 1.0) -> None:
        import_matplotlib()  # before supervision does
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise MissingExtraError("--track", "track") from error
        self._tracker: Any = ByteTrackTracker(
            lost_track_buffer=round(lost_seconds * 30),  # in frames at 30 per second, whatever the rate is
            frame_rate=fps,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
        )

    def update(self, detections: Detections, time: float | None = None) -> Detections:
        """Give the detections of the next frame their ids; those of no confirmed track are left out.

        Args:
            detections: of the frame, from a score of 0.1 on, one per object (see `without_overlaps`).
            time: of the frame in seconds, later than the one before; None: one frame later.
        """
        import numpy as np
        import supervision as sv

        given = sv.Detections(
            xyxy=detections.xyxy.numpy().astype(np.float32).reshape(-1, 4),
            confidence=detections.scores.numpy(),
            data={"index": np.arange(len(detections))},
        )
        tracked = self._tracker.update(given, timestamp=time)
        ids = torch.as_tensor(np.asarray(tracked.tracker_id, dtype=np.int64))
        index = torch.as_tensor(np.asarray(tracked.data.get("index", ()), dtype=np.int64))
        confirmed = ids >= 0
        index, order = index[confirmed].sort()
        return replace(detections[index], track_ids=ids[confirmed][order] + 1)


def track(
    detector: Detector | str | os.PathLike[str],
    source: Any,
    threshold: float = 0.5,
    *,
    zones: Points | None = None,
    lines: Points | None = None,
    lost_seconds: float = 1.0,
    top_k: int | None = None,
    batch_size: int = 1,
    fps: float | None = None,
) -> Iterator[TrackedFrame]:
    """Detect and track objects in a video, a camera or a network stream, frame by frame.

        detector = detrkit.Detector.load("runs/mine")
        for frame in detrkit.track(detector, "clip.mp4", lines={"gate": [(0, 100), (640, 100)]}):
            print(frame.time, frame.detections.track_ids.tolist(), frame.counts.lines["gate"])

    A live source gives its newest frame each time: frames that come meanwhile are dropped, and a warning at the end
    counts them. A lost connection is made again within 30 seconds of the last frame, or else the iterator ends.

    Args:
        detector: a detector, or weights for `Detector.load`. Where its `max_overlap` is None, 0.7 is taken, since two
            boxes of one object would become two tracks.
        source: the path of a video, the number of a camera, the address of a stream (rtsp://..., http://... of a
            camera), an opened `Video` or `LiveStream`, or images that can be iterated over.
        threshold: score from which a detection may start a track, 0..1. Those of 0.1 and more continue tracks.
        zones: corners of each zone by its name, x and y in pixels. The center of a box stands for the object.
        lines: first and second point of each line by its name.
        lost_seconds: how long a track without a detection is kept.
        top_k: see `Detector.predict`.
        batch_size: frames per forward pass; for a live stream always 1.
        fps: frames per second of images that are iterated over; None: 25.

    Yields:
        Frames with the objects of confirmed tracks, in order.

    Raises:
        MissingExtraError: the package `trackers` is not installed.
        DataError: the source cannot be opened, or gives no frame.
        ConfigError: a setting is out of range.
    """
    from detrkit.inference.detector import Detector

    threshold, top_k, batch_size = check_settings(threshold, top_k, batch_size)
    model = detector if isinstance(detector, Detector) else Detector.load(detector)
    frames = source if isinstance(source, Video | LiveStream | GivenFrames) else open_frames(source, fps)
    tracker = Tracker(threshold, frames.fps, lost_seconds)
    counter = ZoneCounter(zones or {}, lines or {}, lost_seconds)
    return _tracked(model, frames, tracker, counter, (min(LOW_SCORE, threshold), top_k, batch_size))


def _tracked(
    detector: Detector,
    frames: Frames,
    tracker: Tracker,
    counter: ZoneCounter,
    settings: tuple[float, int | None, int],
) -> Iterator[TrackedFrame]:
    """Run a detector, a tracker and a counter over frames; `settings` are threshold, top_k and batch_size."""
    pending: deque[int] = deque()  # numbers of frames that are being predicted

    def images() -> Generator[Any]:
        for number, frame in frames.frames():
            pending.append(number)
            yield frame

    threshold, top_k, batch_size = settings
    live = isinstance(frames, LiveStream)
    ahead = 0 if live else max(PREFETCH, batch_size)
    with contextlib.closing(images()) as given:
        for image, detections in detector.stream(given, threshold, top_k, 1 if live else batch_size, ahead):
            number = pending.popleft()
            time = frames.time_of(number)
            if detector.max_overlap is None:
                detections = detections.without_overlaps(MAX_OVERLAP)
            tracked = replace(tracker.update(detections, time), source=f"{frames.name}#{number}")
            yield TrackedFrame(image, tracked, number, time, counter.update(tracked, time))
    losses = frames.losses()
    if losses:
        warnings.warn(DetrkitWarning(losses), stacklevel=2)
