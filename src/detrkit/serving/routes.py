"""The addresses of a server."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect

from detrkit.serving.admission import Ticket
from detrkit.serving.answers import (
    Masks,
    ModelsAnswer,
    PredictAnswer,
    PredictQuery,
    Problem,
    StatusAnswer,
    image_answer,
    models_answer,
    to_json,
)
from detrkit.serving.refused import RefusedError
from detrkit.serving.service import DetectSettings, ServedModel, Service
from detrkit.serving.uploads import read_uploads

T = TypeVar("T")

PREDICT = "/v1/predict"

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
"""The body of a request for predictions."""

PROBLEMS = {
    401: "The key is missing or wrong.",
    404: "There is no model of that name.",
    408: "The upload took too long.",
    413: "Too many bytes, images or pixels.",
    415: "The file is no image of a known format.",
    422: "A setting, the form or an image is damaged.",
    429: "The client has too many images in the queue.",
    503: "The queue is full; Retry-After says when to try again.",
    504: "The answer took too long.",
}

GONE = 499
"""Status of a request whose client has gone; nobody reads it."""


def api_router(service: Service, key: str | None) -> APIRouter:
    """The addresses of predictions, models and figures, which need the key if there is one."""
    bearer = Depends(HTTPBearer(auto_error=False, description="The key of the server."))
    router = APIRouter(dependencies=[bearer, Depends(key_check(key))] if key else [])

    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Find objects in one image (the body itself) or several (files of a form)."""
        started = time.perf_counter()
        try:
            with service.admission.ticket(request.client.host if request.client else "") as ticket:
                return await answer(service, request, query, ticket, started)
        except ClientDisconnect:
            return Response(status_code=GONE)
        finally:
            service.metrics.seconds.observe(time.perf_counter() - started)

    async def models() -> Response:
        """The models, and their classes."""
        return json_response(models_answer(list(service.models.values())))

    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()
    }
    router.add_api_route(
        PREDICT,
        predict,
        methods=["POST"],
        response_model=PredictAnswer,
        responses=problems,
        openapi_extra={"requestBody": BODY},
    )
    unauthorized: dict[int | str, dict[str, Any]] = {401: problems[401]}
    router.add_api_route("/v1/models", models, response_model=ModelsAnswer, responses=unauthorized)
    router.add_api_route("/metrics", metrics, response_class=Response, responses=unauthorized)
    return router


def state_router(service: Service) -> APIRouter:
    """The addresses by which others watch the server; they need no key."""
    router = APIRouter()

    async def healthz() -> Response:
        """Whether the process answers."""
        return json_response({"status": "ok"})

    async def readyz() -> Response:
        """Whether all models can answer."""
        if not service.ready:
            return json_response({"detail": "a model cannot answer; start the server again"}, 503)
        return json_response({"status": "ready"})

    router.add_api_route("/healthz", healthz, response_model=StatusAnswer)
    router.add_api_route("/readyz", readyz, response_model=StatusAnswer, responses={503: {"model": Problem}})
    return router


async def answer(service: Service, request: Request, query: PredictQuery, ticket: Ticket, started: float) -> Response:
    """Answer a request for predictions.

    Raises:
        RefusedError, DetrkitError: it is refused.
        ClientDisconnect: the client has gone.
    """
    model = service.model(query.model)
    masks = _masks(model, query.masks)
    uploaded = False
    try:
        async with asyncio.timeout(service.limits.deadline):
            uploads = await read_uploads(request, ticket, service.limits)
            uploaded = True
            settings = DetectSettings(query.threshold, query.top_k)
            results = await while_connected(request, service.detect(model, uploads, settings))
            images = await service.in_thread(lambda: [image_answer(each, query, masks) for each in results])
    except TimeoutError:
        seconds = f"{service.limits.deadline:g} seconds"
        if uploaded:
            raise RefusedError(504, f"the answer was not ready within {seconds}; send fewer images, or later") from None
        raise RefusedError(408, f"expected the whole upload within {seconds}; send smaller images") from None
    milliseconds = round(1000 * (time.perf_counter() - started), 3)
    return json_response({"model": model.name, "milliseconds": milliseconds, "images": images})


def _masks(model: ServedModel, masks: Masks | None) -> Masks:
    """The form of masks.

    Raises:
        RefusedError: 422, masks are wanted of a model that has none.
    """
    if masks in ("rle", "polygon") and not model.has_masks:
        raise RefusedError(422, f"expected masks=none for {model.name}, found {masks}; the model has boxes alone")
    return masks or ("rle" if model.has_masks else "none")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for a result, but only as long as the client does.

    Raises:
        ClientDisconnect: the client has gone; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def key_check(key: str) -> Callable[..., None]:
    """A dependency that refuses requests without the key. The comparison takes the same time for every wrong key."""
    expected = sha256(key.encode()).digest()

    def check_key(request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(sha256(given.strip().encode()).digest(), expected)
        if kind.lower() != "bearer" or not same:
            raise RefusedError(401, "expected the key of this server in the header Authorization: Bearer KEY")

    return check_key


def json_response(content: dict[str, Any], status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(to_json(content), status, media_type="application/json")
