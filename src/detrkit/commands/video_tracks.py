"""Tracks of `detrkit predict --track`: settings to tracker, lines of tracks.jsonl, counts drawn on frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from detrkit.config.commands import PredictConfig
from detrkit.errors import ConfigError, DataError
from detrkit.inference.detector import Detector
from detrkit.inference.live import LiveStream, is_live
from detrkit.inference.sources import SourceFile
from detrkit.inference.track_log import TRACKS, TrackLog, count_texts
from detrkit.inference.tracking import TrackedFrame, Tracker, track
from detrkit.inference.video import Video
from detrkit.inference.zones import Counts, parse_lines, parse_zones
from detrkit.visualization.canvas import ImageArray
from detrkit.visualization.counts import draw_counts

LIVE_COPY = "live.mp4"
"""Name of the annotated video of a camera or stream."""


def live_source(config: PredictConfig) -> str | None:
    """The camera or stream that the command names, alone; None: it names files.

    Raises:
        DataError: there are further sources, or they are not to be tracked.
    """
    live = [source for source in config.source if is_live(source)]
    if not live or not config.track:  # without --track, `find_sources` says what to do
        return None
    if len(config.source) > 1:
        raise DataError(
            f"expected one camera or stream alone, found {len(config.source)} sources; start the command once for each "
            "of them, with an --output_dir of its own"
        )
    return live[0]


def check_tracking(config: PredictConfig, files: Sequence[SourceFile]) -> None:
    """Refuse what cannot be tracked, before a model is loaded.

    Raises:
        ConfigError: --track with --panoptic, or with images; or --max_seconds without a live source.
        MissingExtraError: the package of the tracker is not installed.
    """
    if config.max_seconds and not live_source(config):
        raise ConfigError(
            f"expected a camera or stream, which --max_seconds {config.max_seconds:g} ends, found {config.source[0]}; "
            "leave the flag out for files, which are read to their end"
        )
    if not config.track:
        return
    if config.panoptic:
        raise ConfigError("expected --track or --panoptic, found both; segments of a map are not tracked")
    images = [item for item in files if not item.is_video]
    if images:
        raise ConfigError(
            f"expected videos, a camera or a stream for --track, found the image {images[0].path}"
            f"{f' and {len(images) - 1} more' if len(images) > 1 else ''}; leave images or --track out"
        )
    Tracker()


class VideoTracks:
    """Tracks the objects of videos and writes tracks.jsonl.

    Args:
        config: settings of the command.
        threshold: score from which a detection may start a track, 0..1.
    """

    def __init__(self, config: PredictConfig, threshold: float) -> None:
        self.log = TrackLog(Path(config.output_dir))
        self._config, self._threshold = config, threshold
        self._counts: dict[str, Counts] = {}
        self._zones, self._lines = parse_zones(config.zones), parse_lines(config.lines)

    def frames(self, detector: Detector, source: Video | LiveStream) -> Iterator[TrackedFrame]:
        """Track the objects of one source and write a line per frame."""
        self.log.begin()
        config = self._config
        for frame in track(
            detector,
            source,
            self._threshold,
            zones=self._zones,
            lines=self._lines,
            lost_seconds=config.lost_seconds,
            top_k=config.top_k,
            batch_size=config.batch_size,
        ):
            self.log.write(source.name, frame)
            self._counts[source.name] = frame.counts
            yield frame

    def draw(self, drawn: ImageArray, size: tuple[int, int]) -> ImageArray:
        """Draw zones, lines and their counts in the last frame on it; `size` is its height and width in pixels."""
        if not self._zones and not self._lines:
            return drawn
        return draw_counts(drawn, size, self._zones, self._lines, count_texts(self.log.counts))

    def summary(self) -> list[str]:
        """Sentences about all tracks, and about the counts of each source."""
        tracks = f"{self.log.tracks} track{'' if self.log.tracks == 1 else 's'}, listed in {TRACKS}"
        counts = [
            f"{file}: {name}: {text}" for file, c in self._counts.items() for name, text in count_texts(c).items()
        ]
        return [tracks, *counts]
