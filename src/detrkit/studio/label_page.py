"""Addresses of the page Label."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from detrkit.data.conversion import convert_data
from detrkit.data.files.file_index import STUDIO_EXPORTS
from detrkit.serving.refused import RefusedError
from detrkit.serving.routes import json_response
from detrkit.studio.images_page import drawable, size_of
from detrkit.studio.label_store import LabelStore, Plain
from detrkit.studio.project import Project
from detrkit.studio.run_folders import find_run
from detrkit.studio.suspects import read_suspects

LEAST = 1.0
"""Least width and height of an object in pixels."""


class EditedObject(BaseModel):
    """An object as the page sends it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    class_id: int
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    polygons: Annotated[list[Annotated[list[float], Field(min_length=6, max_length=20_000)]], Field(max_length=500)]
    crowd: bool = False
    keep: int | None = None
    """Position of the object in the version that was changed, if neither box nor mask have changed."""


class EditedImage(BaseModel):
    """All objects of an image as the page sends them."""

    model_config = ConfigDict(extra="forbid")

    version: int
    objects: Annotated[list[EditedObject], Field(max_length=5000)]


class NewClass(BaseModel):
    """A class to add."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]


class NamedClass(NewClass):
    """Another name of a class."""

    id: int


class DeletedClass(BaseModel):
    """A class to delete, or to put back."""

    model_config = ConfigDict(extra="forbid")

    id: int
    deleted: bool


class SuggestWish(BaseModel):
    """A detector to run on an image."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image: str
    run: str
    threshold: Annotated[float, Field(ge=0, le=1)]


class ExportWish(BaseModel):
    """A data set to write."""

    model_config = ConfigDict(extra="forbid")

    format: str
    name: Annotated[str, Field(min_length=1, max_length=100)]


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    routes = APIRouter()
    labels = project.labels

    def load(image: str) -> Response:
        project.image(image)
        (width, height), ids = size_of(project, image), labels.classes.ids
        if min(width, height) < 1:
            raise RefusedError(422, f"expected an image in {image}, but it cannot be decoded; replace or remove it")
        content = {
            "version": labels.version(image),
            "split": labels.split(image),
            "width": width,
            "height": height,
            "classes": labels.classes.shown,
            "objects": [
                {**drawable(row, project, image), "keep": k}
                for k, row in enumerate(labels.stored(image))
                if row["category_id"] in ids
            ],
            "suspects": read_suspects(project.root, labels)[0].get(image, []),
        }
        return json_response(content)

    def save(image: str, body: EditedImage) -> Response:
        project.image(image)
        size = size_of(project, image)
        labels.expect_version(image, body.version)
        former, ids = labels.stored(image), labels.classes.ids
        objects = [_annotation(edited, size, former, ids) for edited in body.objects]
        return json_response({"version": labels.save(image, body.version, size, objects), "split": labels.split(image)})

    def list_classes() -> Response:
        project.catalog.wait()
        return json_response({"classes": _counted_classes(labels)})

    def add_class(body: NewClass) -> Response:
        project.catalog.wait()
        return json_response({"class": labels.add_class(_class_name(body.name)), "classes": labels.classes.shown})

    def rename_class(body: NamedClass) -> Response:
        project.catalog.wait()
        labels.rename_class(body.id, _class_name(body.name))
        return json_response({"classes": _counted_classes(labels)})

    def delete_class(body: DeletedClass) -> Response:
        project.catalog.wait()
        labels.delete_class(body.id, body.deleted)
        return json_response({"classes": _counted_classes(labels)})

    def history(image: str) -> Response:
        project.image(image)
        ids = labels.classes.ids
        rows = [
            {**row, "objects": [drawable(obj, project, image) for obj in row["objects"] if obj["category_id"] in ids]}
            for row in labels.history(image)[:50]
        ]
        return json_response({"saves": rows})

    def suggest(body: SuggestWish) -> Response:
        return json_response(_suggest(project, body))

    def export(body: ExportWish) -> Response:
        return json_response(_export(project, body))

    routes.add_api_route("/labels", load)
    routes.add_api_route("/labels", save, methods=["PUT"])
    routes.add_api_route("/classes", list_classes)
    routes.add_api_route("/classes", add_class, methods=["POST"])
    routes.add_api_route("/classes", rename_class, methods=["PUT"])
    routes.add_api_route("/classes/deleted", delete_class, methods=["PUT"])
    routes.add_api_route("/history", history)
    routes.add_api_route("/suggest", suggest, methods=["POST"])
    routes.add_api_route("/export", export, methods=["POST"])
    return routes


def _class_name(name: str) -> str:
    """A name of a class without spaces around it.

    Raises:
        RefusedError: it is none.
    """
    text = " ".join(name.split())
    if not text or not text.isprintable():
        raise RefusedError(422, f"expected the name of a class in printable letters, found {name[:100]!r}")
    return text


def _counted_classes(labels: LabelStore) -> list[dict[str, Any]]:
    """All classes, also deleted ones, each with the numbers of its objects and of images with them."""
    counts = labels.count_objects()
    rows = []
    for row in labels.classes.rows:
        objects, images = counts.get(row["id"], (0, 0))
        rows.append({"deleted": False, **row, "objects": objects, "images": images})
    return rows


def _suggest(project: Project, wish: SuggestWish) -> dict[str, Any]:
    """Objects that a detector finds in an image; its new classes are added to those of the project.

    A class that was renamed is found by its former names; `left_out` counts objects of deleted classes.
    """
    path, run, labels = project.image(wish.image), find_run(project, wish.run), project.labels
    found = project.detector.predict(run, path.name, path.read_bytes())["detections"]
    rows, left_out = [], 0
    for detection in found:
        if detection["score"] < wish.threshold:
            continue
        known = labels.classes.find(detection["class_name"]) or labels.add_class(detection["class_name"])
        if known.get("deleted"):
            left_out += 1
            continue
        shape = {"box": detection["box"], "polygons": detection.get("polygons") or [], "crowd": False}
        rows.append({"class": known["id"], **shape, "score": detection["score"]})
    return {"objects": rows, "classes": labels.classes.shown, "left_out": left_out}


def _export(project: Project, wish: ExportWish) -> dict[str, Any]:
    """Write all labels as a data set of another format.

    Raises:
        RefusedError: there are no labels, or the name is none of a folder.
        DetrkitError: as of `convert_data`.
    """
    project.catalog.wait()
    labels = project.labels
    output = project.inside(f"{STUDIO_EXPORTS}/{wish.name}")
    if output.parent != project.root / STUDIO_EXPORTS:
        raise RefusedError(422, f"expected the name of a new folder, found {wish.name!r}")
    if not labels.saved and not labels.source:
        raise RefusedError(422, "expected images with labels, found none; label and save some first")
    labels.write_coco()
    result = convert_data(labels.folder, output, wish.format)
    folder = output.relative_to(project.root).as_posix()
    content = {"folder": folder, "images": sum(result.images.values()), "objects": result.objects}
    return {**content, "notes": result.notes}


def _annotation(edited: EditedObject, size: tuple[int, int], former: list[Plain], ids: set[int]) -> Plain:
    """An annotation of COCO; masks and ids of unchanged objects are kept to the pixel.

    Raises:
        RefusedError: the object is none.
    """
    if edited.class_id not in ids:
        raise RefusedError(422, f"expected a class of the project, found the id {edited.class_id}; reload the page")
    if edited.keep is not None:
        if not 0 <= edited.keep < len(former):
            raise RefusedError(409, "expected objects of the present version of this image; reload it and repeat them")
        return {**former[edited.keep], "category_id": edited.class_id}
    width, height = size
    polygons = [_clamped(polygon, width, height) for polygon in edited.polygons if len(polygon) % 2 == 0]
    if polygons:
        xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    else:
        x1, y1, x2, y2 = _clamped(edited.box, width, height)
    if x2 - x1 < LEAST or y2 - y1 < LEAST:
        raise RefusedError(
            422,
            f"expected an object of at least {LEAST:g} x {LEAST:g} pixels inside the image, found one of "
            f"{x2 - x1:.3g} x {y2 - y1:.3g}; make it larger or delete it",
        )
    return {
        "id": 0,
        "category_id": edited.class_id,
        "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(sum(map(_area, polygons)) if polygons else (x2 - x1) * (y2 - y1), 2),
        "iscrowd": int(edited.crowd),
        "segmentation": polygons,
    }


def _clamped(values: list[float], width: int, height: int) -> list[float]:
    """Coordinates x, y, x, y, ... inside the image, in hundredths of pixels."""
    return [round(min(max(value, 0.0), (width, height)[k % 2]), 2) for k, value in enumerate(values)]


def _area(polygon: list[float]) -> float:
    """Area of a polygon (shoelace formula)."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2
