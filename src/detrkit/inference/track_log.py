"""The file tracks.jsonl of `detrkit predict --track`: one line per frame, written as frames come."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from detrkit.files import open_text
from detrkit.inference.tracking import TrackedFrame
from detrkit.inference.zones import Counts

TRACKS = "tracks.jsonl"
"""Name of the file."""


class TrackLog:
    """Writes a line per frame and flushes it, so that other programs can follow a camera; used as a context.

    Args:
        folder: where to write; a file of an earlier run is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.tracks = 0
        """Tracks of all sources."""
        self.counts = Counts()
        """Counts of the last frame of the last source."""
        self._path = folder / TRACKS
        self._file: IO[str] | None = None
        self._highest = 0  # id of the present source

    def __enter__(self) -> TrackLog:
        self._file = open_text(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self) -> None:
        """Begin another source, whose ids start again at 1."""
        self.counts, self._highest = Counts(), 0

    def write(self, file: str, frame: TrackedFrame) -> None:
        """Write a frame.

        Args:
            file: name of the video or stream.
            frame: its tracked objects and counts.
        """
        assert self._file is not None
        rows = frame.detections.to_coco()
        names = frame.detections.class_names
        tracks = [
            {"id": row.pop("track_id"), "category_id": row.pop("category_id"), "category_name": name} | row
            for row, name in zip(rows, names, strict=True)
            if row.pop("image_id") == 0
        ]
        line: dict[str, Any] = {"file": file, "frame": frame.number, "time": round(frame.time, 3), "tracks": tracks}
        for name, counts in (("zones", frame.counts.zones), ("lines", frame.counts.lines)):
            if counts:
                line[name] = {key: count.to_plain() for key, count in counts.items()}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        highest = max([self._highest, *(row["id"] for row in tracks)])
        self.tracks += highest - self._highest
        self._highest, self.counts = highest, frame.counts


def count_texts(counts: Counts) -> dict[str, str]:
    """The counts of zones and lines as text, by their names."""
    zones = {name: f"{zone.now} now, {zone.total} in all" for name, zone in counts.zones.items()}
    lines = {
        name: f"{line.left_to_right} left to right, {line.right_to_left} right to left"
        for name, line in counts.lines.items()
    }
    return zones | lines
