"""Settings of `detrkit predict` that have a subject of their own: tracks in videos, and batch jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from detrkit.config.fields import NonNegativeFloat, NonNegativeInt, ParsedBy, Settings
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


@dataclass(frozen=True, kw_only=True)
class BatchChoice(Settings):
    """The settings that divide very many images among processes."""

    shard: Annotated[str, ParsedBy("detrkit.inference.batch_share:Share.parse", "")] = ""
    """Detect objects in one of n shares of the images alone, as i/n with i from 1 to n, and write one line per image to
    results-i-of-n.jsonl. Started again, images that have a line are left out. See `detrkit merge`."""
    engine: Literal["local", "ray"] = "local"
    """What runs the detector: local, this process; or ray, a cluster by Ray Data, with one detector per actor. Results
    are those of --shard, 1/1 unless it is given."""
    num_actors: NonNegativeInt = 0
    """Actors of --engine ray; 0: one per GPU of the cluster, or one per CPU if there is no GPU."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """Format of the results of a share that is complete: jsonl, one line per image; or parquet, one row per image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_actors and self.engine != "ray":
            raise ConfigError(
                f"expected --engine ray with --num_actors {self.num_actors}, found --engine {self.engine}"
            )
        if self.format != "jsonl" and not (self.shard or self.engine == "ray"):
            raise ConfigError(f"expected --shard or --engine ray with --format {self.format}, found neither")
