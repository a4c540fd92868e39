"""`detrkit predict`: find objects in images and videos, and write annotated copies, COCO files, tables and masks."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detrkit.commands.video_tracks import LIVE_COPY, VideoTracks, check_tracking, live_source
from detrkit.config.commands import PredictConfig
from detrkit.errors import ConfigError, DataError
from detrkit.files import atomic_folder, expect_new_folder, save_image
from detrkit.inference.batch_job import THRESHOLD, run_share
from detrkit.inference.detector import Detector
from detrkit.inference.guards import check_settings
from detrkit.inference.live import LiveStream, stopped_by_signals
from detrkit.inference.load_detector import load_detector
from detrkit.inference.prefetch import prefetch
from detrkit.inference.prelabels import PreLabels
from detrkit.inference.sources import SourceFile, find_sources, image_ids
from detrkit.inference.streaming import PREFETCH
from detrkit.inference.video import Video, video_writer
from detrkit.inference.writers import ExtraOutputs, PredictionWriter, png_names, segments_as_detections
from detrkit.results import Detections, PanopticMap

if TYPE_CHECKING:
    from rich.progress import Progress


def predict(config: PredictConfig) -> None:
    """Detect objects in the images and videos of `config.source` and write the results.

    Writes to `config.output_dir`, each file whole or not at all: an annotated copy of each image (under the same name
    and subfolder) and video (mp4, as long as the video), `detections.json` (COCO results, with `file_name` added;
    `image_id` is the number in the name of the file, or else a running number) and `detections.csv`; and the further
    results of `PredictConfig`. Files that cannot be read are skipped with a warning. With `--track`, objects of videos,
    or of one camera or network stream, are tracked, and `tracks.jsonl` has a line per frame.

    Raises:
        DataError: a source does not exist, nothing could be read, or a copy would replace its original.
        ConfigError: a setting is out of range, or needs masks and the model has no mask head.
        WeightsError: the weights cannot be read.
    """
    from detrkit.ops.console import make_console, make_progress

    if config.shard or config.engine == "ray":
        _predict_shard(config)
        return
    check_settings(THRESHOLD if config.threshold is None else config.threshold, config.top_k, config.batch_size)
    if config.panoptic and config.top_k is not None:
        raise ConfigError("expected --top_k or --panoptic, found both; each query has one class in a panoptic map")
    if config.panoptic and config.max_overlap is not None:
        raise ConfigError("expected --max_overlap or --panoptic, found both; segments of a map do not overlap")
    extras = ExtraOutputs(config.cutouts, config.label_map, config.polygons, config.polygon_tolerance, config.panoptic)
    output_dir = Path(config.output_dir)
    live = live_source(config)
    files = [SourceFile(Path(LIVE_COPY), LIVE_COPY)] if live else find_sources(config.source, output_dir=output_dir)
    check_tracking(config, files)
    folders = [*extras.folders(), *([config.write] if config.write else [])]
    _refuse_overwriting(files, output_dir, folders, config)
    detector = load_detector(config, precision=config.precision, compile=config.compile)
    masks = detector.backend.makes_masks
    if not masks and extras != ExtraOutputs(polygon_tolerance=config.polygon_tolerance):
        raise ConfigError(
            f"expected a model with a mask head for --panoptic, --cutouts, --polygons and --label_map, but "
            f"{config.weights} has boxes alone; train one with --task instance or --task panoptic"
        )
    writer = PredictionWriter(output_dir, detector.categories, extras, masks=masks, tracks=config.track)
    bars = make_progress(make_console(stderr=True, quiet=config.quiet))
    with _prelabels(config, detector) as prelabels, _tracks(config) as tracks, writer, bars as progress:
        job = _Job(config, detector, writer, prelabels, tracks, progress, files)
        if live:
            wait, limit = config.reconnect_seconds, config.max_seconds
            stream = LiveStream(live, reconnect_seconds=wait, max_seconds=limit)
            with stopped_by_signals(stream):
                job.predict_frames(stream, LIVE_COPY)
        else:
            job.predict_images([item for item in files if not item.is_video])
            for item in files:
                if item.is_video:
                    job.predict_video(item)
        if len(job.broken) == len(files):
            first = job.broken[0]
            raise DataError(f"none of {len(files)} files can be read; the first: {first}" if len(files) > 1 else first)
    done = make_console()
    what = ("segment" if config.panoptic else "detection") + ("" if writer.rows == 1 else "s")
    done.print(
        f"{writer.rows} {what} with a score of at least {job.threshold:g} in {job.images} "
        f"{'image' if job.images == 1 else 'images'}"
        + (f" and {job.frames} video frames" if job.frames else "")
        + (f"; {len(job.broken)} of {len(files)} files could not be read" if job.broken else "")
        + ("" if writer.rows or not job.threshold else "; a lower --threshold shows less certain ones")
    )
    for note in tracks.summary() if tracks else ():
        done.print(note)
    for note in prelabels.writer.notes if prelabels else ():
        done.print(f"Note: {note}.")
    done.print(f"Written to {output_dir}")
    if prelabels:
        done.print(f"Labels for {prelabels.writer.title} written to {output_dir / config.write}")


def _predict_shard(config: PredictConfig) -> None:
    """Detect objects in one share of the images, and tell what was done."""
    from detrkit.ops.console import make_console

    result = run_share(config)
    console = make_console()
    console.print(
        f"Shard {config.shard or '1/1'}: {result.images} of {result.total} images, {result.before} of them done before"
        + (f"; {result.errors} could not be read" if result.errors else "")
    )
    console.print(f"Written to {result.path}")


@contextlib.contextmanager
def _prelabels(config: PredictConfig, detector: Detector) -> Iterator[PreLabels | None]:
    """The labels of `--write`, in a folder that appears when all are written; None without the flag."""
    if not config.write:
        yield None
        return
    with atomic_folder(Path(config.output_dir) / config.write) as folder:
        masks = detector.backend.makes_masks
        labels = PreLabels(folder, config.write, detector.categories, masks=masks, tolerance=config.polygon_tolerance)
        yield labels
        labels.writer.close()


@contextlib.contextmanager
def _tracks(config: PredictConfig) -> Iterator[VideoTracks | None]:
    """The tracker of `--track`, whose file of lines is open; None without the flag."""
    if not config.track:
        yield None
        return
    tracks = VideoTracks(config, THRESHOLD if config.threshold is None else config.threshold)
    with tracks.log:
        yield tracks


class _Job:
    """One run of the command.

    Args:
        config: settings of the command.
        detector: detector to run.
        writer: writer of the results.
        prelabels: writer of labels for a tool; None: none are written.
        tracks: tracker of the objects in videos; None: they are not tracked.
        progress: progress bars.
        files: images and videos to read.
    """

    def __init__(
        self,
        config: PredictConfig,
        detector: Detector,
        writer: PredictionWriter,
        prelabels: PreLabels | None,
        tracks: VideoTracks | None,
        progress: Progress,
        files: list[SourceFile],
    ) -> None:
        self.config, self.detector, self.writer, self.progress = config, detector, writer, progress
        self.prelabels, self.tracks = prelabels, tracks
        self.output_dir = Path(config.output_dir)
        self.alone = len(files) == 1  # a single file that cannot be read is an error
        self.names = png_names(item.name for item in files)
        self.threshold = THRESHOLD if config.threshold is None else config.threshold
        if config.panoptic:
            self.threshold = detector.panoptic_threshold(config.threshold)
        self.next_id = 1  # for frames of videos, after the images
        self.broken: list[str] = []
        self.images = self.frames = 0

    def predict_images(self, files: list[SourceFile]) -> None:
        """Predict, write and draw each image; unreadable images are collected in `broken`."""
        ids = image_ids(files)
        self.next_id = max(ids.values(), default=0) + 1
        task = self.progress.add_task("Images", total=len(files))
        readable: list[SourceFile] = []

        def images() -> Iterator[tuple[Tensor, str | None]]:
            for item, image in prefetch(self._read, files, PREFETCH):
                if isinstance(image, DataError):
                    self._skip(image.message)
                    self.progress.advance(task)
                    continue
                readable.append(item)
                yield image, str(item.path)

        for k, (image, detections, segments) in enumerate(self._predict(images())):
            item = readable[k]
            source = replace(detections, source=str(item.path))
            self.writer.write(source, ids[item.path], self.names[item.name], image, segments)
            if self.prelabels:
                self.prelabels.write(detections, ids[item.path], item.name, item.path, _size(image))
            if not self.config.no_images:
                save_image(self.output_dir / item.name, _drawn(image, detections, segments))
            self.images += 1
            self.progress.advance(task)
        self.progress.remove_task(task)

    def predict_video(self, item: SourceFile) -> None:
        """Predict, write and draw a video; one that cannot be read is noted in `broken`."""
        try:
            self.predict_frames(Video(item.path), item.name)
        except DataError as error:
            self._skip(error.message)

    def predict_frames(self, source: Video | LiveStream, name: str) -> None:
        """Predict, write and draw each frame of a source; `name` is that of the annotated video."""
        length = source.timeline.duration if isinstance(source, Video) else None
        total = len(source.timeline.times) if isinstance(source, Video) else 0
        task = self.progress.add_task(Path(name).name, total=total or None)
        try:
            with video_writer(self.output_dir / name, source.fps, length) as append:
                for image, detections, segments, number, time in self._frames_of(source):
                    file_name = f"{self.names[name]}/{number:06d}"
                    noted = replace(detections, source=f"{source.name}#{number}")
                    self.writer.write(noted, self.next_id, file_name, image, segments, time)
                    if self.prelabels:
                        size, pixels = _size(image), image.permute(1, 2, 0).numpy()
                        self.prelabels.write(
                            detections, self.next_id, f"{file_name}.jpg", Path(source.name), size, pixels
                        )
                    self.next_id += 1
                    self.frames += 1
                    if not self.config.no_images:
                        drawn = _drawn(image, detections, segments)
                        append(self.tracks.draw(drawn, _size(image)) if self.tracks else drawn, time)
                    self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    def _frames_of(
        self, source: Video | LiveStream
    ) -> Iterator[tuple[Tensor, Detections, PanopticMap | None, int, float]]:
        """Each frame with its results, its number and its time in seconds."""
        if self.tracks:
            for frame in self.tracks.frames(self.detector, source):
                yield frame.image, frame.detections, None, frame.number, frame.time
            return
        numbers: deque[int] = deque()

        def frames() -> Iterator[tuple[Tensor, str | None]]:
            for number, image in source.frames():
                numbers.append(number)
                yield image, None

        for image, detections, segments in self._predict(frames()):
            number = numbers.popleft()
            yield image, detections, segments, number, source.time_of(number)
        losses = source.losses()
        if losses:
            warnings.warn(losses, stacklevel=2)

    def _predict(
        self, images: Iterable[tuple[Tensor, str | None]]
    ) -> Iterator[tuple[Tensor, Detections, PanopticMap | None]]:
        """Each image with its detections and, with `--panoptic`, its panoptic map."""
        images = iter(images)
        first = next(images, None)
        if first is None:
            return
        images = chain([first], images)
        sizes = self.config.batch_size, max(PREFETCH, self.config.batch_size)
        if self.config.panoptic:
            for image, segments in self.detector.stream_panoptic(images, self.threshold, *sizes):
                yield image, segments_as_detections(segments), segments
        else:
            for image, detections in self.detector.stream(images, self.threshold, self.config.top_k, *sizes):
                yield image, detections, None

    def _read(self, item: SourceFile) -> tuple[SourceFile, Tensor | DataError]:
        """An image, or the error if it cannot be read."""
        try:
            return item, self.detector.read(item.path)
        except DataError as error:
            return item, error

    def _skip(self, why: str) -> None:
        self.broken.append(why)
        if not self.alone:
            from detrkit.ops.console import make_console

            console = make_console(stderr=True) if self.config.quiet else self.progress.console
            console.print(f"skipped: {why}")


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _drawn(image: Tensor, detections: Detections, segments: PanopticMap | None) -> npt.NDArray[np.uint8]:
    pixels = image.permute(1, 2, 0).numpy()
    return (detections if segments is None else segments).draw(pixels)


def _refuse_overwriting(files: list[SourceFile], output_dir: Path, folders: list[str], config: PredictConfig) -> None:
    """Refuse outputs that would replace a file to read, or each other, or labels that may have been corrected.

    Raises:
        ConfigError: an output has the path of an input or of another output, or the folder of labels has content.
    """
    if config.write:
        expect_new_folder(output_dir / config.write)
    originals = {item.path.resolve() for item in files}
    for item in files:
        if not config.no_images and (output_dir / item.name).resolve() in originals:
            raise ConfigError(
                f"the annotated copy of {item.path} would replace a file to read; "
                f"choose another folder than --output_dir {config.output_dir}"
            )
        for name in folders:
            if item.path.resolve().is_relative_to((output_dir / name).resolve()):
                raise ConfigError(
                    f"{item.path} lies where results are to be written; "
                    f"choose another folder than --output_dir {config.output_dir}"
                )
            if not config.no_images and item.name.split("/")[0].casefold() == name:
                raise ConfigError(
                    f"the annotated copy of {item.path} would lie in the folder {name}/ of the results; "
                    f"name its folder differently, or add --no_images"
                )
