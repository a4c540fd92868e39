"""`detrkit predict`: pictures and videos in; annotated copies, COCO results and a CSV table out."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torch import Tensor

from detrkit.data.decode import read_image
from detrkit.errors import ConfigError, DataError
from detrkit.files import atomic_path, save_picture
from detrkit.inference.detector import Detector, check_settings
from detrkit.inference.sources import Found, find_sources, image_ids
from detrkit.inference.video import describe_video, read_frames, video_writer
from detrkit.structures import Detections
from detrkit.verbs import PredictConfig

if TYPE_CHECKING:
    from rich.progress import Progress

CSV_COLUMNS = ("file", "class_id", "class_name", "score", "x1", "y1", "x2", "y2")


def predict(config: PredictConfig) -> None:
    """Find objects in everything that `config.source` names and write down what was found.

    Writes to `config.output_dir`, each file whole or not at all: an annotated copy of each picture (same name, same
    place in its folder) and video (mp4, same frame rate), `detections.json` (COCO results, with `file_name` added;
    `image_id` is the number that the file is named by, if it is, else a running one) and `detections.csv`.

    What cannot be read is passed over with a warning.

    Raises:
        DataError: a source does not exist, nothing could be read, or a copy would replace its original.
        ConfigError: a setting is out of range.
        WeightsError: the weights cannot be read.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    check_settings(config.threshold, config.top_k, config.batch_size)
    output_dir = Path(config.output_dir)
    found = find_sources(config.source, output_dir=output_dir)
    _keep_originals(found, output_dir, config)
    detector = Detector.load(
        config.weights,
        device=config.device,
        image_size=config.image_size,
        dilation=config.dilation,
        nheads=config.nheads,
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _Tables(output_dir) as tables, Progress(*columns, console=console, transient=True) as progress:
        job = _Job(config, detector, tables, progress, alone=len(found) == 1)
        job.look_at_pictures([item for item in found if not item.is_video])
        for item in found:
            if item.is_video:
                job.look_at_video(item)
        if len(job.broken) == len(found):
            first = job.broken[0]
            raise DataError(f"none of {len(found)} files can be read; the first: {first}" if len(found) > 1 else first)
    done = Console()
    done.print(
        f"{tables.rows} detections with a score of at least {config.threshold:g} in {job.pictures} "
        f"{'picture' if job.pictures == 1 else 'pictures'}"
        + (f" and {job.frames} video frames" if job.frames else "")
        + (f"; {len(job.broken)} of {len(found)} files could not be read" if job.broken else ""),
        highlight=False,
        soft_wrap=True,
    )
    done.print(f"Written to {output_dir}", highlight=False, soft_wrap=True)


class _Job:
    """One run of the verb."""

    def __init__(
        self, config: PredictConfig, detector: Detector, tables: _Tables, progress: Progress, *, alone: bool
    ) -> None:
        self.detector, self.tables, self.progress = detector, tables, progress
        self.output_dir = Path(config.output_dir)
        self.alone = alone  # a single file that cannot be read is an error, told as such
        self.settings = (config.threshold, config.top_k, config.batch_size)
        self.draws = not config.no_images
        self.next_id = 1  # for frames of videos, after the pictures
        self.broken: list[str] = []
        self.pictures = self.frames = 0

    def look_at_pictures(self, found: list[Found]) -> None:
        """Detect, write down and draw each picture; broken ones are noted."""
        ids = image_ids(found)
        self.next_id = max(ids.values(), default=0) + 1
        task = self.progress.add_task("Pictures", total=len(found))
        readable: list[Found] = []

        def pictures() -> Iterator[tuple[Tensor, str | None]]:
            for item in found:
                try:
                    picture = read_image(item.path)
                except DataError as error:
                    self._pass_over(str(error))
                    self.progress.advance(task)
                    continue
                readable.append(item)
                yield picture, str(item.path)

        for k, (picture, detections) in enumerate(self.detector.stream(pictures(), *self.settings)):
            item = readable[k]
            self.tables.write(detections, ids[item.path])
            if self.draws:
                save_picture(self.output_dir / item.name, detections.draw(picture.permute(1, 2, 0).numpy()))
            self.pictures += 1
            self.progress.advance(task)
        self.progress.remove_task(task)

    def look_at_video(self, item: Found) -> None:
        """Detect and write down every frame, and write the annotated video."""
        task = None
        try:
            fps, frames = describe_video(item.path)
            task = self.progress.add_task(item.path.name, total=frames or None)
            with video_writer(self.output_dir / item.name, fps) as append:
                for picture, detections in self.detector.stream(read_frames(item.path), *self.settings):
                    self.tables.write(detections, self.next_id)
                    self.next_id += 1
                    self.frames += 1
                    if self.draws:
                        append(detections.draw(picture.permute(1, 2, 0).numpy()))
                    self.progress.advance(task)
        except DataError as error:
            self._pass_over(str(error))
        finally:
            if task is not None:
                self.progress.remove_task(task)

    def _pass_over(self, why: str) -> None:
        self.broken.append(why)
        if not self.alone:
            self.progress.console.print(f"passed over: {why}", highlight=False, markup=False, soft_wrap=True)


class _Tables:
    """detections.json and detections.csv, written as detections come in and named when all of them are."""

    def __init__(self, folder: Path) -> None:
        self.rows = 0
        self._stack = contextlib.ExitStack()
        self._folder = folder

    def __enter__(self) -> _Tables:
        with contextlib.ExitStack() as stack:
            self._json = self._open(stack, "detections.json")
            self._csv = csv.writer(self._open(stack, "detections.csv"), lineterminator="\n")
            self._stack = stack.pop_all()
        self._json.write("[")
        self._csv.writerow(CSV_COLUMNS)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._json.write("\n]\n")
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # the triple that any exit is given

    def write(self, detections: Detections, image_id: int) -> None:
        """Append the detections of one picture."""
        names = detections.class_names
        for row, box, name in zip(detections.to_coco(image_id), detections.xyxy.tolist(), names, strict=True):
            entry = row | {"file_name": detections.source, "category_name": name}
            self._json.write(("," if self.rows else "") + "\n" + json.dumps(entry, ensure_ascii=False))
            corners = [f"{value:.2f}" for value in box]
            self._csv.writerow([detections.source, row["category_id"], name, f"{row['score']:.4f}", *corners])
            self.rows += 1

    def _open(self, stack: contextlib.ExitStack, name: str) -> IO[str]:
        aside = stack.enter_context(atomic_path(self._folder / name))
        return stack.enter_context(aside.open("w", encoding="utf-8", newline=""))


def _keep_originals(found: list[Found], output_dir: Path, config: PredictConfig) -> None:
    originals = {item.path.resolve() for item in found}
    for item in found:
        if not config.no_images and (output_dir / item.name).resolve() in originals:
            raise ConfigError(
                f"the annotated copy of {item.path} would replace a picture to be looked at; "
                f"choose another folder than --output_dir {config.output_dir}"
            )
