"""Measure the tracks of `detrkit.track`: MOTA and IDF1 on videos whose tracks are known, speed, and memory.

    python benchmarks/tracking.py quality
    python benchmarks/tracking.py speed --weights detrkit_n
    python benchmarks/tracking.py memory --frames 10000

Rectangles of different colors move, turn back at the borders and pass in front of one another. Their detector finds the
visible part of each by its color; its detections are then made worse: some are left out, some have low scores, all are
shifted a little. MOTA (Bernardin and Stiefelhagen 2008) and IDF1 (Ristani et al. 2016) are those of `trackers.eval`, at
an IoU of 0.5. Needs `pip install "detrkit[track]"`.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detrkit import Categories, Detector, track
from detrkit.inference.video import Video
from detrkit.structures import Output, Preprocessing

HEIGHT, WIDTH, OBJECTS, FPS = 240, 320, 7, 25.0
COLORS = np.array([[255 * (k >> c & 1) for c in range(3)] for k in range(1, OBJECTS + 1)])
QUALITIES = {
    "exact": (0.0, 0.0, 0.0),
    "5 % left out, 10 % with scores of 0.2, corners shifted by 2 %": (0.05, 0.1, 0.02),
    "20 % left out, 20 % with scores of 0.2, corners shifted by 5 %": (0.2, 0.2, 0.05),
}
"""Description -> share of detections left out, share with low scores, and shift of corners relative to the side."""


class ColorBackend:
    """Finds each rectangle by its color; a backend of a `Detector`.

    Args:
        missed: share of detections that are left out.
        weak: share of detections with a score of 0.2 in place of 0.9.
        shift: standard deviation of the corners, relative to the side.
        seed: of these.
    """

    device, sigmoid, num_queries, makes_masks = torch.device("cpu"), True, OBJECTS, False

    def __init__(self, missed: float = 0.0, weak: float = 0.0, shift: float = 0.0, seed: int = 0) -> None:
        self.missed, self.weak, self.shift = missed, weak, shift
        self.rng = np.random.default_rng(seed)

    def forward_detection(self, images: torch.Tensor, padding_mask: torch.Tensor) -> Output:
        """Detect in a batch uint8 [B, 3, H, W]."""
        count, _, height, width = images.shape
        logits, boxes = torch.full((count, OBJECTS, 1), -9.0), torch.full((count, OBJECTS, 4), 0.5)
        for i, image in enumerate(images.numpy()):
            bright = (image > 127).astype(np.uint8)
            owner = bright[0] + 2 * bright[1] + 4 * bright[2]
            for k in range(OBJECTS):
                near = cv2.erode((owner == k + 1).astype(np.uint8), np.ones((3, 3), np.uint8))
                x, y, w, h = cv2.boundingRect(near)
                if w * h < 20 or self.rng.random() < self.missed:
                    continue
                x1, y1, x2, y2 = x - 1, y - 1, x + w + 1, y + h + 1
                sides = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
                x1, y1, x2, y2 = np.array([x1, y1, x2, y2]) + self.rng.normal(0, self.shift, 4) * sides
                box = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
                boxes[i, k] = torch.tensor(box, dtype=torch.float32)
                score = 0.2 if self.rng.random() < self.weak else 0.9
                logits[i, k, 0] = float(np.log(score / (1 - score)))
        return Output(logits, boxes, sigmoid=True, padded_size=(height, width))


def color_detector(*settings: float, seed: int = 0) -> Detector:
    """A detector of colors for frames of the size of the generated ones."""
    return Detector(ColorBackend(*settings, seed=seed), Categories((1,), ("object",)), Preprocessing(HEIGHT))


def moving_boxes(frames: int, seed: int) -> NDArray[np.float64]:
    """Boxes x1, y1, x2, y2 [frames, objects, 4] of rectangles that move evenly and turn back at the borders."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(24, 48, (OBJECTS, 2))
    room = np.array([WIDTH, HEIGHT]) - sides
    start, speed = rng.uniform(0, 1, (OBJECTS, 2)) * room, rng.uniform(-3, 3, (OBJECTS, 2))
    path = start + speed * np.arange(frames)[:, None, None]
    corner = room - np.abs(path % (2 * room) - room)
    return np.concatenate([corner, corner + sides], axis=2).round()


def write_video(path: Path, boxes: NDArray[np.float64]) -> Path:
    """Write the rectangles as motion JPEG, whose colors stay apart."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for frame in boxes.astype(int).tolist():
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for (x1, y1, x2, y2), color in zip(frame, COLORS.tolist(), strict=True):
            image[y1:y2, x1:x2] = color
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


def visible(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a quarter of each rectangle of a frame [objects, 4] is not behind later ones."""
    owner = np.full((HEIGHT, WIDTH), -1)
    for k, (x1, y1, x2, y2) in enumerate(boxes.astype(int).tolist()):
        owner[y1:y2, x1:x2] = k
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.array([(owner == k).sum() for k in range(OBJECTS)]) > area / 4


def measure_quality(videos: int, frames: int) -> None:
    """Print MOTA, IDF1 and changes of ids for each quality of the detections."""
    from trackers import eval as metrics

    print(f"{videos} videos of {frames} frames with {OBJECTS} objects\n")
    print("| detections | MOTA | IDF1 | changes of ids |\n|---|--:|--:|--:|")
    for name, settings in QUALITIES.items():
        clear, identity = [], []
        for seed in range(videos):
            boxes = moving_boxes(frames, seed)
            gt_ids, track_ids, overlaps = [], [], []
            with tempfile.TemporaryDirectory() as folder:
                path = write_video(Path(folder) / "moving.avi", boxes)
                for frame in track(color_detector(*settings, seed=seed), path):
                    present = np.nonzero(visible(boxes[frame.number]))[0]
                    gt_ids.append(present)
                    track_ids.append(frame.detections.track_ids.numpy())
                    overlaps.append(
                        metrics.box_iou(boxes[frame.number][present], frame.detections.xyxy.numpy().astype(float))
                    )
            clear.append(metrics.compute_clear_metrics(gt_ids, track_ids, overlaps))
            identity.append(metrics.compute_identity_metrics(gt_ids, track_ids, overlaps))
        total = metrics.aggregate_clear_metrics(clear)
        idf1 = metrics.aggregate_identity_metrics(identity)["IDF1"]
        print(f"| {name} | {total['MOTA']:.3f} | {idf1:.3f} | {total['IDSW']} |")


def measure_speed(weights: str, frames: int) -> None:
    """Print frames per second of detection alone and with tracks, and of tracks alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "moving.avi", moving_boxes(frames, 0))
        detector = Detector.load(weights, device="cpu")
        decoded = [frame for _, frame in Video(path).frames()]
        exact = color_detector()
        detections = [exact.predict(frame) for frame in decoded]
        rates = {
            "detection alone": rate(detector.stream(path, prefetch=4)),
            "detection and tracks": rate(track(detector, path)),
            "tracks alone": rate(tracked(detections)),
        }
    for name, value in rates.items():
        print(f"{name}: {value:.1f} frames per second of one core")


def tracked(detections: list) -> Iterator[object]:
    """Track detections of frames."""
    from detrkit.inference.tracking import Tracker

    tracker = Tracker()
    for number, each in enumerate(detections):
        yield tracker.update(each, number / FPS)


def rate(frames: Iterator[object]) -> float:
    """Frames per CPU second of an iterator, its first frame apart; so other work on the machine changes little."""
    next(frames)
    begin = time.process_time()
    count = sum(1 for _ in frames)
    return count / (time.process_time() - begin)


def measure_memory(frames: int) -> None:
    """Print the memory of the process while a video is tracked."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "moving.avi", moving_boxes(frames, 0))
        lines = {"middle": [(WIDTH / 2, 0.0), (WIDTH / 2, float(HEIGHT))]}
        zones = {"left": [(0.0, 0.0), (100.0, 0.0), (100.0, float(HEIGHT))]}
        begin = time.process_time()
        for frame in track(color_detector(0.2, 0.2, 0.05), path, lines=lines, zones=zones):
            if frame.number % (frames // 10) == frames // 10 - 1:
                print(f"{frame.number + 1} frames: {resident()} MiB, {int(frame.detections.track_ids.max())} tracks")
        print(f"{frames / (time.process_time() - begin):.0f} frames per second of one core; most {peak()} MiB")


def resident() -> int:
    """MiB of memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def peak() -> int:
    """Most MiB that the process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("quality", "speed", "memory"))
    parser.add_argument("--weights", default="detrkit_n")
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--frames", type=int, default=0, help="per video; default: 300, or 10000 for memory")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "quality":
        measure_quality(args.videos, args.frames or 300)
    elif args.part == "speed":
        measure_speed(args.weights, args.frames or 300)
    else:
        measure_memory(args.frames or 10000)


if __name__ == "__main__":
    main()
