"""Answer requests for detections over HTTP: the application, and the server that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from detrkit.config.serving import ServeLimits
from detrkit.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from detrkit.inference import Detector

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
"""What the extra `serve` installs."""


def require_packages(feature: str) -> None:
    """Make sure that the extra `serve` is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if any(find_spec(name) is None for name in PACKAGES):
        raise MissingExtraError(feature, "serve")


def create_app(
    detectors: Mapping[str, Detector], limits: ServeLimits | None = None, *, key: str | None = None
) -> FastAPI:
    """Make the application of `detrkit serve`, for an ASGI server or for a larger FastAPI application.

        app = create_app({"defects": detrkit.Detector.load("runs/mine")})

    Its threads start and end with it (`lifespan`).

    Args:
        detectors: by name; the first answers requests that name none.
        limits: what is refused; None: the defaults.
        key: requests must send it; None: they need none.

    Raises:
        ConfigError: there is no detector.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_packages("create_app")
    from detrkit.serving.app import build_app

    return build_app(detectors, limits or ServeLimits(), key)
