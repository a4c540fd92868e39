"""`detrkit serve`: answer requests for detections over HTTP."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from detrkit.config.serving import ServeConfig
from detrkit.errors import ConfigError, DetrkitWarning
from detrkit.files import BEST, LAST
from detrkit.inference.load_detector import load_detector
from detrkit.ops.console import make_console
from detrkit.ops.text import flush_output
from detrkit.serving import create_app, require_packages


def serve(config: ServeConfig) -> None:
    """Serve detectors until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: a setting is out of range, the address cannot be used, or two detectors have one name.
        WeightsError: weights cannot be read.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_packages("detrkit serve")
    from detrkit.serving.server import bind, is_loopback, read_key, run, url_of

    named = name_weights(config.weights)
    key = read_key(config.key_file)
    with bind(config.host, config.port) as bound:
        if key is None and not is_loopback(bound):
            warnings.warn(
                DetrkitWarning(
                    f"--host {config.host} can be reached from other machines, and there is no key: anyone there may "
                    "send images; set --key_file, or the environment variable DETRKIT_SERVE_KEY"
                ),
                stacklevel=2,
            )
        silence_opencv()
        detectors = {
            name: load_detector(config.detector(weights), precision=config.precision, compile=config.compile)
            for name, weights in named.items()
        }
        app = create_app(detectors, config, key=key)
        app.state.service.start()
        console = make_console(quiet=config.quiet)
        for name, detector in detectors.items():
            classes = f"{len(detector.categories)} class{'' if len(detector.categories) == 1 else 'es'}"
            console.print(f"Serving {name}: {classes}, {detector.image_size} pixels, on {detector.device}")
        bound.listen()
        make_console().print(f"Listening at {url_of(bound)} (documentation: {url_of(bound)}/docs)")
        flush_output()
        run(app, bound, config.deadline)
        console.print("Stopped; everything that was accepted is answered")


def name_weights(weights: Sequence[str]) -> dict[str, str]:
    """Name detectors after their runs or files, or as NAME=WEIGHTS says.

    Raises:
        ConfigError: two have one name, or a name or its weights are empty.
    """
    named: dict[str, str] = {}
    for text in weights:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = _usual_name(text), text
        if not name or not path:
            raise ConfigError(f"expected weights, or NAME=WEIGHTS, found {text!r}")
        if name in named:
            raise ConfigError(
                f"expected a name for each detector, found {name!r} for {named[name]} and for {path}; give one as "
                "NAME=WEIGHTS"
            )
        named[name] = path
    return named


def _usual_name(weights: str) -> str:
    path = Path(os.path.abspath(weights)) if os.path.exists(weights) else Path(weights)  # noqa: PTH100, PTH110
    if path.name in (BEST, LAST):
        return path.parent.name
    return path.name if path.is_dir() or not path.suffix else path.stem


def silence_opencv() -> None:
    """Keep OpenCV from writing about every damaged image, which clients may send as many of as they like."""
    from cv2.utils import logging

    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
