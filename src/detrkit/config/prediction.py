"""Settings of `detrkit predict` that have a subject of their own: tracks in videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from detrkit.config.fields import NonNegativeFloat, ParsedBy, Settings
from detrkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrackChoice(Settings):
    """The settings that track objects in videos, cameras and network streams."""

    track: bool = False
    """Track objects in videos, a camera (its number, such as 0) or a network stream (rtsp://...): draw the number of
    each track and write tracks.jsonl, one line per frame. One detection per object is left, as by --max_overlap 0.7."""
    zones: Annotated[str, ParsedBy("detrkit.inference.zones:parse_zones", "")] = ""
    """Zones in which tracked objects are counted, as a name and corners in pixels, separated by semicolons, such as
    "door:0,0 200,0 200,150; bay:300,0 600,0 600,400"."""
    lines: Annotated[str, ParsedBy("detrkit.inference.zones:parse_lines", "")] = ""
    """Lines across which tracked objects are counted, as a name and two points in pixels, separated by semicolons, such
    as "gate:0,100 640,100"."""
    lost_seconds: NonNegativeFloat = 1.0
    """Seconds for which a track without a detection is kept."""
    reconnect_seconds: NonNegativeFloat = 30.0
    """Seconds after the last frame of a live source for which a lost connection is tried again."""
    max_seconds: NonNegativeFloat = 0.0
    """End a live source after this many seconds; 0: at Ctrl-C."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zones", "lines"):
            if getattr(self, name) and not self.track:
                raise ConfigError(f"expected --track with --{name}, which count tracked objects, found none")
