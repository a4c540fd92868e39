"""A page in the browser to look at images, label them, train and try detectors: the application of `detrkit studio`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from detrkit.serving import require_packages

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app(folder: str | os.PathLike[str], token: str) -> FastAPI:
    """Make the application of `detrkit studio`, for an ASGI server.

        app = create_app("my-project", token=secrets.token_urlsafe())

    Its page is at `/?token=TOKEN`. All state is files below the folder.

    Args:
        folder: project folder, with images or a data set.
        token: every request must have it, in the cookie that `/?token=TOKEN` sets, or as `Authorization: Bearer TOKEN`.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_packages("create_app")
    from detrkit.studio.application import build_app
    from detrkit.studio.project import Project

    return build_app(Project(folder), token)
