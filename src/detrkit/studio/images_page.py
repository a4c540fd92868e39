"""Addresses of the page Images."""

from __future__ import annotations

from fastapi import APIRouter, Response

from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.serving.routes import json_response
from detrkit.studio.project import Project


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    routes = APIRouter()

    def images() -> Response:
        paths = sorted(p for p in project.root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return json_response({"images": [{"name": p.relative_to(project.root).as_posix()} for p in paths]})

    routes.add_api_route("/images", images)
    return routes
