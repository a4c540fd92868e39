"""The JSON of requests and answers; `/openapi.json` describes it from here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from detrkit.ops.masks import encode_rles, polygons_from_mask
from detrkit.serving.service import ImageResult, ServedModel

Masks = Literal["rle", "polygon", "none"]


class PredictQuery(BaseModel):
    """Settings of a request, in its address."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Annotated[str | None, Field(description="Name of the model, see /v1/models; default: the first.")] = None
    threshold: Annotated[float, Field(ge=0, le=1, description="Lowest score to keep.")] = 0.5
    top_k: Annotated[
        int | None,
        Field(
            ge=0,
            le=100_000,
            description="Keep the K best of all pairs of query and class; 0: one class per query; default: as the "
            "model was trained.",
        ),
    ] = None
    max_overlap: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Leave one detection per object: of every two whose boxes have a larger IoU, only the better "
            "stays; default: as the server was started.",
        ),
    ] = None
    masks: Annotated[
        Masks | None, Field(description="Form of masks; default: rle for a model that has masks, else none.")
    ] = None
    polygon_tolerance: Annotated[
        float, Field(ge=0, le=1000, description="Largest distance of polygons from the masks in pixels; 0: exact.")
    ] = 1.0


class Rle(BaseModel):
    """A mask as COCO's compressed run-length code."""

    size: Annotated[list[int], Field(description="Height and width.")]
    counts: str


class Detection(BaseModel):
    """One object."""

    class_id: Annotated[int, Field(description="Id of the class in the training data.")]
    class_name: str
    score: Annotated[float, Field(description="0..1.")]
    box: Annotated[list[float], Field(description="x1, y1, x2, y2 in pixels of the upright image.")]
    mask: Annotated[Rle | None, Field(description="With masks=rle.")] = None
    polygons: Annotated[
        list[list[float]] | None, Field(description="With masks=polygon: x, y, x, y, ... of each part of the mask.")
    ] = None


class ImageAnswer(BaseModel):
    """The objects of one image, best first."""

    name: str
    height: Annotated[int, Field(description="Pixels of the upright image, after its EXIF rotation.")]
    width: int
    detections: list[Detection]
    notes: Annotated[list[str], Field(description="What had to be assumed.")]


class PredictAnswer(BaseModel):
    """The images of a request, in its order."""

    model: str
    milliseconds: Annotated[float, Field(description="Time from request to answer.")]
    images: list[ImageAnswer]


class ClassAnswer(BaseModel):
    """A class of a model."""

    id: int
    name: str


class ModelAnswer(BaseModel):
    """A model of the server."""

    name: str
    classes: list[ClassAnswer]
    image_size: Annotated[int, Field(description="Shorter side of resized images in pixels.")]
    masks: Annotated[bool, Field(description="Whether detections have masks.")]
    device: str


class ModelsAnswer(BaseModel):
    """All models; the first answers requests that name none."""

    models: list[ModelAnswer]


class StatusAnswer(BaseModel):
    """State of the server."""

    status: str


class Problem(BaseModel):
    """Every answer that is no success."""

    detail: Annotated[str, Field(description="One sentence.")]


def models_answer(models: Sequence[ServedModel]) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    return {
        "models": [
            {
                "name": model.name,
                "classes": [
                    {"id": i, "name": name}
                    for i, name in zip(model.detector.categories.ids, model.detector.categories.names, strict=True)
                ],
                "image_size": model.detector.image_size,
                "masks": model.has_masks,
                "device": str(model.detector.device),
            }
            for model in models
        ]
    }


def image_answer(result: ImageResult, query: PredictQuery, masks: Masks) -> dict[str, Any]:
    """The objects of one image, with masks of this form. Boxes that are not finite are left out, which `notes` says."""
    detections, notes = result.detections, list(result.notes)
    finite = detections.xyxy.isfinite().all(1)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} boxes are NaN or infinite, and left out")
        detections = detections[finite]
    if query.max_overlap is not None:
        detections = detections.without_overlaps(query.max_overlap)
    rows: list[dict[str, Any]] = [
        {"class_id": class_id, "class_name": name, "score": score, "box": box}
        for class_id, name, score, box in zip(
            detections.class_ids.tolist(),
            detections.class_names,
            detections.scores.tolist(),
            detections.xyxy.tolist(),
            strict=True,
        )
    ]
    if detections.masks is not None and masks == "rle":
        for row, code in zip(rows, encode_rles(detections.masks), strict=True):
            row["mask"] = code
    elif detections.masks is not None and masks == "polygon":
        for row, mask in zip(rows, detections.masks, strict=True):
            row["polygons"] = polygons_from_mask(mask, query.polygon_tolerance)
    assert detections.image_size is not None
    height, width = detections.image_size
    return {"name": result.name, "height": height, "width": width, "detections": rows, "notes": notes}


def to_json(answer: dict[str, Any]) -> bytes:
    """JSON in ASCII, which any text of names and messages fits into."""
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
