"""The settings of `detrkit serve` and `detrkit studio`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval

from detrkit.config.commands import OverlapChoice, QuietChoice, RunnableChoice, RuntimeChoice, TilesChoice
from detrkit.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings

Port = Annotated[int, Interval(ge=0, le=65535)]
"""The number of a TCP port."""
PositiveFloat = Annotated[float, Gt(0)]
"""A number above 0."""


@dataclass(frozen=True, kw_only=True)
class ServeLimits(Settings):
    """What a server takes on: how images are gathered into batches, and which requests are refused."""

    batch_size: PositiveInt = 8
    """Most images per forward pass; only images of one shape and the same settings share a pass."""
    batch_wait: NonNegativeFloat = 5.0
    """Longest time in milliseconds that an image waits for others to share its forward pass."""
    max_queue: PositiveInt = 128
    """Most images that are accepted and not answered yet, for all models; more are refused with status 503."""
    max_per_client: NonNegativeInt = 0
    """Most of these images per client address; more are refused with status 429; 0: no limit."""
    deadline: PositiveFloat = 30.0
    """Seconds from the start of a request to its answer; status 408 if the upload takes longer, 504 if the answer
    does."""
    max_upload_mb: PositiveFloat = 32.0
    """Largest body of a request in megabytes; larger ones are refused with status 413."""
    max_megapixels: PositiveFloat = 50.0
    """Most pixels per image in millions, read from its header before it is decoded; larger images are refused with
    status 413."""
    max_images: PositiveInt = 16
    """Most images per request; more are refused with status 413."""

    @property
    def max_bytes(self) -> int:
        """Largest body of a request."""
        return int(self.max_upload_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        """Most pixels per image."""
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(QuietChoice, ServeLimits, TilesChoice, OverlapChoice, RuntimeChoice):
    """Answer requests for detections over HTTP: images in, boxes, classes and masks out as JSON."""

    weights: list[str]
    """One or several detectors, each as for `detrkit predict`, exported files included; NAME=WEIGHTS names one."""
    host: str = "127.0.0.1"
    """Address to listen at; 127.0.0.1: this machine alone; 0.0.0.0: all its networks."""
    port: Port = 8000
    """Port to listen at; 0: any free one."""
    key_file: str = ""
    """File whose content every request must send as `Authorization: Bearer KEY`; empty: the key in the environment
    variable DETRKIT_SERVE_KEY, or none."""
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic, as in predict."""
    compile: Literal["auto", "off", "on"] = "auto"
    """Compile the model, as in predict; this happens before the server answers."""

    def detector(self, weights: str) -> RunnableTiled:
        """The settings of one of the detectors."""
        return RunnableTiled(
            weights=weights,
            image_size=self.image_size,
            device=self.device,
            value_range=self.value_range,
            tiles=self.tiles,
            tile_overlap=self.tile_overlap,
            max_overlap=self.max_overlap,
        )


@dataclass(frozen=True, kw_only=True)
class RunnableTiled(TilesChoice, RunnableChoice):
    """The settings of one detector of a server."""


@dataclass(frozen=True, kw_only=True)
class StudioConfig(QuietChoice):
    """Look at images, label them, train and try detectors in a browser on this machine."""

    folder: str = "."
    """Project folder: images or a data set of any format. Labels, runs and a cache are written into it, and nothing
    outside it is read."""
    host: str = "127.0.0.1"
    """Address to listen at; 127.0.0.1: this machine alone; 0.0.0.0: all its networks."""
    port: Port = 8800
    """Port to listen at; 0: any free one."""
    no_browser: bool = False
    """Print the address, and open no browser."""
