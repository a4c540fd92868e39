"""`detrkit predict`: find objects in images and videos, and write annotated copies, COCO files, tables and masks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detrkit.config.commands import PredictConfig
from detrkit.errors import ConfigError, DataError
from detrkit.files import atomic_folder, expect_new_folder, save_image
from detrkit.inference.detector import Detector
from detrkit.inference.guards import check_settings
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

THRESHOLD = 0.5
"""Default of `--threshold`."""


def predict(config: PredictConfig) -> None:
    """Detect objects in the images and videos of `config.source` and write the results.

    Writes to `config.output_dir`, each file whole or not at all: an annotated copy of each image (under the same name
    and subfolder) and video (mp4, as long as the video), `detections.json` (COCO results, with `file_name` added;
    `image_id` is the number in the name of the file, or else a running number) and `detections.csv`; and the further
    results of `PredictConfig`. Files that cannot be read are skipped with a warning.

    Raises:
        DataError: a source does not exist, nothing could be read, or a copy would replace its original.
        ConfigError: a setting is out of range, or needs masks and the model has no mask head.
        WeightsError: the weights cannot be read.
    """
    from detrkit.ops.console import make_console, make_progress

    check_settings(THRESHOLD if config.threshold is None else config.threshold, config.top_k, config.batch_size)
    if config.panoptic and config.top_k is not None:
        raise ConfigError("expected --top_k or --panoptic, found both; each query has one class in a panoptic map")
    if config.panoptic and config.max_overlap is not None:
        raise ConfigError("expected --max_overlap or --panoptic, found both; segments of a map do not overlap")
    extras = ExtraOutputs(config.cutouts, config.label_map, config.polygons, config.polygon_tolerance, config.panoptic)
    output_dir = Path(config.output_dir)
    files = find_sources(config.source, output_dir=output_dir)
    folders = [*extras.folders(), *([config.write] if config.write else [])]
    _refuse_overwriting(files, output_dir, folders, config)
    detector = load_detector(config, precision=config.precision, compile=config.compile)
    masks = detector.backend.makes_masks
    if not masks and extras != ExtraOutputs(polygon_tolerance=config.polygon_tolerance):
        raise ConfigError(
            f"expected a model with a mask head for --panoptic, --cutouts, --polygons and --label_map, but "
            f"{config.weights} has boxes alone; train one with --task instance or --task panoptic"
        )
    writer = PredictionWriter(output_dir, detector.categories, extras, masks=masks)
    bars = make_progress(make_console(stderr=True, quiet=config.quiet))
    with _prelabels(config, detector) as prelabels, writer, bars as progress:
        job = _Job(config, detector, writer, prelabels, progress, files)
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
    for note in prelabels.writer.notes if prelabels else ():
        done.print(f"Note: {note}.")
    done.print(f"Written to {output_dir}")
    if prelabels:
        done.print(f"Labels for {prelabels.writer.title} written to {output_dir / config.write}")


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


class _Job:
    """One run of the command.

    Args:
        config: settings of the command.
        detector: detector to run.
        writer: writer of the results.
        prelabels: writer of labels for a tool; None: none are written.
        progress: progress bars.
        files: images and videos to read.
    """

    def __init__(
        self,
        config: PredictConfig,
        detector: Detector,
        writer: PredictionWriter,
        prelabels: PreLabels | None,
        progress: Progress,
        files: list[SourceFile],
    ) -> None:
        self.config, self.detector, self.writer, self.progress = config, detector, writer, progress
        self.prelabels = prelabels
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
        """Predict and write every frame, and write the annotated video."""
        task = None
        try:
            video = Video(item.path)
            times = video.timeline
            task = self.progress.add_task(item.path.name, total=len(times.times) or None)
            numbers: list[int] = []

            def frames() -> Iterator[tuple[Tensor, str | None]]:
                for number, frame in video.frames():
                    numbers.append(number)
                    yield frame, None

            with video_writer(self.output_dir / item.name, times.fps, times.duration) as append:
                for k, (image, detections, segments) in enumerate(self._predict(frames())):
                    number, time = numbers[k], video.time_of(numbers[k])
                    source = replace(detections, source=f"{item.path}#{number}")
                    name = f"{self.names[item.name]}/{number:06d}"
                    self.writer.write(source, self.next_id, name, image, segments, time)
                    if self.prelabels:
                        size, pixels = _size(image), image.permute(1, 2, 0).numpy()
                        self.prelabels.write(detections, self.next_id, f"{name}.jpg", item.path, size, pixels)
                    self.next_id += 1
                    self.frames += 1
                    if not self.config.no_images:
                        append(_drawn(image, detections, segments), time)
                    self.progress.advance(task)
            losses = video.losses()
            if losses:
                warnings.warn(losses, stacklevel=2)
        except DataError as error:
            self._skip(error.message)
        finally:
            if task is not None:
                self.progress.remove_task(task)

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
            self.progress.console.print(f"skipped: {why}")


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
