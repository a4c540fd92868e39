"""Load the detector that command-line settings name; every command does it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from detrkit.config.commands import DetectorChoice, ExportConfig, RunnableChoice, TilesChoice
from detrkit.ops.value_range import ValueRange

if TYPE_CHECKING:
    from detrkit.inference import Detector
    from detrkit.structures import Categories


def load_detector(
    config: DetectorChoice | ExportConfig,
    *,
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "auto",
    compile: Literal["auto", "off", "on"] = "auto",
    new_classes: Callable[[], Categories] | None = None,
) -> Detector:
    """Load the detector that the settings of a command name.

    Args:
        config: weights, device, image size, tiles, the largest overlap of detections and the values that images of more
            than 8 bits are scaled by. An export, which has neither device nor values, runs on the CPU.
        precision: see `Detector.load`.
        compile: likewise.
        new_classes: classes for a file of weights without a class head; see `Detector.load`.

    Raises:
        ConfigError: a setting does not fit the weights or the machine.
        WeightsError: the weights cannot be read.
    """
    from detrkit.inference import Detector

    chosen = config if isinstance(config, DetectorChoice) else None
    tiled = config if isinstance(config, TilesChoice) else None
    detector = Detector.load(
        config.weights,
        device=chosen.device if chosen else "cpu",
        image_size=config.image_size,
        dilation=config.dilation,
        nheads=config.nheads,
        precision=precision,
        compile=compile,
        new_classes=new_classes,
        value_range=ValueRange.parse(chosen.value_range) if chosen else None,
        tiles=tiled.tiles if tiled else "auto",
        tile_overlap=tiled.tile_overlap if tiled else "auto",
    )
    detector.max_overlap = config.max_overlap if isinstance(config, RunnableChoice) else None
    return detector
