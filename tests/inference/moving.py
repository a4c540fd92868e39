"""Videos of rectangles that move on known tracks, for `tests.inference.blobs.BlobBackend` to find."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from detrkit.inference.tracking import TrackedFrame

WIDTH, HEIGHT = 160, 96


@dataclass(frozen=True)
class Mover:
    """A rectangle whose corner moves evenly, in pixels per frame."""

    x: float
    y: float
    dx: float
    dy: float
    side: int = 14
    channel: int = 0
    hidden: frozenset[int] = field(default_factory=frozenset)
    """Frames in which it is not drawn."""

    def box(self, frame: int) -> tuple[int, int, int, int]:
        x, y = round(self.x + self.dx * frame), round(self.y + self.dy * frame)
        return x, y, x + self.side, y + self.side

    def visible(self, frame: int) -> bool:
        x1, y1, x2, y2 = self.box(frame)
        return frame not in self.hidden and x1 >= 0 and y1 >= 0 and x2 <= WIDTH and y2 <= HEIGHT


CROWD = (
    Mover(4, 4, 2, 0),
    Mover(140, 44, -2, 0, channel=1),
    Mover(4, 62, 1, 0),
    Mover(72, 24, 0, 0.3, hidden=frozenset(range(20, 26))),
    Mover(142, 78, -1.5, 0),
)
"""Five rectangles that do not touch for 60 frames; one is hidden for a quarter of a second."""


def draw(movers: Sequence[Mover], frame: int) -> np.ndarray:
    """The frame of a number, RGB [H, W, 3]."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for mover in movers:
        if mover.visible(frame):
            x1, y1, x2, y2 = mover.box(frame)
            image[y1:y2, x1:x2, mover.channel] = 255
    return image


def write_video(path: Path, movers: Sequence[Mover], frames: Iterable[int], fps: float = 25.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(np.ascontiguousarray(draw(movers, frame)[:, :, ::-1]))
    writer.release()
    return path


def set_times(path: Path, steps: Sequence[int]) -> None:
    """Give the frames of an mp4 file other times, as phones write them.

    Args:
        path: a file of `write_video`, whose frames all have one duration.
        steps: durations of its frames, in multiples of that one.
    """
    content = path.read_bytes()
    table = content.index(b"stts")
    duration = int.from_bytes(content[table + 16 : table + 20], "big")
    entries = b"".join(struct.pack(">II", 1, step * duration) for step in steps)
    changed = content[: table + 8] + struct.pack(">I", len(steps)) + entries + content[table + 20 :]
    sizes = bytearray(changed)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        at = sizes.index(name) - 4
        sizes[at : at + 4] = struct.pack(">I", struct.unpack(">I", sizes[at : at + 4])[0] + len(entries) - 8)
    path.write_bytes(sizes.replace(b"edts", b"free"))  # else the frames after the old length are not shown


def mota_and_idf1(
    movers: Sequence[Mover], tracked: Iterable[TrackedFrame], frame_of: Callable[[TrackedFrame], int]
) -> tuple[float, float]:
    """MOTA (Bernardin and Stiefelhagen 2008) and IDF1 (Ristani et al. 2016) at an IoU of 0.5.

    Args:
        movers: ground truth.
        tracked: results; frames that are left out do not count.
        frame_of: the frame number of the ground truth.
    """
    from trackers.eval import box_iou, compute_clear_metrics, compute_identity_metrics

    gt_ids, track_ids, overlaps = [], [], []
    for frame in tracked:
        number = frame_of(frame)
        present = [k for k, mover in enumerate(movers) if mover.visible(number)]
        boxes = np.array([movers[k].box(number) for k in present], dtype=float).reshape(-1, 4)
        gt_ids.append(np.array(present, dtype=int))
        track_ids.append(frame.detections.track_ids.numpy())
        overlaps.append(box_iou(boxes, frame.detections.xyxy.numpy().astype(float).reshape(-1, 4)))
    clear = compute_clear_metrics(gt_ids, track_ids, overlaps)
    return clear["MOTA"], compute_identity_metrics(gt_ids, track_ids, overlaps)["IDF1"]
