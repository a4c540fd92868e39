"""Addresses of the page Images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from detrkit.data.validation.findings import ACTIONS
from detrkit.ops.masks import decode_segmentation, polygons_from_mask
from detrkit.serving.routes import json_response
from detrkit.studio.label_store import Plain
from detrkit.studio.project import Project
from detrkit.studio.suspects import read_suspects

MOST = 500
"""Images whose objects are sent at a time."""

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels up to which objects are small and medium, as COCO has it."""


class Names(BaseModel):
    """Paths of images."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[str], Field(max_length=MOST)]


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    routes = APIRouter()
    catalog = project.catalog

    def images() -> Response:
        if not catalog.ready:
            return json_response({"ready": False})
        suspects, source = read_suspects(project.root, project.labels)
        scores = {name: max(row["score"] for row in rows) for name, rows in suspects.items()}
        ids = project.labels.classes.ids
        content = {
            "ready": True,
            "notes": catalog.notes,
            "classes": project.labels.classes.shown,
            "defects": {kind: action.defect for kind, action in ACTIONS.items()},
            "suspects": source,
            "duplicates": {
                "searching": catalog.comparing,
                "read": catalog.compared,
                "done": catalog.groups is not None,
            },
            "images": [_row(project, name, ids, scores) for name in catalog.images],
        }
        return json_response(content)

    def objects(body: Names) -> Response:
        catalog.wait()
        known = [name for name in body.images if name in catalog.images]
        return json_response(
            {
                "objects": {
                    name: [drawable(row, project, name) for row in project.labels.objects(name)] for name in known
                }
            }
        )

    def search() -> Response:
        catalog.compare()
        return json_response({})

    def thumbnail(image: str, request: Request) -> Response:
        path, info = project.image(image), catalog.images[image]
        tag = f'"{project.thumbnails.key(path)}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return _file_response(project.thumbnails.thumbnail(path, info, catalog.value_range), "image/jpeg", ETag=tag)

    def image(image: str) -> Response:
        path = project.image(image)
        return _file_response(*project.thumbnails.displayable(path, catalog.images[image], catalog.value_range))

    routes.add_api_route("/images", images)
    routes.add_api_route("/objects", objects, methods=["POST"])
    routes.add_api_route("/duplicates", search, methods=["POST"])
    routes.add_api_route("/thumbnail", thumbnail)
    routes.add_api_route("/image", image)
    return routes


def _file_response(file: Path | bytes, kind: str, **headers: str) -> Response:
    """Answer with an image: a file, or its content."""
    if isinstance(file, bytes):
        return Response(file, media_type=kind, headers=headers)
    return FileResponse(file, media_type=kind, headers=headers)


def size_of(project: Project, name: str) -> tuple[int, int]:
    """Width and height of an image in pixels, upright, as its labels have it."""
    labels = project.labels
    if name in labels.source:
        record = labels.source[name][1]
        return record.width, record.height
    return project.catalog.images[name].upright


def drawable(row: Plain, project: Project, name: str) -> dict[str, Any]:
    """An annotation as the pages draw it: corners of the box, and polygons also of masks that are none."""
    x, y, width, height = row["bbox"]
    shape = row["segmentation"]
    if isinstance(shape, dict):
        size = size_of(project, name)
        shape = polygons_from_mask(decode_segmentation(shape, size[1], size[0]))
    return {
        "class": row["category_id"],
        "box": [x, y, x + width, y + height],
        "polygons": [[round(value, 1) for value in polygon] for polygon in shape],
        "crowd": bool(row["iscrowd"]),
    }


def _row(project: Project, name: str, ids: set[int], scores: dict[str, float]) -> list[Any]:
    """What the grid filters by: path, size, split, version, class and size of objects, findings, copies, score."""
    labels, catalog = project.labels, project.catalog
    pairs = [pair for pair in labels.areas(name) if pair[0] in ids]
    sizes = {0 if area < SMALL else 1 if area < MEDIUM else 2 for _, area in pairs}
    return [
        name,
        *size_of(project, name),
        labels.split(name),
        labels.version(name),
        [class_id for class_id, _ in pairs],
        sorted(sizes),
        sorted({finding.kind for finding in catalog.findings.get(name, ())}),
        -1 if catalog.groups is None else catalog.groups.get(name, -1),
        scores.get(name),
    ]
