"""Addresses of the page Try: images that are dropped on the page, and frames of a video or a camera."""

from __future__ import annotations

import io
from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from detrkit.files import BEST
from detrkit.ops.text import one_line
from detrkit.serving.refused import RefusedError
from detrkit.serving.routes import json_response
from detrkit.serving.uploads import MAX_NAME
from detrkit.studio.loaded_detector import LIMITS
from detrkit.studio.project import Project
from detrkit.studio.run_folders import find_run, find_runs, name_of

Coordinate = Annotated[float, Query(ge=-1e6, le=1e6)]


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    loaded, routes = project.detector, APIRouter(prefix="/try")

    def detectors() -> Response:
        runs = [folder for folder in find_runs(project) if (folder / BEST).is_file()]
        rows = [{"run": name_of(project, folder), "name": folder.name} for folder in reversed(runs)]
        return json_response({"detectors": rows})

    async def predict(request: Request, run: str, name: str = "the image") -> Response:
        folder, data = find_run(project, run), await read_body(request)
        shown = one_line(unquote(name))[:MAX_NAME]
        return json_response(await run_in_threadpool(loaded.predict, folder, shown, data))

    async def attention(
        request: Request, run: str, class_id: int, x1: Coordinate, y1: Coordinate, x2: Coordinate, y2: Coordinate
    ) -> Response:
        folder, data = find_run(project, run), await read_body(request)
        drawn = await run_in_threadpool(loaded.explain, folder, data, class_id, (x1, y1, x2, y2))
        content = io.BytesIO()
        Image.fromarray(drawn).save(content, "JPEG", quality=88)
        return Response(content.getvalue(), media_type="image/jpeg")

    routes.add_api_route("/detectors", detectors)
    routes.add_api_route("/predict", predict, methods=["POST"])
    routes.add_api_route("/attention", attention, methods=["POST"])
    return routes


async def read_body(request: Request) -> bytes:
    """The body of a request, a file.

    Raises:
        RefusedError: it is too large.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LIMITS.max_bytes:
            raise RefusedError(413, f"expected a file of at most {LIMITS.max_upload_mb:g} MB, found a larger one")
        parts.append(part)
    return b"".join(parts)
