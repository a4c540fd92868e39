"""Zones and lines that count tracked objects: the text of their settings, and the counts themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detrkit.errors import ConfigError
from detrkit.visualization.matplotlib_backend import import_matplotlib

if TYPE_CHECKING:
    from detrkit.results import Detections

Point = tuple[float, float]
"""x and y in pixels of the frame."""

Points = Mapping[str, Sequence[Point]]
"""The points of each zone or line, by its name."""


@dataclass
class ZoneCount:
    """Objects whose center lies in a zone."""

    now: int = 0
    """Objects in the zone in this frame."""
    total: int = 0
    """Tracks that were in the zone in any frame until now."""

    def to_plain(self) -> dict[str, int]:
        """The counts as JSON has them."""
        return {"now": self.now, "total": self.total}


@dataclass
class LineCount:
    """Objects whose center has crossed a line, seen from its first to its second point."""

    right_to_left: int = 0
    left_to_right: int = 0

    def to_plain(self) -> dict[str, int]:
        """The counts as JSON has them."""
        return {"right_to_left": self.right_to_left, "left_to_right": self.left_to_right}


@dataclass
class Counts:
    """The counts of one frame, by the names of zones and lines."""

    zones: dict[str, ZoneCount] = field(default_factory=dict)
    lines: dict[str, LineCount] = field(default_factory=dict)


def parse_zones(text: str) -> dict[str, list[Point]]:
    """Parse the setting `--zones`: `NAME:x,y x,y x,y`, separated by semicolons.

    Raises:
        ConfigError: it is no such text, a name occurs twice, or a zone has fewer than three points.
    """
    return _parse(text, "zones")


def parse_lines(text: str) -> dict[str, list[Point]]:
    """Parse the setting `--lines`: `NAME:x,y x,y`, separated by semicolons.

    Raises:
        ConfigError: it is no such text, a name occurs twice, or a line has not two different points.
    """
    return _parse(text, "lines")


def _parse(text: str, setting: str) -> dict[str, list[Point]]:
    example = "door:0,0 200,0 200,150" if setting == "zones" else "gate:0,100 640,100"
    parsed: dict[str, list[Point]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, points = part.rpartition(":")
        pairs = [re.fullmatch(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)", pair) for pair in points.split()]
        if not separator or not name.strip() or not pairs or not all(pairs):
            raise ConfigError(
                f"expected --{setting} as names with points in pixels, separated by semicolons, such as "
                f'"{example}", found {part!r}'
            )
        if name.strip() in parsed:
            raise ConfigError(f"expected a name per part of --{setting}, found {name.strip()!r} twice")
        parsed[name.strip()] = [(float(pair[1]), float(pair[2])) for pair in pairs if pair]
    check_points(parsed if setting == "zones" else {}, parsed if setting == "lines" else {})
    return parsed


def check_points(zones: Points, lines: Points) -> None:
    """Refuse zones and lines that count nothing.

    Raises:
        ConfigError: a zone has fewer than three points, or a line has not two different ones.
    """
    for name, points in zones.items():
        if len({*map(tuple, points)}) < 3:
            raise ConfigError(f"expected three different points or more for the zone {name!r}, found {len(points)}")
    for name, points in lines.items():
        if len(points) != 2 or tuple(points[0]) == tuple(points[1]):
            raise ConfigError(f"expected two different points for the line {name!r}, found {len(points)}")


class ZoneCounter:
    """Counts tracked objects in zones and across lines; the center of its box stands for an object.

    An object that is not detected for up to `lost_seconds` keeps its side of a line until it is detected again.

    Args:
        zones: corners of each zone.
        lines: the first and the second point of each line.
        lost_seconds: how long a track may be lost.

    Raises:
        ConfigError: see `check_points`.
    """

    def __init__(self, zones: Points, lines: Points, lost_seconds: float = 1.0) -> None:
        check_points(zones, lines)
        import_matplotlib()  # before supervision does
        import numpy as np
        import supervision as sv

        center = (sv.Position.CENTER,)
        self._zones = {
            name: sv.PolygonZone(np.asarray(points).round().astype(int), triggering_anchors=center)
            for name, points in zones.items()
        }
        self._lines = {
            name: sv.LineZone(sv.Point(*points[0]), sv.Point(*points[1]), triggering_anchors=center)
            for name, points in lines.items()
        }
        self._visitors: dict[str, set[int]] = {name: set() for name in zones}
        self._last: dict[int, tuple[float, list[float]]] = {}  # time and box of each track that may come back
        self._lost_seconds = lost_seconds

    def update(self, detections: Detections, time: float) -> Counts:
        """Count the objects of one frame.

        Args:
            detections: with `track_ids`.
            time: of the frame, in seconds.
        """
        assert detections.track_ids is not None
        ids = detections.track_ids.tolist()
        boxes = detections.xyxy.tolist()
        self._last.update({k: (time, box) for k, box in zip(ids, boxes, strict=True)})
        self._last = {k: seen for k, seen in self._last.items() if time - seen[0] <= self._lost_seconds}
        here, present = _with_ids(ids, boxes), self._with_lost()
        counts = Counts()
        for name, zone in self._zones.items():
            inside = zone.trigger(here)
            self._visitors[name].update(here.tracker_id[inside].tolist())
            counts.zones[name] = ZoneCount(int(inside.sum()), len(self._visitors[name]))
        for name, line in self._lines.items():
            line.trigger(present)
            counts.lines[name] = LineCount(line.in_count, line.out_count)
        return counts

    def _with_lost(self) -> Any:
        """The objects of the frame and, where they were last, those that are lost: supervision forgets the side of a
        line on which a track was after two frames without it."""
        return _with_ids(list(self._last), [box for _, box in self._last.values()])


def _with_ids(ids: list[int], boxes: list[list[float]]) -> Any:
    """Boxes and track ids as supervision has them."""
    import numpy as np
    import supervision as sv

    return sv.Detections(xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4), tracker_id=np.asarray(ids, dtype=int))
