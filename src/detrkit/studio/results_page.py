"""Addresses of the page Results."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict

from detrkit.serving.routes import json_response
from detrkit.studio.project import Project
from detrkit.studio.report_files import find_image, list_reports, read_pairs, read_report
from detrkit.studio.run_folders import find_run, name_of
from detrkit.studio.train_jobs import Jobs

LONGEST = 1600
"""Pixels of the longer side of an image that is shown, at most."""


class Evaluation(BaseModel):
    """An evaluation to start."""

    model_config = ConfigDict(extra="forbid")

    run: str
    data: str
    split: Literal["train", "val"] = "val"


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    jobs, routes = Jobs(project), APIRouter(prefix="/results")

    def reports() -> Response:
        return json_response({"reports": list_reports(project)})

    def one_report(report: str) -> Response:
        return json_response(read_report(project, report))

    def pairs(report: str) -> Response:
        return json_response(read_pairs(project, report))

    def image(report: str, image: int) -> Response:
        path = find_image(project, report, image)
        return Response(jpeg_of(path, path.stat().st_mtime_ns), media_type="image/jpeg")

    def evaluate(order: Evaluation) -> Response:
        folder = jobs.evaluate(find_run(project, order.run), order.data, order.split)
        return json_response({"report": name_of(project, folder)})

    routes.add_api_route("/reports", reports)
    routes.add_api_route("/report", one_report)
    routes.add_api_route("/pairs", pairs)
    routes.add_api_route("/image", image)
    routes.add_api_route("/evaluate", evaluate, methods=["POST"])
    return routes


@lru_cache(maxsize=64)
def jpeg_of(path: Path, changed: int) -> bytes:
    """An image as browsers show it: upright, 8 bits, at most LONGEST pixels long.

    Args:
        path: file of any format that detrkit reads.
        changed: time of its last change; a changed file is read again.

    Raises:
        DataError: it cannot be read.
    """
    from detrkit.data.decode.images import ignore_unknown_range, read_image
    from detrkit.visualization.draw import as_image

    image = Image.fromarray(as_image(read_image(path, None, unknown=ignore_unknown_range)))
    image.thumbnail((LONGEST, LONGEST))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    return content.getvalue()
